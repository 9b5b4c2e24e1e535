"""Check that products are second derivatives of the loss: automatic differentiation can be misled.

Hooks on activations, custom functions, detached parts and operations with a wrong derivative give
products that belong to no loss, or to another one. Three things show it: a Hessian is symmetric;
its gradient is the slope of the loss; and along an eigenvector the loss bends by the eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from etastar.curvature.graphs import OWN
from etastar.curvature.products import LossCurvature
from etastar.errors import CurvatureError

SYMMETRIC = 1e-3
"""Relative difference of uᵀHv and vᵀHu that is rounding, at least: λ1 of layer-normalised networks
is off by up to 700 machine epsilons (`stack_solver.CHECKED`), 8e-5 in float32."""
OF_PRECISION = 30.0
"""The same in machine epsilons of the weights, where they are half precise."""
STEPS = (1.0, 3.0, 9.0)
"""Multiples of the smallest step at which differences of the loss are taken."""
CERTAIN = 100.0
"""Ratio of a difference of the loss to its rounding, `8 · machine epsilon · loss`, that the
smallest step should give."""
SETTLED = 0.2
"""Relative uncertainty up to which such differences show a derivative: four times what two of them
differ by, and their rounding."""
AGREES = 0.005
"""Relative difference of a derivative to what they show."""
AT_KINKS = 0.5
"""The same where the loss has kinks, which bend it too, but have no second derivative."""
NEAR = 0.01
"""Largest step along the gradient, in lengths of the weights."""
FAR = 0.1
"""Step of each weight that no gradient reaches."""
KINKED = (
    *("Relu", "LeakyRelu", "Threshold", "Hard", "Prelu", "Rrelu", "Abs", "Clamp", "Sgn", "Sign"),
    *("Max", "Min", "Amax", "Amin", "AdaptiveMax", "FractionalMax", "Where", "Sort"),
    *("Topk", "Kthvalue", "Median", "Index", "Gather", "Cummax", "Cummin", "L1"),
    *("MaskedFill", "Round", "torch::jit"),
)
"""Beginnings of the names of operations that have kinks, or may stand for such."""


def check_symmetric(operator: LossCurvature, seed: int) -> int:
    """Raise if the matrix is not symmetric.

    Returns:
        The products that this took.

    Raises:
        CurvatureError: It is not.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, operator.size, generator=generator).to(operator.device, operator.dtype)
    images = torch.stack([operator(vector) for vector in vectors]).double()
    found = vectors.double() @ images.T
    gap = float((found - found.T).abs().max())
    size = float(images.norm(dim=1).max())  # about the Frobenius norm, as is the size of uᵀHv
    if gap > max(SYMMETRIC, OF_PRECISION * operator.epsilon) * size:
        raise CurvatureError(
            f"the products are no second derivative of a loss: uᵀHv and vᵀHu differ by {gap:.3g} "
            f"for random u and v, where they are of the size of {size:.3g}. {_suspects(operator)}"
        )
    return len(vectors)


def check_slope(operator: LossCurvature, loss: float, gradient: Tensor) -> list[str]:
    """Raise if the loss does not rise along its gradient as that says, or elsewhere too.

    Returns:
        A note, where its slope cannot be told although it is not flat.

    Raises:
        CurvatureError: It does not, or depends on parameters that no gradient reaches.
    """
    rounding = _rounding(operator, loss)
    length = 1 + math.sqrt(sum(float(p.detach().double().square().sum()) for p in operator.params))
    if operator.unreached:
        step = [
            torch.full_like(p, FAR * (name in operator.unreached)).flatten()
            for name, p in zip(operator.names, operator.params, strict=True)
        ]
        moved = operator.loss_beside(torch.cat(step).to(gradient)) - loss
        if abs(moved) > rounding:
            raise CurvatureError(
                f"no gradient reaches {', '.join(list(operator.unreached)[:3])}, though the loss "
                "depends on it: freeze it with requires_grad_(False) if it is not to train, or "
                "look for no_grad, detach or checkpoint(..., use_reentrant=True) in the model."
            )
    norm = float(gradient.norm())
    smallest = CERTAIN * rounding / norm if norm else math.inf
    if smallest * STEPS[-1] > NEAR * length:
        return []  # the loss is too flat here for its slope to be seen

    def rise(step: float) -> float:
        ahead, behind = _beside(operator, gradient * (step / norm))
        return (ahead - behind) / (2 * step)

    found = _settled(rise, norm, smallest, rounding, 1, AGREES)
    if found is None:
        return []
    if math.isnan(found):
        return [
            "the gradient could not be checked: along it the loss does not rise alike at steps of "
            "several sizes, as if it had jumps. Look for round, argmax or a straight-through "
            "estimator in the model or the loss."
        ]
    raise CurvatureError(
        f"the gradient is not the slope of the loss: along it the loss rises by {found:.4g} "
        f"per unit, where its norm is {norm:.4g}. {_suspects(operator)}"
    )


