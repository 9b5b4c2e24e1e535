"""The searches of all seeds as one queue of trials for the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etastar.problem.trial import Outcome, Trial
from etastar.search.base import Strategy


class SearchQueue:
    """Hands the engine what the strategies ask for, the surely needed before the speculative.

    Args:
        strategies: One per seed.
        width: Replicas worth running at once. While the strategies' certain needs are fewer,
            further rates of their descents are started on the chance that they are needed. This
            changes the cost, never an outcome or a bracket.
    """

    def __init__(
        self,
        strategies: Mapping[int, Strategy],
        *,
        width: int = 1,
    ) -> None:
        self.strategies = dict(strategies)
        self.width = width
        self.ended = 0
        self.on_outcome: Callable[[Trial, Outcome], None] | None = None
        """Called after every trial that ended, for progress displays."""
        self._running: dict[int, set[float]] = {seed: set() for seed in strategies}

    def take(self, free: int) -> list[Trial]:
        """At most `free` trials: one per unfinished seed, then further ones up to `width`."""
        taken: list[Trial] = []
        most = 1
        while True:
            running = sum(map(len, self._running.values()))
            for seed, strategy in self.strategies.items():
                if len(taken) == free or (most > 1 and running >= self.width):
                    break
                fresh = [r for r in strategy.ask(most) if r not in self._running[seed]]
                if fresh:
                    taken.append(Trial(seed, fresh[0]))
                    self._running[seed].add(fresh[0])
                    running += 1
            most += 1
            if len(taken) == free or running >= self.width or most > self.width:
                return taken

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """Tell the seed's strategy."""
        self._running[trial.seed].discard(trial.lr)
        self.strategies[trial.seed].tell(trial.lr, outcome)
        self.ended += 1
        if self.on_outcome:
            self.on_outcome(trial, outcome)

    def wanted(self, trial: Trial) -> bool:
        """Whether the strategy can still use this outcome; a trial that it cannot is forgotten."""
        if self.strategies[trial.seed].wanted(trial.lr):
            return True
        self._running[trial.seed].discard(trial.lr)
        return False

    @property
    def done(self) -> int:
        """Seeds whose search has ended."""
        return sum(strategy.done for strategy in self.strategies.values())

    def outcomes(self) -> dict[Trial, Outcome]:
        """Every outcome that a search has used, by seed and rate."""
        return {
            Trial(seed, lr): outcome
            for seed, strategy in sorted(self.strategies.items())
            for lr, outcome in strategy.outcomes.items()
        }
