"""The tables of the success curves: where η* is a power, what is predicted, what ends the runs.

    python benchmarks/phase.py
    python benchmarks/prediction.py
    python benchmarks/curve_tables.py            # --check: exit code 1 if a page differs

The last writes `docs/curve-tables.md`, every region and every group, and the tables that stand
between marks such as `<!-- phase -->` in `docs/reproduction.md`, from what the first two wrote,
from the committed rows and, for what those do not hold, from their studies' files.
"""

from __future__ import annotations

import csv
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from prediction import BEYOND, ROOT, data_of, deep, depth_of, is_curves, summary, unstable
from reproduction_tables import interval, table

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "curve-tables.md"
LEDGER = ROOT / "docs" / "reproduction.md"
REGION = "unstable, L ≥ 4"
"""The region of the ledger's table."""
ERROR, COVERS, FACTOR = 0.12, (0.85, 0.95), 2.0
"""Goals of a prediction: median error at most, 90 % intervals that cover, and their factor."""
CAUSES = {"short": "budget", "diverged": "diverged", "dead": "died", "collapsed": "collapsed"}


def named(group: Mapping[str, Any]) -> str:
    """Data set, loss and κ."""
    return f"{data_of(group)}, {group['loss']}, κ = {float(group['input_lr_ratio']):g}"


def or_dash(ends: list[float] | None) -> str:
    """An interval, or a dash where there is none."""
    return interval(*ends) if ends else "–"


def of_region(row: Mapping[str, Any]) -> list[str]:
    """The columns of a law after the group's name."""
    found = row["exponents"]
    spans = [interval(*found[name]) for name in ("product", "width", "depth")]
    size = f"{row['networks']} ({row['widths']}, {row['depths']})"
    error, p = f"{100 * row['held_out_error']:.0f} %", f"{row['equal_exponents_p']:.2g}"
    return [
        size,
        spans[0],
        f"{row['r2']:.2f}",
        *spans[1:],
        p,
        error,
        or_dash(row["slope_on_lambda1"]),
    ]


GROUP = "data, loss, κ"
LOSSES = {"cross-entropy": "Cross-entropy", "mse": "MSE"}
LAW = (
    *("networks (widths, depths)", "of n·L, 95 %", "R²", "of n", "of L", "equal: p", "left out"),
    "slope on λ1",
)


def phase_table(records: list[dict[str, Any]], region: str) -> list[str]:
    """The laws of one region, a row a group."""
    rows = [
        [named(record), *of_region(row)]
        for record in sorted(records, key=named)
        for row in record["rows"]
        if row["region"] == region and "error" not in row
    ]
    return table((GROUP, *LAW), rows)


def where_table(records: list[dict[str, Any]]) -> list[str]:
    """The laws of `REGION`, with the budget, and which of the measured sizes are in it."""
    measured: dict[str, list[dict[str, str]]] = {}
    for row in curve_rows():
        if row["file"] != BEYOND and deep(row):
            measured.setdefault(named(row), []).append(row)
    lines = []
    for record in sorted(records, key=named):
        for row in record["rows"]:
            if row["region"] == REGION and "error" not in row:
                name = named(record)
                inside = sum(map(in_region, measured[name]))
                assert inside == row["networks"], name
                size, *law = of_region(row)
                budget = f"{float(record['epochs']):g}"
                lines.append([name, budget, where(measured[name]), size, *law])
    return table((GROUP, "epochs", "where (n, L)", *LAW), lines)


def in_region(row: dict[str, str]) -> bool:
    """Whether a network has an η_50 that instability ends."""
    return bool(row["eta"]) and row["status"] == "bracketed" and unstable(row)


def where(rows: list[dict[str, str]]) -> str:
    """Per L, the width from which on all measured networks are in the region; others one by one.

    Depths of the same width stand together, and of several the first and the last.
    """
    least: dict[int, list[int]] = {}
    single = []
    for depth in sorted(set(map(depth_of, rows))):
        here = {int(row["width"]): in_region(row) for row in rows if depth_of(row) == depth}
        widths = sorted(here, reverse=True)
        run = list(takewhile(here.__getitem__, widths))
        if run:
            least.setdefault(run[-1], []).append(depth)
        single += [f"{n}×{depth}" for n in widths if here[n] and n not in run]
    depths = sorted(set(map(depth_of, rows)))
    parts = []
    for n, some in least.items():
        first, last = depths.index(some[0]), depths.index(some[-1])
        together = len(some) > 1 and depths[first : last + 1] == some
        text = f"{some[0]}–{some[-1]}" if together else ", ".join(map(str, some))
        parts.append(f"n ≥ {n:,}, L = {text}")
    return "; ".join([*parts, *single])


