"""What is unusual about a measured curve, and what is missing from it, each in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etastar.search.choosing import enough, lower_bound
from etastar.search.curve_counts import Counts
from etastar.search.curve_fit import SAFE, Fit

if TYPE_CHECKING:
    from etastar.search.curve import Curve

CLUSTER_RUNS, CLUSTER_WIDTH = 5, 0.3
"""Fewest runs, and greatest width in log η, of the neighbouring rates that are taken together."""
RISE_ERROR = 0.002
"""One-sided error of both ends where p is said to rise with η: some tens of pairs are compared."""


@dataclass(frozen=True)
class Remark:
    """Something a reader must know.

    Attributes:
        code: Stable name: `above-range`, `below-range`, `nowhere-half`, `no-safe-rate`, `cap`,
            `island`, `two-windows`, `no-width`, `no-steps`, `floor-seen`, `not-confirmed`,
            `only-order`.
        text: A sentence.
    """

    code: str
    text: str


def remarks(curve: Curve, fit: Fit) -> Iterator[Remark]:
    """Say what is unusual or missing.

    Args:
        curve: The strategy.
        fit: To all its whole runs.
    """
    if not curve.whole:
        yield Remark("cap", "The cap on budgets left no room for a whole run.")
        return
    yield from _range(curve, fit)
    yield from _cap(curve, fit)
    yield from _shape(curve, fit)
    yield from _choice(curve, fit)
    if curve.options.only_order:
        yield Remark(
            "only-order",
            "Only the order of the data varied: p is the probability over orders, for these "
            "initial weights.",
        )


def _range(curve: Curve, fit: Fit) -> Iterator[Remark]:
    options, middle = curve.options, float(fit.eta_50()[1])
    if curve.ended_by == "nowhere" or fit.nowhere_half():
        yield Remark(
            "nowhere-half",
            "No rate was found at which half of the runs train. Lower the threshold, or raise the "
            "budget.",
        )
    elif middle >= curve.lattice.cells:
        yield Remark(
            "above-range",
            f"More than half of the runs train even at the highest rate, {options.end_lr:g}: η* "
            "lies above the range. Raise end_lr.",
        )
    elif middle <= 0:
        yield Remark(
            "below-range",
            f"Less than half of the runs train even at the lowest rate, {options.start_lr:g}: η* "
            "lies below the range, if anywhere. Lower start_lr.",
        )


def _cap(curve: Curve, fit: Fit) -> Iterator[Remark]:
    if curve.ended_by not in ("trials", "budgets"):
        return
    goal, reach, runs = math.log1p(curve.options.precision), fit.reach(), len(curve.whole)
    needed = max(runs + 1, math.ceil(runs * (reach / goal) ** 2))
    name = "cap of trials" if curve.ended_by == "trials" else "cap on budgets"
    if reach <= goal:
        yield Remark("cap", f"The {name} ended the search before a safe rate was settled.")
        return
    budgets = curve.spent() / curve.options.max_steps * needed / max(runs, 1)
    yield Remark(
        "cap",
        f"The {name} ended the search after {runs} whole trials: the interval of η* reaches a "
        f"factor {math.exp(reach):.2f} to a side, not {1 + curve.options.precision:.2f}. That "
        f"would need about {needed} whole trials, {budgets:.0f} budgets.",
    )


def _shape(curve: Curve, fit: Fit) -> Iterator[Remark]:
    found = rise(fit)
    rate = curve.lattice.rate
    if found:
        low, high = found
        if high > fit.eta_50()[1]:
            code, where = "island", "above η*"
        else:
            code, where = "two-windows", "inside the window"
        yield Remark(
            code,
            f"p rises with the rate {where}: fewer runs train at {rate(low):.3g} than at "
            f"{rate(high):.3g}. The curve was fitted as one falling edge.",
        )
    if fit.counts.trained.any() and not fit.safe() >= 0:
        nowhere = fit.posterior.distribution(SAFE)[2]
        yield Remark(
            "no-safe-rate",
            f"No rate is known to train 95 % of fresh runs (probability that there is none: "
            f"{nowhere:.2f}).",
        )
    elif fit.slow.upper is not None and fit.slow.upper > fit.safe():
        yield Remark(
            "no-width",
            "The window has no width: runs become too slow for the budget where they have not yet "
            "become stable. Raise the budget.",
        )


def _choice(curve: Curve, fit: Fit) -> Iterator[Remark]:
    options = curve.options
    point = curve.attempts[-1].point if curve.attempts else curve.choice()
    if point is None:
        return
    if not options.counts_steps:
        yield Remark(
            "no-steps",
            "Nothing is known of steps to the threshold: the recommended rate is 0.8 of the lower "
            "bound of η_95.",
        )
    elif fit.slow.upper is None and not options.slow_edge:
        yield Remark(
            "floor-seen",
            "The slow edge was not looked for: rates below the lowest that was seen to train were "
            "not considered.",
        )
    if not options.confirm:
        return
    if not curve.attempts:
        yield Remark("not-confirmed", "The cap left no room to confirm the recommended rate.")
    elif not curve.attempts[-1].passed:
        tried = len(curve.attempts[-1].runs)
        yield Remark(
            "not-confirmed",
            f"No rate was confirmed: none of {len(curve.attempts)} attempts had "
            f"{enough(tried)} of {tried} runs train.",
        )


def rise(fit: Fit) -> tuple[int, int] | None:
    """The clearest pair of rates of which the higher trains more often, fast failures only.

    Args:
        fit: To all whole runs.

    Returns:
        Lattice points, the lower rate first; None where p is not known to rise.
    """
    clusters = _clusters(fit.counts, fit.slow.last, fit.step)
    best, found = 0.0, None
    for at, trained, tried in clusters:
        most = 1 - lower_bound(tried - trained, tried, RISE_ERROR)
        for above, trained_above, tried_above in clusters:
            if above - at < 2 * CLUSTER_WIDTH / 3 / fit.step:
                continue
            gap = lower_bound(trained_above, tried_above, RISE_ERROR) - most
            if gap > best:
                best, found = gap, (at, above)
    return found


def _clusters(counts: Counts, last: int, step: float) -> list[tuple[int, int, int]]:
    """Middle point, trained and tried runs of neighbouring rates, above the slow edge."""
    points = np.flatnonzero(counts.tried)
    points = points[points > last]
    clusters = []
    for k, first in enumerate(points):
        trained = tried = 0
        for i in points[k:]:
            if (i - first) * step > CLUSTER_WIDTH:
                break
            trained, tried = trained + int(counts.trained[i]), tried + int(counts.tried[i])
            if tried >= CLUSTER_RUNS:
                clusters.append((int(first + i) // 2, trained, tried))
    return clusters
