"""Laws as records and as text: what `etastar study fit` prints and writes."""

from __future__ import annotations

from typing import Any

from etastar.cli.options import in_study_file
from etastar.errors import ConfigError
from etastar.result import json_ready, number
from etastar.scaling import CellTable, Comparison, Response, compare_forms, find_region


def fit_records(cells: CellTable, response: Response, cutoff: float | None) -> list[dict[str, Any]]:
    """Per group of conditions: the forms compared, and the region of validity; or why not."""
    groups = []
    for labels, group in cells.groups():
        record: dict[str, Any] = {"labels": labels, "cells": len(group), "error": None}
        groups.append(record)
        try:
            found = compare_forms(group, response=response, cutoff=cutoff)
        except ConfigError as error:
            record["error"] = str(error)
            continue
        record |= _comparison(found)
        try:
            region = find_region(group, response=response)
            record["region"] = region.to_dict()
        except ConfigError as error:
            record["region_error"] = str(error)
    return [json_ready(record) for record in groups]


def _comparison(found: Comparison) -> dict[str, Any]:
    """A comparison as a record."""
    fits = {
        row.form: {
            **row.to_dict(),
            "coefficients": {
                c.name: {
                    **{name: getattr(c, name) for name in ("value", "low", "high", "over_seeds")},
                    "bootstrap": c.over_seeds,  # by its old name
                }
                for c in row.fit.coefficients
            },
        }
        for row in found.rows
    }
    usage = vars(found.rows[0].fit.usage) if found.rows else {}
    effects = found.rows[0].fit.effects if found.rows else None
    return {
        "forms": fits,
        "skipped": dict(found.skipped),
        "equal_exponents_p": found.equal_exponents,
        "widths": effects and effects.widths,
        "depths": effects and effects.depths,
        "usage": dict(usage),
    }


def print_laws(groups: list[dict[str, Any]]) -> None:
    """The laws as tables, one group after another."""
    for record in groups:
        print("  ".join(f"{k}={v}" for k, v in record["labels"].items()))
        if record["error"]:
            print(f"  no law: {in_study_file(record['error'])}\n")
            continue
        usage = record["usage"]
        bounds = f" ({usage['bounds']} as bounds)" if usage["bounds"] else ""
        print(
            f"  {usage['used']} of {usage['cells']} cells used; {usage['untrained']} below the "
            f"range, {usage['right_censored']} above it{bounds}, {usage['below_cutoff']} below the "
            "cutoff"
        )
        lost = usage["seeds_none_trained"]
        seeds = lost + usage["seeds_bracketed"] + usage["seeds_all_trained"]
        if lost and seeds > usage["cells"]:
            print(
                f"  {lost} of {seeds} seeds train at no rate: each counts as below every rate in "
                "the median of its cell"
            )
        header = ("law", "exponents [95 %]", "R²", "ΔAIC", "ΔBIC", "left out", "n·L > ¼", "cover")
        rows = record["forms"].values()
        best = {k: min((r[k] for r in rows if r[k] is not None), default=0) for k in ("aic", "bic")}
        print(_columns([header, *(_cells_of(row, best) for row in rows)]))
        for form, reason in record["skipped"].items():
            print(f"  {form}: not fitted: {in_study_file(reason)}")
        if record["equal_exponents_p"] is not None:
            print(
                f"  equal exponents of n and L: p = {record['equal_exponents_p']:.2g}, carried by "
                f"{record['widths']} widths and {record['depths']} depths"
            )
        _print_region(record)
        print()


def _cells_of(row: dict[str, Any], best: dict[str, float]) -> tuple[str, ...]:
    exponents = ", ".join(
        f"{name} {value:.2f} [{low:.2f}, {high:.2f}]"
        for name, (value, low, high) in row["exponents"].items()
    )
    return (
        row["form"],
        exponents or "fixed",
        _fixed(row["r2"], 2),
        *(_fixed(None if row[k] is None else row[k] - best[k], 1) for k in ("aic", "bic")),
        _percent(row["cv_median_error"]),
        _percent(row["extrapolation_median_error"]),
        _percent(row["extrapolation_coverage"]),
    )


def _print_region(record: dict[str, Any]) -> None:
    region = record.get("region")
    if region is None:
        reason = in_study_file(record.get("region_error", "unknown"))
        print(f"  region of validity: {reason}")
        return
    sure = "" if region["tested"] else " (the strictest that the cells allow: not confirmed)"
    print(f"  region of validity: n/L ≥ {number(region['cutoff'])}{sure}")


def _columns(lines: list[tuple[str, ...]]) -> str:
    """Lines of cells as columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
