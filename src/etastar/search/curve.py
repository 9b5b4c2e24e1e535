"""The strategy `curve`: where a fresh initialisation trains, measured with a fresh seed a trial.

Trials are asked in rounds of fixed size. A round depends on the outcomes of whole earlier rounds
alone, in the order of their trials, so any number of workers and any order of answers give the same
result, and known outcomes of an interrupted measurement can be told again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

import numpy as np

from etastar.errors import ConfigError
from etastar.search.choosing import (
    BLIND,
    ERRORS,
    Window,
    cheapest,
    enough,
    lowest_seen,
    mean_steps,
)
from etastar.search.curve_counts import Counts, SlowEdge, slow_edge
from etastar.search.curve_locate import locate
from etastar.search.curve_model import Posterior
from etastar.search.curve_types import Outcome, Start, Trial
from etastar.search.lattice import Lattice

NEIGHBOURS = 0.04
"""Largest relative distance of neighbouring rates."""
LOCATING = 0.125
"""Part of the budget that a partial run takes."""
OWN_STREAM = 1_000_000
"""Seeds of partial runs begin so far above `first_seed`: no whole run has the same."""
FEWEST, FEWEST_EACH = 24, 6
"""Whole runs before the interval is believed, and of each outcome near the edge (design §3)."""
TARGETS = (0.65, 0.35, 0.92, 0.5, 0.65, 0.35, 0.97, 0.25)
"""Values of p at which trials are placed in turn."""
FIRST = (-0.8, 0.3)
"""Distances in log η from the located boundary over which the first round is spread: where training
begins well it does not always end well."""
BELOW = (0.75, 0.5, 0.33)
"""Parts of η_95 at which a few trials are placed, for the cost and the floor of the window."""
SAFE_ERROR = 0.1
"""The safe rate is the one-sided 90 % lower bound of η_95."""


@dataclass(frozen=True)
class CurveOptions:
    """What a measurement of the curve is to do.

    Attributes:
        start_lr: The lowest rate.
        end_lr: The highest rate.
        max_steps: The budget of a run, in optimizer steps.
        eval_every: Steps between evaluations.
        counts_steps: Whether steps to the threshold mean anything (not with `hold`).
        first_seed: Trial i has the start (first_seed + i, first_seed + i).
        precision: The 95 % interval of η* reaches at most the factor 1 + precision to either side.
        trials: Cap of whole trials; confirmations count where they fail.
        budgets: Cap of all steps, in budgets; None for none.
        confirm: Fresh runs at the recommended rate; 0 for none.
        round_size: Trials that are asked at once.
        slow_edge: Whether the slow edge is looked for.
        only_order: Whether only the order of the data varies between starts.
        guess: Where η* is expected; None for the middle of the range.
    """

    start_lr: float
    end_lr: float
    max_steps: int
    eval_every: int
    counts_steps: bool = True
    first_seed: int = 0
    precision: float = 0.1
    trials: int = 400
    budgets: float | None = None
    confirm: int = 20
    round_size: int = 16
    slow_edge: bool = False
    only_order: bool = False
    guess: float | None = None

    def check(self) -> None:
        """Raise if a value is out of range.

        Raises:
            ConfigError: Naming the first such value.
        """
        for name in ("start_lr", "precision", "trials", "round_size", "max_steps", "eval_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        if not self.start_lr < self.end_lr < math.inf:
            raise ConfigError(f"end_lr must be above start_lr={self.start_lr}, got {self.end_lr}.")
        if self.confirm < 0:
            raise ConfigError(f"confirm must not be negative, got {self.confirm}.")
        if self.budgets is not None and not self.budgets > 0:
            raise ConfigError(f"budgets must be positive, got {self.budgets}.")


@dataclass(frozen=True)
class Attempt:
    """An attempt to confirm a rate.

    Attributes:
        point: The rate, as a lattice point.
        runs: Its trials with outcomes.
        error: Its one-sided error.
        passed: Whether enough of them trained.
    """

    point: int
    runs: tuple[tuple[Trial, Outcome], ...]
    error: float
    passed: bool

    @property
    def trained(self) -> int:
        """Runs that reached the threshold."""
        return sum(outcome.kind == "trained" for _, outcome in self.runs)


@dataclass(frozen=True)
class Fit:
    """What the whole runs so far say.

    Attributes:
        counts: The runs, confirmations that passed left out.
        slow: The slow edge among them.
        posterior: Of the fast edge.
    """

    counts: Counts
    slow: SlowEdge
    posterior: Posterior


Round = list[Trial]
Plan = Generator[Round, None, None]


class Curve:
    """Measure the success curve of a network, ask by tell.

    Args:
        options: What to do.

    Raises:
        ConfigError: An option is out of range.

    Example:
        >>> curve = Curve(CurveOptions(0.01, 10.0, max_steps=200, eval_every=20))
        >>> [round(trial.lr, 2) for trial in curve.ask(16)]  # three partial runs come first
        [0.1, 0.32, 0.96]
    """

    def __init__(self, options: CurveOptions) -> None:
        options.check()
        self.options = options
        self.lattice = Lattice(
            options.start_lr, options.end_lr, min(NEIGHBOURS, options.precision / 2)
        )
        self.step = math.log(options.end_lr / options.start_lr) / self.lattice.cells
        self.located: list[tuple[Trial, Outcome]] = []
        """Partial runs, in the order asked."""
        self.whole: list[tuple[int, Trial, Outcome]] = []
        """Whole runs of the fit with their lattice points, in the order asked."""
        self.attempts: list[Attempt] = []
        self.ended_by: str = ""
        """Why the search for the edge ended; empty while it goes on."""
        self.begins: float = 0.0
        """Where partial runs saw the boundary, as a lattice point."""
        self._points: dict[float, int] = {
            self.lattice.rate(i): i for i in range(self.lattice.cells + 1)
        }
        self._told: dict[Trial, Outcome] = {}
        self._handed: set[Trial] = set()
        self._next_seed = options.first_seed
        self._turn = 0
        self._plan = self.plan()
        self._round: Round | None = next(self._plan, None)
        self._advance()

    # ask and tell

    @property
    def done(self) -> bool:
        """Whether the measurement has ended."""
        return self._round is None

    def ask(self, most: int = 1) -> list[Trial]:
        """Trials of the current round that were not handed out yet; [] while waiting or done.

        Args:
            most: At most so many.
        """
        waiting = [t for t in self._round or [] if t not in self._told and t not in self._handed]
        self._handed.update(waiting[:most])
        return waiting[:most]

    def wanted(self, trial: Trial) -> bool:
        """Whether the outcome of a trial can still matter.

        Args:
            trial: One that was asked.
        """
        return self._round is not None and trial in self._round and trial not in self._told

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Report an outcome; in any order, also before it is asked; the first one told counts.

        Args:
            trial: The trial.
            outcome: What became of it.
        """
        self._told.setdefault(trial, outcome)
        self._advance()

    def forget(self, trial: Trial) -> None:
        """Give a trial back that was asked and will not be told, so that it is asked again.

        Args:
            trial: One that was asked.
        """
        self._handed.discard(trial)

    def _advance(self) -> None:
        while self._round is not None and all(trial in self._told for trial in self._round):
            self._round = next(self._plan, None)

    # the plan

    def plan(self) -> Plan:
        """Locate the boundary, measure the edge, then confirm a rate."""
        yield from self._locate()
        yield from self._measure()
        if self.options.confirm:
            yield from self._confirm()

    def _locate(self) -> Plan:
        options, cells = self.options, self.lattice.cells
        middle = options.guess or math.sqrt(options.start_lr * options.end_lr)
        guess = round(math.log(middle / options.start_lr) / self.step)
        steps = max(1, math.ceil(LOCATING * options.max_steps))
        search = locate(min(max(guess, 0), cells), cells, self.step)
        seed = options.first_seed + OWN_STREAM
        try:
            points = next(search)
            while True:
                starts = [Start(seed + k, seed + k) for k in range(len(points))]
                seed += len(points)
                trials = [
                    Trial(start, self.lattice.rate(i), steps)
                    for start, i in zip(starts, points, strict=True)
                ]
                if not self._affordable(len(trials) * steps):
                    self.ended_by = "budgets"
                    return
                yield trials
                self.located += [(trial, self._told[trial]) for trial in trials]
                points = search.send({
                    i: self._told[trial] for i, trial in zip(points, trials, strict=True)
                })
        except StopIteration as end:
            self.begins = end.value[0]

    def _measure(self) -> Plan:
        """Rounds of whole runs until the interval is narrow."""
        while not self.ended_by:
            fit = self.fit()
            if self._settled(fit):
                self.ended_by = "precision"
                return
            yield from self._whole(self._place(fit))

    def _whole(self, points: Iterable[int]) -> Plan:
        """A round of whole runs, cut by the cap on trials; not begun where budgets could run out."""
        points = list(points)
        left = self.options.trials - len(self.whole)
        points = points[:left]
        if not points:
            self.ended_by = "trials"
            return
        if not self._affordable(len(points) * self.options.max_steps):
            self.ended_by = "budgets"
            return
        trials = [self._fresh(i) for i in points]
        yield trials
        self.whole += [(i, t, self._told[t]) for i, t in zip(points, trials, strict=True)]

    def _fresh(self, point: int, *, to_end: bool = False) -> Trial:
        seed = self._next_seed
        self._next_seed += 1
        return Trial(Start(seed, seed), self.lattice.rate(point), to_end=to_end)

    # what is known

    def fit(self) -> Fit:
        """The fit to all whole runs but those of confirmations that passed."""
        counts = Counts.of(self.lattice.cells, ((i, outcome) for i, _, outcome in self.whole))
        posterior = self._posterior(counts, SlowEdge(-1, None, None))
        slow = SlowEdge(-1, None, None)
        if counts.slow.any():
            slow = slow_edge(counts, self.step, float(posterior.quantile(0.5, 0.5)))
            if slow.last >= 0:
                posterior = self._posterior(counts, slow)
        return Fit(counts, slow, posterior)

    def _posterior(self, counts: Counts, slow: SlowEdge) -> Posterior:
        failed = counts.failed.copy()
        failed[: slow.last + 1] -= counts.slow[: slow.last + 1]
        return Posterior(self.step, self.lattice.cells, counts.trained, failed, self.begins)

    def _settled(self, fit: Fit) -> bool:
        """Whether the interval is as narrow as asked, and rests on enough runs."""
        low, middle, high = fit.posterior.quantile(0.5, np.array([0.025, 0.5, 0.975])) * self.step
        if len(self.whole) < FEWEST:
            return False
        width = float(fit.posterior.shape_mass @ np.log(_widths()))
        near = np.abs(np.arange(self.lattice.cells + 1) * self.step - middle) <= 4 * math.exp(width)
        each = fit.counts.trained[near].sum(), fit.counts.failed[near].sum()
        narrow = max(high - middle, middle - low) <= math.log1p(self.options.precision)
        return bool(narrow and min(each) >= FEWEST_EACH)

    def _place(self, fit: Fit) -> list[int]:
        """Lattice points of the next round."""
        size = self.options.round_size
        if not self.whole:
            first, last = (self.begins + distance / self.step for distance in FIRST)
            return [self._clip(x) for x in np.linspace(first, last, size)]
        targets = [TARGETS[(self._turn + k) % len(TARGETS)] for k in range(size)]
        self._turn += size
        tried = [i for i, _, _ in self.whole]
        low, high = min(tried) - 1.0 / self.step, max(tried) + 0.7 / self.step
        points: list[int] = []
        for target in sorted(set(targets)):
            number = targets.count(target)
            parts = (np.arange(number) + 0.5) / number
            nowhere = fit.posterior.distribution(target)[2]
            at = fit.posterior.quantile(target, nowhere + (1 - nowhere) * parts)
            points += [self._clip(min(max(x, low), high)) for x in at]
        return sorted(points)

    def _clip(self, point: float) -> int:
        return min(max(round(float(point)), 0), self.lattice.cells)

    # costs

    def taken(self, trial: Trial, outcome: Outcome) -> int:
        """Optimizer steps that a run really took.

        Args:
            trial: The trial.
            outcome: Its outcome.
        """
        if outcome.given_up is not None:
            return outcome.given_up
        if trial.to_end and outcome.kind == "trained":
            return self.options.max_steps
        return outcome.step

    def runs(self) -> list[tuple[Trial, Outcome]]:
        """Every run of whole rounds, partial and confirming ones included, in the order asked."""
        passed = [run for attempt in self.attempts if attempt.passed for run in attempt.runs]
        return [*self.located, *((trial, outcome) for _, trial, outcome in self.whole), *passed]

    def _affordable(self, steps: int) -> bool:
        if self.options.budgets is None:
            return True
        spent = sum(self.taken(trial, outcome) for trial, outcome in self.runs())
        return spent + steps <= self.options.budgets * self.options.max_steps

    def _confirm(self) -> Plan:
        return
        yield []


def _widths():
    from etastar.search.curve_model import shapes
    return shapes().width
