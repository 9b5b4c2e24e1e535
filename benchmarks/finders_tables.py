"""The record of `finders.py` as Markdown tables."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from typing import Any

FINDERS = ("pytorch-lr-finder", "Lightning")
READINGS = (*FINDERS, "Lightning, per step")
OF_SWEEPS = (
    "suggestion",
    *(f"suggestion × {factor}" for factor in (2, 4, 8)),
    "divergence ÷ 10",
    "divergence",
)
RATES = (
    *(("etastar", name) for name in ("η* ÷ 2", "safe", "η*", "lo", "hi")),
    *((source, name) for source in READINGS for name in OF_SWEEPS),
)

EDGES = (0.0, 0.01, 0.1, 0.5, 0.8, 1.0, 1.25, 2.0, 10.0, math.inf)
"""Of the classes of rates relative to η*."""


def tables(record: dict[str, Any]) -> str:
    """All of them."""
    parts = (
        by_rate(record),
        by_distance(record),
        verdicts(record),
        by_cell(record),
        by_setting(record),
        cost(record),
        patience(record),
    )
    return "\n\n".join("\n".join(part) for part in parts)


def by_rate(record: dict[str, Any]) -> list[str]:
    """Does it train: every kind of rate, over all cells and seeds."""
    rows = [
        "| rate | found in | trains, same seed | new seed | fails: too low | too high "
        "| ÷ η*: median (10–90 %) | steps to threshold ÷ safe's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for source, name in RATES:
        same, fresh = runs(record, source, name, False), runs(record, source, name, True)
        if not same:
            continue
        low, high = failures(record, same)
        ratios = sorted(r["lr"] / reference(cell, r) for cell, r in same if reference(cell, r))
        rows.append(
            f"| {source}: {name} | {found_in(record, source, name)} | {share(same)} "
            f"| {share(fresh)} | {low} | {high} | {spread(ratios)} | {slowness(same)} |"
        )
    return rows


def by_distance(record: dict[str, Any]) -> list[str]:
    """Does a finder's rate train, by where it lies beside the η* of the same seed."""
    rows = ["| rate of a finder ÷ η* of the same seed | runs | train |", "|---|---|---|"]
    found = [
        (run["lr"] / star, run["outcome"] == "trained")
        for cell in record["cells"]
        for run in cell["runs"]
        if run["source"] != "etastar" and not run["fresh"] and (star := reference(cell, run))
    ]
    for low, high in itertools.pairwise(EDGES):
        inside = [trained for ratio, trained in found if low <= ratio < high]
        part = f"{sum(inside) / len(inside):.0%}" if inside else "–"
        label = f"{low:g} to {high:g}" if high < math.inf else f"above {low:g}"
        rows.append(f"| {label} | {len(inside)} | {part} |")
    return rows


def verdicts(record: dict[str, Any]) -> list[str]:
    """Whether the plain loop agrees with both ends of the brackets, by engine."""
    rows = [
        "| engine | cells | lower end trains | upper end fails | half of η* trains, new seed "
        "| safe_lr, new seed |",
        "|---|---|---|---|---|---|",
    ]
    for engine in sorted({c["eta_star"]["engine"] for c in record["cells"]}):
        cells = {"cells": [c for c in record["cells"] if c["eta_star"]["engine"] == engine]}
        above = runs(cells, "etastar", "hi", False)
        failed = sum(run["outcome"] != "trained" for _, run in above)
        rows.append(
            f"| {engine} | {len(cells['cells'])} | {share(runs(cells, 'etastar', 'lo', False))} "
            f"| {failed}/{len(above)} | {share(runs(cells, 'etastar', 'η* ÷ 2', True))} "
            f"| {share(runs(cells, 'etastar', 'safe', True))} |"
        )
    return rows


