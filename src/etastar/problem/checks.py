"""What must hold before the first trial, each failure with its remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.batches import LoaderBatches
from etastar.problem.nested import copied, samples_in, shape_of, tensors, to_device
from etastar.problem.streams import Stream
from etastar.problem.trial import Start

if TYPE_CHECKING:
    from etastar.problem.problem import Problem

MOST_NAMED = 5
"""Tensors that a message names."""


def with_loss(problem: Problem, start: Start) -> Problem:
    """Return the problem with the loss that the model itself returns, if it does.

    Args:
        problem: As asked for.
        start: A start.
    """
    batch = to_device(next(problem.train.stream(start.order)), problem.origin.device)
    model = problem.origin.copy(start.initialisation)
    with Stream("training", start.order).active(), explained(problem, "step", batch):
        own = problem.objective.returns_loss(model, batch)
    return replace(problem, objective=replace(problem.objective, own_loss=own))


def with_metric(problem: Problem, start: Start) -> Problem:
    """Return the problem with what `"accuracy"` counts, or how the loss is evaluated, decided.

    Args:
        problem: Its loss is decided.
        start: A start.

    Raises:
        ModelError: The metric has no meaning here, or the validation data cannot be evaluated.
    """
    model = problem.origin.copy(start.initialisation)
    own_loss.set_training(model, False)
    with Stream("metric", 0).active(), explained(problem, "metric"):
        objective = problem.objective.settled(model, problem.val.once, problem.origin.device)
    return replace(problem, objective=objective)


def check_first_step(problem: Problem, start: Start) -> None:
    """Take the first gradient of a start, on a copy, and that of the smallest batch.

    Raises:
        ModelError: Batch, model and loss do not fit each other; the loss is not finite; or it does
            not depend on the parameters, or on some that would not train.
    """
    seed = start.initialisation
    model = problem.origin.copy(seed)
    batch = to_device(next(problem.train.stream(start.order)), problem.origin.device)
    with Stream("training", start.order).active(), torch.enable_grad():
        loss = _fitting(problem, model, copied(batch))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the loss of the first batch is {value} at initialisation (seed {seed}), "
                "before any step. Look for NaN in the data, inputs of a wrong scale, or a log or "
                "a division in the model or the loss."
            )
        ignored = "the loss does not depend on the model's trainable parameters"
        remedy = (
            "Look for detach(), no_grad(), .item() or NumPy between them, or a model that returns "
            "something else."
        )
        if not loss.requires_grad:
            raise ModelError(f"{ignored}: it has no gradient. {remedy}")
        _check_all_train(problem, model, loss, copied(batch))
        loss.backward()  # type: ignore[no-untyped-call]
    if all(p.grad is None for _, p in own_loss.named_parameters(model) if p.requires_grad):
        raise ModelError(f"{ignored}: none of them has a gradient. {remedy}")
    _check_smallest_batch(problem, start, samples_in(batch))


def _check_all_train(problem: Problem, model: nn.Module, loss: Tensor, batch: Any) -> None:
    """Raise if the loss depends on tensors that would not train, and whose gradients would change.

    Those that are the same in a second evaluation outlive a step; the others are made in it.
    """
    known = {id(p) for _, p in own_loss.named_parameters(model)}
    known |= {id(leaf) for leaf in tensors(batch)}
    again = _fitting(problem, model, batch)
    one, other = _leaves(loss), _leaves(again)
    if foreign := [leaf for key, leaf in one.items() if key in other and key not in known]:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in foreign[:MOST_NAMED])
        raise ModelError(
            f"the loss depends on {len(foreign)} trainable tensors (of shape {shapes}) that belong "
            "neither to the model nor to loss_fn: they would not train. Pass the module that holds "
            "them as loss_fn, or make it a part of the model, and use that part in step_fn."
        )


def _leaves(loss: Tensor) -> dict[int, Tensor]:
    """Return the tensors whose gradients `loss.backward()` would change, by identity."""
    found, seen, waiting = {}, set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        waiting += [before for before, _ in node.next_functions]
    return found


def _fitting(problem: Problem, model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a batch, or raise in words why there is none."""
    with explained(problem, "step", batch):
        return problem.objective.loss(model, batch)


