"""The tables of docs/reproduction-tables.md, each from the committed rows.

A part of `benchmarks/reproduction.py`. A new table is a function here and an entry in `SECTIONS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from reproduction_studies import LATER_STUDIES, LAW_STUDIES, Row, rows_of
from reproduction_widths import WIDTHS_FILE
from scipy.stats import linregress
from scipy.stats import t as student

from etastar.errors import ConfigError
from etastar.scaling import CellTable, Comparison, compare_forms, fit_cell_slope, fit_power_law

WIDE = 16.0
"""The cutoff n/L ≥ 16 stands for "n large against L": chosen beforehand, one for all groups."""
LABELS = ("dataset", "loss", "input_lr_ratio", "inputs", "output_variance")
SUBSETS: dict[str, Callable[[CellTable], Any]] = {
    "all": lambda cells: cells.width > 0,
    "n/L ≥ 16": lambda cells: cells.width >= WIDE * cells.depth,
    "L ≥ 4": lambda cells: cells.depth >= 4,
}
"""The first two were chosen beforehand; L ≥ 4 after the residual maps showed that L = 2 differs."""
FORMS = ("product", "separate", "gradient-norm", "inverse-width", "depth^-3/2")


Group = tuple[str, str, float, CellTable, list[Row]]


@cache
def groups() -> tuple[Group, ...]:
    """Every (dataset, loss, κ) of the law studies, with its cells and rows."""
    found: list[Group] = []
    for studies in LAW_STUDIES:
        rows = rows_of(*studies)
        cells = CellTable.from_rows(rows, group_by=LABELS)
        for labels, group in cells.groups():
            mine = [row for row in rows if all(row[k] == v for k, v in labels.items())]
            kappa = float(labels["input_lr_ratio"])
            found.append((str(labels["dataset"]), str(labels["loss"]), kappa, group, mine))
    return tuple(found)


@cache
def compared(subset: str) -> tuple[Comparison | None, ...]:
    """Every group's laws on a subset of its networks; None where none can be fitted."""
    found: list[Comparison | None] = []
    for *_, cells, _ in groups():
        try:
            found.append(compare_forms(cells.subset(SUBSETS[subset](cells)), forms=FORMS))
        except ConfigError:
            found.append(None)
    return tuple(found)


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    rule = "|" + "---|" * len(header)
    return ["| " + " | ".join(header) + " |", rule] + [f"| {' | '.join(x)} |" for x in lines]


