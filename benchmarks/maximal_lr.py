"""Cost of `maximal_lr` for a CNN on digits against a bisection that restarts training each time.

    python benchmarks/maximal_lr.py --json benchmarks/results/maximal_lr.json

Both look for the largest rate at which the same CNN, from the same weights and in the same order of
the data, reaches the same validation accuracy in the same budget, for three seeds, to 5 %. The
bisection is the paper's Algorithm 1 as one would write it: a fresh copy of the model for the
geometric midpoint, a plain PyTorch loop over slices of tensors (no loader, whose cost would be
counted too), an evaluation every epoch, a stop at the threshold and at a loss that is not finite.
They take turns, round after round, since on a shared machine only ratios within one run mean
anything. The bisection runs with one thread by default: on a machine with other work, PyTorch's own
threads made it many times slower (`--plain-threads 2` repeats that).
`maximal_lr` does more with its time: it searches from above, guards its brackets and finds
re-entries. So steps are counted too, and every engine is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from engine import settings_of
from torch import nn

import etastar
from etastar.problem.order import DataOrder

START, END, RESOLUTION, SEEDS = 1e-5, 10.0, 0.05, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plain-threads", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    data = etastar.load("digits")
    torch.manual_seed(0)
    model = cnn(args.channels)
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "bisection": lambda: bisection(model, data, args),
        "auto": lambda: ours(model, data, args, "auto"),
        "loop": lambda: ours(model, data, args, "loop"),
    }
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way, run in ways.items():
            torch.set_num_threads(args.threads)
            began = time.perf_counter()
            found = run()
            found["seconds"] = time.perf_counter() - began
            runs[way].append(found)
            print(number, way, found, flush=True)
    record = {"settings": settings_of(args), "torch": torch.__version__, **summary(runs)}
    print(json.dumps(record["ratios"], indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(record | {"runs": runs}, file, indent=1)


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per way the median time and the steps; ratios to the bisection of the same round."""
    plain = [run["seconds"] for run in runs["bisection"]]
    ratios = {
        way: {
            "time": statistics.median(
                run["seconds"] / base for run, base in zip(runs[way], plain, strict=True)
            ),
            "steps": runs[way][0]["steps"] / runs["bisection"][0]["steps"],
        }
        for way in ("auto", "loop")
    }
    seconds = {way: statistics.median(run["seconds"] for run in of) for way, of in runs.items()}
    return {"median_seconds": seconds, "ratios": ratios}


def cnn(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * channels, 10),
    )


def ours(model: nn.Module, data: Any, args: argparse.Namespace, engine: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = etastar.maximal_lr(
            model,
            data,
            threshold=args.threshold,
            epochs=args.epochs,
            batch_size=args.batch,
            seeds=SEEDS,
            start_lr=START,
            end_lr=END,
            resolution=RESOLUTION,
            engine=engine,
            progress=False,
        )
    brackets = [[seed.lo, seed.hi] for seed in found.seeds.values()]
    trials, steps = found.cost["trials"], found.cost["steps"]
    return {"engine": found.engine, "brackets": brackets, "trials": trials, "steps": steps}


def bisection(model: nn.Module, data: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Algorithm 1 for each seed."""
    torch.set_num_threads(args.plain_threads)
    brackets, trials, steps = [], 0, 0
    for seed in range(SEEDS):
        lo, hi = START, END
        while hi / lo > 1 + RESOLUTION:
            middle = math.sqrt(lo * hi)
            trained, taken = trains(model, data, args, seed, middle)
            trials, steps = trials + 1, steps + taken
            lo, hi = (middle, hi) if trained else (lo, middle)
        brackets.append([lo, hi])
    return {"engine": "plain", "brackets": brackets, "trials": trials, "steps": steps}


def trains(
    model: nn.Module, data: Any, args: argparse.Namespace, seed: int, lr: float
) -> tuple[bool, int]:
    """One training run: whether it reaches the threshold, and its steps."""
    copied = copy.deepcopy(model)
    optimizer = torch.optim.SGD(copied.parameters(), lr=lr)
    order = DataOrder(len(data.y_train))
    steps = 0
    for epoch in range(args.epochs):
        permutation = order.permutation(seed, epoch)
        for start in range(0, len(permutation) - args.batch + 1, args.batch):
            rows = permutation[start : start + args.batch]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(copied(data.x_train[rows]), data.y_train[rows])
            loss.backward()
            optimizer.step()
            steps += 1
            if not math.isfinite(loss.item()):
                return False, steps
        with torch.no_grad():
            right = (copied(data.x_val).argmax(1) == data.y_val).float().mean()
        if right >= args.threshold:
            return True, steps
    return False, steps


if __name__ == "__main__":
    main()
