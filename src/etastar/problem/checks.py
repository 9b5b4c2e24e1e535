"""What must hold before the first trial, each failure with its remedy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etastar.errors import ModelError
from etastar.problem.nested import shape_of, to_device
from etastar.problem.streams import Stream
from etastar.problem.trial import Start

if TYPE_CHECKING:
    from etastar.problem.problem import Problem


def check_first_step(problem: Problem, start: Start) -> None:
    """Take the first gradient of a start, on a copy.

    Raises:
        ModelError: Batch, model and loss do not fit each other; the loss is not finite; or it does
            not depend on the parameters.
    """
    seed = start.initialisation
    model = problem.origin.copy(seed)
    batch = to_device(next(problem.train.stream(start.order)), problem.origin.device)
    with Stream("training", start.order).active(), torch.enable_grad():
        loss = _fitting(problem, model, batch)
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
        loss.backward()
    if all(p.grad is None for p in model.parameters() if p.requires_grad):
        raise ModelError(f"{ignored}: none of them has a gradient. {remedy}")


def _fitting(problem: Problem, model: nn.Module, batch: Any) -> Any:
    """Return the loss of a batch, or raise in words why there is none."""
    try:
        return problem.objective.loss(model, batch)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the first training batch does not go through model and loss: {type(error).__name__}: "
            f"{error}. The batch is {shape_of(batch)}; expected (inputs, targets) with "
            "loss_fn(model(inputs), targets). Check shapes, types and device, or pass step_fn."
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
    try:
        value = problem.evaluate(model)
    except ModelError:
        raise
    except ZeroDivisionError:
        raise ModelError("val_data is empty: there is nothing to evaluate.") from None
    except Exception as error:
        raise ModelError(
            f"the metric {objective.name!r} cannot be evaluated on the validation data: "
            f"{type(error).__name__}: {error}. A callable is called (outputs, targets), on all "
            "of them at once; with step_fn it is called (model, batch)."
        ) from error
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
