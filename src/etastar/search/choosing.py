"""The rate to train with: the cheapest of the window, farthest from its edges, and its promise."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from scipy.special import betaincinv

from etastar.search.curve_counts import Counts
from etastar.search.curve_model import Array

EQUAL = 1.1
"""Rates whose cost is within this factor of the cheapest are equal: steps to the threshold are flat
over most of the window, and a mean over a few runs is not better than this."""
BLIND = 0.8
"""Part of the lower bound of η_95 that is taken where nothing is known of the steps."""
ERRORS = (0.04, 0.005, 0.005)
"""One-sided error of each attempt: together 0.05, so that looking again is paid for."""


Window: TypeAlias = tuple[float, float]
"""Where a rate may be chosen, in lattice points, from the slow edge's upper bound, or the lowest
rate seen to train, to the lower bound of η_95."""


def lowest_seen(counts: Counts, high: float) -> int | None:
    """The lowest rate that whole runs have seen train, going down from `high`.

    Rates below which a second run has failed, and more than one in ten, do not count: nothing is
    known to be safe there. A single failure may be any seed's.

    Args:
        counts: Whole runs.
        high: Upper end, a lattice point.
    """
    found, trained, failed = None, 0.0, 0.0
    for i in range(int(np.floor(high + 1e-9)), -1, -1):
        if not counts.tried[i]:
            continue
        trained, failed = trained + counts.trained[i], failed + counts.failed[i]
        if counts.failed[i] and failed >= 2 and failed > 0.1 * (trained + failed):
            break
        if counts.trained[i] > counts.failed[i]:
            found = i
    return found


def mean_steps(counts: Counts, points: Array, top: float) -> Array:
    """Fitted mean steps to the threshold: log steps as a parabola in log η, least squares.

    Args:
        counts: Whole runs.
        points: Lattice points to interpolate at, [N].
        top: Runs above this lattice point are left out.

    Returns:
        [N]; NaN outside of the rates that trained.
    """
    at = [i for i in sorted(counts.steps) if i <= top]
    if not at:
        return np.full(len(points), np.nan)
    x = np.array([i for i in at for _ in counts.steps[i]], dtype=float)
    y = np.log([max(step, 1) for i in at for step in counts.steps[i]])
    centre, scale = x.mean(), max(float(np.ptp(x)) / 2, 1.0)
    fit = np.polynomial.Polynomial.fit(
        (x - centre) / scale, y, min(2, len(at) - 1), domain=[-1, 1], window=[-1, 1]
    )
    inside = (points >= at[0]) & (points <= at[-1])
    return np.asarray(np.where(inside, np.exp(fit((points - centre) / scale)), np.nan))


def cheapest(points: Array, cost: Array, window: Window, interval: float) -> int | None:
    """Of the rates that are about the cheapest the one farthest in log η from both edges.

    Args:
        points: Lattice points, ascending, [N].
        cost: Expected steps of each, [N]; NaN where unknown.
        window: The edges.
        interval: Steps between evaluations: costs that differ by less are equal.
    """
    low, high = window
    inside = (points >= low - 1e-9) & (points <= high + 1e-9) & np.isfinite(cost)
    if not inside.any():
        return None
    points, cost = points[inside], cost[inside]
    equal = cost <= max(EQUAL * cost.min(), cost.min() + interval)
    room = np.minimum(points - low, high - points)[equal]
    # rounded: equal distances must not be told apart by the last bit
    return int(points[equal][int(np.argmax(np.round(room, 6)))])


def enough(tried: int) -> int:
    """Successes that an attempt needs: K − ⌈K/10⌉, or all for K below 5.

    Args:
        tried: K.
    """
    return tried if tried < 5 else tried - -(-tried // 10)


def lower_bound(trained: int, tried: int, error: float) -> float:
    """Clopper–Pearson's one-sided lower bound of p.

    Args:
        trained: Successes.
        tried: Runs, at least one.
        error: Probability that p is below the bound.
    """
    return 0.0 if trained == 0 else float(betaincinv(trained, tried - trained + 1, error))


def exact_interval(trained: int, tried: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson's two-sided interval of p.

    Args:
        trained: Successes.
        tried: Runs, at least one.
        level: Confidence.
    """
    tail = (1 - level) / 2
    return lower_bound(trained, tried, tail), 1 - lower_bound(tried - trained, tried, tail)
