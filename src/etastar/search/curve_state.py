"""What a measurement of the success curve knows: what its answer and its remarks are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from etastar.problem.trial import Outcome, Trial
from etastar.search.choosing import BLIND, Window, cheapest, enough, lowest_seen, mean_steps
from etastar.search.curve_counts import Counts, cause_of
from etastar.search.curve_fit import Fit
from etastar.search.curve_model import Array
from etastar.search.curve_options import CurveOptions
from etastar.search.lattice import Lattice

APART = 0.1
"""Distance in log η that the next attempt keeps from a rate that failed."""


@dataclass(frozen=True)
class Attempt:
    """An attempt to confirm a rate.

    Attributes:
        point: The rate, as a lattice point.
        runs: Its trials with outcomes.
        error: Its one-sided error.
    """

    point: int
    runs: tuple[tuple[Trial, Outcome], ...]
    error: float

    @property
    def trained(self) -> int:
        """Runs that reached the threshold."""
        return sum(outcome.kind == "trained" for _, outcome in self.runs)

    @property
    def too_slow(self) -> bool:
        """Whether most of the others were too slow for the budget."""
        slow = sum(cause_of(outcome) == "slow" for _, outcome in self.runs)
        return 2 * slow > len(self.runs) - self.trained

    @property
    def passed(self) -> bool:
        """Whether enough of them trained."""
        return self.trained >= enough(len(self.runs))


class CurveState:
    """The runs so far, and what is known from them.

    Args:
        options: What to do.

    Raises:
        ConfigError: An option is out of range.
    """

    def __init__(self, options: CurveOptions) -> None:
        options.check()
        self.options = options
        self.lattice = Lattice(options.start_lr, options.end_lr, options.neighbours)
        self.step = math.log(options.end_lr / options.start_lr) / self.lattice.cells
        self.located: list[tuple[Trial, Outcome]] = []
        """Partial runs, in the order asked."""
        self.whole: list[tuple[int, Trial, Outcome]] = []
        """Whole runs of the fit with their lattice points, in the order asked."""
        self.attempts: list[Attempt] = []
        self.ended_by: str = ""
        """Why the search for the edge ended; empty while it goes on."""
        self._fitted: tuple[int, Fit] | None = None  # of so many whole runs

    def fit(self) -> Fit:
        """The fit to all whole runs but those of a confirmation that passed."""
        if self._fitted is None or self._fitted[0] != len(self.whole):
            counts = Counts.of(self.lattice.cells, ((i, outcome) for i, _, outcome in self.whole))
            self._fitted = len(self.whole), Fit.to(counts, self.step)
        return self._fitted[1]

    def window(self, fit: Fit) -> Window | None:
        """Where a rate may be chosen; None where no safe rate or no lower end is known.

        Args:
            fit: To all whole runs.
        """
        high = min(fit.safe(), float(fit.tried_range()[1]))
        low = fit.slow.upper
        for attempt in self.attempts:
            if attempt.passed:
                continue
            if attempt.too_slow:
                low = max(low or 0.0, attempt.point + APART / self.step)
            else:
                high = min(high, attempt.point - APART / self.step)
        if high < 0:
            return None
        if low is None or low > high:
            seen = lowest_seen(fit.counts, high)
            low = None if seen is None else float(seen)
        return None if low is None or low > high else (low, high)

    def choice(self) -> int | None:
        """The recommended rate as a lattice point; None where there is none."""
        fit = self.fit()
        if self.ended_by == "nowhere":
            return None
        window = self.window(fit)
        if not self.options.counts_steps:
            first, last = fit.tried_range()
            high = min(fit.safe(), float(last)) if window is None else window[1]
            point = math.floor(high + math.log(BLIND) / self.step) if high >= first else -1
            return point if point >= 0 else None
        if window is None:
            return None
        low, high = window
        points: Array = np.arange(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        p = fit.posterior.mean(points) * fit.slow.fine(points)
        cost = mean_steps(fit.counts, points, float(fit.eta_50()[1])) / p
        return cheapest(points, cost, window, self.options.eval_every)

    def untried(self) -> int | None:
        """The rate that is recommended without an attempt; None where edges may cross, too."""
        return None if self.fit().no_width() else self.choice()

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of η* so far; None where an end is not determined."""
        low, high = self.fit().eta_50()[::2]
        ends = [self.options.start_lr * math.exp(self.step * float(x)) for x in (low, high)]
        return (ends[0], ends[1]) if all(map(math.isfinite, (low, high))) else None

    def runs(self) -> list[tuple[Trial, Outcome]]:
        """Every run of whole rounds, partial and confirming ones included, in the order asked."""
        passed = [run for attempt in self.attempts if attempt.passed for run in attempt.runs]
        return [*self.located, *((trial, outcome) for _, trial, outcome in self.whole), *passed]

    def spent(self) -> int:
        """Optimizer steps taken so far, partial and confirming runs included."""
        return self.steps_of(self.runs())

    def steps_of(self, runs: Iterable[tuple[Trial, Outcome]]) -> int:
        """Optimizer steps that some runs took.

        Args:
            runs: Trials with outcomes.
        """
        return sum(outcome.steps_taken(self.options.max_steps) for _, outcome in runs)
