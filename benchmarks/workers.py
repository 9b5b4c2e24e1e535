"""Two workers of an executor against two plain loops side by side, in steps per second.

    OMP_NUM_THREADS=1 python benchmarks/workers.py --json benchmarks/results/workers.json

One thread each. A plain loop trains the same model on the same batches with the same evaluations,
and nothing else; two of them run at the same time, as two independent users would. They take turns
with `maximal_lr` on two workers of a process pool, and on one; the median of the pairs' ratios and
all of them are told. A pool is warm before it is timed, as the loops are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import nn

import etastar

BATCH, EPOCHS, EVALUATIONS = 32, 5, 5


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def plain(lr: float, runs: int) -> int:
    """Train `runs` networks as a tutorial does; returns the steps."""
    torch.set_num_threads(1)
    data, steps = etastar.load("digits"), 0
    for seed in range(runs):
        model = build(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(data.y_train)).split(BATCH):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows])
                loss.backward()
                optimizer.step()
                steps += 1
            with torch.no_grad():
                (model(data.x_val).argmax(1) == data.y_val).float().mean().item()
    return steps


def loops(pool: ProcessPoolExecutor, runs: int) -> float:
    """Steps per second of two plain loops side by side."""
    start = time.perf_counter()
    steps = sum(pool.map(plain, [0.02, 0.02], [runs, runs]))
    return steps / (time.perf_counter() - start)


def measured(pool: ProcessPoolExecutor, round_size: int) -> float:
    """Steps per second of a measurement, from its call to its result."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = etastar.maximal_lr(
            build,
            etastar.load("digits"),
            threshold=0.9,
            epochs=EPOCHS,
            batch_size=BATCH,
            round_size=round_size,
            executor=pool,
            progress=False,
        )
    return float(found.cost.steps / (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=8, help="of each plain loop")
    parser.add_argument("--round-sizes", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--json")
    args = parser.parse_args()
    spawn = get_context("spawn")
    record: dict[str, Any] = {"torch": torch.__version__, "pairs": args.pairs}
    with ProcessPoolExecutor(2, spawn) as two, ProcessPoolExecutor(1, spawn) as one:
        loops(two, 1), list(one.map(plain, [0.02], [1]))
        measured(two, 4), measured(one, 4)
        for size in args.round_sizes:
            pairs = [
                (loops(two, args.runs), measured(two, size), measured(one, size))
                for _ in range(args.pairs)
            ]
            record[f"round_size {size}"] = {
                "two workers ÷ two loops": [round(b / a, 3) for a, b, _ in pairs],
                "median": round(statistics.median(b / a for a, b, _ in pairs), 3),
                "two workers ÷ one": round(statistics.median(b / c for _, b, c in pairs), 3),
            }
    print(json.dumps(record, indent=1, ensure_ascii=False))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(record, file, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
