"""Time to η* of 8 seeds at 5 % resolution: `etastar.measure` against plain sequential bisection.

    python benchmarks/measure.py --data-dir DATA --json benchmarks/results/measure.json

The baseline is what one would write by hand: for each seed in turn the paper's bisection, each
trial an `nn.Sequential` with `torch.optim.SGD` and PyTorch's own threads, left as soon as the
threshold is touched or the loss is not finite. Same data, initialisations, order of batches,
criterion and range. Both are run in turn, `--rounds` times, and the best round of each counts.
Replica-steps and evaluations are counted on both sides, so that the ratio can be explained.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from engine import machine, settings_of

from etastar.api import measure
from etastar.data import Dataset, load
from etastar.engines.reference import train_one
from etastar.problem.networks import MLP
from etastar.problem.trial import Trial
from etastar.run import Progress
from etastar.search import Bisection, Lattice
from etastar.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--input-lr-ratios", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load(args.dataset, data_dir=args.data_dir)
    rows = []
    for ratio in args.input_lr_ratios:
        network = MLP(width=args.width, depth=args.depth, input_lr_ratio=ratio)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(stacked(network, data, args.seeds))
            theirs.append(sequential(network, data, args.seeds))
        best = min(ours, key=lambda run: run["seconds"])
        plain = min(theirs, key=lambda run: run["seconds"])
        row = {
            "input_lr_ratio": ratio,
            "etastar": best,
            "bisection": plain,
            "times_faster": plain["seconds"] / best["seconds"],
            "fewer_steps": plain["steps"] / best["steps"],
        }
        rows.append(row)
        print(f"{args.dataset} {args.width}×{args.depth}, κ = {ratio:g}, {args.seeds} seeds")
        for name in ("etastar", "bisection"):
            run = row[name]
            print(
                f"  {name:10} {run['seconds']:7.1f} s  {run['trials']:4} trials "
                f"{run['steps']:7,} replica-steps  median η* {run['median']:.4g}"
            )
        print(
            f"  ratio {row['times_faster']:.1f} = {row['fewer_steps']:.2f} (steps) × "
            f"{row['times_faster'] / row['fewer_steps']:.2f} (time per step, evaluation included)",
            flush=True,
        )
    if args.json:
        with open(args.json, "w") as file:
            record = {"machine": machine("cpu"), "settings": settings_of(args), "rows": rows}
            json.dump(record, file, indent=1)


def stacked(network: MLP, data: Dataset, seeds: int) -> dict[str, Any]:
    taken = 0

    def count(now: Progress) -> None:
        nonlocal taken
        taken = now.steps  # those of abandoned trials included

    start = time.perf_counter()
    found = measure(network, data, seeds=seeds, on_progress=count)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "trials": found.cost.trials,
        "steps": taken,
        "median": found.eta_star.median,
        "brackets": [[result.lo, result.hi] for result in found.seeds.values()],
    }


def sequential(network: MLP, data: Dataset, seeds: int) -> dict[str, Any]:
    settings = Settings.checked(dataset=data.name)
    recipe = settings.recipe(data)
    lattice = Lattice(settings.start_lr, settings.end_lr, settings.resolution or 0.05)
    brackets, trials, steps = [], 0, 0
    start = time.perf_counter()
    for seed in range(seeds):
        search = Bisection(lattice)
        while not search.done:
            lr = search.ask()[0]
            outcome = train_one(network, data, recipe, Trial.of(seed, lr))
            search.tell(lr, outcome)
            trials += 1
            # a dead network is not recognised by a plain loop: it trains to the end of its budget
            steps += outcome.step
        result = search.result()
        brackets.append([result.lo, result.hi])
    middles = torch.tensor([[lo, hi] for lo, hi in brackets if lo and hi]).log().mean(1)
    return {
        "seconds": time.perf_counter() - start,
        "trials": trials,
        "steps": steps,
        "median": float(middles.quantile(0.5).exp()),
        "brackets": brackets,
    }


if __name__ == "__main__":
    main()
