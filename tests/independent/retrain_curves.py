"""Trains sampled networks of committed curves at η_50 and at `safe` with seeds that no curve saw.

    python tests/independent/retrain_curves.py --json benchmarks/results/retrain_curves.json

It shares no code with the package (see `retrain.py`), and runs on a CPU what a GPU measured. Of a
right η_50 half of fresh seeds train on average over networks, whatever the error of each estimate;
of a right `safe` rate at least 95 %. A network disagrees where the exact 99 % binomial interval of
its fresh seeds lies beyond what its own 95 % interval of η_50 allows: all of it above the share
that trains at the lower end, or below that at the upper end. What the file has of other networks,
from runs with other options, stays in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
from pathlib import Path
from typing import Any

import torch
from retrain import STUDIES, load, rate, train
from scipy.stats import binomtest

FIRST = 1_000_000
"""The first fresh seed: curves take theirs from 0."""
NETWORK = ("width", "depth", "input_lr_ratio", "loss", "eta", "safe")
CURVES = ("curves-gaussians", "curves-mnist", "curves-fashion", "curves-digits")


def sample(study: str, count: int, smallest: int, largest: int) -> list[dict[str, str]]:
    """So many networks of a study with an η_50 and a `safe` rate, and n·L between the two."""
    with (STUDIES / f"{study}.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eta"] and row["safe"]]
    rows = [row for row in rows if smallest <= int(row["width"]) * int(row["depth"]) <= largest]
    random.Random(study).shuffle(rows)
    return rows[:count]


def again(row: dict[str, str], folder: str, fresh: int) -> dict[str, Any]:
    """How many of `fresh` seeds train at each rate."""
    data = load(row["dataset"], folder, int(row["train_size"]), int(row["val_size"]))

    def trained(lr: float) -> int:
        seeds = range(FIRST, FIRST + fresh)
        return sum(train(row | {"seed": str(s)}, data, lr) == "trained" for s in seeds)

    ends = {end: float(row[f"eta_ci_{end}"]) for end in ("low", "high")}
    found: dict[str, Any] = {
        "eta_50": trained(float(row["eta"])),
        "safe": trained(float(row["safe"])),
    }
    interval = binomtest(found["eta_50"], fresh).proportion_ci(0.99, method="exact")
    if not interval.low <= 0.5 <= interval.high:  # η_50 may be off, as far as its interval says
        found |= {end: trained(lr) for end, lr in ends.items()}
    return found


def agrees(found: dict[str, Any], fresh: int) -> bool:
    """Whether a p of one half lies between the ends of the interval of η_50, by exact tests."""
    if "low" not in found:
        return True
    low = binomtest(found["low"], fresh).proportion_ci(0.99, method="exact")
    high = binomtest(found["high"], fresh).proportion_ci(0.99, method="exact")
    return bool(low.high >= 0.5 and high.low <= 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="*", default=CURVES, help="names in studies/results")
    parser.add_argument("--networks", type=int, default=8, help="per study")
    parser.add_argument("--smallest", type=int, default=0, help="n·L")
    parser.add_argument("--largest", type=int, default=512, help="n·L")
    parser.add_argument("--fresh", type=int, default=40)
    parser.add_argument("--data-dir", default=os.environ.get("ETASTAR_DATA_DIR", ""))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for study in args.studies:
        for row in sample(study, args.networks, args.smallest, args.largest):
            found = again(row, args.data_dir, args.fresh)
            made = {"study": study, **{name: row[name] for name in NETWORK}, "fresh": args.fresh}
            made |= {"trained": found, "agrees": agrees(found, args.fresh)}
            print(made, flush=True)
            if args.json:
                write(args.json, made)


def write(path: Path, made: dict[str, Any]) -> None:
    """Put a network into the file, in the place of an earlier result of it."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    key = ("study", *NETWORK)
    rows = [row for row in known if any(row[name] != made[name] for name in key)] + [made]
    rows.sort(key=lambda row: (row["study"], int(row["width"]) * int(row["depth"])))

    def pooled(name: str, of: list[dict[str, Any]]) -> dict[str, Any]:
        trained = sum(row["trained"][name] for row in of)
        return rate([i < trained for i in range(sum(row["fresh"] for row in of))])

    record = {
        "torch": torch.__version__,
        "networks": len(rows),
        "agree": sum(row["agrees"] for row in rows),
        "trained at eta_50": pooled("eta_50", rows),
        "trained at safe": pooled("safe", rows),
        "by study": {
            study: {
                name: pooled(name, [r for r in rows if r["study"] == study])
                for name in ("eta_50", "safe")
            }
            for study in sorted({row["study"] for row in rows})
        },
        "rows": rows,
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
