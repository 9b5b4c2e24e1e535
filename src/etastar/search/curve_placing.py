"""Where the trials of a round are placed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from etastar.problem.trial import Outcome, Trial
from etastar.search.choosing import lowest_seen
from etastar.search.curve_fit import PEAK_RADIUS, SAFE, Fit

TARGETS = (0.65, 0.35, 0.92, 0.5, 0.65, 0.35, 0.97, 0.25)
"""Values of p at which trials are placed in turn: most about the edge, for η_50 and its width; two
of eight on its shoulder, for η_95."""
FIRST = (-1.2, 0.3)
"""Distances in log η from the located boundary over which the first round is spread: where training
begins well it does not always end well."""
BELOW = (0.75, 0.5, 0.33)
"""Parts of η_95 at which a few trials are placed in turn, for the cost and the window's floor."""
FEW = 6
"""How many trials that is."""
DEEPER = 4.0
"""Factor over which a round looks for the slow edge further down."""
SMOOTH, WEIGHT = 0.4, 0.5
"""Width in log η over which the metric is smoothed, and the weight of the worst metric in it: a
lone run is no peak."""
SEVERAL = 4
"""Trained runs that tell where the most train."""
ABOUT = 0.7
"""Distance in log η from there within which runs are placed."""
NEAR = 1.0
"""Distance in log η from the best metric within which runs are made where none trains."""
GOLDEN = (math.sqrt(5) - 1) / 2
"""Steps of this part of an interval fill it evenly, however many there are."""
DOWN, UP = 1.0, 0.7
"""How far in log η a round may go beyond the rates that were tried."""


def spread(low: float, high: float, number: int, cells: int) -> list[int]:
    """Lattice points evenly between two ends.

    Args:
        low: Lower end, a lattice point.
        high: Upper end.
        number: How many.
        cells: Number of lattice cells.
    """
    return [clip(x, cells) for x in np.linspace(low, high, number)]


def clip(point: float, cells: int) -> int:
    """The nearest point of the lattice.

    Args:
        point: Not whole.
        cells: Number of lattice cells.
    """
    return min(max(round(float(point)), 0), cells)


def at_targets(fit: Fit, targets: Sequence[float]) -> list[int]:
    """Lattice points where p is as given, spread over what is not known of them.

    The k-th of n trials at one value of p lies at the (k + ½)/n quantile of the posterior of the
    rate at which p has that value: far apart while the edge is unknown, together when it is known.

    Args:
        fit: To all earlier rounds.
        targets: Values of p.
    """
    first, last = fit.tried_range()
    low, high = first - DOWN / fit.step, last + UP / fit.step
    if fit.slow.low is not None:  # below the slow edge nothing can be learned of the fast one
        low = max(low, min(fit.slow.low, float(fit.eta_50()[1])))
    points: list[int] = []
    for target in sorted(set(targets)):
        number = targets.count(target)
        parts = (np.arange(number) + 0.5) / number
        nowhere = fit.posterior.distribution(target)[2]
        if nowhere > 0.999:  # then all that can be told is how high p becomes
            points += [clip(x, fit.cells) for x in below(fit, number)]
            continue
        at = fit.posterior.quantile(target, nowhere + (1 - nowhere) * parts)
        points += [clip(x, fit.cells) for x in np.clip(at, low, high)]
    return sorted(points)


def below(fit: Fit, number: int, first: int = 0) -> list[int]:
    """Lattice points of the few trials inside the window, below η_95.

    Args:
        fit: To all earlier rounds.
        number: How many.
        first: How many were placed before.
    """
    nowhere = fit.posterior.distribution(SAFE)[2]
    eta_95 = float(fit.posterior.quantile(SAFE, nowhere + (1 - nowhere) / 2))
    if not math.isfinite(eta_95):
        eta_95 = float(fit.posterior.quantile(0.5, 0.1))
    parts = [BELOW[(first + k) % len(BELOW)] for k in range(number)]
    floor = 0.0 if fit.slow.upper is None else min(fit.slow.upper, eta_95)
    return sorted(clip(max(eta_95 + math.log(part) / fit.step, floor), fit.cells) for part in parts)


