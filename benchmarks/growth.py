"""How cost grows with replicas, width, depth, seeds and resolution: slopes, and the expected ones.

    python benchmarks/growth.py --json benchmarks/results/growth.json

Time of a training round (all replicas, fixed number of steps, no search) against the number of
replicas, the width and the depth, on synthetic data; and time and steps of `measure` on `digits`
against the number of seeds and the resolution. Slopes are of log time on log size, by least
squares; rounds take turns and the best counts.

Expected: replicas 1. Width between 1 and 2: the first layer costs d·n, the others n². Depth: 1
once the hidden layers outweigh the first. Seeds at most 1. Steps against 1/resolution: far below
1, since a bracket is halved.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from engine import machine, settings_of, synthetic

import etastar
from etastar.engines import StackEngine, train_all
from etastar.problem.networks import MLP
from etastar.problem.problem import of_network
from etastar.problem.trial import Criterion, Recipe, Trial

STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [
        table("replicas", (8, 16, 32, 64, 128, 256), lambda r: train(r, 64, 4, 64), args.rounds),
        table("width, 64 inputs", (32, 64, 128, 256), lambda n: train(32, n, 4, 64), args.rounds),
        table("width, 784 inputs", (32, 64, 128, 256), lambda n: train(32, n, 4, 784), args.rounds),
        table("depth", (2, 4, 8, 16), lambda depth: train(32, 64, depth, 64), args.rounds),
        table("seeds", (2, 4, 8, 16, 32), lambda seeds: search(seeds, 0.05), args.rounds),
        table("1/resolution", (5, 10, 20, 40), lambda r: search(8, 1 / r), args.rounds),
    ]
    if args.json:
        with open(args.json, "w") as file:
            record = {"machine": machine("cpu"), "settings": settings_of(args), "rows": rows}
            json.dump(record, file, indent=1)
            file.write("\n")


def table(
    name: str, sizes: Sequence[int], run: Callable[[int], int], rounds: int
) -> dict[str, Any]:
    """Best time at every size, and the slopes of time and of steps."""
    best, steps = dict.fromkeys(sizes, float("inf")), dict.fromkeys(sizes, 0)
    for _ in range(rounds):
        for size in sizes:
            start = time.perf_counter()
            steps[size] = run(size)
            best[size] = min(best[size], time.perf_counter() - start)
    x = np.log(list(sizes))
    slopes = [float(np.polyfit(x, np.log(list(y.values())), 1)[0]) for y in (best, steps)]
    print(f"{name:18} time ∝ size^{slopes[0]:.2f}, steps ∝ size^{slopes[1]:.2f}:", end=" ")
    print(", ".join(f"{size}: {seconds:.3g} s" for size, seconds in best.items()), flush=True)
    return {
        "size": name,
        "sizes": list(sizes),
        "seconds": list(best.values()),
        "steps": list(steps.values()),
        "time_slope": slopes[0],
        "steps_slope": slopes[1],
    }


def train(replicas: int, width: int, depth: int, inputs: int) -> int:
    """So many replicas for a fixed number of steps; returns the steps of all."""
    data = synthetic(inputs)
    criterion = Criterion(threshold=1.0, max_steps=STEPS, eval_every=STEPS)
    recipe = Recipe(loss="cross-entropy", batch_size=128, criterion=criterion)
    problem = of_network(MLP(width=width, depth=depth), data, recipe)
    engine = StackEngine()
    train_all(engine, problem, [Trial.of(seed, 0.01) for seed in range(replicas)])
    return engine.steps_taken


def search(seeds: int, resolution: float) -> int:
    """η* of a 64×4 network on `digits`; returns the steps of its trials."""
    found = etastar.measure(MLP(width=64, depth=4), seeds=seeds, resolution=resolution)
    return found.cost.steps


if __name__ == "__main__":
    main()
