"""Whole runs counted by rate and cause, and the slow edge that may end the window from below."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from etastar.problem.trial import Outcome
from etastar.search.curve_model import Array, logistic

CAUSES = ("diverged", "dead", "collapsed", "slow")
"""Why a whole run fails, in the order of the columns of `Counts.failures`."""
SLOW_WIDTHS = (0.03, 0.08, 0.15, 0.3, 0.5)
"""Widths in log η that the slow edge may have."""
BACKGROUNDS = (0.003, 0.02, 0.06, 0.15, 0.35)
"""Rates of slow failures above the slow edge."""
PLAIN = (*BACKGROUNDS, 0.6, 0.85)
"""The same, where there is no slow edge."""
EVIDENCE = 3.0
"""Log likelihood that a slow edge must explain before one is believed: its two parameters' worth
(Schwarz's criterion for some tens of runs)."""


def cause_of(outcome: Outcome) -> str | None:
    """The cause of a failed whole run, None for one that trained.

    Args:
        outcome: Of a whole run; `short` without a cause is `slow`.
    """
    if outcome.kind == "trained":
        return None
    return outcome.kind if outcome.kind in CAUSES else outcome.cause or "slow"


@dataclass
class Counts:
    """How whole runs ended, by lattice point.

    Attributes:
        trained: [cells + 1].
        failures: [4, cells + 1], rows as in `CAUSES`.
        steps: Steps to the threshold of the trained runs of each lattice point.
    """

    trained: Array
    failures: Array
    steps: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: int, runs: Iterable[tuple[int, Outcome]]) -> Counts:
        """Count whole runs.

        Args:
            cells: Number of lattice cells.
            runs: Lattice points with outcomes.
        """
        counts = cls(np.zeros(cells + 1), np.zeros((len(CAUSES), cells + 1)))
        for i, outcome in runs:
            cause = cause_of(outcome)
            if cause is None:
                counts.trained[i] += 1
                counts.steps.setdefault(i, []).append(outcome.step)
            else:
                counts.failures[CAUSES.index(cause), i] += 1
        return counts

    @property
    def failed(self) -> Array:
        """Failures of any cause, [cells + 1]."""
        return np.asarray(self.failures.sum(axis=0))

    @property
    def tried(self) -> Array:
        """Whole runs, [cells + 1]."""
        return self.trained + self.failed

    @property
    def slow(self) -> Array:
        """Slow failures, [cells + 1]."""
        return np.asarray(self.failures[-1])

    @property
    def short(self) -> Array:
        """Slow and collapsed failures, [cells + 1].

        A rate far too low changes the outputs so little that they may be one class at the end, too.
        """
        return np.asarray(self.failures[-2:].sum(axis=0))


@dataclass(frozen=True)
class SlowEdge:
    """The slow edge: slow failures become certain below it.

    Attributes:
        last: The highest lattice point whose slow failures belong to the slow edge, −1 if none do.
        low: Where a run is slow with probability 0.05, as a lattice point: median of the posterior;
            None where no slow edge was seen.
        lower: Its 10 % quantile.
        upper: Its 90 % quantile, the upper bound.
        edge: Where a run is slow with probability one half, the best guess.
        width: The best guess of the edge's width, in lattice points.
        below: Lattice point up to which slow failures are left out of the fast edge's fit: `upper`,
            or the peak of p; −1 if no slow edge was seen.
        grid: Edges and widths of the posterior, in lattice points, and their masses, [3, G].
    """

    last: int = -1
    low: float | None = None
    lower: float | None = None
    upper: float | None = None
    edge: float = -math.inf
    width: float = 1.0
    below: int = -1
    grid: Array | None = field(default=None, repr=False, compare=False)

    def fine(self, points: Array) -> Array:
        """Probability that a run is not too slow, [N].

        Args:
            points: Lattice points, [N].
        """
        return logistic((points - self.edge) / self.width)

    def spread(self, points: Array, parts: Array) -> Array:
        """Quantiles of the posterior of `fine`, [Q, N]; 1 where no slow edge was seen.

        Args:
            points: Lattice points, [N].
            parts: Probabilities, [Q].
        """
        if self.grid is None:
            return np.ones((len(parts), len(points)))
        edge, width, mass = self.grid
        columns = []
        for values in logistic((points[:, None] - edge) / width):
            order = np.argsort(values)
            columns.append(np.interp(parts, np.cumsum(mass[order]), values[order]))
        return np.array(columns).T


def slow_edge(counts: Counts, step: float, top: float) -> SlowEdge:
    """Find the slow edge among the runs below a rate.

    Slow failures have probability q(x) = β + (1 − β)·F((l − x)/s): the posterior of (l, s, β) on a
    grid, against β alone. Below `top` collapsed runs are slow ones (`Counts.short`); those
    that diverged or died are left out: they say nothing of the slow edge.

    Args:
        counts: Whole runs.
        step: Distance of lattice points in log η.
        top: Lattice point from which on slow failures belong to the fast edge: above the shoulder.
    """
    below = np.arange(len(counts.trained)) < top
    slow, fine = counts.short * below, counts.trained * below
    at = np.flatnonzero(slow + fine)
    if not slow.any():
        return SlowEdge()
    k, n = slow[at], fine[at]
    edges = np.arange(at[0] - 1.0 / step, min(top, len(slow) - 1) + 1)
    edge, width, background = (
        axis.ravel() for axis in np.meshgrid(edges, SLOW_WIDTHS, BACKGROUNDS, indexing="ij")
    )
    rise = logistic((edge[:, None] - at) * step / width[:, None])
    q = np.clip(background[:, None] + (1 - background[:, None]) * rise, 1e-4, 1 - 1e-4)
    log_likelihood = (k * np.log(q) + n * np.log1p(-q)).sum(axis=1)
    plain = np.array(PLAIN)
    without = float((k.sum() * np.log(plain) + n.sum() * np.log1p(-plain)).max())
    best = int(log_likelihood.argmax())
    if log_likelihood[best] - without < EVIDENCE:
        return SlowEdge()
    five = edge + width * math.log(0.95 / 0.05) / step
    order = np.argsort(five)
    mass = np.exp(log_likelihood - log_likelihood[best])
    total = np.cumsum(mass[order])
    low, lower, upper = five[order][np.searchsorted(total, np.array([0.5, 0.1, 0.9]) * total[-1])]
    mine = at[(k > 0) & (rise[best] / q[best] > 0.5)]
    return SlowEdge(
        int(mine.max()) if len(mine) else -1,
        float(low),
        float(lower),
        float(upper),
        float(edge[best]),
        float(width[best]) / step,
        min(math.ceil(top) - 1, math.floor(upper)),
        np.stack([edge, width / step, mass / mass.sum()]),
    )