def odds(part: Mapping[str, float]) -> str:
    """Tell z and its p-value."""
    p = f"p = {part['p']:g}" if part["p"] >= 0.0001 else "p < 0.0001"
    return f"z = {part['z']:.2f}, {p}".replace("-", "−")


def combined_lines(combined: list[dict[str, Any]]) -> list[str]:
    """The test of equal exponents of all groups together, a sentence a loss."""
    lines = []
    for told in combined:
        one, every, small = (told[name] for name in ("one per data set", "all groups", "κ = 0.1"))
        deeper = one["z"] > 0
        by = sorted(abs(value) for value in one["steeper by"])
        won = [
            part["L steeper"] if deeper else part["groups"] - part["L steeper"]
            for part in (every, one)
        ]
        lines.append(
            f"- {LOSSES[told['loss']]}: {'L' if deeper else 'n'}'s exponent is the steeper in "
            f"{won[0]} of {every['groups']} groups. One group per data set "
            f"({', '.join(one['data sets'])}): in {won[1]} of {one['groups']} (sign test: "
            f"p = {one['sign test p']:g}), by {by[0]:.2f} to {by[2]:.2f}, {by[1]:.2f} in the "
            f"median; **equal exponents: {odds(one)}**. The {small['groups']} at κ = 0.1 alone: "
            f"{odds(small)}."
        )
    return lines


def judged(scores: Mapping[str, float]) -> list[str]:
    """Number of networks, error, coverage and factor; bold where a goal is missed."""
    error, covers, factor = (scores[name] for name in ("median_error", "coverage", "factor"))
    few = covers == 1 and COVERS[1] ** scores["networks"] > 0.05
    fine = (error <= ERROR, COVERS[0] <= covers <= COVERS[1] or few, factor <= FACTOR)
    texts = (f"{100 * error:.1f} %", f"{100 * covers:.0f} %", f"{factor:.2f}")
    marked = [text if good else f"**{text}**" for text, good in zip(texts, fine, strict=True)]
    return [f"{scores['networks']}", *marked]


PREDICTED = ("networks", "median error", "90 % intervals cover", "their factor")


def prediction_table(totals: Mapping[str, Any]) -> list[str]:
    """The process on every part of the rows."""
    names = ["curves", *(n for n in totals if n not in ("curves", "brackets")), "brackets"]
    rows = [
        [{"curves": "all curves"}.get(n, n.removeprefix("curves, ")), *judged(totals[n]["process"])]
        for n in names
    ]
    return table(("", *PREDICTED), rows)


def groups_table(groups: list[dict[str, Any]]) -> list[str]:
    """The process on every group of the curves."""
    curves = [group for group in groups if is_curves(group["file"])]
    rows = [[named(g), *judged(summary([g], "process"))] for g in sorted(curves, key=named)]
    return table((GROUP, *PREDICTED), rows)


def beyond_table(rows: list[dict[str, Any]]) -> list[str]:
    """The 1,024×8 networks."""
    return table(
        (GROUP, "predicted η_50, 90 %", "measured"),
        [
            [
                named(row),
                f"{row['predicted']:.4g} [{row['low']:.4g}, {row['high']:.4g}]",
                f"{row['measured']:.4g}",
            ]
            for row in rows
        ],
    )


def curve_rows() -> list[dict[str, str]]:
    """Every network with a success curve; inputs and classes of unseen tasks from their studies."""
    found = []
    for path in sorted((ROOT / "studies" / "results").glob("curves-*.csv")):
        study = tomllib.loads((ROOT / "studies" / f"{path.stem}.toml").read_text(encoding="utf-8"))
        facts = {name: str(study["base"].get(name, "")) for name in ("inputs", "classes")}
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                known = {name: row[name] or facts[name] for name in facts}
                found.append(row | known | {"file": path.stem})
    return found


STATUSES = ("bracketed", "none-trained", "all-trained", "interrupted")
MEASURED = (
    *("data: inputs, classes", "samples", "threshold", "loss, epochs", "κ", "widths × L"),
    *("networks", "with η_50", "nowhere", "above", "open", "on"),
)


def counted(rows: list[dict[str, str]]) -> list[str]:
    """How many networks there are, and how many of each status."""
    found = Counter(row["status"] for row in rows)
    assert set(found) <= set(STATUSES)
    return [str(len(rows)), *(str(found[status]) for status in STATUSES)]


def span(values: set[int]) -> str:
    """From the least to the largest."""
    return f"{min(values):,}–{max(values):,}"


