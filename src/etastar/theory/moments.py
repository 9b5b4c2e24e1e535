"""Bounds on the expected λ1 of the Gauss-Newton matrix that hold at every width and depth.

Proofs: `docs/theory.md`, Propositions 2 to 4. MSE normalised as in `etastar.problem.losses`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from etastar.theory.kernel import expected_gradient_norm, hidden_kernels, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from etastar.problem.networks import MLP


def trace_bound(net: MLP, x: NDArray[np.float64], classes: int) -> float:
    """`E tr G = (C/m) Σ_i E‖∂f_k(x_i)/∂θ‖²`: above E λ1(G) for MSE, exactly E tr G."""
    return classes * float(expected_gradient_norm(net, x).mean())


def block_bound(net: MLP, x: NDArray[np.float64], classes: int) -> float:
    """`(1/m) Σ_i √(E‖K(x_i, x_i)‖_F²)`: above E λ1(G) for MSE, about √C below the trace bound.

    Because λ1 is subadditive over samples, and at most the Frobenius norm of each sample's C × C
    block, whose second moment is exact (`block_second_moment`).
    """
    return float(np.sqrt(block_second_moment(net, x, classes)).mean())


def block_second_moment(net: MLP, x: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
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
        The moments, `[m]`.
    """
    n, depth, half = net.width, net.depth, net.output_variance / 2
    beta, ratios = float(net.biases), net.layer_ratios()
    q = (x**2).sum(1) / x.shape[1]
    norms = [q * x.shape[1]] + [q * n] * depth  # E N_0 ... E N_L
    grams = _chain(half**2 * classes, half**2 * classes**2, n, depth)  # of layers L ... 1
    squares = [s for s, _ in reversed([_step(*g, n) for g in grams])] + [float(classes)]
    masked = _chain(n / 2, n**2 / 4 + n / 4, n, depth)
    overlap = [4 / n**2 * t for _, t in masked]  # ψ_p for p = 1 ... L shared layers
    growth = 1 + 5 / n
    total = np.zeros_like(q)
    for low in range(depth + 1):
        own = norms[low] ** 2 * growth**low + 2 * beta * norms[low] + beta**2
        total += ratios[low] ** 2 * own * squares[low]
        for high in range(low + 1, depth + 1):
            psi = overlap[high - low - 1]
            last = half if high == depth else 1.0  # the step through the output weights
            pair = norms[low] * norms[high] * growth**low * psi
            pair += beta * (norms[low] + norms[high] * psi) + beta**2
            total += 2 * ratios[low] * ratios[high] * pair * squares[high] * last
    return np.asarray(total)


def lower_bound(net: MLP, x: NDArray[np.float64]) -> float:
    """A bound below E λ1(G) for MSE that holds at every width and depth (Proposition 4).

    The constant test vector on the two layers nearest the output, whose kernels are convex in the
    correlation. At depth 1 that is everything, and the bound is the infinite-width value.
    """
    if net.depth == 1:
        return constant_vector(net, x)
    n, first = net.width, x @ x.T / x.shape[1]
    ceiling = n * float(np.sqrt(np.diag(first)).mean()) ** 2
    q, _ = next(hidden_kernels(first, 1))
    overlap = n * float(q.mean())  # (1/m²) Σ_ij E h_1·h_1'
    for layer in range(2, net.depth + 1):
        below = overlap
        floor = ceiling * _norm_ratio(n) ** (2 * (layer - 1))
        overlap = below if below >= floor else floor * _a1(below / floor)
    slope = 1 - math.acos(min(1.0, below / ceiling)) / math.pi if ceiling else 0.0
    return overlap + net.output_variance / 2 * slope * below + float(net.biases)


def constant_vector(net: MLP, x: NDArray[np.float64]) -> float:
    """`(1/m²) Σ_ij K(x_i, x_j)`: what a constant test vector gives at infinite width."""
    return float(kernel(net, x).mean())


def _a1(rho: float) -> float:
    """`(√(1−ρ²) + ρ(π − arccos ρ))/π`."""
    return (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / math.pi


def _norm_ratio(n: int) -> float:
    """`E ‖h_l‖/‖h_{l-1}‖`: `√(2/n) E χ_k` with k active units, binomial(n, ½)."""
    total = 0.0
    for k in range(1, n + 1):
        chi = math.lgamma((k + 1) / 2) - math.lgamma(k / 2)
        count = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(count - n * math.log(2) + chi)
    return 2 / math.sqrt(n) * total


def _step(s: float, t: float, n: int) -> tuple[float, float]:
    """`(E tr B², E (tr B)²)` one hidden layer further down."""
    return (1 + 3 / n) * s + 2 / n * t, (1 + 1 / n) * t + 4 / n * s


def _chain(s: float, t: float, n: int, length: int) -> list[tuple[float, float]]:
    """The first `length` states of `_step`, the start included."""
    states = [(s, t)]
    while len(states) < length:
        states.append(_step(*states[-1], n))
    return states
