"""Bounds from above on E λ1(G) that hold at every width and depth.

Proofs: `docs/theory.md`, §3. MSE normalised as in `etastar.problem.losses`.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np

from etastar.problem.networks import MLP
from etastar.theory.dense import Array
from etastar.theory.kernel import expected_gradient_norm


def trace_bound(net: MLP, x: Array, classes: int) -> float:
    """`E tr G = (C/m) Σ_i E‖∂f_k(x_i)/∂θ‖²`: above E λ1(G) for MSE, exactly E tr G."""
    return classes * float(expected_gradient_norm(net, x).mean())


def block_bound(net: MLP, x: Array, classes: int) -> float:
    """`(1/m) Σ_i √(E‖K(x_i, x_i)‖_F²)`: above E λ1(G) for MSE, about √C below the trace bound.

    Because λ1 is subadditive over samples, and at most the Frobenius norm of each sample's C × C
    block, whose second moment is exact (`block_second_moment`). Not finite where that overflows.
    """
    return float(np.sqrt(block_second_moment(net, x, classes)).mean())


@np.errstate(over="ignore", invalid="ignore")
def block_second_moment(net: MLP, x: Array, classes: int) -> Array:
    """`E‖K(x, x)‖_F²` of the C × C tangent kernel of one input, at finite width, `[m]`.

    Exact without biases; with biases an upper bound that is exact but for the chance, at most
    L·2⁻ⁿ, that a hidden layer is zero on x (Proposition 3). With `s_l = E tr B_l²`, `B_l` the
    Gram matrix of the outputs' gradients in layer l, and
    `(s, t) → ((1+3/n)s + (2/n)t, (1+1/n)t + (4/n)s)` the step to the layer below:
    `E‖K‖_F² = Σ_{l,j} κ_l κ_j E[(N_{l-1}+β)(N_{j-1}+β) tr B_l B_j]`.

    Args:
        net: A plain MLP.
        x: `[m, d]`.
        classes: C.

    Returns:
        The moments, `[m]`; not finite where they overflow.
    """
    n, depth, half = net.width, net.depth, net.output_variance / 2
    beta, ratios, growth = float(net.biases), net.layer_ratios(), 1 + 5 / n
    q = (x**2).sum(1) / x.shape[1]
    grams = _chain(half**2 * classes, half**2 * classes**2, n, depth)  # of layers L ... 1
    squares = [s for s, _ in reversed([_step(*g, n) for g in grams])] + [float(classes)]
    total = np.zeros(3)  # coefficients of q², q and 1
    below = np.zeros((2, 2))  # layers below: of their signals and biases, weighted (σ_p, τ_p)
    sums = np.zeros(2)  # the same without the layers between
    for layer, (ratio, square) in enumerate(zip(ratios, squares, strict=True)):
        size = n if layer else x.shape[1]
        signal, bias = 4 / n**2 * below[:, 1]
        pairs = np.array([size * signal, beta * sums[0] + size * bias, beta * sums[1]])
        own = np.array([size**2 * power(growth, layer), 2 * beta * size, beta])
        last = half if layer == depth else 1.0  # the step through the output weights
        total += ratio * square * (ratio * own + 2 * last * pairs)
        step = np.stack(_step(below[:, 0], below[:, 1], n), axis=1)
        below = step + ratio * np.outer([size * power(growth, layer), beta], _first(n))
        sums += ratio * np.array([size, beta])
    return np.asarray(total[0] * q**2 + total[1] * q + total[2])


def softmax_trace_bound(net: MLP, x: Array, classes: int) -> float:
    """Above `E tr G`, hence above E λ1(G), for cross-entropy (Proposition 4).

    `(1/m) Σ_i {(1−1/C)(nq+β) + (v/2) Σ_{l≤L} κ_l (N_{l−1}+β) [1 − 1/C + (C/2) η_l]}` with
    `η_l = (1 + 2/n)^(L+1−l) − 1`: tr S is below 1 − 1/C, and the logits share the output weights
    with the gradients in a part η of them only.
    """
    n, depth, half = net.width, net.depth, net.output_variance / 2
    q, rest = float((x**2).mean()), 1 - 1 / classes
    total = rest * (n * q + net.biases)
    for layer, ratio in enumerate(net.layer_ratios()[:depth], start=1):
        fan_in = n if layer > 1 else x.shape[1]
        shared = classes / 2 * (power(1 + 2 / n, depth + 1 - layer) - 1)
        total += half * ratio * (fan_in * q + net.biases) * (rest + shared)
    return total


def overlaps(n: int, depth: int) -> list[float]:
    """`ψ_p = (4/n²) E (tr PᵀP)²`, p = 1 ... L, P a product of p masks and the matrices between."""
    return [4 / n**2 * t for _, t in _chain(*_first(n), n, depth)]


def power(base: float, exponent: int) -> float:
    """The power, or infinity where it overflows."""
    return math.exp(exponent * math.log(base)) if exponent * math.log(base) < 700 else math.inf


def _first(n: int) -> tuple[float, float]:
    """`(σ_1, τ_1)`, of one mask."""
    return n / 2, n**2 / 4 + n / 4


def _step(s: Any, t: Any, n: int) -> tuple[Any, Any]:
    """`(E tr B², E (tr B)²)` one hidden layer further down."""
    return (1 + 3 / n) * s + 2 / n * t, (1 + 1 / n) * t + 4 / n * s


def _chain(s: float, t: float, n: int, length: int) -> list[tuple[float, float]]:
    """The first `length` states of `_step`, the start included."""
    return list(accumulate(range(length - 1), lambda at, _: _step(at[0], at[1], n), initial=(s, t)))
