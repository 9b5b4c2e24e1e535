"""The strategy `curve` as a queue of trials for the engine."""

from __future__ import annotations

from collections.abc import Callable

from etastar.engines.base import Queue
from etastar.problem.trial import Outcome, Trial
from etastar.search.curve import Curve


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
