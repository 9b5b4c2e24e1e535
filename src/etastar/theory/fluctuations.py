"""How far the tangent kernel of a network of finite width strays from its limit.

The limit leaves the C outputs alike, so λ1 is C-fold degenerate; at width n the C × C matrix
`(1/m) Σ_ij e_i e_j K(x_i, x_j)` on the kernel's first eigenvector e is a random one, and λ1 follows
its largest eigenvalue. Every hidden layer enters it as a sum over its n units. Single units of the
limiting network (a Gaussian process on the inputs) are drawn here, seeded, and n of them are added
up at a time. Nothing is fitted, and no network is drawn. Derivation: `docs/theory.md`, §8.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from etastar.problem.networks import MLP
from etastar.theory.dense import Array, eigh
from etastar.theory.kernel import layer_kernels

UNITS = 1024
"""Units drawn per layer: the averages over one unit have standard errors of about 3 %."""
DEEP = 32
"""Hidden layers beyond which all that is drawn is drawn less often; see `fewer`."""
COUPLED = 3
"""Outputs of a unit, and pairs of them, that couplings to other eigenvectors are averaged over."""
GAP = 0.05
"""Least gap, as a part of λ1, that a coupling is divided by."""


def fewer(most: int, depth: int, least: int) -> int:
    """A count for so many layers: beyond `DEEP` it falls like 1/L, so that the cost stays."""
    return max(least, most * DEEP // max(DEEP, depth))


@dataclass(frozen=True)
class LayerUnits:
    """Drawn units of one hidden layer, and how n of them couple to the other eigenvectors.

    The couplings are means of squares by eigenvector, `[m − 1]`, over the n units, in units of λ1.
    """

    units: Array
    """`[units, C² + 1]`: a unit's C × C matrix, mean 1; and its squared signal, mean 1."""
    other: Array
    """Coupling of an output to another output: through the gradients alone."""
    gradient: Array
    """Coupling of an output to itself: square of the gradients' part."""
    crossed: Array
    """The same: product of the gradients' and the signal's part."""
    signal: Array
    """The same: square of the signal's part."""


@dataclass(frozen=True)
class Fluctuations:
    """The kernel's eigenvalues on m samples, and what moves λ1 off its infinite-width value.

    Attributes:
        values: Eigenvalues of K/m, `[m]`, ascending.
        shares: Share of each of the L + 1 layers in λ1, summing to 1.
        levels: Share of each layer in the other eigenvalues, `[L + 1, m − 1]`, in units of λ1.
        layers: One entry per hidden layer.
        width: n.
        classes: C.
    """

    values: Array
    shares: Array
    levels: Array
    layers: tuple[LayerUnits, ...]
    width: int
    classes: int

    @property
    def top(self) -> float:
        """λ1(K/m)."""
        return float(self.values[-1])

    def inverse_gaps(self, level: Array, factors: Array) -> Array:
        """`1/(level − Σ_l factors_l levels_lj)`, `[S, m − 1]`, at most `1/(GAP·level)` and 1e100.

        Args:
            level: λ1 of each draw, `[S]`, in units of `top`.
            factors: What each layer's share is multiplied with, `[S, L + 1]`.
        """
        least = np.maximum(GAP * level, 1e-100)[:, None]  # what is smaller counts for no mean
        return np.asarray(1 / np.maximum(level[:, None] - factors @ self.levels, least))


