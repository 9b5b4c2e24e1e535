"""Prediction and bounds of λ1 beside the draws of `theory_draws.py`, cell by cell.

    python benchmarks/theory_prediction.py --draws digits.npz --data digits \
        --json benchmarks/results/theory_prediction.json

A cell is a data set, a width and depth, κ, v and a loss. Every cell is appended when it is done and
skipped where the file has it. The standard error of the median is from 1000 resamples.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from theory_draws import KAPPAS, VARIANCES, inputs

from etastar.problem.networks import MLP
from etastar.theory import sharpness_bounds, theorem_entries


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--cells", help="as 64x4,128x8; all by default")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--softmax", default="0.1:1", help="κ:v of the cross-entropy cells")
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, classes = inputs(args.data, args.samples)
    drawn = np.load(args.draws)
    rows = json.loads(args.json.read_text("utf-8")) if args.json.exists() else []
    known = {tuple(row[k] for k in KEYS) for row in rows}
    for cell in args.cells.split(",") if args.cells else drawn.files:
        n, depth = map(int, cell.split("x"))
        for loss, values in zip(("mse", "cross-entropy"), drawn[cell], strict=False):
            for i, kappa in enumerate(KAPPAS):
                for j, v in enumerate(VARIANCES):
                    key = (args.data, n, depth, kappa, v, loss)
                    if key in known or (loss != "mse" and f"{kappa:g}:{v:g}" != args.softmax):
                        continue
                    named = dict(zip(KEYS, key, strict=True))
                    rows.append(named | row(x, classes, key, values[i, j]))
                    lines = ",\n".join(json.dumps(r) for r in rows)
                    args.json.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
                    last = rows[-1]
                    print(*key, f"{last['ratio']:.3f} ± {last['error']:.3f}", flush=True)


KEYS = ("data", "width", "depth", "kappa", "v", "loss")


def row(x: torch.Tensor, classes: int, key: tuple, values: np.ndarray) -> dict[str, object]:
    """Measured mean and median, the prediction over the median, and all bounds."""
    _, n, depth, kappa, v, loss = key
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v)
    values = values.astype(float)
    started = time.process_time()
    found = sharpness_bounds(net, x, classes, loss=loss, kind="gauss-newton")
    seconds = time.process_time() - started
    resampled = np.random.default_rng(0).choice(values, size=(1000, len(values)))
    median = float(np.median(values))
    return {
        "draws": len(values),
        "classes": classes,
        "median": round(median, 5),
        "error": round(float(np.log(np.median(resampled, axis=1)).std()), 4),
        "mean": round(float(values.mean()), 5),
        "mean_error": round(float(values.std() / len(values) ** 0.5), 5),
        "log_sd": round(float(np.log(values).std()), 4),
        "ratio": round(found.kernel_prediction / median, 4),
        "kernel": round(found.kernel_infinite_width / median, 4),
        "upper_estimate": round(found.upper / float(values.mean()), 4),
        "seconds": round(seconds, 2),
        "theorem": [asdict(e) for e in theorem_entries(net, x, classes, loss)],
    }


if __name__ == "__main__":
    main()
