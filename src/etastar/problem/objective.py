"""What one step minimises, and what is asked of the model: the loss, the metric, the threshold."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem.nested import samples_in, shape_of, to_device


@dataclass(frozen=True)
class Objective:
    """Loss and criterion of a trial.

    Attributes:
        loss_fn: Maps `(model(inputs), targets)` to a scalar.
        step_fn: Maps `(model, batch)` to the scalar loss, or does the whole step of `(model, batch,
            optimizer)` and returns its loss; None for `loss_fn` of a pair.
        metric: `"accuracy"`, `"loss"` or a callable.
        threshold: What the metric must reach.
        higher_is_better: Whether reaching means at least, rather than at most, `threshold`.
        hold: Whether the threshold must stand at the end of the budget, rather than be touched.
    """

    loss_fn: Callable[..., Any]
    step_fn: Callable[..., Any] | None
    metric: str | Callable[..., Any]
    threshold: float
    higher_is_better: bool
    hold: bool = False

    @functools.cached_property
    def whole_step(self) -> bool:
        """Tell whether `step_fn` takes the optimizer, and does the whole step itself."""
        try:
            given = inspect.signature(self.step_fn or (lambda: None)).parameters.values()
        except (TypeError, ValueError):  # of a function that is not written in Python
            return False
        places = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return len(places) > 2 and (
            places[2].default is places[2].empty or places[2].name.startswith("opt")
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of one batch, differentiable, a scalar.

        Raises:
            ModelError: It is not one number, or the batch is no pair.
        """
        if self.step_fn is not None and not self.whole_step:
            loss = self.step_fn(model, batch)
        else:
            inputs, targets = pair(batch)
            loss = self.loss_fn(call(model, inputs), targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            got = shape_of(loss)
            raise ModelError(
                f"the loss must be one number per batch, a tensor with one element, got {got}. "
                "Take its mean over the samples"
                + (" before returning it." if self.step_fn else ", e.g. reduction='mean'.")
            )
        return loss.reshape(())

    def evaluate(self, model: nn.Module, batches: Iterable[Any], device: torch.device) -> float:
        """Return the metric of a model in eval mode over a whole pass.

        Accuracy counts samples; the loss, and a metric of `(model, batch)`, are averaged over
        batches by their number of samples; a metric of `(outputs, targets)` is called once, on all
        outputs and targets put together.
        """
        total = weight = 0.0
        outputs, targets = [], []
        with torch.no_grad():
            for raw in batches:
                batch = to_device(raw, device)
                if callable(self.metric) and self.step_fn is None:
                    inputs, target = pair(batch)
                    outputs.append(call(model, inputs))
                    targets.append(target)
                    continue
                value, size = self._on_batch(model, batch)
                total, weight = total + value, weight + size
            if callable(self.metric) and self.step_fn is None:
                return as_number(self.metric(_together(outputs), _together(targets)))
        return total / weight

    def _on_batch(self, model: nn.Module, batch: Any) -> tuple[float, float]:
        """Return the metric summed over a batch, and the weight of the batch."""
        if self.metric == "accuracy":
            inputs, targets = pair(batch)
            return correct(call(model, inputs), targets)
        size = samples_in(batch)
        if callable(self.metric):
            return as_number(self.metric(model, batch)) * size, size
        return float(self.loss(model, batch)) * size, size

    def met(self, value: float) -> bool:
        """Tell whether the metric has reached the threshold; never for NaN."""
        return value >= self.threshold if self.higher_is_better else value <= self.threshold

    def score(self, value: float) -> float:
        """Return the metric as searches compare it: in (0, 1), higher is better; accuracy as is."""
        if self.metric == "accuracy":
            return value
        if math.isnan(value):
            return 0.0
        return 0.5 + math.atan(value if self.higher_is_better else -value) / math.pi

    @property
    def name(self) -> str:
        """Return the metric's name."""
        return self.metric if isinstance(self.metric, str) else name_of(self.metric)


def pair(batch: Any) -> tuple[Any, Any]:
    """Return `(inputs, targets)`.

    Raises:
        ModelError: The batch is no pair.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    raise ModelError(
        f"a batch must be a pair (inputs, targets), got {shape_of(batch)}. For batches of another "
        "form pass step_fn=lambda model, batch: loss, and metric='loss' or a callable."
    )


def call(model: nn.Module, inputs: Any) -> Any:
    """Return the outputs: a tuple or list of inputs is the arguments, a mapping the keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return model(inputs)


def correct(outputs: Any, targets: Any) -> tuple[float, float]:
    """Count the predictions that are right, and all.

    Classes lie along the second axis of the outputs, as for `cross_entropy`, or along the last one
    if only that fits. A non-finite output is a mistake.

    Raises:
        ModelError: Outputs and targets are not those of a classification.
    """
    if isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor):
        shape, wanted = list(outputs.shape), list(targets.shape)
        if targets.is_floating_point() and shape == wanted and len(shape) > 1 and shape[1] > 1:
            targets = targets.argmax(1)  # probabilities of classes
            wanted = list(targets.shape)
        if not targets.is_floating_point():
            if len(shape) > 1 and [*shape[:1], *shape[2:]] == wanted:
                return _count(outputs, targets, 1)
            if len(shape) > 1 and shape[:-1] == wanted:
                return _count(outputs, targets, -1)
    raise ModelError(
        "metric='accuracy' needs outputs [B, classes, ...] and integer targets [B, ...], got "
        f"{shape_of(outputs)} and {shape_of(targets)}. Pass metric='loss' with a threshold for the "
        "loss, or a callable, e.g. metric=lambda outputs, targets: ((outputs > 0) == "
        "targets).float().mean()."
    )


def _count(outputs: Tensor, targets: Tensor, axis: int) -> tuple[float, float]:
    right = (outputs.argmax(axis) == targets) & outputs.isfinite().all(axis)
    return float(right.sum()), float(right.numel())


def _together(parts: list[Any]) -> Any:
    """Join outputs or targets of several batches; return the list if they are not tensors."""
    if all(isinstance(part, torch.Tensor) for part in parts):
        return torch.cat(parts)
    return parts


def as_number(value: Any, what: str = "the metric") -> float:
    """Return a number that the user's code gives.

    Raises:
        ModelError: It is none.
    """
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(
            f"{what} must return one number, got {shape_of(value)}. Take its mean."
        ) from None


def name_of(function: Callable[..., Any]) -> str:
    """Return what a user's function is called in messages."""
    return getattr(function, "__name__", type(function).__name__)


def described_call(function: Callable[..., Any]) -> str:
    """Return a user's function as a record names it, with every option that is not the default.

    Args:
        function: A function, a `functools.partial`, or a loss of `torch.nn`.
    """
    if isinstance(function, functools.partial):
        options = [repr(a) for a in function.args]
        options += [f"{key}={value!r}" for key, value in function.keywords.items()]
        return f"{name_of(function.func)}({', '.join(options)})"
    if isinstance(function, nn.Module):
        usual = {}
        with suppress(Exception):  # a class whose arguments are required has no defaults to tell
            usual = vars(type(function)())
        options = [
            f"{key}={value!r}"
            for key, value in vars(function).items()
            if not key.startswith("_") and key != "training" and usual.get(key) != value
        ]
        buffers = [f"{key}={value.tolist()!r:.60}" for key, value in function.named_buffers()]
        return f"{type(function).__name__}({', '.join(options + buffers)})".removesuffix("()")
    return name_of(function)