def measured_table() -> list[str]:
    """What was measured, a row for each data set and loss, and the numbers of networks."""
    rows = curve_rows()
    parts: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        parts.setdefault((data_of(row), row["loss"]), []).append(row)
    lines = []
    for (data, loss), some in sorted(parts.items()):
        names = ("inputs", "classes", "train_size", "val_size", "threshold", "epochs")
        ((inputs, classes, train, val, threshold, epochs),) = {
            tuple(row[name] for name in names) for row in some
        }
        places = sorted({row["device"] for row in some}, reverse=True)
        grid = [row for row in some if row["file"] != BEYOND]
        lines.append(
            [
                f"{data}: {int(inputs):,}, {classes}",
                f"{int(train):,} + {int(val):,}",
                threshold,
                f"{loss}, {float(epochs):g}",
                ", ".join(f"{k:g}" for k in sorted({float(row["input_lr_ratio"]) for row in some})),
                f"{span({int(row['width']) for row in grid})} × {span(set(map(depth_of, grid)))}",
                *counted(some),
                ", ".join({"cuda": "GPU", "cpu": "CPU"}[place] for place in places),
            ]
        )
    return table(MEASURED, [*lines, ["all", *[""] * 5, *counted(rows), ""]])


def causes_table() -> list[str]:
    """What ends η* of the networks of a group, as shares."""
    counts: dict[str, Counter[str]] = {}
    for row in curve_rows():
        ended = row["hi_outcome"] if row["status"] == "bracketed" else row["status"]
        counts.setdefault(named(row), Counter())[ended] += 1
    rows = []
    for name, found in sorted(counts.items()):
        known = sum(found[cause] for cause in CAUSES)
        shares = [f"{100 * found[cause] / known:.0f} %" if known else "–" for cause in CAUSES]
        others = (found[""], found["all-trained"], found["none-trained"])
        rows.append([name, *map(str, (known, *shares, *others))])
    return table((GROUP, "known", *CAUSES.values(), "unclear", "above", "none"), rows)


def pages() -> dict[Any, str]:
    """Both pages, as they should be."""
    laws = json.loads((RESULTS / "phase.json").read_text(encoding="utf-8"))
    phase = laws["groups"]
    found = json.loads((RESULTS / "prediction.json").read_text(encoding="utf-8"))
    regions = list(dict.fromkeys(row["region"] for record in phase for row in record["rows"]))
    lines = [
        "# Success curves: tables",
        "",
        "Made by `python benchmarks/curve_tables.py` from the rows in `studies/results`; read with",
        "[the ledger](reproduction.md).",
        "",
        "## Laws, region by region",
        "",
        "Exponents with 95 % intervals that allow for what widths and depths share; *equal: p*",
        "tests equal exponents of n and L; *left out* is the median error of networks left out in",
        "turn; the slope is of ln η\\* on ln λ1. Unstable: [stability ends",
        "η\\*](concepts.md#stability-or-budget), not the budget.",
    ]
    for region in regions:
        lines += ["", f"### {region}", "", *phase_table(phase, region)]
    lines += [
        "",
        "## Prediction, group by group",
        "",
        "Networks beyond a quarter of the largest n·L, predicted from the smaller ones by the",
        "Gaussian process. Bold: misses a median error of 12 %, a coverage of 85 to 95 %, or a",
        "factor of 2; 100 % is no miss where 95 % would give it in one case of twenty.",
        "",
        *groups_table(found["groups"]),
        "",
        "## What ends η\\*",
        "",
        "Shares of the networks: *budget* where [the budget ends",
        "η\\*](concepts.md#stability-or-budget), else how most runs above η\\* failed that were",
        "not slow. Then the numbers of networks of which the cause is not known, whose η\\* lies",
        "above the range, and that train nowhere: half of the seeds at no rate of it.",
        "",
        *causes_table(),
    ]
    blocks = {
        "measured": measured_table(),
        "phase": where_table(phase),
        "combined": combined_lines(laws["combined"]),
        "prediction": prediction_table(found["totals"]),
        "beyond": beyond_table(found["1024x8"]),
    }
    ledger = filled(LEDGER.read_text(encoding="utf-8"), blocks)
    return {PAGE: "\n".join(lines) + "\n", LEDGER: ledger}


def filled(page: str, blocks: Mapping[str, list[str]]) -> str:
    """A page with these lines between the marks of every name."""
    for name, block in blocks.items():
        marks = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = page.split(marks[0])
        page = "\n".join([before + marks[0], *block, marks[1] + rest.split(marks[1])[1]])
    return page


def main() -> int:
    """Write the pages, or compare them."""
    wrong = [
        path.name
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    if sys.argv[1:] == ["--check"]:
        if wrong:
            print(f"{', '.join(wrong)}: not what the rows give. Run without --check.")
        return int(bool(wrong))
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
