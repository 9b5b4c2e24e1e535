"""What searches ask for as a queue of trials for the engine: of all starts, or of one curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etastar.engines.base import Queue
from etastar.problem.trial import Outcome, Start, Trial
from etastar.search.base import Strategy
from etastar.search.curve import Curve


class SearchQueue(Queue):
    """Hands the engine what the strategies ask for, the surely needed before the speculative.

    Args:
        strategies: One per start.
    """

    def __init__(self, strategies: Mapping[Start, Strategy]) -> None:
        self.strategies = dict(strategies)
        self.ended = 0
        self.on_outcome: Callable[[Trial, Outcome], None] | None = None
        """Called after every trial that ended, for progress displays."""
        self._running: dict[Start, set[float]] = {start: set() for start in strategies}

    def take(self, free: int, useful: int = 1) -> list[Trial]:
        """See `Queue`: one per unfinished search, then further ones up to `useful`."""
        taken: list[Trial] = []
        running = sum(map(len, self._running.values()))
        for most in range(1, max(useful, 1) + 1):
            for start, strategy in self.strategies.items():
                if len(taken) == free or (most > 1 and running >= useful):
                    return taken
                fresh = [r for r in strategy.ask(most) if r not in self._running[start]]
                if fresh:
                    taken.append(Trial(start, fresh[0]))
                    self._running[start].add(fresh[0])
                    running += 1
        return taken

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """See `Queue`: tell the start's strategy."""
        self._running[trial.start].discard(trial.lr)
        self.strategies[trial.start].tell(trial.lr, outcome)
        self.ended += 1
        if self.on_outcome:
            self.on_outcome(trial, outcome)

    def wanted(self, trial: Trial) -> bool:
        """See `Queue`; a trial that the strategy cannot use any more is forgotten."""
        if self.strategies[trial.start].wanted(trial.lr):
            return True
        self._running[trial.start].discard(trial.lr)
        return False

    @property
    def done(self) -> int:
        """Searches that have ended."""
        return sum(strategy.done for strategy in self.strategies.values())

    def outcomes(self) -> dict[Trial, Outcome]:
        """Return every outcome that a search has used, by start and rate."""
        return {
            Trial(start, lr): outcome
            for start, strategy in self.strategies.items()
            for lr, outcome in strategy.outcomes.items()
        }


class CurveQueue(Queue):
    """Hands the engine the trials of the curve's present round.

    Args:
        curve: The strategy.
    """

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.ended = 0
        self.on_outcome: Callable[[Trial, Outcome], None] | None = None
        """Called after every trial that ended, for progress displays."""

    def take(self, free: int, useful: int = 1) -> list[Trial]:
        """See `Queue`: nothing outside of the present round is started."""
        return self.curve.ask(free) if free else []

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """See `Queue`."""
        self.curve.tell(trial, outcome)
        self.ended += 1
        if self.on_outcome:
            self.on_outcome(trial, outcome)

    def wanted(self, trial: Trial) -> bool:
        """See `Queue`."""
        return self.curve.wanted(trial)
