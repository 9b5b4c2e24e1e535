"""Standard errors of the λ1 of committed success curves, from the initialisations behind them.

    python benchmarks/lambda1_errors.py curves-digits [NAME ...]    # about an hour for all

measures λ1 of every network of a study again, with its seeds, checks that the median is that of the
rows in `studies/results/NAME.csv`, and adds the column `lambda1_error` to them, which exports of
later versions have: the standard error of the median's logarithm.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etastar.curvature.initialisations import initial_sharpness
from etastar.scaling.cells import LAMBDA1_ERROR as COLUMN
from etastar.study.export import SHARPNESS, error_of_median
from etastar.study.measuring import load_data
from etastar.study.specification import Study

ROOT = Path(__file__).parents[1]
LAMBDA1, AGREE = SHARPNESS[0], 0.02


def main() -> None:
    """Add the column to every study named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        path = ROOT / "studies" / "results" / f"{name}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        study = Study.from_file(ROOT / "studies" / f"{name}.toml")
        cells = {key(cell.settings.model_dump()): cell for cell in study.cells}
        for row in rows:
            row.setdefault(COLUMN, "")
        for row in rows:
            if row[COLUMN] or not row[LAMBDA1]:
                continue
            cell = cells[key(row)]
            assert cell.sharpness is not None
            found = initial_sharpness(
                cell.settings.network(),
                load_data(cell.settings),
                tuple(cell.seeds),
                loss=cell.settings.loss,
                samples=cell.sharpness.samples,
                tol=cell.sharpness.tol,
                max_iter=cell.sharpness.max_iter,
            )
            values = [each.preconditioned for each in found.values() if each.preconditioned]
            apart = math.log(float(np.median(values)) / float(row[LAMBDA1]))
            if abs(apart) > AGREE:
                raise SystemExit(f"{name}, {row['cell']}: λ1 differs by {apart:.2%} from the row.")
            error = error_of_median(values)
            row[COLUMN] = "" if error is None else repr(error)
            print(name, row["width"], row["depth"], row[COLUMN], flush=True)
            with path.open("w", encoding="utf-8", newline="") as file:  # it goes on from there
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


def key(of: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells the networks of a study apart."""
    return (
        str(of["loss"]),
        *(f"{float(of[name]):g}" for name in ("width", "depth", "input_lr_ratio")),
    )


if __name__ == "__main__":
    main()
