"""Curvature-vector products of any `torch.nn.Module`, over batches of any sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etastar.checking import check_choice, is_ratio
from etastar.curvature.graphs import (
    KINDS,
    Kind,
    Pieces,
    curvature_product,
    scalar_loss,
    twice_differentiable,
)
from etastar.curvature.reading import Batch, going_through, read
from etastar.errors import ConfigError, unknown_name
from etastar.problem.hooks import BACKWARD_HOOKS
from etastar.problem.nested import call, copied, to_device

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore weights, buffers, `.grad`, modes, hooks and plain attributes, whatever happens.

    Inside, the gradient hooks of parameters and modules are set aside, since they change products
    but not the loss, and embeddings have dense gradients, as sparse ones have no derivative.
    """
    modules = [
        (module, dict(vars(module)), dict(module._buffers.items()), module.training)
        for module in model.modules()
    ]
    copies = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    parameters = [(p, p.grad, p.requires_grad, p._backward_hooks) for p in model.parameters()]
    for module, attributes, _, _ in modules:
        for name in BACKWARD_HOOKS:
            if attributes.get(name):
                setattr(module, name, OrderedDict())
        if attributes.get("sparse") is True:
            vars(module)["sparse"] = False
    for parameter, *_ in parameters:
        parameter._backward_hooks = None
    try:
        yield
    finally:
        for module, attributes, buffers, training in modules:
            vars(module).clear()
            vars(module).update(attributes)
            for name, buffer in buffers.items():
                module._buffers[name] = buffer
            module.training = training
        with torch.no_grad():
            for tensor, before in copies:
                if not torch.equal(tensor, before):
                    tensor.copy_(before)
        for parameter, gradient, requires_grad, hooks in parameters:
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)
            parameter._backward_hooks = hooks


