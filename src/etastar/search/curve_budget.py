"""Whether the budget ends η*: what the slow runs would do with twice as much of it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import ndtr

from etastar.search.curve_fit import Fit
from etastar.search.curve_model import Array, Posterior

ROUNDS = 60
"""Of the expectation–maximisation that fits the steps."""
NARROWEST = 0.05
"""Least spread of log steps: evaluations come at whole multiples of some steps."""
SURE = 0.1
"""One-sided error with which η_50 must lie beyond its interval."""


def set_by(fit: Fit, max_steps: int) -> Literal["budget", "stability"] | None:
    """What ends η*: `budget` if slow runs do.

    The fit is made again as if of the slow runs above the slow edge so many had trained as twice
    the budget would let train; where η_50 then lies beyond its interval, slow runs end it.

    Args:
        fit: To all whole runs.
        max_steps: The budget.
    """
    counts, above = fit.counts, np.arange(fit.cells + 1) > fit.slow.below
    slow = counts.slow * above
    if not (counts.failed * above).any() or not counts.trained.any():
        return None
    if not slow.any():
        return "stability"
    saved = slow * in_time(fit, max_steps)
    failed = counts.failed - counts.short * ~above - saved
    longer = Posterior(fit.step, fit.cells, counts.trained + saved, failed)
    return "budget" if float(longer.quantile(0.5, SURE)) > fit.eta_50()[2] else "stability"


def in_time(fit: Fit, max_steps: int) -> Array:
    """The part of the slow runs at every rate that twice the budget would let train, [cells + 1].

    Log steps to the threshold are taken for normal about a straight line in log η; a slow run says
    that they are more than the budget (a Tobit model, fitted by expectation–maximisation). Only
    runs above the middle of the window count, where steps rise with the rate.

    Args:
        fit: To all whole runs.
        max_steps: The budget.
    """
    counts, points = fit.counts, np.arange(fit.cells + 1)
    low = max(float(fit.slow.below), float(fit.eta_50()[1]) - math.log(2) / fit.step)
    near = {i: steps for i, steps in counts.steps.items() if i > low}
    slow = np.repeat(points, (counts.slow * (points > low)).astype(int))
    if len(near) < 2:
        return np.ones(len(points))
    x = np.array([i for i, steps in near.items() for _ in steps], dtype=float)
    y = np.log([max(step, 1) for steps in near.values() for step in steps])
    design = np.stack([np.ones(len(x) + len(slow)), np.concatenate([x, slow])], axis=1)
    end, censored = math.log(max_steps), slice(len(x), None)
    seen, extra, sd = np.concatenate([y, np.full(len(slow), end)]), 0.0, 1.0
    for _ in range(ROUNDS):
        line = np.linalg.lstsq(design, seen, rcond=None)[0]
        mean = design @ line
        sd = max(NARROWEST, math.sqrt(float(((seen - mean) ** 2).sum() + extra) / len(seen)))
        z = (end - mean[censored]) / sd
        ratio = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) / np.maximum(ndtr(-z), 1e-12)
        seen[censored] = mean[censored] + sd * ratio
        extra = float((sd**2 * (1 + z * ratio - ratio**2)).sum())
    z = (end - line[0] - line[1] * points) / sd
    later = ndtr(z + math.log(2) / sd)
    return np.asarray((later - ndtr(z)) / np.maximum(ndtr(-z), 1e-12))
