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

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence

from etastar.errors import ConfigError, CurvatureError
from etastar.problem.nested import rebuilt

Kind: TypeAlias = Literal["hessian", "gauss-newton"]
KINDS: tuple[Kind, ...] = ("hessian", "gauss-newton")

OWN = "custom"
"""Before the names of operations that are `torch.autograd.Function`s of the user's."""

Pieces: TypeAlias = Sequence[Tensor]
"""A vector in pieces of the shapes of the parameters."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Enable gradients, and only kernels whose backward pass is itself differentiable.

    Fused attention, cuDNN's recurrent networks and compiled code have no double backward.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def curvature_product(
    kind: Kind,
    outputs: Any,
    loss_fn: Callable[[Any], Tensor],
    params: Pieces,
    operations: set[str] | None = None,
) -> Callable[[Pieces], Pieces]:
    """Build the map from a vector to the curvature matrix times it, both in pieces.

    Args:
        kind: `"hessian"` or `"gauss-newton"`.
        outputs: The model's outputs at `params`, with their graph.
        loss_fn: Maps the outputs to the loss, a scalar.
        params: The parameters that the outputs depend on.
        operations: Takes the names of the operations on the way to the gradients.

    Raises:
        ConfigError: The loss is not one number, or the outputs cannot be split from it.
        CurvatureError: The loss cannot be differentiated twice.
    """
    if kind == "hessian":
        gradient = _gradients(scalar_loss(loss_fn(outputs)), params)
        _check_twice_differentiable(gradient, operations)
        return _derivative(gradient, params)
    pairs: list[tuple[Tensor, Tensor]] = []

    def leaf(output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        pairs.append((output, output.detach().requires_grad_()))
        return pairs[-1][1]

    loss = scalar_loss(loss_fn(with_tensors(leaf, outputs)))
    parts, leaves = [z for z, _ in pairs], [leaf for _, leaf in pairs]
    gradient = _gradients(loss, leaves)
    dummies = [torch.zeros_like(part).requires_grad_() for part in parts]
    pulled = _gradients(parts, params, dummies)
    _check_twice_differentiable([*gradient, *pulled], operations)
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


def _check_twice_differentiable(gradients: Pieces, operations: set[str] | None) -> None:
    """Collect the names of the operations on the way to the gradients; all need a derivative.

    `torch.autograd.grad` silently leaves out the nodes that stand for it, as they do not lead to
    its inputs; the product would be wrong.

    Raises:
        CurvatureError: One has none.
    """
    seen: set[Any] = set()
    ahead = [g.grad_fn for g in gradients]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if operations is not None:
            own = isinstance(node, torch.autograd.function.BackwardCFunction)
            operations.add(f"{OWN} {node.name()}" if own else node.name())
        if node.name().endswith(("::Error", "::NotImplemented")):
            raise CurvatureError(
                "an operation of the model or the loss cannot be differentiated twice, which λ1 "
                "needs. Look for a fused kernel, or a custom autograd.Function marked "
                "once_differentiable, and replace it."
            )
        ahead += [following for following, _ in node.next_functions]


def with_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Copy nested outputs or targets, with every tensor changed.

    Raises:
        ConfigError: They hold objects in which tensors may hide.
    """

    def again(part: Any) -> Any:
        return with_tensors(change, part)

    def leaf(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return change(part)
        if part is None or isinstance(part, (int, float, str)):
            return part
        if isinstance(part, PackedSequence):
            return PackedSequence(*map(again, part))
        if isinstance(part, Mapping):
            return type(part)(**{key: again(inner) for key, inner in part.items()})
        raise ConfigError(
            "Gauss-Newton needs the model's outputs as tensors, tuples, lists or mappings of them; "
            f"got {type(part).__name__}. Wrap the model so that it returns the tensor the loss "
            "needs."
        )

    return rebuilt(leaf, value)


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
