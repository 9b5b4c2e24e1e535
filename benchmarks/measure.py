"""Time to an interval of η*: `etastar.measure` against bisection of as many seeds as it takes.

    python benchmarks/measure.py --data-dir DATA --json benchmarks/results/measure.json

`etastar.measure` runs with its defaults, up to its 95 % interval of η* (without the confirmation of
the recommended rate, which bisection has no part of). The baseline is what one would write by hand:
for each seed in turn the paper's bisection, each trial an `nn.Sequential` with `torch.optim.SGD`
and PyTorch's own threads, left as soon as the threshold is touched or the loss is not finite. Same
data, budget, criterion and range. It takes seeds until the 95 % interval of their median (order
statistics of the brackets' ends; binomial, so no shape is assumed) is as narrow as ours, and stops
at the first seed where it is; where `--most-seeds` are not enough, the ratios are lower bounds
(`at_least`). A bisection goes down for ever if its first rate is too slow for the budget, as half
of the seeds' is at κ = 0.1: `--bisection-low 0.2` spares it that. Replica-steps are counted on both
sides, so that the ratio can be explained. Rows of other κ that the file has are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from engine import machine, settings_of

from etastar.api import measure
from etastar.curvature.initialisations import interval_of_median
from etastar.data import Dataset, load
from etastar.engines.reference import train_one
from etastar.problem.networks import MLP
from etastar.problem.trial import Trial
from etastar.search import Bisection, Lattice
from etastar.search.base import SeedResult
from etastar.search.estimate import middle_bracket
from etastar.settings import Settings

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--input-lr-ratios", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--most-seeds", type=int, default=300, help="of bisection")
    parser.add_argument("--bisection-low", type=float, help="its lowest rate; by default ours")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load(args.dataset, data_dir=args.data_dir)
    kept = json.loads(args.json.read_text())["rows"] if args.json and args.json.exists() else []
    rows = [row for row in kept if row["input_lr_ratio"] not in args.input_lr_ratios]
    under = {"machine": machine("cpu"), "settings": settings_of(args)}
    for ratio in args.input_lr_ratios:
        network = MLP(width=args.width, depth=args.depth, input_lr_ratio=ratio)
        ours = stacked(network, data)
        theirs = sequential(network, data, ours["reach"], args.most_seeds, args.bisection_low)
        row = {
            "input_lr_ratio": ratio,
            "etastar": ours,
            "bisection": theirs,
            "times_faster": theirs["seconds"] / ours["seconds"],
            "fewer_steps": theirs["steps"] / ours["steps"],
            "at_least": theirs["reach"] > ours["reach"],
            **under,
        }
        rows.append(row)
        print(f"{args.dataset} {args.width}×{args.depth}, κ = {ratio:g}")
        for name, run in (("etastar", ours), ("bisection", theirs)):
            print(
                f"  {name:10} {run['seconds']:7.1f} s  {run['trials']:5} trials of {run['seeds']} "
                f"seeds  {run['steps']:9,} replica-steps  η* {run['median']:.4g}, "
                f"{run['low']:.4g} – {run['high']:.4g}"
            )
        bound = "at least " * row["at_least"]
        print(
            f"  ratio {bound}{row['times_faster']:.1f} = {row['fewer_steps']:.2f} (steps) × "
            f"{row['times_faster'] / row['fewer_steps']:.2f} (time per step, evaluation included)",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def interval(median: float, low: float, high: float) -> Run:
    """An interval, and the larger of its two factors."""
    return {"median": median, "low": low, "high": high, "reach": max(high / median, median / low)}


def stacked(network: MLP, data: Dataset) -> Run:
    start = time.perf_counter()
    found = measure(network, data, confirm=0)
    seconds = time.perf_counter() - start
    eta = found.eta_star
    if not (eta.median and eta.ci_low and eta.ci_high):
        raise SystemExit(f"no interval of η* was found:\n{found}")
    counts = {"trials": found.cost.trials, "seeds": found.cost.trials, "steps": found.cost.steps}
    return {"seconds": seconds} | counts | interval(eta.median, eta.ci_low, eta.ci_high)


def sequential(network: MLP, data: Dataset, reach: float, most: int, low: float | None) -> Run:
    settings = Settings.checked(dataset=data.name)
    recipe = settings.recipe(data)
    lattice = Lattice(low or settings.start_lr, settings.end_lr, settings.resolution or 0.05)
    results: list[SeedResult] = []
    trials, steps = 0, 0
    start = time.perf_counter()
    for seed in range(most):
        search = Bisection(lattice)
        while not search.done:
            lr = search.ask()[0]
            outcome = train_one(network, data, recipe, Trial.of(seed, lr))
            search.tell(lr, outcome)
            trials += 1
            # a dead network is not recognised by a plain loop: it trains to the end of its budget
            steps += outcome.step
        results.append(search.result())
        now = of_median(results)
        if now and now["reach"] <= reach:
            break
    if now is None:
        raise SystemExit(f"bisection of {most} seeds gives no interval: raise --most-seeds.")
    seconds = time.perf_counter() - start
    counts = {"trials": trials, "seeds": len(results), "steps": steps}
    brackets = [[result.lo, result.hi] for result in results]
    return {"seconds": seconds} | counts | now | {"brackets": brackets}


def of_median(results: list[SeedResult]) -> Run | None:
    """The median's 95 % interval from order statistics; None where seeds are too few for one."""
    status, low, high = middle_bracket(results)
    rank, level = interval_of_median(len(results)) if len(results) > 1 else (1, 0.0)
    if level < 0.95 or status != "bracketed" or low is None or high is None:
        return None
    lows = sorted(result.lo or 0.0 for result in results)  # 0: it trains nowhere
    highs = sorted(result.hi or (math.inf if result.lo else 0.0) for result in results)
    if not lows[rank - 1] or not math.isfinite(highs[-rank]):
        return None
    return interval(math.sqrt(low * high), lows[rank - 1], highs[-rank])


if __name__ == "__main__":
    main()
