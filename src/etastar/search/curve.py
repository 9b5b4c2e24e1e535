"""The strategy `curve`: where a fresh initialisation trains, measured with a fresh seed a trial.

Trials are asked in rounds of fixed size. A round depends on the outcomes of whole earlier rounds
alone, in the order of their trials, so any number of workers and any order of answers give the same
result, and known outcomes of an interrupted measurement can be told again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import TypeAlias

from etastar.problem.trial import Outcome, Start, Trial
from etastar.search.choosing import ERRORS, lowest_seen
from etastar.search.curve_blocks import CurveResult
from etastar.search.curve_fit import Fit
from etastar.search.curve_locate import locate
from etastar.search.curve_options import CurveOptions
from etastar.search.curve_placing import (
    FEW,
    FIRST,
    TARGETS,
    about_peak,
    at_slow_edge,
    at_targets,
    below,
    best_point,
    clip,
    made_near,
    spread,
    where_none_trained,
)
from etastar.search.curve_result import result_of
from etastar.search.curve_state import Attempt, CurveState

LOCATING = 0.125
"""Part of the budget that a partial run takes."""
OWN_STREAM = 1_000_000
"""Seeds of partial runs begin so far above `first_seed`: no whole run has the same."""
RESCUE = 48
"""Whole runs that may be spent on finding a safe rate once η* is known."""
PEAK_RUNS, NONE_RUNS = 64, 16
"""Whole runs that may be spent where the most train, if few seem to; and if none trains."""
SLOW_RUNS = 64
"""Whole runs that may be spent on the slow edge once it was crossed."""
LOWEST = 0.5
"""Part of the safe rate down to which whole runs must have been seen to train."""
LOOKED = 10
"""Where none trains: so many runs near the best metric must fail too."""

Round: TypeAlias = list[Trial]
Plan: TypeAlias = Generator[Round, None, None]


class Curve(CurveState):
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
        super().__init__(options)
        self.begins: float = 0.0
        """Where partial runs saw the boundary, as a lattice point."""
        self.learned = False
        """Whether any partial run learned."""
        self._told: dict[Trial, Outcome] = {}
        self._handed: set[Trial] = set()
        self._next_seed = options.first_seed
        self._turn = 0
        self._below = 0
        self._rescue = 0
        self._about = 0
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

    def _advance(self) -> None:
        while self._round is not None and all(trial in self._told for trial in self._round):
            self._round = next(self._plan, None)

    # the plan

    def plan(self) -> Plan:
        """Locate the boundary, measure the edge, then confirm a rate."""
        yield from self._locate()
        yield from self._measure()
        if self.options.slow_edge:
            yield from self._measure_slow_edge()
            yield from self._measure()  # its runs may have left the safe rate open
        for error in ERRORS if self.options.confirm else ():
            yield from self._floor()
            point = self.choice()
            if point is None or not self._affordable(self.options.confirm):
                return
            trials = [self._fresh(point, to_end=True) for _ in range(self.options.confirm)]
            yield trials
            runs = tuple((trial, self._told[trial]) for trial in trials)
            attempt = Attempt(point, runs, error)
            self.attempts.append(attempt)
            if attempt.passed:
                return
            self.whole += [(point, *run) for run in runs]
            yield from self._measure()

    def _locate(self) -> Plan:
        """Partial runs, as `curve_locate.locate` asks for them."""
        options, cells = self.options, self.lattice.cells
        middle = options.guess or math.sqrt(options.start_lr * options.end_lr)
        guess = clip(math.log(middle / options.start_lr) / self.step, cells)
        steps = max(1, math.ceil(LOCATING * options.max_steps))
        search = locate(guess, cells, self.step)
        points = next(search)
        while True:
            if not self._affordable(len(points) * steps / options.max_steps):
                self.ended_by = "budgets"
                return
            first = options.first_seed + OWN_STREAM + len(self.located)
            trials = [
                Trial(Start(first + k, first + k), self.lattice.rate(i), steps)
                for k, i in enumerate(points)
            ]
            yield trials
            self.located += [(trial, self._told[trial]) for trial in trials]
            told = {i: self._told[trial] for i, trial in zip(points, trials, strict=True)}
            try:
                points = search.send(told)
            except StopIteration as end:
                self.begins, self.learned = end.value
                return

    def _measure(self) -> Plan:
        """Rounds of whole runs until the interval is narrow, a safe rate known, or a cap met."""
        if self.ended_by in ("precision", "nowhere"):
            self.ended_by = ""
        if not self.whole:
            yield from self._run(self._first_round())
        while not self.ended_by:
            fit = self.fit()
            nowhere = fit.nowhere_half() and self._looked()
            doubtful = nowhere or fit.peak_below_half() or fit.rare() or self._settled(fit)
            if doubtful and self._peak_is_open(fit, nowhere):
                self._about += self.options.round_size
                yield from self._run(about_peak(fit, self.whole, self.options.round_size))
            elif nowhere or fit.peak_below_half():
                self.ended_by = "nowhere"
            elif not self._settled(fit):
                yield from self._run(self._place(fit))
            elif fit.safe_is_open() and self._rescue < RESCUE:
                size = self.options.round_size
                self._rescue += size
                self._below += size // 2
                inside = below(fit, size // 2, self._below)
                edge = at_targets(fit, [0.97] * (size - size // 2))
                yield from self._run(sorted([*edge, *inside]))
            else:
                self.ended_by = "precision"

    def _settled(self, fit: Fit) -> bool:
        """Whether the interval is as narrow as asked."""
        return fit.seen and fit.enough() and fit.reach() <= math.log1p(self.options.precision)

    def _peak_is_open(self, fit: Fit, nowhere: bool) -> bool:
        """Whether more runs must be made where the most train, since few seem to anywhere."""
        most = PEAK_RUNS if fit.seen else NONE_RUNS
        return self._about < most and not (fit.seen and fit.peak_is_clear(nowhere))

    def _measure_slow_edge(self) -> Plan:
        """Rounds at the slow edge, until where it ends is known to twice the precision's factor."""
        goal = 2 * math.log1p(2 * self.options.precision) / self.step
        rounds = 0
        while self.ended_by == "precision" and rounds * self.options.round_size < SLOW_RUNS:
            fit = self.fit()
            slow = fit.slow
            if slow.lower is None or slow.upper is None:
                if fit.safe() < 0 or (fit.counts.tried[0] > 1 and fit.trains_at_bottom()):
                    return
            elif slow.upper - slow.lower <= goal:
                return
            else:
                rounds += 1
            yield from self._run(at_slow_edge(fit, self.options.round_size))

    def _floor(self) -> Plan:
        """A round inside the window, where too few whole runs were placed for the cost of rates."""
        if self.ended_by != "precision" or not self.options.counts_steps:
            return
        fit = self.fit()
        safe, few = min(fit.safe(), self.lattice.cells), min(FEW, self.options.round_size)
        if safe < 0:
            return
        low = max(safe + math.log(LOWEST) / self.step, fit.slow.upper or 0.0)
        seen = lowest_seen(fit.counts, safe)
        if seen is None or (seen > low and fit.slow.upper is None) or self.choice() is None:
            self.ended_by = ""
            yield from self._run(spread(min(low, safe), safe, few, self.lattice.cells))
            if self.ended_by:  # only for these few a cap left no room
                self.ended_by = "precision"
            yield from self._measure()  # they may have left the safe rate open

    def _run(self, points: Sequence[int]) -> Plan:
        """A round of whole runs, cut by the cap; not begun where the budgets could run out."""
        points = points[: max(0, self.options.trials - len(self.whole))]
        if not points:
            self.ended_by = "trials"
        elif not self._affordable(len(points)):
            self.ended_by = "budgets"
        else:
            trials = [self._fresh(i) for i in points]
            yield trials
            self.whole += [(i, t, self._told[t]) for i, t in zip(points, trials, strict=True)]

    def _fresh(self, point: int, *, to_end: bool = False) -> Trial:
        seed = self._next_seed
        self._next_seed += 1
        return Trial(Start(seed, seed), self.lattice.rate(point), to_end=to_end)

    def _first_round(self) -> list[int]:
        """Lattice points of the first round, about where partial runs saw the boundary."""
        size, cells = self.options.round_size, self.lattice.cells
        first, last = (self.begins + distance / self.step for distance in FIRST)
        return spread(first if self.learned else 0, last if self.learned else cells, size, cells)

    def _place(self, fit: Fit) -> list[int]:
        """Lattice points of the next round of the search for the edge."""
        size = self.options.round_size
        if not fit.seen:
            left = min(size, self.options.trials - len(self.whole))
            return where_none_trained(self.whole, self.begins, left, fit)
        due = min(len(self.whole) // 4, FEW) - self._below if self.options.counts_steps else 0
        inside = below(fit, max(min(due, -(-size // 4)), 0), self._below)
        self._below += len(inside)
        targets = [TARGETS[(self._turn + k) % len(TARGETS)] for k in range(size - len(inside))]
        self._turn += len(targets)
        return sorted([*inside, *at_targets(fit, targets)])

    def _looked(self) -> bool:
        """Whether any run trained, or enough were made about the one that came closest."""
        best = best_point(self.whole, self.begins)
        return made_near(self.whole, best, self.step) >= LOOKED or self.fit().seen

    def _affordable(self, budgets: float) -> bool:
        """Whether so many more whole budgets stay within the cap."""
        cap, taken = self.options.budgets, self.options.before + self.spent()
        return cap is None or taken / self.options.max_steps + budgets <= cap + 1e-9

    def result(self, seconds: float | None = None) -> CurveResult:
        """The answer so far: see `curve_result.CurveResult`.

        Args:
            seconds: Wall time to report.
        """
        return result_of(self, seconds)
