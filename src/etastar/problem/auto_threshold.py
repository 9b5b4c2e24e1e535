"""A threshold for those who have none: half-way from no training to the best of a few runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from etastar.errors import ModelError
from etastar.problem.answers import constant_share
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial

FACTOR = 4.0
"""Between neighbouring rates at which partial runs are tried."""
PART = 4
"""Partial runs take this part of the budget."""
WHOLE = 3
"""Rates, those of the lowest loss, at which the whole budget is trained."""


Train: TypeAlias = Callable[[Problem, list[Trial]], dict[Trial, Outcome]]
"""Trains trials of a problem."""


def with_threshold(
    problem: Problem,
    start: Start,
    at_start: list[float],
    ends: tuple[float, float],
    train: Train,
    show: bool,
) -> Problem:
    """Return the problem with a threshold half-way from no training to the best located run.

    Partial runs at rates a factor `FACTOR` apart are ranked by their training loss; the best few
    are trained to the end of the budget. No training is the metric at step 0, or that of one answer
    for all samples where that is better.

    Args:
        problem: Its threshold is never met.
        start: Of all runs.
        at_start: The metric at step 0 of every seed.
        ends: Of the range of rates.
        train: What trains.
        show: Whether to print what was found.

    Raises:
        ModelError: No run is better than no training.
    """
    objective = problem.objective
    better = max if objective.higher_is_better else min
    share = constant_share(problem, start)
    low = better([*at_start, *([] if share is None else [share])])
    steps = math.ceil(problem.max_steps / PART)
    count = math.floor(math.log(ends[1] / ends[0], FACTOR)) + 1
    located = [Trial(start, ends[1] / FACTOR**i, steps) for i in range(count)]
    losses = {t.lr: _loss(outcome) for t, outcome in train(problem, located).items()}
    chosen = sorted((lr for lr in losses if losses[lr] < math.inf), key=lambda lr: losses[lr])
    whole = train(problem, [Trial(start, lr) for lr in chosen[:WHOLE]])
    reached = {trial.lr: o.metric for trial, o in whole.items() if o.metric is not None}
    lr = better(reached, key=lambda rate: reached[rate], default=None)
    if lr is None or not math.isfinite(reached[lr]) or better(reached[lr], low) == low:
        best = (
            "no run lowered its loss" if lr is None else f"the best run reached {reached[lr]:.4g}"
        )
        raise ModelError(
            f"threshold='auto' found nothing to reach: {objective.name} is {low:.4g} without "
            f"training, and {best} within {problem.max_steps} steps. Lengthen the budget (epochs, "
            "max_steps), or widen the range (start_lr, end_lr)."
        )
    threshold = float(f"{(low + reached[lr]) / 2:.4g}")
    found = replace(objective, threshold=threshold, located=(low, reached[lr], lr))
    if show:
        print(
            f"etastar: threshold {threshold:g}, half-way from {objective.name} {low:.4g} without "
            f"training to {reached[lr]:.4g}, the best of the located runs, at lr {lr:.3g}.",
            file=sys.stderr,
        )
    return replace(problem, objective=found)


def _loss(outcome: Outcome) -> float:
    """Return the training loss that a partial run ended with; infinite if it learnt nothing."""
    first, last = outcome.first_loss, outcome.last_loss
    if outcome.kind == "diverged" or last is None or first is None or not last < first:
        return math.inf
    return last
