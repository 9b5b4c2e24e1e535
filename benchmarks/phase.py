"""The phase diagram: where η* is a power of depth × width, from the committed success curves.

    python benchmarks/phase.py

fits, per data set, loss and κ, the networks of each region of `REGIONS`, and writes
`benchmarks/results/phase.json`, tables and two figures: `docs/images/phase.png`, and
`docs/images/slopes.png`, η_50 against λ1 at κ = 0.1 with errors in both. The regions were fixed
before looking at these rows: n/L from 0, 8 and 16 on; four layers and more, which the ledger of
0.1.0 found on its own rows; the networks whose η* instability or collapse ends, as the budget is
no property of a network; and both. All are shown. Later, networks of which it is not known what
ends η* left the region of the unstable: three had been in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from curve_tables import REGION, combined_lines, phase_table
from prediction import LEAST_TRAIN, ROOT, Keep, deep, everything, groups, is_curves, unstable
from reproduction_tables import interval
from scipy.stats import binomtest, norm

from etastar.errors import ConfigError
from etastar.report.draw_matplotlib import decimal_ticks
from etastar.scaling import (
    CellTable,
    cross_validate,
    estimate_cells,
    fit_cell_slope,
    fit_power_law,
)

REGIONS: dict[str, tuple[float, Keep]] = {
    "all": (0.0, everything),
    "n/L ≥ 8": (8.0, everything),
    "n/L ≥ 16": (16.0, everything),
    "L ≥ 4": (0.0, deep),
    "unstable": (0.0, unstable),
    "unstable,\nL ≥ 4": (0.0, lambda row: deep(row) and unstable(row)),
    "unstable,\nL ≥ 4,\nn/L ≥ 16": (16.0, lambda row: deep(row) and unstable(row)),
}
"""Name → least n/L, and which rows."""
OUTPUT = ROOT / "benchmarks" / "results" / "phase.json"
SLOPES = ROOT / "docs" / "images" / "slopes.png"
FIGURE = ROOT / "docs" / "images" / "phase.png"
EQUAL = np.array([0.0, 1.0, -1.0])


def row_of(cells: CellTable, region: str, cutoff: float) -> dict[str, Any]:
    """Both laws of the networks of a region; or why there is none."""
    try:
        one = fit_power_law(cells, form="product", cutoff=cutoff)
        two = fit_power_law(cells, form="separate", cutoff=cutoff)
    except ConfigError as error:
        return {"region": region, "error": str(error)}
    p = two.effects.p_value(EQUAL, two.beta)
    steeper = two.exponents()["width"][0] - two.exponents()["depth"][0]
    return {
        "region": region,
        "networks": len(one.log_value),
        "widths": two.effects.widths,
        "depths": two.effects.depths,
        "r2": round(one.r2, 3),
        "exponents": {
            name: [round(float(value), 3) for value in ends]
            for name, ends in {**one.exponents(), **two.exponents()}.items()
        },
        "equal_exponents_p": round(p, 4),
        "equal_exponents_z": round(float(np.copysign(norm.isf(p / 2), steeper)), 3),
        "held_out_error": round(cross_validate(one).median_error, 3),
        "slope_on_lambda1": slope_of(cells.subset(cells.width >= cutoff * cells.depth)),
    }


def slope_of(cells: CellTable) -> list[float] | None:
    """Slope of ln η* on ln λ1 with its 95 % interval, both noisy; None if it cannot be had."""
    try:
        found = fit_cell_slope(cells)
    except ConfigError:
        return None
    told = found.corrected
    return [round(float(value), 2) for value in (told.value, told.low, told.high)]


def combined(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Are n's and L's exponents equal? The groups of `REGION` together, by loss (Stouffer).

    z is above zero where L has the steeper exponent.
    """
    found = []
    for loss in ("cross-entropy", "mse"):
        known = [
            {**record, **row}
            for record in records
            for row in record["rows"]
            if record["loss"] == loss and row["region"] == REGION and "error" not in row
        ]
        smallest = [group for group in known if float(group["input_lr_ratio"]) == 0.1]
        there = {group["dataset"] for group in smallest}
        rest = [
            group
            for group in known
            if float(group["input_lr_ratio"]) == 1 and group["dataset"] not in there
        ]
        told: dict[str, Any] = {"loss": loss, "region": REGION, "all groups": together(known)}
        for name, some in (("one per data set", smallest + rest), ("κ = 0.1", smallest)):
            z = sum(group["equal_exponents_z"] for group in some) / len(some) ** 0.5
            told[name] = together(some) | {
                "data sets": sorted(group["dataset"] for group in some),
                "z": round(z, 2),
                "p": float(f"{2 * norm.sf(abs(z)):.2g}"),
            }
        found.append(told)
    return found


def together(some: list[dict[str, Any]]) -> dict[str, Any]:
    """Of how many groups L is the steeper, the sign test of it, and by how much: ends, median."""
    by = [row["exponents"]["width"][0] - row["exponents"]["depth"][0] for row in some]
    count = sum(row["equal_exponents_z"] > 0 for row in some)
    spread = (min(by), float(np.median(by)), max(by))
    return {
        "groups": len(some),
        "L steeper": count,
        "sign test p": float(f"{binomtest(count, len(some)).pvalue:.2g}"),
        "steeper by": [round(value, 2) for value in spread],
    }