class LossCurvature:
    """The curvature matrix of a model's loss over batches, as a product with flat vectors.

    The loss is `Σ_b share_b · loss_fn(model(x_b), y_b)`. The shares are those of the samples, so a
    ragged last batch is right where `loss_fn` averages over its batch; `shares.py` finds others.

    With ratios, the matrix is `D^½ H D^½`, D holding every parameter's learning-rate ratio.

    Args:
        model: In the mode in which it is to be measured.
        loss_fn: Maps `(model(inputs), targets)` to a scalar. Trainable parameters of a module count
            as the model's, named `loss_fn.…`.
        batches: Pairs `(inputs, targets)`; read once and held as copies. Inputs may be a tensor, or
            a tuple or mapping of arguments. What names its parts is inputs and targets in one.
        kind: `"hessian"` or `"gauss-newton"`.
        lr_ratios: Learning-rate ratio by parameter name; a parameter not named has ratio 1.
        batch_size: Maps `(inputs, targets)` to the number of samples; the first dimension if None.

    Raises:
        ConfigError: No trainable parameter, an unknown name, a ratio or a batch that does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Iterable[Any],
        *,
        kind: Kind = "hessian",
        lr_ratios: Mapping[str, float] | None = None,
        batch_size: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        check_choice("kind of curvature", kind, KINDS)
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
        if not callable(loss_fn) or isinstance(loss_fn, type):
            raise ConfigError(
                "loss_fn must be a function of (model(inputs), targets), such as "
                f"torch.nn.functional.cross_entropy or nn.CrossEntropyLoss(); got {loss_fn!r:.60}."
            )
        self.model, self.loss_fn, self.kind = model, loss_fn, kind
        trained = (
            {"": model, "loss_fn.": loss_fn} if isinstance(loss_fn, nn.Module) else {"": model}
        )
        self.whole = nn.ModuleList(trained.values())
        aliases = {
            f"{prefix}{name}": parameter
            for prefix, module in trained.items()
            for name, parameter in module.named_parameters(remove_duplicate=False)
        }
        self.names, self.params = _trainable(aliases)
        self.sizes = [p.numel() for p in self.params]
        self.size = sum(self.sizes)
        self.device = self.params[0].device
        self.dtype, self.epsilon = torch.float32, 0.0  # of products; the largest one of the weights
        for parameter in self.params:
            self.dtype = torch.promote_types(self.dtype, parameter.dtype)
            self.epsilon = max(self.epsilon, torch.finfo(parameter.dtype).eps)
        self.autocast: dict[str, Any] = {"device_type": self.device.type, "cache_enabled": False}
        self.autocast["enabled"] = torch.is_autocast_enabled(self.device.type)
        if self.autocast["enabled"]:
            self.autocast["dtype"] = torch.get_autocast_dtype(self.device.type)
            self.epsilon = max(self.epsilon, torch.finfo(self.autocast["dtype"]).eps)
        self.batches, self.counts = read(batches, batch_size)
        self.samples = sum(self.counts)
        self.shares = [count / self.samples for count in self.counts]
        ratios = _ratios(aliases, self.names, {} if lr_ratios is None else lr_ratios)
        roots = torch.tensor([r**0.5 for r in ratios], dtype=torch.float64)
        roots = roots.repeat_interleave(torch.tensor(self.sizes))
        self.roots = roots.to(device=self.device, dtype=self.dtype)  # of each entry, `[P]`
        self.operations: set[str] = set()  # nodes of the graph, as autograd names them
        self.unreached: dict[str, Tensor] = {}  # what no gradient of a loss has reached
        self._product: Callable[[Pieces], Pieces] | None = None

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """The loss and its gradient `[P]` (without ratios), over all batches.

        Raises:
            CurvatureError: The loss does not depend on the parameters through autograd.
        """
        self.unreached = dict(zip(self.names, self.params, strict=True))

        def gradient(loss: Tensor) -> Tensor:
            parts = torch.autograd.grad(loss, self.params, allow_unused=True)
            for name, part in zip(self.names, parts, strict=True):
                if part is not None:
                    self.unreached.pop(name, None)
            zeros = map(torch.zeros_like, self.params)
            return self._flat([z if p is None else p for p, z in zip(parts, zeros, strict=True)])

        return self._evaluated(gradient)

    def loss_beside(self, step: Tensor) -> float:
        """The loss over all batches where the weights are moved by `step` `[P]`."""
        held = [p.data for p in self.params]
        try:
            for p, piece in zip(self.params, torch.split(step, self.sizes), strict=True):
                p.data = p.data + piece.view(p.shape).to(p)
            return self._evaluated(torch.zeros_like)[0]
        finally:
            for p, data in zip(self.params, held, strict=True):
                p.data = data

    def __call__(self, vector: Tensor) -> Tensor:
        """The matrix times `vector` `[P]`, over all batches."""
        pieces = torch.split(vector * self.roots, self.sizes)
        parts = [v.view(p.shape).to(p) for v, p in zip(pieces, self.params, strict=True)]

        def image(batch: Batch) -> Tensor:
            product = self._product or self._build(batch)
            if len(self.batches) == 1:
                self._product = product  # the weights stay fixed: the graph serves every call
            return self._flat(product(parts))

        return self._summed(image) * self.roots

    def _evaluated(self, of: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
        """The loss over all batches, and the sum of what `of` makes of every batch's."""
        losses = []

        def evaluate(batch: Batch) -> Tensor:
            inputs, targets = to_device(copied(batch), self.device)
            loss = self.loss(self.outputs(inputs), targets)
            losses.append(loss.item())
            return of(loss).detach()

        total = self._summed(evaluate)
        self.losses = losses
        return sum(s * loss for s, loss in zip(self.shares, losses, strict=True)), total

    def _summed(self, of: Callable[[Batch], Tensor]) -> Tensor:
        """Add up what `of` makes of every batch, by their shares."""
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with twice_differentiable():
            for index, (share, batch) in enumerate(zip(self.shares, self.batches, strict=True)):
                with going_through(index, batch):
                    total.add_(of(batch), alpha=share)
        return total

    def outputs(self, inputs: Any) -> Any:
        """What the model makes of inputs; a named tuple is one of them, not several."""
        with torch.autocast(**self.autocast):
            return self.model(inputs) if hasattr(inputs, "_fields") else call(self.model, inputs)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of one batch, a scalar with its graph."""
        with torch.autocast(**self.autocast):
            return scalar_loss(self.loss_fn(outputs, targets))

    def _build(self, batch: Batch) -> Callable[[Pieces], Pieces]:
        inputs, targets = to_device(copied(batch), self.device)
        return curvature_product(
            *(self.kind, self.outputs(inputs), lambda z: self.loss(z, targets), self.params),
            self.operations,
        )

    def _flat(self, pieces: Pieces) -> Tensor:
        return torch.cat(
            [p.detach().to(device=self.device, dtype=self.dtype).flatten() for p in pieces]
        )


def _trainable(aliases: Mapping[str, Tensor]) -> tuple[list[str], list[Tensor]]:
    """List names and tensors of the parameters with a gradient, tied ones once."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in aliases.items():
        if parameter.requires_grad and id(parameter) not in named:
            if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
                raise ConfigError(
                    f"{name} is not initialised yet; apply the model to a batch first."
                )
            if parameter.is_inference():
                raise ConfigError(
                    f"{name} was made in inference mode and has no gradient; make or load the "
                    "model outside of it."
                )
            if not parameter.is_floating_point():
                raise ConfigError(f"{name} must be real and floating; got {parameter.dtype}.")
            named[id(parameter)] = name, parameter
    if not named:
        raise ConfigError(
            "the model has no trainable parameters; expected at least one with requires_grad=True."
        )
    return [name for name, _ in named.values()], [p for _, p in named.values()]


def _ratios(
    aliases: Mapping[str, Tensor], names: list[str], given: Mapping[str, float]
) -> list[float]:
    """Find the ratio of each trainable parameter; a tied one may go by any of its names."""
    by_tensor: dict[int, tuple[str, float]] = {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"lr_ratios must map names of parameters to ratios, e.g. {{{names[0]!r}: 0.1}}; got "
            f"{given!r:.60}."
        )
    for name, ratio in given.items():
        if name not in aliases:
            raise unknown_name("parameter in lr_ratios", str(name), names)
        if not aliases[name].requires_grad:
            raise ConfigError(f"lr_ratios names {name}, which is frozen (requires_grad=False).")
        if not is_ratio(ratio):
            raise ConfigError(
                f"lr_ratios[{name!r}] must be a number, finite and not negative; got {ratio!r}."
            )
        other, present = by_tensor.setdefault(id(aliases[name]), (name, ratio))
        if present != ratio:
            raise ConfigError(
                f"{other} and {name} are one tied parameter, but lr_ratios gives {present} and "
                f"{ratio}. Expected one ratio for both."
            )
    return [by_tensor.get(id(aliases[name]), (name, 1.0))[1] for name in names]
