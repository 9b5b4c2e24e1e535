"""Bounds from below on E λ1(G) that hold at every width and depth, for both losses.

Proofs: `docs/theory.md`, §4 and §5. No network is drawn; everything is float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from etastar.theory.dense import Array, largest
from etastar.theory.kernel import expected_gradient_norm, hidden_kernels
from etastar.theory.moments import overlaps

if TYPE_CHECKING:
    from etastar.problem.networks import MLP


POWER_STEPS = 50
"""Products of a test vector with the matrix: the bound holds for the vector of any step."""


def layers_bound(net: MLP, x: Array) -> float:
    """`uᵀMu/m` below E λ1(G) for MSE, with every layer and every pair of samples (Theorem C).

    M bounds the expected kernel of one output from below against any vector u without negative
    entries. At depth 1 it is that kernel, any u will do, and the bound is λ1(M)/m.
    """
    matrix = kernel_below(net, x)
    return largest(matrix) / len(x) if net.depth == 1 else _against(matrix)


def kernel_below(net: MLP, x: Array) -> Array:
    """The matrix M of `layers_bound`, `[m, m]`.

    Output layer: `ω_L`. Layer l from 2 to L: `(v/2) 2^(l−L) ω_{l−1} a0(ω_{l−1}/A)`. Layer 1:
    `(v/2) 2^(1−L) κ x·x' a0(ρ)`. Off the diagonal that is all, and the output's bias; on it stands
    T(x), without what layer 1 adds to it unless all x·x' ≥ 0.
    """
    n, depth, half, kappa = net.width, net.depth, net.output_variance / 2, net.input_lr_ratio
    first = x @ x.T
    norms = np.sqrt(np.diag(first))
    squares = np.outer(norms, norms)
    ceiling = n * squares / x.shape[1]
    overlap = signals_below(net, x)
    input_layer = half * kappa * 2.0 ** (1 - depth) * first * _slope(first, squares)
    matrix = overlap[-1] + float(net.biases) + input_layer
    for layer in range(2, depth + 1):
        below = overlap[layer - 2]
        matrix += half * 2.0 ** (layer - depth) * below * _slope(below, ceiling)
    if net.biases and depth == 1:
        matrix += half * kappa * _slope(first, squares) * (squares > 0)
    diagonal = expected_gradient_norm(net, x)
    if depth > 1 and first.min() < 0:
        diagonal -= half * kappa * (norms**2 * (1 - 2.0 ** (1 - depth)) + net.biases * (norms > 0))
    np.fill_diagonal(matrix, diagonal)
    return matrix


def signals_below(net: MLP, x: Array) -> list[Array]:
    """`ω_1 ... ω_L`, each `[m, m]`: below `E h_l(x)·h_l(x')`, exact for l = 1 and for x = x'.

    `ω_l = A_l a1(min(1, ω_{l−1}/A_l))` with `A_l` below `E ‖h_{l−1}(x)‖‖h_{l−1}(x')‖` (Lemma 3).
    """
    n, first = net.width, x @ x.T / x.shape[1]
    q, _ = next(hidden_kernels(first, 1))
    scale = np.sqrt(np.outer(np.diag(first), np.diag(first)))
    rho = np.divide(first, scale, out=np.zeros_like(first), where=scale > 0)
    square = norm_ratio(n) ** 2
    floor = n * scale * np.clip(square + np.minimum(rho, 0) * (1 - square), 0, None)
    signals = [n * q]
    for _ in range(1, net.depth):
        floor = np.maximum(floor, signals[-1])
        cosine = np.divide(signals[-1], floor, out=np.ones_like(floor), where=floor > 0).clip(0, 1)
        signals.append(floor * (np.sqrt(1 - cosine**2) / math.pi + cosine * _slope(cosine, 1.0)))
        floor = floor * square
    return signals


def softmax_sample_bound(net: MLP, x: Array, classes: int) -> float:
    """Below E λ1(G) for cross-entropy: all layers on the one best sample (Theorem E).

    `max_i {nq e^(−vqγ_L) + β e^(−vq) + (v/2) Σ_l κ_l N_{l−1} (1−η_l) exp(−vq γ_{l−1} ψ_{L+1−l} /
    (1−η_l))} / (mC)`, `γ_l = (1 + 5/n)^l`, `η_l = (1 + 2/n)^(L+1−l) − 1`; terms with η ≥ 1 are left
    out.
    """
    n, depth, v = net.width, net.depth, net.output_variance
    q = (x**2).sum(1) / x.shape[1]
    logits = v * q
    total = n * q * np.exp(-logits * _power(1 + 5 / n, depth)) + net.biases * np.exp(-logits)
    for layer, psi in zip(range(depth, 0, -1), overlaps(n, depth), strict=True):
        left = 2 - _power(1 + 2 / n, depth + 1 - layer)
        if left > 0:
            fan_in = n if layer > 1 else x.shape[1]
            decay = np.exp(-logits * _power(1 + 5 / n, layer - 1) * psi / left)
            total += v / 2 * net.layer_ratios()[layer - 1] * fan_in * q * left * decay
    return float(total.max()) / (len(x) * classes)


def softmax_output_bound(net: MLP, x: Array, classes: int) -> float:
    """Below E λ1(G) for cross-entropy: the output layer on all samples at once (Theorem F).

    `uᵀMu/m` with `C·M_ij = ω_L exp(−(v/2) nγ_L √(q_i q_j)(q_i + q_j)/ω_L) + β e^(−v(q_i + q_j)/2)`.
    """
    n, v = net.width, net.output_variance
    q = (x**2).sum(1) / x.shape[1]
    sums, roots = q[:, None] + q, np.sqrt(np.outer(q, q))
    overlap = signals_below(net, x)[-1]
    moment = v / 2 * n * _power(1 + 5 / n, net.depth) * roots * sums
    decay = np.divide(moment, overlap, out=np.full_like(overlap, np.inf), where=overlap > 0)
    matrix = overlap * np.exp(-decay) + net.biases * np.exp(-v / 2 * sums)
    return _against(matrix) / classes


def norm_ratio(n: int) -> float:
    """`E ‖h_l‖/‖h_{l-1}‖`: `√(2/n) E χ_k` with k active units, binomial(n, ½)."""
    total = 0.0
    for k in range(1, n + 1):
        chi = math.lgamma((k + 1) / 2) - math.lgamma(k / 2)
        count = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(count - n * math.log(2) + chi)
    return 2 / math.sqrt(n) * total


def _against(matrix: Array) -> float:
    """`uᵀMu/m` for the u ≥ 0 that power iteration leads to, or the best single sample."""
    m = len(matrix)
    u = np.full(m, m**-0.5)
    for _ in range(POWER_STEPS):
        image = np.abs(matrix @ u)
        size = float(np.linalg.norm(image))
        if size == 0:
            break
        u = image / size
    return max(float(u @ matrix @ u), float(np.diag(matrix).max())) / m


def _slope(products: Array, scale: Array | float) -> Array:
    """`a0` of the products over their scale, at most 1; ½ where the scale is zero."""
    scales = np.broadcast_to(scale, products.shape)
    rho = np.divide(products, scales, out=np.zeros_like(products), where=scales > 0)
    return np.asarray(1 - np.arccos(rho.clip(-1, 1)) / math.pi)


def _power(base: float, exponent: int) -> float:
    """The power, or infinity where it overflows."""
    return math.exp(min(exponent * math.log(base), 700.0))
