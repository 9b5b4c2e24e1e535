"""Products of curvature matrices with vectors by automatic differentiation, of any model.

The graph of a gradient is built once, and differentiated along any number of vectors.

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
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from etastar.errors import ConfigError, CurvatureError

Kind: TypeAlias = Literal["hessian", "gauss-newton"]
KINDS: tuple[Kind, ...] = ("hessian", "gauss-newton")

Pieces: TypeAlias = Sequence[Tensor]
"""A vector in pieces of the shapes of the parameters."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Enable gradients, and only kernels whose backward pass is itself differentiable.

    Fused attention and cuDNN's recurrent networks have no double backward.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def curvature_product(
    kind: Kind, outputs: Any, loss_fn: Callable[[Any], Tensor], params: Pieces
) -> Callable[[Pieces], Pieces]:
    """Build the map from a vector to the curvature matrix times it, both in pieces.

    Args:
        kind: `"hessian"` or `"gauss-newton"`.
        outputs: The model's outputs at `params`, with their graph.
        loss_fn: Maps the outputs to the loss, a scalar.
        params: The parameters that the outputs depend on.

    Raises:
        ConfigError: The loss is not one number, or the outputs cannot be split from it.
        CurvatureError: The loss cannot be differentiated twice.
    """
    if kind == "hessian":
        gradient = _gradients(scalar_loss(loss_fn(outputs)), params)
        _check_twice_differentiable(gradient)
        return _derivative(gradient, params)
    pairs: list[tuple[Tensor, Tensor]] = []
    loss = scalar_loss(loss_fn(_with_leaves(outputs, pairs)))
    parts, leaves = [z for z, _ in pairs], [leaf for _, leaf in pairs]
    gradient = _gradients(loss, leaves)
    dummies = [torch.zeros_like(part).requires_grad_() for part in parts]
    pulled = _gradients(parts, params, dummies)
    _check_twice_differentiable([*gradient, *pulled])
    push, bend = _derivative(pulled, dummies), _derivative(gradient, leaves)
    pull = _derivative(parts, params)
    return lambda vector: pull(bend(push(vector)))


def _gradients(outputs: Any, inputs: Pieces, vectors: Any = None) -> Pieces:
    """Compute gradients with their graph; they are zero where there is no dependence."""
    return torch.autograd.grad(
        outputs, inputs, vectors, create_graph=True, allow_unused=True, materialize_grads=True
    )


def _derivative(outputs: Pieces, inputs: Pieces) -> Callable[[Pieces], Pieces]:
    """Build the map from a vector like the outputs to its product with their Jacobian.

    Outputs without a graph, such as a gradient that does not depend on the weights, add nothing.
    """
    rows = [row for row, output in enumerate(outputs) if output.requires_grad]
    if not rows:
        return lambda vector: [torch.zeros_like(p) for p in inputs]
    return lambda vector: torch.autograd.grad(
        *([outputs[row] for row in rows], inputs, [vector[row] for row in rows]),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


def _check_twice_differentiable(gradients: Pieces) -> None:
    """Raise if some operation on the way to the gradients has no second derivative.

    `torch.autograd.grad` silently leaves out the nodes that stand for it, as they do not lead to
    its inputs; the product would be wrong.
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
    """Copy nested outputs; every differentiable tensor becomes a new leaf.

    The originals and their leaves are appended to `pairs`.
    """
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
    """Return the loss as a scalar tensor; raise if it is none that depends on the parameters.

    Raises:
        ConfigError: It is not one number.
        CurvatureError: It does not depend on them.
    """
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