def padded(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a group, one per region."""
    rows = {row["region"]: row for row in record["rows"]}
    return [rows.get(name.replace("\n", " "), {"error": "no networks"}) for name in REGIONS]


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """R² of one power by group and region; a dot where equal exponents are rejected at 5 %."""
    from matplotlib.figure import Figure

    values = np.array([[row.get("r2", np.nan) for row in padded(r)] for r in records])
    figure = Figure(figsize=(7.6, 0.34 * len(records) + 1.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for i, record in enumerate(records):
        for j, row in enumerate(padded(record)):
            if "error" not in row:
                mark = " •" if row["equal_exponents_p"] < 0.05 else ""
                text = f"{row['exponents']['product'][0]:.2f}{mark}"
                dark = row["r2"] < 0.6
                colour = "white" if dark else "black"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    names = [f"{r['dataset']}, {r['loss']}, κ = {r['input_lr_ratio']:g}" for r in records]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(REGIONS)), list(REGIONS), fontsize=7)
    axes.set_title("exponent of n·L; • equal exponents rejected at 5 %", fontsize=9)
    figure.colorbar(image, label="R² of one power of n·L")
    figure.savefig(path, dpi=160)


def colour_of(depth: float) -> Any:
    """Viridis from depth 2 to 16."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.85 * np.log2(depth / 2) / 3)


def points(axes: Any, cells: CellTable, solid: bool) -> None:
    """Networks with the 95 % intervals of both: depth by colour, width by size; or hollow."""
    x, y = (estimate_cells(cells, response) for response in ("lambda1", "eta_star"))
    use = x.used & y.used
    for i in np.flatnonzero(use):
        colour = colour_of(cells.depth[i])
        spread = [1.96 * np.sqrt(one.variance[i]) for one in (x, y)]
        at = [np.exp(one.value[i]) for one in (x, y)]
        bars = [
            [[a * (1 - np.exp(-s))], [a * (np.exp(s) - 1)]] for a, s in zip(at, spread, strict=True)
        ]
        axes.errorbar(
            *([a] for a in at),
            xerr=bars[0],
            yerr=bars[1],
            fmt="o",
            ms=2 + 0.6 * np.log2(cells.width[i] / 8),
            color=colour,
            mfc=colour if solid else "white",
            elinewidth=0.7,
        )


def draw_slopes(path: Path) -> None:
    """η_50 against λ1 per data set and loss, with the slope of the networks of the last claim."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    def kept(keep: Keep) -> dict[str, CellTable]:
        return {
            f"{labels['dataset']}, {labels['loss']}": cells
            for file, labels, cells in groups(keep)
            if is_curves(file) and float(labels["input_lr_ratio"]) == 0.1
        }

    every = kept(everything)
    region = kept(lambda row: deep(row) and unstable(row))
    shown = [
        name
        for name, cells in region.items()
        if estimate_cells(cells).used.sum() >= LEAST_TRAIN and slope_of(cells)
    ]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, shown, strict=False):
        points(axes, every[name], solid=False)
        points(axes, region[name], solid=True)
        found = fit_cell_slope(region[name])
        told = found.corrected
        ends = np.exp(estimate_cells(region[name], "lambda1").value)
        ends = np.array([np.nanmin(ends), np.nanmax(ends)])
        axes.plot(ends, np.exp(found.intercept) * ends**told.value, color="0.2", lw=1.2)
        centre = np.exp(np.log(ends).mean())
        middle = np.exp(found.intercept) * centre**told.value
        axes.plot(ends, middle * centre / ends, color="0.5", lw=1, ls=":")
        axes.set(xscale="log", yscale="log")
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            decimal_ticks(axis, 0.7 * np.log10(limits[1] / limits[0]))
        axes.set_title(
            f"{name} ({found.n})\nslope {interval(told.value, told.low, told.high)}",
            fontsize=8,
        )
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    figure.supxlabel("λ1 at initialisation", fontsize=9)
    figure.supylabel("η_50", fontsize=9)
    marks = [
        Line2D([], [], marker="o", ls="", color=colour_of(depth), label=f"L = {depth}")
        for depth in (2, 4, 8, 16)
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=160)


def main() -> None:
    """Fit, write, print; draw unless the numbers are written elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    found: dict[str, dict[str, Any]] = {}
    for region, (cutoff, keep) in REGIONS.items():
        for file, labels, cells in groups(keep):
            if is_curves(file):
                record = found.setdefault(f"{file} {labels}", {"file": file, **labels, "rows": []})
                record["rows"].append(row_of(cells, region.replace("\n", " "), cutoff))
    records = [r for r in found.values() if any("error" not in row for row in r["rows"])]
    told = {"combined": combined(records), "groups": records}
    text = json.dumps(told, indent=1, ensure_ascii=False)
    output.write_text(text + "\n", encoding="utf-8")
    for region in REGIONS:
        name = region.replace("\n", " ")
        print(f"\n{name}\n", *phase_table(records, name), sep="\n")
    print(f"\n{REGION}, together\n", *combined_lines(told["combined"]), sep="\n")
    if output == OUTPUT:
        draw(records, FIGURE)
        draw_slopes(SLOPES)


if __name__ == "__main__":
    main()
