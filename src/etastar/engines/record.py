"""What a run has shown so far, and its outcome as it is told: the same in every engine."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import fmean

from etastar.problem.trial import LAST_LOSSES, UNSTABLE, Cause, Outcome, Trial


@dataclass
class Record:
    """What one run has shown so far.

    Attributes:
        trial: What is run.
        budget: Optimizer steps that it may take.
        steps: Optimizer steps taken.
        metric: At the last evaluation.
        first: Loss of the first batch; -inf before it.
        peak: The highest loss.
        last: The latest losses.
        silent_since: The step since which no gradient has reached the input layer.
        alive: Checks for death that found life.
        touched: Of a run to the end, what it was when it touched the threshold.
        nans: Evaluations at which the metric was not a number.
    """

    trial: Trial
    budget: int
    steps: int = 0
    metric: float | None = None
    first: float = -math.inf
    peak: float = -math.inf
    last: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_LOSSES))
    silent_since: int | None = None
    alive: int = 0
    touched: Outcome | None = None
    nans: int = 0

    @property
    def limit(self) -> int:
        """Return the steps after which the run ends."""
        return self.trial.steps or self.budget

    def note(self, step: int, losses: list[float], silent: list[bool]) -> None:
        """Keep what consecutive steps show.

        Args:
            step: The first of them.
            losses: Finite losses, one or more.
            silent: Whether the input layer had no gradient, for each.
        """
        if not self.last:
            self.first = losses[0]
        self.peak = max(self.peak, *losses)
        self.last.extend(losses[-LAST_LOSSES:])
        if not silent[-1]:
            self.silent_since = None
        elif not all(silent):  # since the step after the last one with a gradient
            self.silent_since = step + len(silent) - silent[::-1].index(False)
        elif self.silent_since is None:
            self.silent_since = step

    def learned(self) -> bool:
        """Tell whether the loss is lower at the end than at the start."""
        return fmean(self.last) < self.first

    def short(
        self, metric: float | None, score: float | None, constant: float | None, learned: bool
    ) -> Outcome:
        """Return the outcome of a budget spent below the threshold.

        A run that ends no better than one class for all is not called slow for the search's sake,
        however calm its loss was: it may have collapsed, and a lower rate may train.

        Args:
            metric: At the end.
            score: The same as searches compare it.
            constant: The metric of one class for all, if it is known.
            learned: Whether the loss is lower at the end, and the outputs are not one class.
        """
        calm = self.peak - self.first <= (UNSTABLE - 1) * abs(self.first)
        slow = calm and (constant is None or metric is None or metric > constant)
        cause: Cause = "slow" if learned else "collapsed"
        return Outcome("short", self.budget, metric, slow, nans=self.nans, score=score, cause=cause)

    def told(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the training losses, as a run to the end tells it."""
        first = self.first if math.isfinite(self.first) else None
        dated = outcome.kind != "dead" and outcome.given_up is None and self.last
        told, held = outcome, outcome.kind == "trained"
        if self.touched is not None:
            spent = held or outcome.kind == "short"
            told = replace(
                self.touched,
                metric=outcome.metric,
                score=outcome.score,
                given_up=None if spent else outcome.step,
            )
        return replace(
            told,
            first_loss=first,
            last_loss=fmean(self.last) if dated else None,
            held=held if self.trial.to_end else None,
        )
