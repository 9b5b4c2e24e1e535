"""What the whole runs so far say: the fit of both edges, and whether that is enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from etastar.search.choosing import exact_interval, lower_bound
from etastar.search.curve_counts import Counts, SlowEdge, slow_edge
from etastar.search.curve_model import Array, Posterior, shapes

FEWEST, FEWEST_EACH = 24, 6
"""Whole runs before the interval is believed, and of each outcome near the edge (design §3)."""
PER_WIDTH = 40
"""Whole runs, beside the fewest, after which the interval reaches one width of the edge to a side:
in the middle on planted logistic edges of widths 0.05 to 0.3, precisions 0.1 and 0.2."""
SAFE, SAFE_ERROR = 0.95, 0.1
"""p at the safe rate, and the one-sided error of its lower bound."""
TAIL = 0.02
"""Posterior mass outside of the interval on either side. The search stops as soon as that is narrow
enough, and sometimes that is so by chance: on the tables of outcomes the posterior's own 95 %
interval covered 92 %."""
PEAK_RADIUS, WIDE_RADIUS = 0.2, 0.4
"""Runs so near in log η count together for the highest p; the second where p is low."""
COMMON, PEAK_FEWEST = 0.75, 32
"""Part of the runs about the peak from which on p is taken for above 1/2 there, and so many that
must have been made about it before p is said to be below."""
LEAST = 4
"""So many runs tell that p is no lower than at its peak."""
RARE = 0.125
"""Part of all runs; where fewer train, more are made where the most do before an edge is sought."""
EXPLORED = 1.5
"""To say that p is nowhere 1/2: least span in log η of the rates tried, unless the range or the
slow edge ends it."""


@dataclass(frozen=True)
class Fit:
    """The fit to whole runs.

    Attributes:
        step: Distance of lattice points in log η.
        counts: The runs.
        slow: The slow edge among them.
        posterior: Of the fast edge.
    """

    step: float
    counts: Counts
    slow: SlowEdge
    posterior: Posterior

    @classmethod
    def to(cls, counts: Counts, step: float) -> Fit:
        """Fit both edges.

        The slow edge is looked for up to the shoulder of the highest p that was seen; above it slow
        runs belong to the fast edge. Once a slow edge was seen, the slow and collapsed failures
        below are left out of the fast edge's fit, which would take them for lapses.

        Args:
            counts: Whole runs.
            step: Distance of lattice points in log η.
        """
        seen, slow = peak_of(counts, step), SlowEdge()
        if seen is not None and counts.short.any() and counts.trained.any():
            slow = slow_edge(counts, step, shoulder(counts, step, seen) + 1)
        cells = len(counts.trained) - 1
        failed = counts.failed - counts.short * (np.arange(cells + 1) <= slow.below)
        posterior = Posterior(step, cells, counts.trained, failed)
        return cls(step, counts, slow, posterior)

    @property
    def cells(self) -> int:
        """Number of lattice cells."""
        return len(self.counts.trained) - 1

    @property
    def seen(self) -> bool:
        """Whether any run trained."""
        return bool(self.counts.trained.any())

    def tried_range(self) -> tuple[int, int]:
        """The lowest and the highest lattice point tried; (0, −1) without a run."""
        points = np.flatnonzero(self.counts.tried)
        return (int(points[0]), int(points[-1])) if len(points) else (0, -1)

    def trains_at_bottom(self) -> bool:
        """Whether most runs at the lowest rate of the range train."""
        return bool(2 * self.counts.trained[0] > self.counts.tried[0])

    def eta_50(self) -> Array:
        """Median and 95 % interval of η_50 as lattice points: low, middle, high."""
        return self.posterior.quantile(0.5, np.array([TAIL, 0.5, 1 - TAIL]))

    def safe(self) -> float:
        """The one-sided 90 % lower bound of η_95, a lattice point; −∞ where there is none."""
        return float(self.posterior.quantile(SAFE, SAFE_ERROR))

    def reach(self) -> float:
        """How far the interval of η_50 reaches to its wider side, in log η, inside the range."""
        low, middle, high = np.clip(self.eta_50(), 0, self.cells)
        return float(max(high - middle, middle - low)) * self.step

    def width(self) -> float:
        """The width of the edge in log η, its mean in the logarithm."""
        widths = np.log(shapes().width[self.posterior.kept])
        return math.exp(float(self.posterior.shape_mass @ widths))

    def needed(self, goal: float) -> int:
        """About how many whole runs it takes until the interval reaches no farther than asked.

        By the reach that it has, or, where that rests on too few runs or is not known, by the width
        of the edge.

        Args:
            goal: The reach, in log η.
        """
        runs, (low, _, high) = int(self.counts.tried.sum()), self.eta_50()
        if low >= 0 and high <= self.cells and self.enough():
            return max(runs + 1, math.ceil(runs * (self.reach() / goal) ** 2))
        return max(runs + 1, math.ceil(FEWEST + PER_WIDTH * (self.width() / goal) ** 2))

    def enough(self) -> bool:
        """Whether the interval rests on enough runs near the edge."""
        if self.counts.tried.sum() < FEWEST:
            return False
        low, middle, high = self.eta_50()
        if middle >= self.cells or middle <= 0:
            return True
        near = np.abs(np.arange(self.cells + 1) - middle) * self.step <= 4 * self.width()
        trained, failed = self.counts.trained[near].sum(), self.counts.failed[near].sum()
        one_sided = high >= self.cells or low <= 0
        return bool(min(trained, failed) >= FEWEST_EACH or (one_sided and near.any()))

    def no_width(self) -> bool:
        """Whether runs may be too slow at the safe rate, so that nothing is promised there."""
        return self.slow.upper is not None and self.slow.upper > self.safe()

    def empty(self) -> bool:
        """Whether runs become stable only where they are too slow: the window has no width."""
        high = float(self.posterior.quantile(SAFE, 0.5))
        return self.slow.low is not None and self.slow.low > high

    def safe_is_open(self) -> bool:
        """Whether there is no safe rate though it is not yet unlikely that there is one."""
        nowhere = self.posterior.distribution(SAFE)[2]
        if SAFE_ERROR < nowhere < 1 - SAFE_ERROR:
            return True
        return self.no_width() and float(self.posterior.quantile(SAFE, 0.5)) > (
            self.slow.upper or 0
        )

    def peak(self) -> tuple[int, int, int] | None:
        """See `peak_of`; over a wider neighbourhood where not most runs train.

        The best of many small neighbourhoods is often only the luckiest.
        """
        found = peak_of(self.counts, self.step)
        if found is None or (found[2] >= 4 and found[1] >= COMMON * found[2]):
            return found
        return peak_of(self.counts, self.step, WIDE_RADIUS)

    def near(self, point: int) -> tuple[float, float, float] | None:
        """P at a rate from the runs about it alone, where no falling edge was seen.

        Args:
            point: Of the lattice.

        Returns:
            The mean under Jeffreys' prior and the exact 95 % interval; None where no run was made.
        """
        trained, tried = about(self.counts, point, round(PEAK_RADIUS / self.step))
        return ((trained + 0.5) / (tried + 1), *exact_interval(trained, tried)) if tried else None

    def peak_is_clear(self, nowhere: bool) -> bool:
        """Whether it is known if half of the runs train where the most do.

        Args:
            nowhere: Whether all runs together say that half of them train at no rate.
        """
        found = self.peak()
        if found is None or nowhere:
            return found is not None and found[2] >= PEAK_FEWEST
        low, high = exact_interval(*found[1:])
        return found[1] >= COMMON * found[2] or (found[2] >= PEAK_FEWEST and not low <= 0.5 <= high)

    def rare(self) -> bool:
        """Whether some runs trained, but so few that they do not tell where the edge is."""
        trained, tried = self.counts.trained.sum(), self.counts.tried.sum()
        return bool(tried >= FEWEST and 0 < trained < RARE * tried)

    def peak_below_half(self, fewest: int = PEAK_FEWEST) -> bool:
        """Whether fewer than half of the runs train even where the most do.

        Args:
            fewest: Runs there from which on that is known.
        """
        found = self.peak()
        return found is not None and found[2] >= fewest and found[1] < found[2] / 2

    def without_half(self) -> bool:
        """Whether no rate is known at which half of the runs train."""
        fewest = 0 if self.rare() else PEAK_FEWEST
        return self.nowhere_half() or self.peak_below_half(fewest) or not self.seen

    def nowhere_half(self) -> bool:
        """Whether p is below 1/2 everywhere.

        Above the slow edge p falls: were it one half at some rate, more than half of the runs below
        that rate would train. So no group of the lowest rates may train clearly more often than
        not, all runs together must have an upper bound below 1/2, and the rates must have been
        explored downwards.
        """
        tried, trained = self.counts.tried, self.counts.trained
        if not trained.any():
            return bool(tried.sum() >= FEWEST)
        points = np.flatnonzero(tried)
        low_enough = points[0] == 0 or (points[-1] - points[0]) * self.step >= EXPLORED
        points = points[points > self.slow.last]
        if not len(points) or not (low_enough or self.slow.last >= 0):
            return False
        k, n = np.cumsum(trained[points]), np.cumsum(tried[points])
        if n[-1] < 2 * FEWEST or (k > n / 2 + np.sqrt(n) / 2).any():
            return False
        return 1 - lower_bound(int(n[-1] - k[-1]), int(n[-1]), 0.02) < 0.5


def about(counts: Counts, point: int, radius: int) -> tuple[int, int]:
    """Trained and tried runs about a lattice point.

    Args:
        counts: Whole runs.
        point: Of the lattice.
        radius: In lattice points; its end counts, too.
    """
    near = slice(max(0, point - radius), point + radius + 1)
    trained = int(counts.trained[near].sum())
    return trained, trained + int(counts.failures[:, near].sum())


def shoulder(counts: Counts, step: float, peak: tuple[int, int, int]) -> int:
    """The highest rate about which runs train no less often than at the peak of p.

    Many runs were made about the slow edge, and their lower bound of p may exceed that of the fewer
    runs above, although all of these trained.

    Args:
        counts: Whole runs.
        step: Distance of lattice points in log η.
        peak: As `peak_of` has it.

    Returns:
        A lattice point, at or above that of the peak.
    """
    radius = round(PEAK_RADIUS / step)
    for i in map(int, np.flatnonzero(counts.tried)[::-1]):
        trained, tried = about(counts, i, radius)
        if i <= peak[0] or (tried >= LEAST and trained * peak[2] >= peak[1] * tried):
            break
    return i


def peak_of(counts: Counts, step: float, reach: float = PEAK_RADIUS) -> tuple[int, int, int] | None:
    """Where p was seen to be highest: the neighbourhood with the highest lower bound of p.

    Args:
        counts: Whole runs.
        step: Distance of lattice points in log η.
        reach: Runs so near in log η count together.

    Returns:
        A lattice point, and the trained and tried runs about it; None without a run.
    """
    found: list[tuple[float, int, int, int, int]] = []
    radius = round(reach / step)
    for i in map(int, np.flatnonzero(counts.tried)):
        trained, tried = about(counts, i, radius)
        most = 0 if trained else tried  # where none trained, where that is known best
        found.append((lower_bound(trained, tried, 0.025), most, i, trained, tried))
    return max(found)[2:] if found else None
