"""Calibration of the strategy `curve` on planted curves, scored against the exact truth.

    python tests/search/calibrate_planted.py --families logistic early --slopes 0.08 0.2 -n 100

η_0 is drawn anew for each measurement, so the lattice lies differently each time. Printed per
family and slope: coverage of η_50 with its Monte Carlo error, mean p at η*, sd of log η*; the share
with p ≥ 0.95 and < 0.90, and null, at `safe` and at the recommended rate; attempts; medians of
trials, budgets, and budgets without confirmation; seconds of processor time a measurement.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np
from planted_curves import FAMILIES, PlantedCurve, measured


def score(planted: PlantedCurve, options: dict[str, Any]) -> list[float]:
    curve = measured(planted, **options)
    found, budget = curve.result(), planted.max_steps
    star, truth = found.eta_star, planted.rate(0.5) or math.nan
    low, high = star.ci_low or 0.0, star.ci_high or math.inf
    lr = found.recommended.lr if found.recommended else None
    confirming = sum(curve.steps_of(attempt.runs) for attempt in curve.attempts)
    return [
        float(star.median is not None and low <= truth <= high),
        math.nan if star.median is None else planted.p(star.median),
        math.nan if star.median is None else math.log(star.median / truth),
        math.nan if star.safe is None else planted.p(star.safe),
        math.nan if lr is None else planted.p(lr),
        len(curve.attempts),
        len(curve.whole),
        found.cost.budgets,
        found.cost.budgets - confirming / budget,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--slopes", nargs="+", type=float, default=[0.05, 0.08, 0.2, 0.3])
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--stream", type=int, default=0, help="another stream, fresh simulations")
    parser.add_argument("--model", action="store_true", help="the defaults for a model")
    parser.add_argument("--floor", type=float, default=0.035)
    args = parser.parse_args()
    model = {"precision": 0.2, "round_size": 4, "trials": 120, "confirm": 10}
    options: dict[str, Any] = model if args.model else {}
    print(
        "family     slope cover       p(η*) sd    | safe ≥.95 <.90 null | rec ≥.95 <.90 null att."
    )
    for slope in args.slopes:
        for family in args.families:
            begin, rows = time.process_time(), []
            for k in range(args.n):
                eta = 0.5 * math.exp(np.random.default_rng([args.stream, k]).uniform(-0.5, 0.5))
                salt = 100_000 * args.stream + k
                planted = PlantedCurve(family, slope, eta, floor=args.floor, salt=salt)
                rows.append(score(planted, options))
            cover, p, error, safe, rec, attempts, trials, budgets, search = np.array(rows).T
            rate, seconds = cover.mean(), (time.process_time() - begin) / args.n
            parts = []
            for values in (safe, rec):
                there = values[np.isfinite(values)]
                parts.append(
                    f"{(there >= 0.95).mean():.3f} {(there < 0.9).mean():.3f} "
                    f"{1 - len(there) / args.n:.3f}"
                )
            print(
                f"{family:10} {slope:<5} {rate:.3f}±{math.sqrt(rate * (1 - rate) / args.n):.3f} "
                f"{np.nanmean(p):.2f}  {np.nanstd(error):.3f} | {parts[0]} | {parts[1]} "
                f"{attempts.mean():.2f} | {np.median(trials):.0f} trials, {np.median(budgets):.1f} "
                f"budgets, {np.median(search):.1f} without confirmation, {seconds:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