def best_point(whole: Sequence[tuple[int, Trial, Outcome]], begins: float) -> float:
    """The lattice point of the whole run with the best metric.

    Args:
        whole: Runs, with their lattice points.
        begins: What is taken where no run has one.
    """
    scores = [(o.score, i) for i, _, o in whole if o.score is not None]
    finite = [(score, i) for score, i in scores if math.isfinite(score)]
    return max(finite, key=itemgetter(0))[1] if finite else begins


def made_near(whole: Sequence[tuple[int, Trial, Outcome]], point: float, step: float) -> int:
    """How many runs were made near a lattice point.

    Args:
        whole: Runs, with their lattice points.
        point: Not whole.
        step: Distance of lattice points in log η.
    """
    return sum(abs(i - point) <= NEAR / step for i, _, _ in whole)


def where_none_trained(
    whole: Sequence[tuple[int, Trial, Outcome]], begins: float, number: int, fit: Fit
) -> list[int]:
    """Where no run has trained: half about the best metric, half over the whole range.

    Partial runs may have misled: where training begins late, they see nothing begin.

    Args:
        whole: All whole runs, with their lattice points.
        begins: Where partial runs saw the boundary.
        number: How many.
        fit: To these runs.
    """
    best, half = best_point(whole, begins), number // 2
    places = [(len(whole) + k) * GOLDEN % 1 for k in range(number)]
    about = (best + (2 * place - 1) * NEAR / fit.step for place in places[:half])
    return sorted(clip(x, fit.cells) for x in [*about, *(p * fit.cells for p in places[half:])])


def about_peak(fit: Fit, whole: Sequence[tuple[int, Trial, Outcome]], number: int) -> list[int]:
    """Lattice points about the rate at which runs come nearest to the threshold.

    That is where the smoothed metric is best; runs without one count as the worst. Once several
    have trained, every other lies where the most do.

    Args:
        fit: To all whole runs.
        whole: These, with their lattice points.
        number: How many.
    """
    scores = np.array([math.nan if o.score is None else o.score for _, _, o in whole])
    finite = np.isfinite(scores)
    worst = scores[finite].min() if finite.any() else 0.0
    gain = np.where(finite, scores, worst) - worst
    at = np.array([i for i, _, _ in whole])
    near = np.exp(-(((np.arange(fit.cells + 1)[:, None] - at) * fit.step / SMOOTH) ** 2) / 2)
    nearest = int(np.argmax((near @ gain) / (near.sum(axis=1) + WEIGHT)))
    peak = fit.peak() if fit.counts.trained.sum() >= SEVERAL else None
    points = []
    for turn in range(len(whole), len(whole) + number):
        part = 2 * (turn * GOLDEN % 1) - 1
        if peak is not None and turn % 2 == 1:
            x = peak[0] + part * PEAK_RADIUS / fit.step
        else:
            x = nearest + part * ABOUT / fit.step
        points.append(clip(x, fit.cells))
    return points


def at_slow_edge(fit: Fit, number: int) -> list[int]:
    """Lattice points about the slow edge: half where it lies, half where it ends.

    Where no run was too slow yet, the next rates downwards, over a factor of `DEEPER`.

    Args:
        fit: To all earlier rounds.
        number: How many.
    """
    slow, top = fit.slow, fit.safe()
    if slow.low is None or slow.lower is None or slow.upper is None:
        seen = lowest_seen(fit.counts, top)
        high = min(top, fit.tried_range()[0] if seen is None else seen)
        low = high - math.log(DEEPER) / fit.step
        return spread(low, high, number, fit.cells)
    parts = number // 2
    edge = np.linspace(slow.edge - slow.width, slow.edge + slow.width, parts + 2)[1:-1]
    end = np.linspace(slow.lower, slow.upper, number - parts + 2)[1:-1]
    return sorted(clip(x, fit.cells) for x in [*edge, *end])
