"""What an engine is, and where its trials come from: `Engine` and `Queue`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Trial


class Queue(ABC):
    """Where trials come from and outcomes go: a search, a store, or a plain list.

    An engine may call it from several threads, one at a time.
    """

    @abstractmethod
    def take(self, free: int, useful: int = 1) -> list[Trial]:
        """Return at most `free` trials to start now; none if none is ready before the next `put`.

        Args:
            free: Trials that the engine can take on.
            useful: Trials below which one more costs the engine next to nothing, so that one may be
                started on the chance that it is needed. It changes the cost, never an outcome.
        """

    @abstractmethod
    def put(self, trial: Trial, outcome: Outcome) -> None:
        """Take the outcome of a trial that has ended.

        Args:
            trial: As `take` returned it.
            outcome: Its own.
        """

    @abstractmethod
    def wanted(self, trial: Trial) -> bool:
        """Tell whether a running trial's outcome still matters; if not, it is given up.

        Args:
            trial: As `take` returned it.
        """


class Engine(ABC):
    """Trains the trials of a queue. Every engine gives the same outcomes, up to rounding."""

    name: ClassVar[str]
    """The engine's name in `etastar.engines.ENGINES`."""
    why: ClassVar[str]
    """What it is for, as results tell it."""

    def __init__(self, threads: int | None = None) -> None:
        self.wanted_threads = threads
        self.threads = 1
        """CPU threads that the last run used."""
        self.steps_taken = 0
        """Optimizer steps so far, those of abandoned trials included."""

    @property
    def workers_now(self) -> int | None:
        """Processes that train for this engine; None if this one does."""
        return None

    @abstractmethod
    def refusal(self, problem: Problem) -> str | None:
        """Say why this engine cannot train a problem; None if it can.

        Args:
            problem: What is to be trained.
        """

    @abstractmethod
    def run(self, problem: Problem, queue: Queue) -> None:
        """Train until the queue has nothing more and every started trial has ended.

        Args:
            problem: What is trained; one that this engine does not refuse.
            queue: Asked for trials, and told their outcomes.

        Raises:
            KeyboardInterrupt: On Ctrl-C; what was put in the queue stays.
        """


class TrialList(Queue):
    """A queue that hands out a fixed list of trials and keeps their outcomes.

    Args:
        trials: Distinct trials.
        on_outcome: Called after every trial.
    """

    def __init__(
        self,
        trials: Iterable[Trial],
        on_outcome: Callable[[Trial, Outcome], None] = lambda trial, outcome: None,
    ) -> None:
        self.waiting = list(trials)[::-1]
        self.outcomes: dict[Trial, Outcome] = {}
        self.on_outcome = on_outcome

    def take(self, free: int, useful: int = 1) -> list[Trial]:
        """See `Queue`."""
        return [self.waiting.pop() for _ in range(min(free, len(self.waiting)))]

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """See `Queue`."""
        self.outcomes[trial] = outcome
        self.on_outcome(trial, outcome)

    def wanted(self, trial: Trial) -> bool:
        """See `Queue`."""
        return True


def train_all(engine: Engine, problem: Problem, trials: Iterable[Trial]) -> dict[Trial, Outcome]:
    """Train every one of these trials.

    Args:
        engine: The engine.
        problem: What is trained.
        trials: Distinct trials, any number.

    Returns:
        The outcome of each.
    """
    queue = TrialList(trials)
    engine.run(problem, queue)
    return queue.outcomes