def by_cell(record: dict[str, Any]) -> list[str]:
    """One row per cell: η* beside what the finders give, least to greatest over seeds."""
    rows = [
        "| | η* (brackets) | safe | "
        + " | ".join(f"{f}: suggests | trains | diverges at | trains" for f in FINDERS)
        + " |",
        "|---" * (3 + 4 * len(FINDERS)) + "|",
    ]
    for cell in record["cells"]:
        star = cell["eta_star"]
        ends = [s[e] for s in star["seeds"] for e in ("lo", "hi") if s[e]]
        row = [f"{cell['dataset']}, {cell['model']}, {cell['optimizer']}"]
        row += [f"{number(star['lr'])} ({extent(ends)})", number(star["safe_lr"])]
        for finder in FINDERS:
            for key in ("suggestion", "divergence"):
                given = [s[key] for s in cell["sweeps"][finder]["default"] if s[key]]
                row += [extent(given), share(runs({"cells": [cell]}, finder, key, False))]
        rows.append("| " + " | ".join(row) + " |")
    return rows


def by_setting(record: dict[str, Any]) -> list[str]:
    """What another setting of the sweep does to the suggestion and to the rate of divergence."""
    rows = [
        "| finder, setting | suggestion ÷ η*: median (10–90 %) | ÷ default's | gives one "
        "| divergence ÷ η* | sees it |",
        "|---|---|---|---|---|---|",
    ]
    for finder in READINGS:
        for label in record["cells"][0]["sweeps"][finder]:
            found = [
                (cell, seed, given, default)
                for cell in record["cells"]
                for seed, (given, default) in enumerate(
                    zip(
                        cell["sweeps"][finder][label],
                        cell["sweeps"][finder]["default"],
                        strict=True,
                    )
                )
            ]
            text = [f"{finder}, {label}"]
            for key in ("suggestion", "divergence"):
                some = [(c, s, g, d) for c, s, g, d in found if g[key]]
                text.append(
                    spread(sorted(g[key] / e for c, s, g, _ in some if (e := middle(c, s))))
                )
                if key == "suggestion":
                    text.append(spread(sorted(g[key] / d[key] for _, _, g, d in some if d[key])))
                text.append(f"{len(some)}/{len(found)}")
            rows.append("| " + " | ".join(text) + " |")
    for finder in READINGS:
        over_settings, over_seeds = factors(record, finder)
        rows.append(
            f"\n{finder}: largest ÷ smallest suggestion over settings, one seed: median "
            f"{number(statistics.median(over_settings))}, most {number(max(over_settings))}; "
            f"over seeds, default settings: median {number(statistics.median(over_seeds))}, "
            f"most {number(max(over_seeds))}."
        )
    stars = [max(e) / min(e) for cell in record["cells"] if (e := middles(cell))]
    rows.append(
        f"\netastar: largest ÷ smallest η* over seeds: median {number(statistics.median(stars))}, "
        f"most {number(max(stars))}."
    )
    return rows


def cost(record: dict[str, Any]) -> list[str]:
    """Steps and seconds per answer."""
    rows = ["| | steps for one cell, median (most) | seconds, median (most) |", "|---|---|---|"]
    stars = [cell["eta_star"] for cell in record["cells"]]
    seeds = record["seeds"]
    rows.append(f"| etastar, {seeds} seeds | {most(stars, 'steps')} | {most(stars, 'seconds')} |")
    for finder in FINDERS:
        found = [s for cell in record["cells"] for s in cell["sweeps"][finder]["default"]]
        rows.append(f"| {finder}, one sweep | {most(found, 'steps')} | {most(found, 'seconds')} |")
    return rows


def patience(record: dict[str, Any]) -> list[str]:
    """Suggestions that failed: how many train if given more budgets, or if halved as η* is."""
    rows = []
    for finder in READINGS:
        found = runs(record, finder, "suggestion", False)
        failed = [run for _, run in found if run["outcome"] != "trained"]
        later = sum(run["step"] is not None for run in failed)
        above = sum(run["lr"] > 2 * (reference(cell, run) or math.inf) for cell, run in found)
        rows.append(
            f"{finder}: {len(failed)} of {len(found)} suggestions fail in the budget; {later} of "
            f"them train within four; {above} are above twice η*: halving leaves them too high.\n"
        )
    return rows