def fluctuations_of(net: MLP, x: Array, classes: int, seed: int) -> Fluctuations:
    """Draw single units of every hidden layer on these inputs.

    Args:
        net: A plain MLP.
        x: `[m, d]`; the cost is m³ and `UNITS·C·m²` per layer,
            up to `DEEP` layers.
        classes: C.
        seed: Of the single units.

    Returns:
        See `Fluctuations`.
    """
    kernels = layer_kernels(net, x)
    values, vectors = eigh(kernels.total / len(x))
    parts = np.array([np.sum(vectors * (term @ vectors), axis=0) for term in kernels.terms])
    parts /= parts[:, -1].sum() if values[-1] > 0 else 1.0
    shares, rng, layers = parts[:, -1], np.random.default_rng(seed), []
    slopes, ones = kernels.slopes, np.ones_like(kernels.total)
    units = 2 * fewer(UNITS // 2, net.depth, 64)
    above = list(accumulate(slopes[:0:-1], np.multiply, initial=ones))[::-1]
    later = list(accumulate(kernels.terms[:0:-1]))[::-1]
    below = np.zeros_like(ones)
    for layer, ratio in enumerate(net.layer_ratios()[: net.depth]):
        own = (net.width if layer else x.shape[1]) * kernels.forward[layer] + net.biases
        below = below * (slopes[layer - 1] if layer else 1.0) + ratio * own
        around = (*kernels.forward[layer : layer + 2], below, above[layer], later[layer])
        lower = float(shares[: layer + 1].sum())
        layers.append(_draw(around, lower, vectors, (units, classes, net.width), rng))
    return Fluctuations(values, shares, parts[:, :-1], tuple(layers), net.width, classes)


def _draw(
    around: tuple[Array, ...], lower: float, vectors: Array, sizes: tuple[int, ...], rng: Generator
) -> LayerUnits:
    """Draw units of one hidden layer.

    With z its pre-activations on the samples, `g_k` the gradient of output k in its activation, and
    P the kernel of all parameters up to here in one of its pre-activations, a unit contributes
    `X_kk' = Σ_ij e_i g_k(i) 1[z_i>0] · P_ij · 1[z_j>0] g_k'(j) e_j` to the C × C matrix, e the
    first of the `vectors`. Those parts of X that lead from e to other samples are the couplings.

    Args:
        around: q of the layer's inputs and of its outputs; P; the product of the slopes, and the
            sum of the kernel's terms, of the layers above: `[m, m]` each.
        lower: The share in λ1 that is made of X; the rest comes through `relu(z_i) relu(z_j)`.
        vectors: The kernel's eigenvectors, `[m, m]`.
        sizes: Number of units, C and n.
        rng: Of the units.
    """
    (q, outputs, below, above, later), (units, classes, n) = around, sizes
    first, others = vectors[:, -1], vectors[:, :-1]
    half = rng.normal(size=(units // 2, len(q))) @ _root(q).T
    z = np.concatenate([half, -half])  # (U, m): in pairs, for the exact share of active units
    active = z > 0
    normal = rng.normal(size=(units, max(classes, COUPLED), len(q)))
    gradients = active[:, None] * _rows(normal, _root(above).T)
    images = _rows(gradients * first, below)  # (U, C, m)
    matrices = images[:, :classes] @ (gradients[:, :classes] * first).transpose(0, 2, 1)
    traces = np.sum((active * first) @ (below * above) * active * first, axis=1)  # E X_kk given z
    mean, h = float(traces.mean()), z * active
    signals = h * ((h * first) @ np.divide(later, outputs, out=np.zeros_like(q), where=outputs > 0))
    norms = signals @ first
    scale = lower / mean if mean > 0 else 0.0  # 0 where nothing below is trained
    signals *= (1 - lower) / norms.mean() if norms.mean() > 0 else 0.0
    signals = (signals - signals.mean(0)) @ others
    identity = np.broadcast_to(np.eye(classes), matrices.shape)
    matrices = identity + (matrices - matrices.mean(0)) / mean if scale else identity
    squares = norms / norms.mean() if norms.mean() > 0 else np.ones_like(norms)
    couplings = scale * images[:, :COUPLED, None] * gradients[:, None, :COUPLED]  # (U, 3, 3, m)
    own = np.eye(COUPLED, dtype=bool)
    same = _rows(couplings[:, own] - couplings[:, own].mean(0), others)
    return LayerUnits(
        units=np.column_stack([matrices.reshape(units, -1), squares]),
        other=np.mean(_rows(couplings[:, ~own], others) ** 2, axis=(0, 1)) / n,
        gradient=np.mean(same**2, axis=(0, 1)) / n,
        crossed=np.mean(same * signals[:, None], axis=(0, 1)) / n,
        signal=np.mean(signals**2, axis=0) / n,
    )


@dataclass(frozen=True)
class Chains:
    """Draws of what each layer's share of the C × C matrix is multiplied with; S draws."""

    psi: Array
    """`φ_{<l} Q_l Q_lᵀ` of each of the L + 1 layers, `[S, L + 1, C, C]`."""
    above: Array
    """`Q_{l+1} Q_{l+1}ᵀ` of each hidden layer, `[S, L, C, C]`: gradients from above."""
    signal: Array
    """`φ_{<l}` of each of the L + 1 layers, `[S, L + 1]`: its input's squared norm."""

    def bent(self, rows: NDArray[np.int_], squares: Array) -> Chains:
        """These draws between the roots of as many C × C matrices, `squares`."""
        root = _root(squares)[:, None]
        turned = root.swapaxes(-1, -2)
        psi, above = (turned @ part[rows] @ root for part in (self.psi, self.above))
        return Chains(psi, above, self.signal[rows])


def chains(fluctuations: Fluctuations, draws: int, seed: int) -> Chains:
    """Add up n of the drawn units in every layer, and multiply the layers.

    `Q_l = Q_{l+1} X_l^½`, `Q_{L+1} = 1`, with `X_l` the mean over n units of their C × C
    matrices, and `φ_l` the mean over the same units of their squared signals.

    Args:
        fluctuations: Of each layer.
        draws: S.
        seed: Of the choice of units.

    Returns:
        See `Chains`.
    """
    rng = np.random.default_rng(seed)
    depth, n, classes = len(fluctuations.layers), fluctuations.width, fluctuations.classes
    signal, means = np.ones((draws, depth + 1)), []
    for layer, drawn in enumerate(fluctuations.layers):
        units = len(drawn.units)
        chosen = rng.multinomial(n, np.full(units, 1 / units), size=draws) / n
        sums = chosen @ drawn.units
        signal[:, layer + 1] = signal[:, layer] * sums[:, -1]
        means.append(sums[:, :-1].reshape(draws, classes, classes))
    root = np.broadcast_to(np.eye(classes), (draws, classes, classes))
    psi, above = np.empty((draws, depth + 1, classes, classes)), []
    psi[:, depth] = root
    for layer in reversed(range(depth)):
        above.append(psi[:, layer + 1].copy())
        root = root @ _root(means[layer])
        psi[:, layer] = root @ root.transpose(0, 2, 1)
    return Chains(psi * signal[..., None, None], np.stack(above[::-1], axis=1), signal)


def _rows(stack: Array, matrix: Array) -> Array:
    """`stack @ matrix`, `[..., k]`, as one product: half the time of many small ones."""
    return (stack.reshape(-1, len(matrix)) @ matrix).reshape(*stack.shape[:-1], -1)


def _root(matrix: Array) -> Array:
    """Square roots of positive semi-definite matrices, `[..., m, m]`."""
    values, vectors = eigh((matrix + matrix.swapaxes(-1, -2)) / 2)
    return np.asarray(vectors * np.sqrt(values.clip(0))[..., None, :])
