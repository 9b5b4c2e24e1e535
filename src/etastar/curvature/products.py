"""Curvature-vector products of any `torch.nn.Module`, over batches of any sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etastar.checking import check_choice, check_whole, is_ratio
from etastar.curvature.graphs import (
    KINDS,
    Kind,
    Pieces,
    curvature_product,
    scalar_loss,
    twice_differentiable,
)
from etastar.errors import ConfigError, EtaStarError, unknown_name

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers, `.grad`, modes and the random generators, whatever happens."""
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, copy in buffers:
                module._buffers[name] = buffer
                if buffer is not None and copy is not None:
                    buffer.copy_(copy)
        for parameter, gradient, requires_grad in gradients:
            parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training


class LossCurvature:
    """The curvature matrix of a model's loss over batches, as a product with flat vectors.

    The loss is `Σ_b n_b · loss_fn(model(x_b), y_b) / Σ_b n_b`: batches count by their samples, so a
    ragged last batch is right. `loss_fn` is expected to average over its batch.

    With ratios, the matrix is `D^½ H D^½`, D holding every parameter's learning-rate ratio.

    Args:
        model: In the mode in which it is to be measured.
        loss_fn: Maps `(model(inputs), targets)` to a scalar.
        batches: Pairs `(inputs, targets)`; read once and held. Inputs may be a tensor, or a tuple
            or mapping of arguments.
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
        batch_size: Callable[[Any, Any], int] | None = None,
    ) -> None:
        check_choice("kind of curvature", kind, KINDS)
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
        if not callable(loss_fn):
            raise ConfigError(
                "loss_fn must be a function of (model(inputs), targets), such as "
                f"torch.nn.functional.cross_entropy; got {loss_fn!r:.60}."
            )
        self.model, self.loss_fn, self.kind = model, loss_fn, kind
        self.names, self.params = _trainable(model)
        self.sizes = [p.numel() for p in self.params]
        self.size = sum(self.sizes)
        self.device = self.params[0].device
        self.dtype = torch.float32
        for parameter in self.params:
            self.dtype = torch.promote_types(self.dtype, parameter.dtype)
        self.batches = _read(batches, batch_size or _first_dimension)
        self.samples = sum(count for _, _, count in self.batches)
        ratios = _ratios(model, self.names, {} if lr_ratios is None else lr_ratios)
        roots = torch.tensor([r**0.5 for r in ratios], dtype=torch.float64)
        roots = roots.repeat_interleave(torch.tensor(self.sizes))
        self._roots = roots.to(device=self.device, dtype=self.dtype)  # of each entry, `[P]`
        self._product: Callable[[Pieces], Pieces] | None = None

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """The loss and its gradient `[P]` (without ratios), over all batches.

        Raises:
            CurvatureError: The loss does not depend on the parameters through autograd.
        """
        loss, gradient = 0.0, torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with twice_differentiable():
            for inputs, targets, count in self.batches:
                value = self._evaluate(inputs, targets)
                parts = torch.autograd.grad(
                    value, self.params, allow_unused=True, materialize_grads=True
                )
                loss += value.item() * count / self.samples
                gradient.add_(self._flat(parts), alpha=count / self.samples)
        return loss, gradient

    def __call__(self, vector: Tensor) -> Tensor:
        """The matrix times `vector` `[P]`, over all batches."""
        pieces = torch.split(vector * self._roots, self.sizes)
        parts = [v.view(p.shape).to(p) for v, p in zip(pieces, self.params, strict=True)]
        total = torch.zeros_like(vector)
        with twice_differentiable():
            for inputs, targets, count in self.batches:
                product = self._product or self._build(inputs, targets)
                if len(self.batches) == 1:
                    self._product = product  # the weights stay fixed: the graph serves every call
                total.add_(self._flat(product(parts)), alpha=count / self.samples)
        return total * self._roots

    def _build(self, inputs: Any, targets: Any) -> Callable[[Pieces], Pieces]:
        with _explained(inputs):
            outputs = _apply(self.model, inputs)
            return curvature_product(
                self.kind, outputs, lambda z: self.loss_fn(z, targets), self.params
            )

    def _evaluate(self, inputs: Any, targets: Any) -> Tensor:
        """Loss of one batch, a scalar with its graph."""
        with _explained(inputs):
            return scalar_loss(self.loss_fn(_apply(self.model, inputs), targets))

    def _flat(self, pieces: Pieces) -> Tensor:
        return torch.cat(
            [p.detach().to(device=self.device, dtype=self.dtype).flatten() for p in pieces]
        )


def _apply(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


@contextmanager
def _explained(inputs: Any) -> Iterator[None]:
    """Add to an error of the model or the loss which inputs it met."""
    try:
        yield
    except EtaStarError:
        raise
    except Exception as error:
        shape = f" of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else ""
        error.add_note(f"etastar: raised while evaluating model and loss on inputs{shape}.")
        raise


def _trainable(model: nn.Module) -> tuple[list[str], list[Tensor]]:
    """List names and tensors of the parameters with a gradient, tied ones once."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise ConfigError(
            "the model has no trainable parameters; expected at least one with requires_grad=True."
        )
    for name, parameter in named:
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise ConfigError(f"{name} is not initialised yet; apply the model to a batch first.")
        if not parameter.is_floating_point():
            raise ConfigError(f"{name} must be real and floating; got {parameter.dtype}.")
    return [name for name, _ in named], [p for _, p in named]


def _ratios(model: nn.Module, names: list[str], given: Mapping[str, float]) -> list[float]:
    """Find the ratio of each trainable parameter; a tied one may go by any of its names."""
    aliases = dict(model.named_parameters(remove_duplicate=False))
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


def _read(
    batches: Iterable[Any], batch_size: Callable[[Any, Any], int]
) -> list[tuple[Any, Any, int]]:
    """Read all batches with their sample counts."""
    held = []
    if not isinstance(batches, Iterable):
        raise ConfigError(
            "batches must hold pairs (inputs, targets), as a DataLoader does; got "
            f"{type(batches).__name__}. A single batch goes into a list: [(inputs, targets)]."
        )
    for index, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ConfigError(
                f"batch {index} must be a pair (inputs, targets); got {type(batch).__name__}. "
                "Several inputs go into one tuple or mapping."
            )
        inputs, targets = batch
        try:
            count = batch_size(inputs, targets)
        except ConfigError as error:
            raise ConfigError(f"batch {index}: {error}") from None
        check_whole(f"the number of samples of batch {index}", count)
        held.append((inputs, targets, count))
    if not held:
        raise ConfigError("batches is empty; expected at least one pair (inputs, targets).")
    return held


def _first_dimension(inputs: Any, targets: Any) -> int:
    """Count the samples of a batch; they are the first dimension of all its tensors."""
    arguments = inputs.values() if isinstance(inputs, Mapping) else inputs
    tensors = [inputs] if isinstance(inputs, torch.Tensor) else list(arguments)
    tensors = [t for t in (targets, *tensors) if isinstance(t, torch.Tensor) and t.ndim]
    counts = [len(t) for t in tensors]
    if not counts:
        raise ConfigError("the number of samples is not to be seen; pass batch_size.")
    if len(set(counts)) > 1:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ConfigError(
            "inputs and targets differ in their first dimension, where the samples are expected; "
            f"got {shapes} (targets first). If they lie elsewhere, pass batch_size=lambda inputs, "
            "targets: ..."
        )
    return counts[0]