def runs(
    record: dict[str, Any], source: str, name: str, fresh: bool
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The runs at one kind of rate, each with its cell."""
    return [
        (cell, run)
        for cell in record["cells"]
        for run in cell["runs"]
        if (run["source"], run["rate"], run["fresh"]) == (source, name, fresh)
    ]


def found_in(record: dict[str, Any], source: str, name: str) -> str:
    """In how many of the sweeps, or searches, there was such a rate at all."""
    asked = len(record["cells"]) * record["seeds"]
    return f"{len(runs(record, source, name, False))}/{asked}"


def share(some: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    if not some:
        return "–"
    return f"{sum(run['outcome'] == 'trained' for _, run in some)}/{len(some)}"


def failures(
    record: dict[str, Any], some: Iterable[tuple[dict[str, Any], dict[str, Any]]]
) -> tuple[int, int]:
    """Failures below and above the seed's η*."""
    low = high = 0
    for cell, run in some:
        if run["outcome"] != "trained":
            below = run["lr"] < (reference(cell, run) or math.inf)
            low, high = low + below, high + (not below)
    return low, high


def reference(cell: dict[str, Any], run: dict[str, Any]) -> float | None:
    """η* of the seed that a rate was found with."""
    return middle(cell, run["found_with"])


def middle(cell: dict[str, Any], seed: int) -> float | None:
    """The geometric mean of a seed's bracket."""
    bracket = cell["eta_star"]["seeds"][seed]
    return math.sqrt(bracket["lo"] * bracket["hi"]) if bracket["lo"] and bracket["hi"] else None


def middles(cell: dict[str, Any]) -> list[float]:
    found = (middle(cell, seed) for seed in range(len(cell["eta_star"]["seeds"])))
    return [value for value in found if value]


def factors(record: dict[str, Any], finder: str) -> tuple[list[float], list[float]]:
    """Largest ÷ smallest suggestion: over settings for every seed, over seeds for every cell."""
    over_settings, over_seeds = [], []
    for cell in record["cells"]:
        found = cell["sweeps"][finder]
        for same_seed in zip(*found.values(), strict=True):
            given = [s["suggestion"] for s in same_seed if s["suggestion"]]
            over_settings.append(max(given) / min(given))
        given = [s["suggestion"] for s in found["default"] if s["suggestion"]]
        if given:
            over_seeds.append(max(given) / min(given))
    return over_settings, over_seeds


def slowness(some: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Median of the steps to the threshold, where it is met, over the safe rate's on that seed."""
    ratios = []
    for cell, run in some:
        safe = [
            r["step"]
            for r in cell["runs"]
            if (r["source"], r["rate"], r["fresh"], r["found_with"])
            == ("etastar", "safe", False, run["found_with"])
            and r["step"]
        ]
        if run["outcome"] == "trained" and safe:
            ratios.append(run["step"] / safe[0])
    return f"{statistics.median(ratios):.1f}" if ratios else "–"


def quantile(ordered: list[float], p: float) -> float:
    place = p * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def spread(ordered: list[float]) -> str:
    """Median and the 10 and 90 % quantiles."""
    if not ordered:
        return "–"
    low, middle, high = (number(quantile(ordered, p)) for p in (0.1, 0.5, 0.9))
    return f"{middle} ({low}–{high})"


def extent(values: list[float]) -> str:
    if not values:
        return "none"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low}–{high}"


def most(found: list[dict[str, Any]], key: str) -> str:
    values = [s[key] for s in found]
    return f"{number(statistics.median(values))} ({number(max(values))})"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"