@contextmanager
def explained(problem: Problem, doing: str, batch: Any = None) -> Iterator[None]:
    """Raise what the user's code raises as an error that says what was done.

    Args:
        problem: What is trained.
        doing: `"step"` or `"metric"`.
        batch: The batch, of a step.

    Raises:
        ModelError: Instead of any other error.
    """
    objective = problem.objective
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        if isinstance(error, ZeroDivisionError) and doing == "metric":
            raise ModelError("val_data is empty: there is nothing to evaluate.") from None
        if doing == "metric":
            raise ModelError(
                f"the metric {objective.name!r} cannot be evaluated on the validation data: "
                f"{cause}. A callable is called (outputs, targets), on all of them at once; with "
                f"step_fn it is called (model, batch).{_remedy(error)}"
            ) from error
        form = (
            "expected (inputs, targets) with loss_fn(model(inputs), targets). Check shapes, "
            "types and device, or pass step_fn."
        )
        if objective.step_fn is not None:
            form = "step_fn is called (model, batch) and returns the loss."
        raise ModelError(
            f"the first training batch does not go through model and loss: {cause}. The batch "
            f"is {shape_of(batch)}; {form}{_remedy(error)}"
        ) from error


REMEDIES = {
    "does not require grad": "Evaluation records no gradients: pass eval_grad=True if the model or "
    "the loss takes derivatives.",
    "have the same dtype": "Convert the inputs to the type of the model, e.g. inputs.float().",
    "must have the same dtype": "Convert the inputs to the type of the model, e.g. inputs.float().",
    "expected scalar type Long": "Class indices must be int64: targets.long().",
    "expected target dtype to be Long": "Class indices must be int64: targets.long().",
    "not implemented for 'Int'": "Class indices must be int64: targets.long().",
    "is out of bounds": "Labels must count from 0 and be below the number of the model's outputs.",
    "Expected more than 1 value per channel": "Batch normalisation needs two samples: pass "
    "drop_last=True to the DataLoader.",
    "nonnegative": "Labels must count from 0.",
    "Expected floating point type for target": "Class indices must be whole numbers: "
    "targets.long().",
    "object has no attribute 'size'": "Pass an instance of the loss, e.g. nn.CrossEntropyLoss().",
}
"""Part of a message of PyTorch's → what would have helped."""


def _remedy(error: Exception) -> str:
    text = str(error)
    return next((f" {remedy}" for part, remedy in REMEDIES.items() if part in text), "")


def first_epoch(problem: Problem, start: Start) -> Iterator[Any]:
    """Yield the batches of the first epoch that a trial uses, if they are in memory."""
    train = problem.train
    if isinstance(train, LoaderBatches) and not train.streaming:
        most = min(problem.max_steps, train.steps_per_epoch)
        yield from islice(train.stream(start.order), most)


def _check_smallest_batch(problem: Problem, start: Start, usual: int) -> None:
    """Raise if the smallest batch of an epoch does not go through model and loss.

    Raises:
        ModelError: It does not; it names the batch.
    """
    smallest, place = usual, None
    for number, batch in enumerate(first_epoch(problem, start)):
        if samples_in(batch) < smallest:
            smallest, place, odd = samples_in(batch), number, batch
    if place is None:
        return
    model = problem.origin.copy(start.initialisation)
    try:
        with Stream("training", start.order).active(), torch.enable_grad():
            problem.objective.loss(model, to_device(odd, problem.origin.device))
    except Exception as error:
        plural = "s" * (smallest > 1)
        raise ModelError(
            f"batch {place} of an epoch has {smallest} sample{plural}, the others {usual}, and "
            f"does not go through model and loss: {type(error).__name__}: {error}. Leave the last "
            "batch out (drop_last=True of the DataLoader), or mend the step. It is "
            f"{shape_of(odd)}."
        ) from error


def check_first_metric(problem: Problem, start: Start) -> float:
    """Evaluate a start before any step.

    Returns:
        The metric.

    Raises:
        ModelError: It cannot be evaluated, or is not a number.
    """
    seed = start.initialisation
    model = problem.origin.copy(seed)
    objective = problem.objective
    with explained(problem, "metric"):
        value = problem.evaluate(model)
    if math.isnan(value):
        raise ModelError(
            f"the metric {objective.name!r} is NaN at initialisation (seed {seed}). Check "
            "the validation data for NaN, and the metric for a division by zero, e.g. by a class "
            "that is never predicted."
        )
    return value


def check_not_met(problem: Problem, start: Start, value: float) -> None:
    """Check that a threshold is not met before the first step.

    Args:
        problem: Whose threshold.
        start: Where the metric was evaluated.
        value: The metric there.

    Raises:
        ModelError: It is met, so that every rate would count as trained.
    """
    objective, seed = problem.objective, start.initialisation
    if objective.met(value):
        side = "Raise" if objective.higher_is_better else "Lower"
        raise ModelError(
            f"the threshold is met before the first step: {objective.name} is {value:g} at "
            f"initialisation (seed {seed}), the threshold {objective.threshold:g}. Every "
            f"rate would count as trained. {side} threshold, or set higher_is_better if the "
            "metric points the other way."
        )
