"""An hour of everything in one process: does its memory stay flat?

    OMP_NUM_THREADS=1 nice python benchmarks/soak.py --json benchmarks/results/soak.json

Measures, finds sharpness, measures a model with each engine, runs and exports studies, over and
over with other seeds and sizes, in one process. Resident memory is noted after every round, after
a garbage collection. The first tenth of the rounds is left out: caches fill there.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

import etastar
from etastar.cli import main as command

STUDY = """
[base]
dataset = "digits"
train_size = 400
val_size = 100
max_steps = 40
threshold = 0.5
resolution = 0.2
[grid]
width = [16, 32]
depth = [1, 2]
seeds = 2
first_seed = {seed}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json")
    args = parser.parse_args()
    process, start, number = psutil.Process(), time.monotonic(), 0
    minutes, memory = [], []
    while time.monotonic() - start < 60 * args.minutes:
        round_of_everything(number)
        number += 1
        gc.collect()
        minutes.append((time.monotonic() - start) / 60)
        memory.append(process.memory_info().rss / 2**20)
        if number % 10 == 1:
            print(f"{minutes[-1]:6.1f} min, round {number}: {memory[-1]:.0f} MiB", flush=True)
    settled = slice(len(minutes) // 10, None)
    slope = float(np.polyfit(minutes[settled], memory[settled], 1)[0]) * 60
    low, high = min(memory[settled]), max(memory[settled])
    print(f"{number} rounds; {low:.0f}–{high:.0f} MiB, {slope:+.1f} MiB per hour")
    if args.json:
        record = {
            "rounds": number,
            "minutes": minutes[-1],
            "mib_per_hour": slope,
            "mib_lowest": low,
            "mib_highest": high,
            "mib": [round(value, 1) for value in memory],
        }
        Path(args.json).write_text(json.dumps(record) + "\n", encoding="utf-8")


def round_of_everything(number: int) -> None:
    """A few seconds of work that no two rounds share."""
    width = 16 + 8 * (number % 5)
    network = etastar.MLP(width=width, depth=1 + number % 3)
    etastar.measure(network, "digits", seeds=2, first_seed=number, max_steps=60, resolution=0.2)
    data = etastar.load("digits", train_size=300)
    model = cnn(number)
    train, val = (data.x_train, data.y_train), (data.x_val, data.y_val)
    loss = nn.functional.cross_entropy
    etastar.sharpness(model, loss, [train], tol=1e-2)
    for own in (model, mlp(number)):  # the loop trains one, the stack the other
        etastar.maximal_lr(
            own, train, val, threshold=0.6, epochs=8, seeds=1, resolution=0.3, progress=False
        )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "study.toml"
        path.write_text(STUDY.format(seed=number), encoding="utf-8")
        for arguments in (["run"], ["status"], ["export", "--output", f"{name}/rows.csv"]):
            if command(["study", arguments[0], str(path), *arguments[1:]]):
                raise SystemExit(f"study {arguments[0]} failed")


def cnn(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


if __name__ == "__main__":
    main()
