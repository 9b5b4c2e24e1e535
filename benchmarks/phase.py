"""The phase diagram: where η* is a power of depth × width, from the committed success curves.

    python benchmarks/phase.py

fits, per data set, loss and κ, the networks with n/L at least each of the cutoffs 0, 4, 8, 16, 32,
fixed before looking, and writes `benchmarks/results/phase.json`, a table and a figure
(`docs/images/phase.png`). No cutoff is chosen: all are shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from prediction import ROOT, groups

from etastar.errors import ConfigError
from etastar.scaling import CellTable, cross_validate, fit_power_law

CUTOFFS = (0.0, 4.0, 8.0, 16.0, 32.0)
OUTPUT = ROOT / "benchmarks" / "results" / "phase.json"
FIGURE = ROOT / "docs" / "images" / "phase.png"
EQUAL = np.array([0.0, 1.0, -1.0])


def row_of(cells: CellTable, cutoff: float) -> dict[str, Any]:
    """Both laws of the networks from a cutoff on; or why there is none."""
    try:
        one = fit_power_law(cells, form="product", cutoff=cutoff, n_boot=0)
        two = fit_power_law(cells, form="separate", cutoff=cutoff, n_boot=0)
    except ConfigError as error:
        return {"cutoff": cutoff, "error": str(error)}
    return {
        "cutoff": cutoff,
        "networks": len(one.log_value),
        "widths": two.effects.widths,
        "depths": two.effects.depths,
        "r2": round(one.r2, 3),
        "exponents": {
            name: [round(float(value), 3) for value in ends]
            for name, ends in {**one.exponents(), **two.exponents()}.items()
        },
        "equal_exponents_p": round(two.effects.p_value(EQUAL, two.beta), 4),
        "held_out_error": round(cross_validate(one).median_error, 3),
    }


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """R² of one power by group and cutoff; a dot where equal exponents are rejected at 5 %."""
    from matplotlib.figure import Figure

    values = np.array([[row.get("r2", np.nan) for row in r["rows"]] for r in records])
    figure = Figure(figsize=(6.4, 0.34 * len(records) + 1.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for i, record in enumerate(records):
        for j, row in enumerate(record["rows"]):
            if "error" not in row:
                mark = " •" if row["equal_exponents_p"] < 0.05 else ""
                text = f"{row['exponents']['product'][0]:.2f}{mark}"
                dark = row["r2"] < 0.6
                colour = "white" if dark else "black"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    names = [f"{r['dataset']}, {r['loss']}, κ = {r['input_lr_ratio']:g}" for r in records]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(CUTOFFS)), [f"{c:g}" for c in CUTOFFS])
    axes.set_xlabel("networks with n/L at least")
    axes.set_title("exponent of n·L; • equal exponents rejected at 5 %", fontsize=9)
    figure.colorbar(image, label="R² of one power of n·L")
    figure.savefig(path, dpi=160)


def main() -> None:
    """Fit, write, print, draw."""
    records = []
    for file, labels, cells in groups():
        if not file.startswith("curves-"):
            continue
        rows = [row_of(cells, cutoff) for cutoff in CUTOFFS]
        if any("error" not in row for row in rows):
            records.append({"file": file, **labels, "rows": rows})
    text = json.dumps(records, indent=1, ensure_ascii=False)
    OUTPUT.write_text(text + "\n", encoding="utf-8")
    print("| group | n/L ≥ | networks | R² | exponent of n·L | of n, of L | equal: p | left out |")
    print("|---|---|---|---|---|---|---|---|")
    for record in records:
        name = f"{record['dataset']}, {record['loss']}, κ = {record['input_lr_ratio']:g}"
        for row in record["rows"]:
            if "error" in row:
                continue
            product, width, depth = (row["exponents"][k] for k in ("product", "width", "depth"))
            print(
                f"| {name} | {row['cutoff']:g} | {row['networks']} ({row['widths']} widths, "
                f"{row['depths']} depths) | {row['r2']} | {product} | {width}, {depth} | "
                f"{row['equal_exponents_p']} | {row['held_out_error']:.0%} |"
            )
    draw(records, FIGURE)


if __name__ == "__main__":
    main()
