"""Where a threshold may lie, and which classes the labels leave out.

It lies above what one answer for all samples reaches. For those who have none it is half-way from
no training to the best of a few runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.batches import TensorBatches
from etastar.problem.checks import first_epoch
from etastar.problem.nested import pair, parts_of_step, to_device
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial

MOST_CLASSES = 100
"""Classes whose constant answers a metric of one's own is asked about."""
MOST_OUTPUTS = 1000
"""Outputs up to which classes without a sample are worth a word: a vocabulary has many. Above, only
labels that seem to count from another number than 0 are."""
MOST_NAMED = 5
"""Classes that a note names."""
FACTOR = 4.0
"""Between neighbouring rates at which partial runs are tried."""
PART = 4
"""Partial runs take this part of the budget."""
WHOLE = 3
"""Rates, those of the lowest loss, at which the whole budget is trained."""


Train: TypeAlias = Callable[[Problem, list[Trial]], dict[Trial, Outcome]]
"""Trains trials of a problem."""


def targets_of(batches: Iterable[Any]) -> list[Tensor] | None:
    """Return the targets of batches, those of one step of an accumulation each.

    Args:
        batches: Of a pass.

    Returns:
        The targets; None if some are no tensors, or there are none.
    """
    try:
        found = [pair(part)[1] for batch in batches for part in parts_of_step(batch)]
    except ModelError:
        return None
    return found if found and all(isinstance(t, Tensor) for t in found) else None


def constant_share(problem: Problem, start: Start) -> float | None:
    """Return the metric that one answer for all samples reaches; None where that is not known.

    A metric of one's own is asked about constant outputs, where they are those of classes.

    Args:
        problem: Its objective is settled.
        start: A start.
    """
    objective = problem.objective
    if objective.metric == "loss" or (callable(objective.metric) and objective.step_fn):
        return None
    targets = targets_of(problem.val.once())
    if targets is None:
        return None
    if objective.metric == "accuracy":
        return objective.accuracy.constant(targets)
    return _constant_metric(problem, start, targets)


def check_not_constant(problem: Problem, share: float | None) -> None:
    """Check that one answer for all samples does not meet the threshold.

    Args:
        problem: Whose threshold.
        share: What one answer reaches, if that is known.

    Raises:
        ModelError: It does, so that a model that learns nothing would count as trained.
    """
    objective = problem.objective
    if share is not None and objective.met(share):
        raise ModelError(
            f"one answer for all samples meets the threshold: its {objective.name} on the "
            f"validation data is {share:.4g}, the threshold {objective.threshold:g}, so a model "
            "that learns nothing would count as trained. Set `threshold` beyond that share, or "
            "measure what one class cannot reach, e.g. a metric of your own averaged over classes."
        )


def _constant_metric(problem: Problem, start: Start, targets: list[Tensor]) -> float | None:
    """Return the best value of a callable metric at outputs that are one class for all samples."""
    objective, model = problem.objective, problem.origin.copy(start.initialisation)
    own_loss.set_training(model, False)
    first = to_device(next(iter(problem.val.once())), problem.origin.device)
    with torch.set_grad_enabled(objective.eval_grad):
        outputs = objective.parts(model, first)[0]
    if not isinstance(outputs, Tensor) or outputs.ndim > 2 or targets[0].ndim > 2:
        return None
    whole = torch.cat(targets).to(outputs.device)
    columns = outputs.shape[1] if outputs.ndim == 2 else 1
    classes = whole.ndim == 1 and not whole.is_floating_point() and columns > 1
    yes_or_no = columns == 1 and set(torch.unique(whole)[:3].tolist()) <= {0, 1}
    if not (classes or yes_or_no) or columns > MOST_CLASSES:
        return None
    values = []
    for answer in range(columns if classes else 2):
        row = torch.full((columns,), -1.0) if classes else torch.tensor([2.0 * answer - 1])
        if classes:
            row[answer] = 1.0
        constant = row.to(outputs).expand(len(whole), columns).reshape(-1, *outputs.shape[1:])
        with suppress(Exception):  # a metric may refuse such outputs
            values.append(float(objective.measure(constant.clone(), whole.clone())))
    better = max if objective.higher_is_better else min
    return better((v for v in values if math.isfinite(v)), default=None)


def notes_of(problem: Problem, start: Start) -> list[str]:
    """Return what should be said of the training labels of a problem.

    Args:
        problem: Its objective is settled.
        start: A start.
    """
    accuracy, train = problem.objective.accuracy, problem.train
    if problem.objective.metric != "accuracy" or not accuracy.classes or accuracy.dense:
        return []
    if isinstance(train, TensorBatches):
        return label_notes([pair(train.data)[1]], accuracy.classes)
    if problem.max_steps < train.steps_per_epoch:
        return []
    return label_notes(targets_of(first_epoch(problem, start)) or [], accuracy.classes)


def label_notes(train: list[Tensor], classes: int, what: str = "the model") -> list[str]:
    """Return what should be said of the labels: that they do not start at 0, or leave some out.

    Args:
        train: Class indices of the training data, by batches.
        classes: Outputs of the model.
        what: What has them.
    """
    if not train or any(t.is_floating_point() for t in train):
        return []
    labels = torch.unique(torch.cat([t.flatten() for t in train]))
    present = set(labels[(labels >= 0) & (labels < classes)].tolist())
    empty = [label for label in range(classes) if label not in present]
    if not empty or not present:
        return []
    first, last = min(present), max(present)
    shifted = last - first + 1 == len(present) or first > classes // 2
    if classes > MOST_OUTPUTS and not (first and shifted):
        return []
    shown = ", ".join(map(str, empty[:MOST_NAMED])) + ", ..." * (len(empty) > MOST_NAMED)
    if first > 0:
        without = f"{len(empty)} classes ({shown}) have" if empty[1:] else f"class {shown} has"
        return [
            f"no training label is below {first}, and {what} has {classes} outputs: if the labels "
            f"count from {first}, subtract {first}. As it is, {without} no sample."
        ]
    return [
        f"{len(empty)} of {classes} classes ({shown}) have no training sample: {what} has "
        "outputs for them."
    ]


def with_threshold(
    problem: Problem,
    start: Start,
    at_start: list[float],
    share: float | None,
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
        share: What one answer for all samples reaches, if that is known.
        ends: Of the range of rates.
        train: What trains.
        show: Whether to print what was found.

    Raises:
        ModelError: No run is better than no training.
    """
    objective = problem.objective
    better = max if objective.higher_is_better else min
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
            f"`threshold='auto'` found nothing to reach: {objective.name} is {low:.4g} without "
            f"training, and {best} within {problem.max_steps} steps. Lengthen the budget "
            "(`epochs`, `max_steps`), or widen the range (`start_lr`, `end_lr`)."
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