def interval(value: float, low: float, high: float) -> str:
    """`value [low, high]`, to two decimals, with a true minus sign."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def laws() -> list[str]:
    """Claims (a) and (b): the laws of η*."""
    lines = []
    for dataset, loss, kappa, cells, rows in groups():
        failed = [row["hi_outcome"] for row in rows if row["status"] == "bracketed"]
        unstable = sum(outcome != "short" for outcome in failed)
        share = f"{100 * unstable / len(failed):.0f} %" if failed else "–"
        label = (dataset, loss, f"{kappa:g}")
        everything, count = _law(cells, None)
        wide, wide_count = _law(cells, WIDE)
        lines.append(
            (*label, f"{count} of {len(cells)}", share, *everything, str(wide_count), *wide[:2])
        )
    header = (
        "data", "loss", "κ", "cells used", "set by stability",
        "exponent of n·L", "R²", "of n", "of L", "R²", "p(equal)",
        "cells n/L ≥ 16", "exponent of n·L", "R²",
    )  # fmt: skip
    return table(header, lines)


def deep_laws() -> list[str]:
    """The same without the networks of depth 2 and 3: chosen after looking at the residuals."""
    lines = []
    for dataset, loss, kappa, cells, _ in groups():
        deep = cells.subset(cells.depth >= 4)
        law, count = _law(deep, None)
        lines.append((dataset, loss, f"{kappa:g}", f"{count} of {len(deep)}", *law))
    header = (
        "data", "loss", "κ", "cells used", "exponent of n·L", "R²", "of n", "of L", "R²",
        "p(equal)",
    )  # fmt: skip
    return table(header, lines)


def _law(cells: CellTable, cutoff: float | None) -> tuple[tuple[str, ...], int]:
    """Product exponent, R², separate exponents, R², p(equal); and the number of cells used."""
    none = ("–",) * 6
    try:
        found = compare_forms(cells, forms=("product", "separate"), cutoff=cutoff)
    except ConfigError:
        return none, 0
    cells_used = found.rows[0].fit.usage.used
    shown = list(none)
    for row in found.rows:
        exponents = [interval(c.value, c.low, c.high) for c in row.fit.coefficients[1:]]
        if row.form == "product":
            shown[0:2] = [*exponents, _two(row.fit.r2)]
        else:
            shown[2:6] = [*exponents, _two(row.fit.r2), f"{found.equal_exponents:.1g}"]
    return tuple(shown), cells_used


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def slopes() -> list[str]:
    """Claims (c) and (d): η* against λ1, and the law of λ1."""
    lines = []
    for dataset, loss, kappa, cells, _ in groups():
        label = (dataset, loss, f"{kappa:g}")
        try:
            fit = fit_cell_slope(cells)
            slope = fit.corrected
            text = interval(slope.value, slope.low, slope.high)
            verdict = ("yes" if fit.excludes(-1.0) else "no", _two(fit.r2))
        except ConfigError:
            text, verdict = "–", ("–", "–")
        try:
            found = compare_forms(cells, forms=("product", "separate"), response="lambda1")
            law = [
                x
                for row in found.rows
                for x in (
                    *(interval(c.value, c.low, c.high) for c in row.fit.coefficients[1:]),
                    _two(row.fit.r2),
                )
            ]
        except ConfigError:
            law = ["–"] * 5
        lines.append((*label, text, *verdict, *law))
    header = (
        "data", "loss", "κ", "slope of η* on λ1", "excludes −1", "R²",
        "λ1: exponent of n·L", "R²", "of n", "of L", "R²",
    )  # fmt: skip
    return table(header, lines)


def later() -> list[str]:
    """Claim (e): the largest rate from later steps over that at step 0, seed by seed."""
    lines = []
    for study in LATER_STUDIES:
        rows = rows_of(study)
        keys = sorted({(r["dataset"], r["loss"], r["width"], r["depth"]) for r in rows})
        for key in keys:
            mine = [r for r in rows if (r["dataset"], r["loss"], r["width"], r["depth"]) == key]
            by_step: dict[int, dict[float, float]] = {}
            for row in mine:
                if row["status"] == "bracketed":
                    by_step.setdefault(int(row["from_step"]), {})[row["seed"]] = row["eta"]
            start = by_step.get(0, {})
            shown = [f"{np.median(list(start.values())):.3g}" if start else "–"]
            for step in (10, 100, 400):
                ratios = [v / start[s] for s, v in by_step.get(step, {}).items() if s in start]
                shown.append(
                    f"{np.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
                    if ratios
                    else "–"
                )
            dataset, loss, width, depth = key
            seeds = len({r["seed"] for r in mine})
            lines.append((dataset, loss, f"{width:g}×{depth:g}", str(seeds), *shown))
    header = ("data", "loss", "n×L", "seeds", "η* at 0", "at 10 ÷ at 0", "100", "400")
    return table(header, lines)


def held_out() -> list[str]:
    """Prediction: fit up to a quarter of the largest n·L, predict the rest."""
    lines = []
    for name in SUBSETS:
        pooled: dict[str, list[tuple[float, int, float, float]]] = {form: [] for form in FORMS}
        for found in compared(name):
            rows = found.rows if found else ()
            held = {row.form: row.extrapolated for row in rows if row.extrapolated}
            if len(held) < len(FORMS):
                continue
            for form, h in held.items():
                pooled[form].append((h.median_error, h.test, h.coverage, h.median_width))
        for form, values in pooled.items():
            error, tests, coverage, width = np.array(values).T
            lines.append(
                (
                    name,
                    form,
                    str(len(values)),
                    f"{tests.sum():.0f}",
                    f"{100 * np.median(error):.0f} %",
                    f"{(error <= 0.15).sum()} of {len(error)}",
                    f"{100 * (coverage * tests).sum() / tests.sum():.0f} %",
                    f"×{np.median(width):.1f}",
                )
            )
    header = (
        "networks", "law", "groups", "cells predicted", "median error (median of groups)",
        "groups with median error ≤ 15 %", "coverage (nominal 90 %)", "median width of interval",
    )  # fmt: skip
    return table(header, lines)


def left_out() -> list[str]:
    """Prediction inside the range: every cell from the others of its group."""
    lines = []
    for form in FORMS:
        values = []
        for row in (row for found in compared("all") if found for row in found.rows):
            held = row.cross_validated
            if row.form == form and held.test:
                values.append((held.median_error, held.test, held.coverage, held.median_width))
        array = np.array(values)
        tests = array[:, 1]
        lines.append(
            (
                form,
                str(len(array)),
                f"{tests.sum():.0f}",
                f"{100 * np.median(array[:, 0]):.0f} %",
                f"{100 * (array[:, 2] * tests).sum() / tests.sum():.0f} %",
                f"×{np.median(array[:, 3]):.1f}",
            )
        )
    header = (
        "law", "groups", "cells predicted", "median error (median of groups)",
        "coverage (nominal 90 %)", "median width of interval",
    )  # fmt: skip
    return table(header, lines)


def budget() -> list[str]:
    """The law of MNIST, cross-entropy, κ = 0.1, under other budgets, on the same twelve sizes."""
    wide = {32.0, 64.0, 128.0, 256.0}
    base = [
        r
        for r in rows_of("mnist-cross-entropy")
        if r["input_lr_ratio"] == 0.1 and r["width"] in wide and r["depth"] in {2.0, 4.0, 8.0}
    ]
    other = rows_of("mnist-cross-entropy-budget")
    variants = (
        ("one epoch, first touch", base),
        ("two epochs, first touch", [r for r in other if r["criterion"] == "reach"]),
        ("one epoch, met at the end", [r for r in other if r["criterion"] == "hold"]),
    )
    lines = []
    for name, rows in variants:
        cells = CellTable.from_rows(rows, group_by=("loss",))
        law, used = _law(cells, None)
        failed = [r["hi_outcome"] for r in rows if r["status"] == "bracketed"]
        unstable = sum(outcome != "short" for outcome in failed) / len(failed)
        lines.append((name, f"{used} of {len(cells)}", f"{100 * unstable:.0f} %", *law))
    header = (
        "criterion", "cells used", "set by stability",
        "exponent of n·L", "R²", "of n", "of L", "R²", "p(equal)",
    )  # fmt: skip
    return table(header, lines)


def published() -> list[str]:
    """Width exponents at κ = 1 and n ≥ 64, and η*·λ1 of the widest networks."""
    lines = []
    for dataset, loss, kappa, cells, rows in groups():
        if kappa != 1.0:
            continue
        shown = [dataset, loss]
        for response in ("eta_star", "lambda1"):
            wide = cells.subset(cells.width >= 64)
            fit = fit_power_law(
                wide,
                form="separate",
                response=response,  # type: ignore[arg-type]
            )
            shown.append(interval(fit["width"].value, fit["width"].low, fit["width"].high))
        widest = max(r["width"] for r in rows)
        for depth in (2.0, 4.0, 8.0):
            products = [
                r["eta"] * r["lambda1_preconditioned"]
                for r in rows
                if (r["width"], r["depth"]) == (widest, depth)
                and r["eta"]
                and r["lambda1_preconditioned"]
            ]
            shown.append(f"{np.median(products):.1f}" if products else "–")
        lines.append((*shown[:4], f"{widest:g}", *shown[4:]))
    header = (
        "data", "loss", "η*: exponent of n", "λ1: exponent of n", "widest n",
        "η*·λ1 at L = 2", "L = 4", "L = 8",
    )  # fmt: skip
    return table(header, lines)


def widths() -> list[str]:
    """Exponents of λ1 against width: straight lines through all seeds."""
    rows = json.loads(WIDTHS_FILE.read_text("utf-8"))
    lines = []
    for variance in (1.0, 0.0):
        for kind in ("hessian", "gauss-newton"):
            mine = {r["width"]: r[kind] for r in rows if r["output_variance"] == variance}
            shown = [f"{np.median(mine[n]):.4g}" for n in (64, 256, 2048)]
            for least in (256, 64):
                points = [(n, v) for n, values in mine.items() if n >= least for v in values]
                x, y = np.log(np.array(points)).T
                fit = linregress(x, y)
                half = student.ppf(0.975, len(x) - 2) * fit.stderr
                shown.append(interval(fit.slope, fit.slope - half, fit.slope + half))
            lines.append((f"{variance:g}", kind, *shown))
    header = (
        "v", "matrix", "λ1 at n = 64", "256", "2048", "exponent, n = 256–2048", "n = 64–2048",
    )  # fmt: skip
    return table(header, lines)


SECTIONS = (
    ("Laws of η\\* in width and depth", laws,
     "Weighted least squares on log η\\* with a random effect per cell; 95 % intervals. *Set by "
     "stability*: share of the seeds whose `hi` diverged or died; the others ran out of budget. "
     "p(equal): exponents of n and of L are equal."),
    ("The same laws for L ≥ 4", deep_laws,
     "Post hoc: the residual maps show that networks of depth 2 lie off every law of n·L."),
    ("η\\* against λ1, and the law of λ1", slopes,
     "λ1: largest eigenvalue of the preconditioned Hessian D^½ H D^½ on 500 training samples. "
     "The slope is that between the cells' medians, corrected for the noise of both, with a 95 % "
     "interval that allows for scatter shared by widths or depths. *Excludes −1*: it is outside."),
    ("Later in training", later,
     "Median over seeds of the largest rate from a checkpoint, divided by η\\* of the same seed at "
     "step 0 (range over seeds); κ = 0.1."),
    ("Budget and criterion", budget, "MNIST, cross-entropy, κ = 0.1, the same twelve sizes."),
    ("Prediction beyond the measured sizes", held_out,
     "Fitted to n·L up to a quarter of the largest, the rest predicted; groups in which every law "
     "can be fitted so. `inverse-width` and `depth^-3/2` are rules in use, with fixed exponents."),
    ("Prediction between the measured sizes", left_out,
     "Every cell predicted from the others of its group."),
    ("Published numbers", published,
     "κ = 1, n ≥ 64, separate exponents of n and L; medians over seeds."),
    ("λ1 against width, with and without an output at the start", widths,
     "CIFAR-10, 500 training samples, MSE, κ = 1, L = 4, three seeds, medians; last layer drawn "
     "from N(0, v/n). `python benchmarks/reproduction.py --run widths`. 95 % intervals of straight "
     "lines through all seeds."),
)  # fmt: skip
