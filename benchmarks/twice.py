"""Does the law depend on the budget? η_50 of twelve networks with one and with two epochs.

    etastar study run studies/curves-gaussians-twice.toml      # half an hour
    etastar study export studies/curves-gaussians-twice.toml --output benchmarks/results/twice.csv
    python benchmarks/twice.py

prints η_50 under both budgets from the committed rows, of the Gaussians under cross-entropy and
κ = 0.1, and what ends it: the budget, or else how most runs above it failed; and the law of the
networks with four layers and more whose η* the budget ends under neither.
"""

from __future__ import annotations

import csv

from prediction import ROOT, deep, table_of, unstable

from etastar.scaling import fit_power_law

ONCE = ROOT / "studies" / "results" / "curves-gaussians.csv"
TWICE = ROOT / "benchmarks" / "results" / "twice.csv"


def rows_of(path: object) -> dict[tuple[int, int], dict[str, str]]:
    """The rows under cross-entropy and κ = 0.1, by width and depth."""
    with open(str(path), encoding="utf-8") as file:
        return {size_of(row): row for row in csv.DictReader(file) if is_group(row)}


def size_of(row: dict[str, str]) -> tuple[int, int]:
    """Width and depth."""
    return int(row["width"]), int(row["depth"])


def is_group(row: dict[str, str]) -> bool:
    """Whether a row is of the group that was measured twice."""
    return row["loss"] == "cross-entropy" and float(row["input_lr_ratio"]) == 0.1


def main() -> None:
    """Print the table and both laws."""
    twice = rows_of(TWICE)
    once = {size: row for size, row in rows_of(ONCE).items() if size in twice}
    print("| network | η_50, one epoch | ended by | η_50, two epochs | ended by | ratio |")
    print("|---|---|---|---|---|---|")
    for size, row in twice.items():
        pair = once[size], row
        shown = [
            f"{float(r['eta']):.3g} [{float(r['eta_ci_low']):.3g}, {float(r['eta_ci_high']):.3g}] "
            f"| {r['hi_outcome'] if unstable(r) else 'the budget'}"
            for r in pair
        ]
        ratio = float(row["eta"]) / float(once[size]["eta"])
        print(f"| {size[0]}×{size[1]} | {' | '.join(shown)} | {ratio:.2f} |")
    both = [s for s in twice if deep(twice[s]) and unstable(twice[s]) and unstable(once[s])]
    for name, path in (("one epoch", ONCE), ("two epochs", TWICE)):
        table = table_of(path, lambda row: size_of(row) in both and is_group(row))
        assert table is not None
        ((_, cells),) = table.groups()
        law = fit_power_law(cells, form="product")
        value, low, high = law.exponents()["product"]
        print(f"{name}: exponent of n·L {value:.2f} [{low:.2f}, {high:.2f}], R² {law.r2:.2f}")


if __name__ == "__main__":
    main()
