"""What one answer for all samples reaches, and which classes the labels leave out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.batches import Batches, TensorBatches
from etastar.problem.checks import first_epoch
from etastar.problem.nested import pair, parts_of_step, to_device
from etastar.problem.problem import Problem
from etastar.problem.trial import Start

MOST_CLASSES = 100
"""Classes whose constant answers a metric of one's own is asked about."""
MOST_OUTPUTS = 1000
"""Outputs up to which classes without a sample are worth a word: a vocabulary has many. Above, only
labels that seem to count from another number than 0 are."""
MOST_NAMED = 5
"""Classes that a note names."""


def targets_of(batches: Batches) -> list[Tensor] | None:
    """Return the targets of a pass, by batches; None if some are no tensors, or there are none."""
    return _targets(batches.once())


def _targets(batches: Iterable[Any]) -> list[Tensor] | None:
    """Return the targets of batches, those of one step of an accumulation each; else None."""
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
    targets = targets_of(problem.val)
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
            "that learns nothing would count as trained. Set threshold beyond that share, or "
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
    return label_notes(_targets(first_epoch(problem, start)) or [], accuracy.classes)


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
