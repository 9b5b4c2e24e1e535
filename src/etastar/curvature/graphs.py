"""Graphs of a gradient, to be differentiated along any number of vectors.

Reverse mode only. The Hessian product differentiates the gradient's scalar product with v once more
("double backward"): forward mode inside reverse mode would fail on modules that have no forward
derivative, and on `mse_loss` with a mean. The Gauss-Newton product `Jᵀ ∇²ℓ J v` needs `J v`; it is
the derivative of `Jᵀ u` in the dummy u, exact where a finite difference would step over ReLU kinks.

Automatic differentiation of a ReLU network gives the Hessian of the piece of the loss on which the
weights lie: the kinks between pieces, where the gradient jumps, do not appear in it. Gauss-Newton
needs no second derivative of the network, so it is well defined there: print it beside the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from etastar.errors import ConfigError, CurvatureError

if TYPE_CHECKING:
    from torch import Tensor

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


class HessianGraph:
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


class GaussNewtonGraph:
    """The graphs of the outputs in the weights and of the loss in the outputs."""

    def __init__(
        self, outputs: Any, loss_fn: Callable[[Any], Tensor], params: list[Tensor]
    ) -> None:
        import torch

        self.params = params
        pairs: list[tuple[Tensor, Tensor]] = []
        loss = scalar_loss(loss_fn(_with_leaves(outputs, pairs)))
        self.outputs, self.leaves = [z for z, _ in pairs], [leaf for _, leaf in pairs]
        gradients = torch.autograd.grad(
            loss, self.leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self.dummies = [torch.zeros_like(output).requires_grad_() for output in self.outputs]
        pulled = torch.autograd.grad(
            self.outputs,
            params,
            self.dummies,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        _refuse_once_differentiable([*gradients, *pulled])
        self.rows = [i for i, g in enumerate(gradients) if g.requires_grad]
        self.gradients = [gradients[i] for i in self.rows]
        self.pulled_rows = [i for i, g in enumerate(pulled) if g.requires_grad]
        self.pulled = [pulled[i] for i in self.pulled_rows]

    def product(self, vector: list[Tensor]) -> Sequence[Tensor]:
        """Gauss-Newton matrix times `vector`, both in pieces like the parameters."""
        pushed = _pullback(self.pulled, self.dummies, [vector[i] for i in self.pulled_rows])
        bent = _pullback(self.gradients, self.leaves, [pushed[i] for i in self.rows])
        return _pullback(self.outputs, self.params, bent)


Graph: TypeAlias = HessianGraph | GaussNewtonGraph


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


def _with_leaves(value: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """A copy of nested outputs in which every differentiable tensor is a new leaf.

    The originals and their leaves are appended to `pairs`.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if not value.requires_grad:
            return value
        leaf = value.detach().requires_grad_()
        pairs.append((value, leaf))
        return leaf
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_with_leaves(item, pairs) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_with_leaves(item, pairs) for item in value)
    if isinstance(value, Mapping):
        return type(value)(**{key: _with_leaves(item, pairs) for key, item in value.items()})
    raise ConfigError(
        "Gauss-Newton needs the model's outputs as tensors, tuples, lists or mappings of them; got "
        f"{type(value).__name__}. Wrap the model so that it returns the tensor the loss needs."
    )


def scalar_loss(loss: Any) -> Tensor:
    """The loss as a scalar tensor that depends on the parameters.

    Raises:
        ConfigError: It is not one number.
        CurvatureError: It does not depend on them.
    """
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