def bend_note(operator: LossCurvature, loss: float, vector: Tensor, value: float) -> list[str]:
    """Say so if the loss does not bend along an eigenvector `[P]` by its eigenvalue."""

    def bend(step: float) -> float:
        ahead, behind = _beside(operator, vector * operator.roots * step)
        return (ahead - 2 * loss + behind) / step**2

    rounding = _rounding(operator, loss)
    kinked = any(name.startswith(KINKED) for name in operator.operations)
    size = max(abs(value), 1e-3 * abs(loss))
    step = math.sqrt(CERTAIN * rounding / size) if size else 1.0
    found = _settled(bend, value, step, rounding, 2, AT_KINKS if kinked else AGREES)
    if found is None or math.isnan(found):  # as kinks may leave it
        return []
    kinks = "kinks, which a Hessian does not see, or " if kinked else ""
    return [
        f"along the eigenvector the loss bends by {found:.4g}, not by λ1 = {value:.4g}: "
        f"{kinks}an operation whose second derivative is wrong. {_suspects(operator)}"
    ]


def _rounding(operator: LossCurvature, loss: float) -> float:
    """Bound the rounding of a difference of losses; where types are cast, that of bfloat16."""
    cast = torch.finfo(torch.bfloat16).eps if "ToCopyBackward0" in operator.operations else 0.0
    return 8 * max(operator.epsilon, cast) * abs(loss)


def _beside(operator: LossCurvature, step: Tensor) -> tuple[float, float]:
    return operator.loss_beside(step), operator.loss_beside(-step)


def _settled(
    difference: Callable[[float], float],
    expected: float,
    step: float,
    rounding: float,
    order: int,
    allowed: float,
) -> float | None:
    """Return what differences of the loss show, if that is not what is expected; NaN if nothing.

    They show nothing where they are rounding, or where the loss has no such derivative.

    Args:
        difference: Maps a step to a quotient of differences.
        expected: The derivative.
        step: The smallest step.
        rounding: Of a difference.
        order: Of the derivative: a quotient is rounded by `rounding / step**order`.
        allowed: Relative difference.
    """
    found = [(step * multiple, difference(step * multiple)) for multiple in STEPS]
    unsure, value = min(
        (4 * (abs(two - one) + rounding / size**order), two)
        for (_, one), (size, two) in pairwise(found)
    )
    largest = max(abs(value), abs(expected))
    if unsure > SETTLED * largest:
        return math.nan
    return value if abs(value - expected) > max(allowed * largest, unsure) else None


def _suspects(operator: LossCurvature) -> str:
    """Name what may be to blame, as far as the graph shows it."""
    own = sorted(
        name.removeprefix(OWN).strip() for name in operator.operations if name.startswith(OWN)
    )
    norm = ["weight_norm"] if any("WeightNorm" in name for name in operator.operations) else []
    named = f" ({', '.join([*norm, *own])})" if norm or own else ""
    return (
        f"Look for an operation with a wrong derivative{named}, a gradient hook on an activation, "
        "or detach() and no_grad() in the model or the loss, and write it in plain operations."
    )
