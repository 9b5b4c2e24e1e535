"""Curvature-vector products of any `torch.nn.Module`, by reverse mode only.

The Hessian product differentiates the gradient's scalar product with v once more ("double
backward"): forward mode inside reverse mode would fail on modules that have no forward derivative,
and on `mse_loss` with a mean. The Gauss-Newton product `Jᵀ ∇²ℓ J v` needs `J v`; it is the
derivative of `Jᵀ u` in the dummy u, exact where a finite difference would step over ReLU kinks.

Automatic differentiation of a ReLU network gives the Hessian of the piece of the loss on which the
weights lie: the kinks between pieces, where the gradient jumps, do not appear in it. Gauss-Newton
needs no second derivative of the network, so it is well defined there: print it beside the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from etastar.curvature.errors import CurvatureError
from etastar.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

LossFunction: TypeAlias = "Callable[[Any, Any], Tensor]"
Kind: TypeAlias = Literal["hessian", "gauss-newton"]
KINDS: tuple[Kind, ...] = ("hessian", "gauss-newton")


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Gradients on, and only kernels whose backward pass is itself differentiable.

    Fused attention and cuDNN's recurrent networks have no double backward.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers, `.grad`, modes and the random generators, whatever happens."""
    import torch

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
        import torch

        if kind not in KINDS:
            raise unknown_name("kind of curvature", str(kind), KINDS)
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
        ratios = _ratios(model, self.names, lr_ratios or {})
        self._roots = None if all(r == 1 for r in ratios) else [r**0.5 for r in ratios]
        self._graph: _Graph | None = None

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """The loss and its gradient `[P]` (without ratios), over all batches.

        Raises:
            CurvatureError: The loss does not depend on the parameters through autograd.
        """
        import torch

        loss, gradient = 0.0, torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with twice_differentiable():
            for inputs, targets, count in self.batches:
                value, _ = self._evaluate(inputs, targets)
                parts = torch.autograd.grad(
                    value, self.params, allow_unused=True, materialize_grads=True
                )
                loss += value.item() * count / self.samples
                gradient += self._flat(parts) * (count / self.samples)
        return loss, gradient

    def __call__(self, vector: Tensor) -> Tensor:
        """The matrix times `vector` `[P]`, over all batches."""
        import torch

        parts = self._parts(vector)
        total: list[Tensor] | None = None
        with twice_differentiable():
            for inputs, targets, count in self.batches:
                graph = self._graph or self._build(inputs, targets)
                if len(self.batches) == 1:
                    self._graph = graph  # the weights stay fixed: the graph serves every product
                images = graph.product(parts)
                weight = count / self.samples
                if total is None:
                    total = [image * weight for image in images]
                else:
                    torch._foreach_add_(total, list(images), alpha=weight)
        assert total is not None
        if self._roots is not None:
            total = [image * root for image, root in zip(total, self._roots, strict=True)]
        return self._flat(total)

    def _build(self, inputs: Any, targets: Any) -> _Graph:
        if self.kind == "hessian":
            return _HessianGraph(self._evaluate(inputs, targets)[0], self.params)
        with _explained(inputs):
            outputs = _apply(self.model, inputs)
        return _GaussNewtonGraph(outputs, lambda z: self.loss_fn(z, targets), self.params)

    def _evaluate(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        """Loss of one batch, a scalar with its graph, and the outputs."""
        with _explained(inputs):
            outputs = _apply(self.model, inputs)
            loss = self.loss_fn(outputs, targets)
        return _scalar(loss), outputs

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """The pieces of a flat vector, like the parameters, times the roots of the ratios."""
        import torch

        pieces = []
        roots = self._roots or [1.0] * len(self.params)
        for piece, p, root in zip(torch.split(vector, self.sizes), self.params, roots, strict=True):
            scaled = piece if root == 1 else piece * root
            pieces.append(scaled.view(p.shape).to(device=p.device, dtype=p.dtype))
        return pieces

    def _flat(self, pieces: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.cat(
            [p.detach().to(device=self.device, dtype=self.dtype).flatten() for p in pieces]
        )


class _HessianGraph:
    """The graph of a gradient, to be differentiated along any number of vectors."""

    def __init__(self, loss: Tensor, params: list[Tensor]) -> None:
        import torch

        self.params = params
        gradients = torch.autograd.grad(
            loss, params, create_graph=True, allow_unused=True, materialize_grads=True
        )
        _refuse_once_differentiable(gradients)
        # a gradient that does not depend on the weights has no graph, and no second derivative
        self.rows = [i for i, g in enumerate(gradients) if g.requires_grad]
        self.gradients = [gradients[i] for i in self.rows]

    def product(self, vector: list[Tensor]) -> Sequence[Tensor]:
        """Hessian times `vector`, both in pieces like the parameters."""
        return _pullback(self.gradients, self.params, [vector[i] for i in self.rows])


class _GaussNewtonGraph:
    """The graphs of the outputs in the weights and of the loss in the outputs."""

    def __init__(
        self, outputs: Any, loss_fn: Callable[[Any], Tensor], params: list[Tensor]
    ) -> None:
        import torch

        self.params = params
        found: list[Tensor] = []
        copies = _with_leaves(outputs, found)
        leaves = [leaf for _, leaf in _paired(found)]
        self.outputs = [output for output, _ in _paired(found)]
        gradients = torch.autograd.grad(
            _scalar(loss_fn(copies)),
            leaves,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        rows = [i for i, g in enumerate(gradients) if g.requires_grad]
        self.leaves = leaves
        self.rows, self.gradients = rows, [gradients[i] for i in rows]
        self.dummies = [torch.zeros_like(output).requires_grad_() for output in self.outputs]
        pulled = torch.autograd.grad(
            self.outputs,
            params,
            self.dummies,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        _refuse_once_differentiable(pulled)
        self.pulled_rows = [i for i, g in enumerate(pulled) if g.requires_grad]
        self.pulled = [pulled[i] for i in self.pulled_rows]

    def product(self, vector: list[Tensor]) -> Sequence[Tensor]:
        """Gauss-Newton matrix times `vector`, both in pieces like the parameters."""
        pushed = _pullback(self.pulled, self.dummies, [vector[i] for i in self.pulled_rows])
        bent = _pullback(self.gradients, self.leaves, [pushed[i] for i in self.rows])
        return _pullback(self.outputs, self.params, bent)


_Graph: TypeAlias = _HessianGraph | _GaussNewtonGraph


def _pullback(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Vector-Jacobian product; the graph is kept, absent dependence is zero."""
    import torch

    if not outputs:
        return [torch.zeros_like(p) for p in inputs]
    return torch.autograd.grad(
        outputs, inputs, vectors, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _refuse_once_differentiable(gradients: Sequence[Tensor]) -> None:
    """Raise if some operation on the way to the gradients has no second derivative.

    `torch.autograd.grad` leaves the nodes that stand for it out, without a word, as they do not
    lead to its inputs; the product would be wrong.
    """
    seen: set[Any] = set()
    ahead = [g.grad_fn for g in gradients]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith(("::Error", "::NotImplemented")):
            raise CurvatureError(
                "an operation of the model or the loss cannot be differentiated twice, which λ1 "
                "needs. Look for a fused kernel, or a custom autograd.Function marked "
                "once_differentiable, and replace it."
            )
        ahead += [following for following, _ in node.next_functions]


def _with_leaves(value: Any, found: list[Tensor]) -> Any:
    """A copy of nested outputs in which every differentiable tensor is a new leaf.

    The originals and their leaves are appended to `found`, alternating.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if not value.requires_grad:
            return value
        leaf = value.detach().requires_grad_()
        found += [value, leaf]
        return leaf
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_with_leaves(item, found) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_with_leaves(item, found) for item in value)
    if isinstance(value, Mapping):
        return type(value)(**{key: _with_leaves(item, found) for key, item in value.items()})
    raise ConfigError(
        "Gauss-Newton needs the model's outputs as tensors, tuples, lists or mappings of them; got "
        f"{type(value).__name__}. Wrap the model so that it returns the tensor the loss needs."
    )


def _paired(found: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(found[0::2], found[1::2], strict=True))


def _apply(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def _scalar(loss: Any) -> Tensor:
    """The loss as a scalar tensor that depends on the parameters."""
    import torch

    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        got = (
            f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        )
        raise ConfigError(
            f"loss_fn must return one number per batch, as a tensor; got {got}. "
            'Average over the batch, e.g. reduction="mean".'
        )
    if not loss.requires_grad:
        raise CurvatureError(
            "the loss does not depend on any trainable parameter through autograd. Expected "
            "loss_fn(model(inputs), targets) to be differentiable; look for detach, item, argmax "
            "or no_grad on the way."
        )
    return loss.reshape(())


@contextmanager
def _explained(inputs: Any) -> Iterator[None]:
    """Adds to an error of the model or the loss which inputs it met."""
    import torch

    try:
        yield
    except Exception as error:
        tensors = [inputs] if isinstance(inputs, torch.Tensor) else []
        shape = f" of shape {tuple(tensors[0].shape)}" if tensors else ""
        error.add_note(f"etastar: raised while evaluating model and loss on inputs{shape}.")
        raise


def _trainable(model: nn.Module) -> tuple[list[str], list[Tensor]]:
    """Names and tensors of the parameters with a gradient, tied ones once."""
    import torch

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
    """The ratio of each trainable parameter; a tied parameter may go by any of its names."""
    aliases = dict(model.named_parameters(remove_duplicate=False))
    by_tensor: dict[int, tuple[str, float]] = {}
    for name, ratio in given.items():
        if name not in aliases:
            raise unknown_name("parameter in lr_ratios", name, names)
        if not aliases[name].requires_grad:
            raise ConfigError(f"lr_ratios names {name}, which is frozen (requires_grad=False).")
        if not 0 <= ratio < float("inf"):
            raise ConfigError(f"lr_ratios[{name!r}] must be finite and not negative; got {ratio}.")
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
    """All batches with their sample counts."""
    held = []
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
        if count < 1:
            raise ConfigError(f"batch {index} has {count} samples; expected at least one.")
        held.append((inputs, targets, count))
    if not held:
        raise ConfigError("batches is empty; expected at least one pair (inputs, targets).")
    return held


def _first_dimension(inputs: Any, targets: Any) -> int:
    """Sample count of a batch whose tensors all carry the samples first."""
    import torch

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
