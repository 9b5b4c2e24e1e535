"""What one step minimises, and what is asked of the model: the loss, the metric, the threshold."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.accuracy import PLAIN, Accuracy, Gradient, decide
from etastar.problem.losses import batch_weight, options_of
from etastar.problem.nested import (
    call,
    held_as,
    joined,
    logits_of,
    named_parts,
    pair,
    samples_in,
    shape_of,
    takes,
    target_names,
    to_device,
    with_part,
    with_targets,
)
from etastar.problem.streams import Stream


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
        eval_grad: Whether evaluation records gradients, as losses with derivatives need.
        accuracy: What `"accuracy"` counts, see `settled`.
        own_loss: Whether the model returns its loss, as `.loss` of its outputs, see `settled`.
        in_training: Whether the loss, as a metric, is taken in train mode, see `settled`.
        located: Of a threshold that was looked for: the metric at step 0 and of the best run, and
            the rate of that run.
    """

    loss_fn: Callable[..., Any]
    step_fn: Callable[..., Any] | None
    metric: str | Callable[..., Any]
    threshold: float
    higher_is_better: bool
    hold: bool = False
    eval_grad: bool = False
    accuracy: Accuracy = PLAIN
    own_loss: bool = False
    in_training: bool = False
    located: tuple[float, float, float] | None = None

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
        elif self.own_loss:
            loss = self.outputs(model, batch)
        else:
            loss = self._loss_of(model, *self.parts(model, batch))
        if not isinstance(loss, Tensor):
            loss = loss if (own := held_as(loss, "loss")) is None else own
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            remedy = "Take its mean over the samples"
            if isinstance(loss, Mapping):
                remedy = "Add up its parts, e.g. sum(losses.values()),"
            raise ModelError(
                "the loss must be one number per batch, a tensor with one element, got "
                f"{shape_of(loss)}. {remedy}"
                + (" before returning it." if self.step_fn else ", e.g. reduction='mean'.")
            )
        return loss.reshape(())

    def parts(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """Return outputs and targets of a batch."""
        if self.own_loss:
            return self.outputs(model, batch), pair(batch)[1]
        inputs, targets = pair(batch)
        return call(model, inputs, samples_in(batch)), targets

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """Return the outputs of a batch."""
        if self.own_loss:
            return model(**(named_parts(batch) or {}))
        return call(model, pair(batch)[0], samples_in(batch))

    def _loss_of(self, model: nn.Module, outputs: Any, targets: Any) -> Any:
        """Return what the loss function makes of outputs; PyTorch's own take their logits."""
        loss_fn = own_loss.of(model, self.loss_fn)
        inner = loss_fn.func if isinstance(loss_fn, functools.partial) else loss_fn
        place = type(inner) if isinstance(inner, nn.Module) else inner
        if getattr(place, "__module__", "").startswith("torch.nn"):
            with suppress(ModelError):
                outputs = logits_of(outputs)
        return loss_fn(outputs, targets)

    def settled(
        self, model: nn.Module, val: Callable[[], Iterable[Any]], device: torch.device
    ) -> Objective:
        """Return the objective with what the model's outputs and its data decide of the metric.

        Args:
            model: A copy in eval mode that may be spoilt.
            val: Gives the batches that the metric is evaluated on.
            device: Where they are put.

        Raises:
            ModelError: `"accuracy"` has no meaning here, or more than one.
        """
        if self.metric == "loss":
            return replace(self, in_training=self._needs_training(model, val, device))
        if self.metric != "accuracy":
            return self
        now: list[Any] = []

        def read() -> Iterator[tuple[Any, Any]]:
            for raw in val():
                batch = to_device(raw, device)
                outputs, targets = self.parts(model, batch)
                now[:] = batch, outputs
                yield outputs, targets

        with torch.set_grad_enabled(self.eval_grad):
            return replace(self, accuracy=decide(read(), lambda: self._slope(model, *now)))

    def returns_loss(self, model: nn.Module, batch: Any) -> bool:
        """Tell whether a model called with a batch by name, targets included, gives its loss.

        Args:
            model: A copy that may be spoilt.
            batch: On its device.
        """
        held = named_parts(batch)
        if self.step_fn is not None or self.loss_fn is not cross_entropy or not held:
            return False
        if not target_names(held) or not takes(model, **held):
            return False
        return held_as(model(**held), "loss") is not None

    def _needs_training(
        self, model: nn.Module, val: Callable[[], Iterable[Any]], device: torch.device
    ) -> bool:
        """Tell whether the loss of a validation batch exists in train mode only."""
        batch = to_device(next(iter(val())), device)
        with torch.set_grad_enabled(self.eval_grad):
            try:
                self.loss(model, batch)
            except Exception:  # of the user's own: it is raised again if nothing helps
                own_loss.set_training(model, True)
                with suppress(Exception):
                    self.loss(model, batch)
                    return True
        return False

    def _slope(self, model: nn.Module, batch: Any, outputs: Any) -> Gradient | None:
        """Return what gives the gradient of the loss in the logits; None if that is not to be had.

        A step of the user's own is taken with a model whose outputs are replaced by the logits.
        """

        def slope(at: Tensor | None, targets: Tensor) -> Tensor:
            leaf = (logits_of(outputs) if at is None else at).detach().requires_grad_()
            with torch.enable_grad():
                if self.step_fn is not None:
                    return self._slope_of_step(model, with_targets(batch, targets), leaf)
                if self.own_loss:
                    given = model(**(named_parts(with_targets(batch, targets)) or {}))
                    loss, leaf = given.loss, logits_of(given)
                else:
                    replaced = with_part(outputs, "logits", leaf)
                    loss = self._loss_of(model, replaced, targets)
                return torch.autograd.grad(loss, leaf)[0].detach()

        if self.step_fn is not None:
            try:
                slope(None, pair(batch)[1])
            except Exception:  # it may use a part of the model, or its parameters
                return None
        return slope

    def _slope_of_step(self, model: nn.Module, batch: Any, leaf: Tensor) -> Tensor:
        """Return the gradient that reaches the outputs in one step; the weights stand still."""
        assert self.step_fn is not None
        found: list[Tensor] = []
        leaf.register_hook(found.append)  # type: ignore[no-untyped-call]
        hook = model.register_forward_hook(lambda m, x, z: with_part(z, "logits", leaf.clone()))
        try:
            with Stream("training", 0).active():  # the same random numbers every time
                if self.whole_step:
                    self.step_fn(model, batch, torch.optim.SGD([leaf], lr=0.0))
                else:
                    self.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        finally:
            hook.remove()
            own_loss.set_training(model, False)
        return torch.stack(found).sum(0)

    def evaluate(self, model: nn.Module, batches: Iterable[Any], device: torch.device) -> float:
        """Return the metric of a model in eval mode over a whole pass.

        Accuracy counts answers; the loss is averaged over batches as it averages within them
        (`losses.batch_weight`), and a metric of `(model, batch)` by their number of samples. A
        metric of `(outputs, targets)` is called once, on all outputs and targets put together, or,
        where they have no common form, batch by batch.
        """
        total = weight = 0.0
        outputs, targets, sizes = [], [], []
        mode = own_loss.in_training(model) if self.in_training else nullcontext()
        with torch.set_grad_enabled(self.eval_grad), mode:
            for raw in batches:
                batch = to_device(raw, device)
                if callable(self.metric) and self.step_fn is None:
                    output, target = self.parts(model, batch)
                    outputs.append(output)
                    targets.append(target)
                    sizes.append(samples_in(batch))
                    continue
                value, size = self._on_batch(model, batch)
                total, weight = total + value, weight + size
            if callable(self.metric) and self.step_fn is None:
                return self._of_all(outputs, targets, sizes)
        return total / weight

    def measure(self, *given: Any) -> Any:
        """Call a metric of one's own; an object that gathers what it sees begins anew each time."""
        metric = self.metric
        assert callable(metric)
        gathers = isinstance(metric, functools.partial) and own_loss.has_state(metric.func)
        return copy.deepcopy(metric)(*given) if gathers else metric(*given)

    def _of_all(self, outputs: list[Any], targets: list[Any], sizes: list[int]) -> float:
        """Return a metric of `(outputs, targets)`, of all together if they can be."""
        try:
            whole = joined(outputs, sizes), joined(targets, sizes)
        except ValueError:
            values = (self.measure(*each) for each in zip(outputs, targets, strict=True))
            each = [as_number(value) * size for value, size in zip(values, sizes, strict=True)]
            return sum(each) / sum(sizes)
        return as_number(self.measure(*whole))

    def _on_batch(self, model: nn.Module, batch: Any) -> tuple[float, float]:
        """Return the metric summed over a batch, and the weight of the batch."""
        if self.metric == "accuracy":
            return self.accuracy.count(*self.parts(model, batch))
        size = samples_in(batch)
        if callable(self.metric):
            return as_number(self.measure(model, batch)) * size, size
        factor, weight = float(size), float(size)
        if not self.own_loss and (self.step_fn is None or self.whole_step):
            factor, weight = batch_weight(self.loss_fn, pair(batch)[1], size)
        if not weight:  # every label is left out
            return 0.0, 0.0
        return float(self.loss(model, batch).detach()) * factor, weight

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
        """Return the metric's name, with what it means where that is not plain."""
        if callable(self.metric):
            return name_of(self.metric)
        if self.metric == "accuracy":
            return self.accuracy.name
        summed = self.step_fn is None and options_of(self.loss_fn).get("reduction") == "sum"
        parts = ["the sum per sample"] * summed + ["in train mode"] * self.in_training
        return f"loss ({', '.join(parts)})" if parts else "loss"

    @property
    def loss_name(self) -> str:
        """Return the loss as a record names it."""
        if self.own_loss:
            return "the model's own (.loss)"
        return described_call(self.step_fn or self.loss_fn)


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
    inner = function.func if isinstance(function, functools.partial) else function
    own = getattr(inner, "__name__", type(inner).__name__)
    return getattr(function, "__name__", own)


def described_call(function: Callable[..., Any]) -> str:
    """Return a user's function as a record names it, with every option that is not the default.

    Args:
        function: A function, a `functools.partial`, or a loss of `torch.nn`.
    """
    if isinstance(function, functools.partial) and not (function.args or function.keywords):
        return described_call(function.func)
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
