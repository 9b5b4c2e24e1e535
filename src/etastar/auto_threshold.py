"""A threshold for those who have none: half-way from no training to the best of a few runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from etastar.engines.loop import run_trial
from etastar.errors import ModelError
from etastar.problem.answers import constant_share
from etastar.problem.trial import Outcome, Start, Trial

if TYPE_CHECKING:
    from etastar.problem.own_model import OwnModel
    from etastar.problem.problem import Problem

FACTOR = 4.0
"""Between neighbouring rates at which partial runs are tried."""
PART = 4
"""Partial runs take this part of the budget."""
WHOLE = 3
"""Rates, those of the lowest loss, at which the whole budget is trained."""


Train: TypeAlias = Callable[["Problem", Trial], Outcome]


def finder(
    asked: OwnModel, train: Callable[[Problem], Train] | None = None
) -> Callable[[Problem, Start, list[float]], Problem]:
    """Return what finds the threshold of a problem.

    Args:
        asked: The range of rates, and whether to show what is found.
        train: Maps a problem to what trains its trials; the loop if None.
    """

    def find(problem: Problem, start: Start, at_start: list[float]) -> Problem:
        trained = run_trial if train is None else train(problem)
        found = with_threshold(problem, start, at_start, asked.start_lr, asked.end_lr, trained)
        if asked.progress and found.objective.located is not None:
            low, best, lr = found.objective.located
            print(
                f"etastar: threshold {found.objective.threshold:g}, half-way from "
                f"{problem.objective.name} {low:.4g} without training to {best:.4g}, the best of "
                f"the located runs, at lr {lr:.3g}.",
                file=sys.stderr,
            )
        return found

    return find


def with_threshold(
    problem: Problem,
    start: Start,
    at_start: list[float],
    start_lr: float,
    end_lr: float,
    train: Train = run_trial,
) -> Problem:
    """Return the problem with a threshold half-way from no training to the best located run.

    Partial runs at rates a factor `FACTOR` apart are ranked by their training loss; the best few
    are trained to the end of the budget. No training is the metric at step 0, or that of one answer
    for all samples where that is better.

    Args:
        problem: Its threshold is never met.
        start: Of all runs.
        at_start: The metric at step 0 of every seed.
        start_lr: Lower end of the range of rates.
        end_lr: Upper end.
        train: What trains.

    Raises:
        ModelError: No run is better than no training.
    """
    objective = problem.objective
    better = max if objective.higher_is_better else min
    share = constant_share(problem, start)
    low = better([*at_start, *([] if share is None else [share])])
    steps = math.ceil(problem.max_steps / PART)
    count = math.floor(math.log(end_lr / start_lr, FACTOR)) + 1
    rates = [end_lr / FACTOR**i for i in range(count)]
    losses = {lr: _loss(train(problem, Trial(start, lr, steps))) for lr in rates}
    chosen = sorted((lr for lr in rates if losses[lr] < math.inf), key=lambda lr: losses[lr])
    ends = {lr: train(problem, Trial(start, lr)).metric for lr in chosen[:WHOLE]}
    reached = {lr: value for lr, value in ends.items() if value is not None}
    lr = better(reached, key=lambda rate: reached[rate], default=None)
    if lr is None or not math.isfinite(reached[lr]) or better(reached[lr], low) == low:
        best = "no run ended" if lr is None else f"the best run reached {reached[lr]:.4g}"
        raise ModelError(
            f"threshold='auto' found nothing to reach: {objective.name} is {low:.4g} without "
            f"training, and {best} within {problem.max_steps} steps. Lengthen the budget (epochs, "
            "max_steps), or widen the range (start_lr, end_lr)."
        )
    threshold = float(f"{(low + reached[lr]) / 2:.4g}")
    located = (low, reached[lr], lr)
    return replace(problem, objective=replace(objective, threshold=threshold, located=located))


def _loss(outcome: Outcome) -> float:
    """Return the training loss that a partial run ended with; infinite if it learnt nothing."""
    first, last = outcome.first_loss, outcome.last_loss
    if outcome.kind == "diverged" or last is None or first is None or not last < first:
        return math.inf
    return last
