"""Bounds from below on E λ1(G) that hold at every width and depth, for both losses.

Proofs: `docs/theory.md`, §4 and §5. No network is drawn; everything is float64.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln

from etastar.problem.networks import MLP
from etastar.theory.dense import Array, largest
from etastar.theory.kernel import expected_gradient_norm, hidden_kernels
from etastar.theory.moments import overlaps, power

POWER_STEPS = 50
"""Products of a test vector with the matrix: the bound holds for the vector of any step."""
LAYERS = 128
"""Hidden layers whose signals are followed, and last ones that are kept off the diagonal: what a
deeper network adds is not counted, which leaves the bounds below."""
ANGLES = 256
"""Points between equal and orthogonal at which `k_p'` is bounded; closer where nearly equal."""


def layers_bound(net: MLP, x: Array) -> float:
    """`uᵀMu/m` below E λ1(G) for MSE, with every layer and every pair of samples (Theorem C).

    M bounds the expected kernel of one output from below against any vector u without negative
    entries. At depth 1 it is that kernel, any u will do, and the bound is λ1(M)/m.
    """
    matrix = kernel_below(net, x)
    return largest(matrix) / len(x) if net.depth == 1 else _against(matrix)


def kernel_below(net: MLP, x: Array) -> Array:
    """The matrix M of `layers_bound`, `[m, m]`.

    Output layer: `ω_L + β`. Layer l from 2 to L: `(v/2) ω_{l−1} k'_{L−l+1}(ω_{l−1}/A)`, with what
    is below k'. Layer 1: `(v/2) κ (x·x' + β) k'_L(ρ)`, or `(v/2) κ x·x' 2^(1−L) a0(ρ)` if some
    x·x' < 0 and L > 1. That is all off the diagonal; on it stands T(x), then without the rest of
    layer 1.
    """
    n, depth, half, kappa = net.width, net.depth, net.output_variance / 2, net.input_lr_ratio
    first = x @ x.T
    norms = np.diag(first)
    squares = np.sqrt(np.outer(norms, norms))
    overlap, table = signals_below(net, x), gradients_below(n, min(depth, LAYERS))
    positive = depth == 1 or first.min() >= 0
    angles, part = _angles(first, squares), 2.0 ** (1 - depth)
    if positive:
        own = (first + net.biases * (squares > 0)) * _slopes(table, depth, angles)
    else:
        own = first * part * (1 - angles / math.pi)
    matrix = overlap[-1] + float(net.biases) + half * kappa * own
    for layer in range(max(2, depth + 1 - LAYERS), depth + 1):
        below = overlap[min(layer - 1, LAYERS) - 1]
        angles = _angles(below, n * squares / x.shape[1])
        matrix += half * below * _slopes(table, depth + 1 - layer, angles)
    diagonal = expected_gradient_norm(net, x)
    if not positive:
        diagonal -= half * kappa * (norms * (1 - part) + net.biases * (norms > 0))
    np.fill_diagonal(matrix, diagonal)
    return matrix


def gradients_below(n: int, layers: int) -> Array:
    """Below `k_p'` for p = 1 ... `layers` at angles `(π/2)(i/ANGLES)²` (Lemma 4).

    `1 − (s_p ξ(ρ₀) − ξ(ρ))/(ρ − ρ₀)` with the best ρ₀ < ρ; `ξ(ρ) = a1(ρ) − ρ` and
    `s_p = Σ_{i<p} (1 − 2^(1−n))^i`. Where ρ = 0 there is none: −∞. `[layers, ANGLES + 1]`.
    """
    angles = math.pi / 2 * np.linspace(0, 1, ANGLES + 1) ** 2
    rho = np.cos(angles)
    excess = (np.sin(angles) - angles * rho) / math.pi
    gaps = rho[:, None] - rho
    smaller = gaps > 0
    ratios = np.divide(excess, gaps, out=np.full_like(gaps, np.inf), where=smaller)
    own = np.divide(excess[:, None], gaps, out=np.zeros_like(gaps), where=smaller)
    powers = (1 - 2.0 ** (1 - n)) ** np.arange(layers)
    return np.stack([1 - (s * ratios - own).min(1) for s in np.cumsum(powers)])


def _slopes(table: Array, p: int, angles: Array) -> Array:
    """Below `k_p'` at angles in [0, π/2]: from the table at the next greater, or `2^(1−p) a0`."""
    at = np.ceil(ANGLES * np.sqrt(angles.clip(0, math.pi / 2) * 2 / math.pi)).astype(int)
    simple = 2.0 ** (1 - p) * (1 - angles / math.pi)
    return np.maximum(simple, table[p - 1][at]) if 1 < p <= len(table) else simple


def signals_below(net: MLP, x: Array) -> list[Array]:
    """`ω_1 ... ω_L`, each `[m, m]`: below `E h_l(x)·h_l(x')`, exact for l = 1 and for x = x'.

    `ω_l = A_l a1(min(1, ω_{l−1}/A_l))` with `A_l` below `E ‖h_{l−1}(x)‖‖h_{l−1}(x')‖` (Lemma 5).
    At most `LAYERS` of them: the products grow with l.
    """
    n, first = net.width, x @ x.T / x.shape[1]
    q, _ = next(hidden_kernels(first, 1))
    scale = np.sqrt(np.outer(np.diag(first), np.diag(first)))
    rho = np.divide(first, scale, out=np.zeros_like(first), where=scale > 0)
    square, loss = norm_ratio(n) ** 2, 2 / n * (1 - 2.0**-n)
    least = np.maximum(square + np.minimum(rho, 0) * (1 - square), 1 - loss * (1 - rho))
    signals, norms = [n * q], n * scale * least.clip(0)
    for _ in range(1, min(net.depth, LAYERS)):
        below, norms = signals[-1], np.maximum(norms, signals[-1])
        angles = _angles(below, norms)
        signals.append(norms * np.sin(angles) / math.pi + below * (1 - angles / math.pi))
        norms = np.maximum(square * norms, norms - loss * (norms - below))
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
    total = n * q * np.exp(-logits * _growth(n, depth)) + net.biases * np.exp(-logits)
    for layer, psi in zip(range(depth, 0, -1), overlaps(n, depth), strict=True):
        left = 2 - power(1 + 2 / n, depth + 1 - layer)
        if left > 0:
            fan_in = n if layer > 1 else x.shape[1]
            decay = np.exp(-logits * _growth(n, layer - 1) * psi / left)
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
    moment = v / 2 * n * _growth(n, net.depth) * roots * sums
    decay = np.divide(moment, overlap, out=np.full_like(overlap, np.inf), where=overlap > 0)
    matrix = overlap * np.exp(-decay) + net.biases * np.exp(-v / 2 * sums)
    return _against(matrix) / classes


def norm_ratio(n: int) -> float:
    """`E ‖h_l‖/‖h_{l-1}‖`: `√(2/n) E χ_k` with k active units, binomial(n, ½).

    Counts more than 40 standard deviations from the mean are left out.
    """
    far = 20 * math.isqrt(n) + 1
    k = np.arange(max(1, n // 2 - far), min(n, n // 2 + far) + 1)
    counts = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) - n * math.log(2)
    return float(2 / math.sqrt(n) * np.exp(counts + gammaln((k + 1) / 2) - gammaln(k / 2)).sum())


def _growth(n: int, layers: int) -> float:
    """`(1 + 5/n)^l`, of the mean squared norm's square; a number where it overflows, since 0·∞."""
    return min(power(1 + 5 / n, layers), 1e300)


def _against(matrix: Array) -> float:
    """`uᵀMu/m` for the u ≥ 0 that power iteration leads to, or the best single sample."""
    m = len(matrix)
    u = np.full(m, m**-0.5)
    for _ in range(POWER_STEPS):
        u = np.abs(matrix @ u)
        u /= np.linalg.norm(u) or 1.0
    return max(float(u @ matrix @ u), float(np.diag(matrix).max())) / m


def _angles(products: Array, scales: Array) -> Array:
    """`arccos` of the products over their scales, at most 1; π/2 where a scale is zero."""
    rho = np.divide(products, scales, out=np.zeros_like(products), where=scales > 0)
    return np.asarray(np.arccos(rho.clip(-1, 1)))
