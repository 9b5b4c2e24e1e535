"""Old against new: two checkouts take turns, and the ratio of times is given with its interval.

    git worktree add ../etastar-0.1.0 55e0b00
    python benchmarks/old_new.py ../etastar-0.1.0 --rounds 9 --json benchmarks/results/old_new.json

Each round runs, in both checkouts and in alternating order, `benchmarks/engine.py` (one round of
its own) and two whole measurements: `measure` with 8 seeds on digits (64×4, section), and
`maximal_lr` with one seed of a small CNN by the loop, evaluated in pieces of four training batches
as 0.1.0 did it (now a piece is one batch, unless `eval_batch_size` says so). The interval is
Student's on the log ratios. `--parts` repeats one of the two and leaves the other's rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parents[1]
PARTS = ["engine", "measurements"]
MEASUREMENTS = """
import json, sys, time, warnings
import torch
from sklearn.datasets import load_digits
from torch import nn
import etastar
warnings.simplefilter("ignore")
torch.set_num_threads(2)
try:
    from etastar.problem.networks import MLP
    pieces = {"eval_batch_size": 128}
except ImportError:  # 0.1.0
    from etastar.networks import MLP
    pieces = {}
x, y = load_digits(return_X_y=True)
x = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
y = torch.tensor(y)
def build(seed=0):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
start = time.perf_counter()
etastar.measure(MLP(width=64, depth=4), etastar.data.load("digits"), seeds=8)
middle = time.perf_counter()
etastar.maximal_lr(build, (x[:800], y[:800]), (x[800:1200], y[800:1200]), threshold=0.9, epochs=4,
                   batch_size=32, seeds=1, engine="loop", **pieces)
print(json.dumps({"measure": middle - start, "loop": time.perf_counter() - middle}))
"""


def times(checkout: Path, parts: list[str]) -> dict[str, float]:
    """Seconds (measurements) and seconds per replica-step (engine) of one checkout."""
    path = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    quiet: dict[str, Any] = {"env": path, "cwd": checkout, "capture_output": True, "check": True}
    found = {}
    if "engine" in parts:
        found |= engine_times(quiet)
    if "measurements" in parts:
        run = subprocess.run([sys.executable, "-c", MEASUREMENTS], text=True, **quiet)
        found |= json.loads(run.stdout.splitlines()[-1])
    return found


def engine_times(quiet: dict[str, Any]) -> dict[str, float]:
    """Seconds per replica-step by the row of `benchmarks/engine.py`."""
    record = Path("old_new_engine.json").resolve()
    engine = [sys.executable, "benchmarks/engine.py", "--threads", "2", "--rounds", "1"]
    engine += ["--widths", "32", "128", "--json", str(record)]
    subprocess.run(engine, **quiet)
    rows = json.loads(record.read_text())["rows"]
    record.unlink()
    return {
        f"engine, {row['inputs']} inputs, width {row['width']}": 1 / row["stack_per_second"]
        for row in rows
    }


def main() -> None:
    """Take turns, and print a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("old", type=Path, help="checkout of the version to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    old, new = [], []
    for k in range(args.rounds):
        pair = [(args.old.resolve(), old), (HERE, new)]
        for checkout, into in pair if k % 2 else pair[::-1]:
            into.append(times(checkout, args.parts))
    rows = []
    for name in new[0]:
        logs = np.log([n[name] / o[name] for n, o in zip(new, old, strict=True)])
        half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
        ratio, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
        row = {"name": name, "new_over_old": ratio, "ci_low": low, "ci_high": high}
        rows.append(row | {"rounds": args.rounds})
        print(f"{name:32} {ratio:.3f}  [{low:.3f}, {high:.3f}]", flush=True)
    if args.json:
        known = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
        rows = [row for row in known if row["name"] not in new[0]] + rows
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
