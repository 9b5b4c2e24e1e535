"""How far the tangent kernel of a network of finite width strays from its limit.

The limit leaves the C outputs alike, so λ1 is C-fold degenerate; at width n the C × C matrix
`(1/m) Σ_ij v_i v_j K(x_i, x_j)` on the kernel's first eigenvector v is a random one, and λ1 follows
its largest eigenvalue. It is a sum over layers of products of C × C Wishart matrices, one for each
hidden layer that the gradient came through, and of one scalar for each that the signal came
through. Their degrees of freedom and variances are averages over a *single* unit of the limiting
network (a Gaussian process on the inputs), computed here by seeded Monte Carlo. Nothing is fitted,
and no network is drawn. Derivation: `docs/theory.md`, §6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etastar.theory.dense import eigh
from etastar.theory.kernel import layer_kernels

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from etastar.problem.networks import MLP
    from etastar.theory.kernel import LayerKernels

    _Array: TypeAlias = NDArray[np.float64]

UNITS = 1024
"""Units drawn per layer: the averages over one unit have standard errors of about 3 %."""
OUTPUTS = 4
"""Outputs whose gradients are drawn at each unit, for C(OUTPUTS, 2) pairs of different ones."""


@dataclass(frozen=True)
class LayerNoise:
    """The relative fluctuations that the n units of one hidden layer add. All of order 1/n."""

    splitting: float
    """1/ν: variance of an entry of the C × C matrix off its diagonal; ν degrees of freedom."""
    trace: float
    """Variance that all outputs share, from which units are active on which inputs."""
    forward: float
    """Variance of the signal's squared norm, as the layers above see it."""
    joint: float
    """Covariance of `trace` and `forward`."""
    other: float
    """Shift of λ1 by coupling to the kernel's other eigenvectors, per other output."""
    own: float
    """The same for the output itself."""


@dataclass(frozen=True)
class Fluctuations:
    """The kernel's first eigenvector on m samples, and what moves λ1 off its infinite-width value.

    Attributes:
        values: Eigenvalues of K/m, `[m]`, ascending.
        vectors: Their eigenvectors, in columns.
        shares: Share of each of the L + 1 layers in λ1, summing to 1.
        noise: One entry per hidden layer.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    shares: NDArray[np.float64]
    noise: tuple[LayerNoise, ...]

    @property
    def top(self) -> float:
        """λ1(K/m)."""
        return float(self.values[-1])

    @property
    def other(self) -> float:
        """Second-order shift of λ1 by the kernel's other eigenvectors, per other output."""
        return sum(layer.other for layer in self.noise)

    @property
    def own(self) -> float:
        """The same for the output itself. Both in units of `top`."""
        return sum(layer.own for layer in self.noise)


def fluctuations_of(net: MLP, x: NDArray[np.float64], seed: int) -> Fluctuations:
    """The fluctuations of a network of this width on these inputs.

    Args:
        net: A plain MLP.
        x: `[m, d]`; the cost is m³ and `UNITS·m²` per layer.
        seed: Of the single units.

    Returns:
        See `Fluctuations`.
    """
    kernels = layer_kernels(net, x)
    values, vectors = eigh(kernels.total / len(x))
    top, v = float(values[-1]), vectors[:, -1]
    shares = np.array([v @ term @ v for term in kernels.terms])
    shares /= shares.sum() if top > 0 else 1.0
    gaps = np.where(values[:-1] < top, top - values[:-1], np.inf)
    resolvent = (vectors[:, :-1] / gaps) @ vectors[:, :-1].T
    rng = np.random.default_rng(seed)
    below, noise = np.zeros_like(kernels.total), []
    fan_in = [x.shape[1]] + [net.width] * net.depth
    for layer in range(net.depth):
        if layer:
            below = below * kernels.slopes[layer - 1]
        own = fan_in[layer] * kernels.forward[layer] + net.biases
        below = below + net.layer_ratios()[layer] * own
        lower = float(shares[: layer + 1].sum())
        noise.append(_layer_noise(net.width, kernels, layer, below, v, lower, top * resolvent, rng))
    return Fluctuations(values, vectors, shares, tuple(noise))


def _layer_noise(
    n: int,
    kernels: LayerKernels,
    layer: int,
    below: NDArray[np.float64],
    v: NDArray[np.float64],
    lower: float,
    resolvent: NDArray[np.float64],
    rng: np.random.Generator,
) -> LayerNoise:
    """Averages over draws of one unit of hidden layer `layer` (from 0).

    With z its pre-activations on the samples, `a_k` the gradient of output k in its activation, and
    P (`below`) the kernel of all parameters up to here in its pre-activation, the unit contributes
    `X_kk' = Σ_ij v_i a_k(i) 1[z_i>0] · P_ij · 1[z_j>0] a_k'(j) v_j` to the C × C matrix, of which
    the layer is a sum over its n independent units. `lower` is the share in λ1 that is made of
    them; the rest comes through `relu(z_i) relu(z_j)`. Those parts of X that lead from v to other
    samples, `resolvent` turns into the second-order shift.
    """
    half = _gaussian(kernels.forward[layer], UNITS // 2, rng)
    z = np.concatenate([half, -half])  # (U, m): in pairs, for the exact share of active units
    active = z > 0
    above = np.prod(kernels.slopes[layer + 1 :], axis=0) * np.ones_like(below)
    gradients = [active * _gaussian(above, UNITS, rng) for _ in range(OUTPUTS)]
    images = [(g * v) @ below for g in gradients]
    traces = np.sum((active * v) @ (below * above) * active * v, axis=1)  # E X_kk given z
    mean = float(traces.mean())
    scale = lower / mean if mean > 0 else 0.0  # 0 where nothing below is trained
    q, later = kernels.forward[layer + 1], np.sum(kernels.terms[layer + 1 :], axis=0)
    h = z * active
    signals = h * ((h * v) @ np.divide(later, q, out=np.zeros_like(q), where=q > 0))
    norms = signals @ v
    signals *= (1 - lower) / norms.mean() if norms.mean() > 0 else 0.0
    crossed, other, own = [], [], []
    for j in range(OUTPUTS):
        for k in range(OUTPUTS):
            coupling = scale * gradients[k] * images[j]
            if j == k:
                coupling += signals
                own.append(_quadratic(coupling - coupling.mean(0), resolvent))
            else:
                crossed.append(np.mean((coupling @ v) ** 2))
                other.append(_quadratic(coupling, resolvent))
    trace, forward = _relative(traces), _relative(norms)
    return LayerNoise(
        splitting=float(np.mean(crossed)) / lower**2 / n if scale else 0.0,
        trace=float(np.mean(trace**2)) / n,
        forward=float(np.mean(forward**2)) / n,
        joint=float(np.mean(trace * forward)) / n,
        other=float(np.mean(other)) / n,
        own=float(np.mean(own)) / n,
    )


def chains(
    fluctuations: Fluctuations, classes: int, draws: int, seed: int
) -> tuple[_Array, _Array]:
    """Draws of what each layer's share of the C × C matrix is multiplied with.

    `Ψ_l = φ_{<l} R_l R_lᵀ` with `R_l = R_{l+1} τ_l^½ chol(Wishart_C(ν_l)/ν_l)`, `R_{L+1} = 1`, and
    `(log φ_l, log τ_l)` normal with means such that φ and τ have mean 1.

    Args:
        fluctuations: Of each layer.
        classes: C.
        draws: S.
        seed: Of the draws.

    Returns:
        Ψ, `[S, L + 1, C, C]`, and the relative squared norm of the last hidden layer, `[S]`.
    """
    rng = np.random.default_rng(seed)
    depth = len(fluctuations.noise)
    signal, traces = np.ones((depth + 1, draws)), np.ones((depth, draws))
    for layer, unit in enumerate(fluctuations.noise):
        covariance = np.log1p([[unit.forward, unit.joint], [unit.joint, unit.trace]])
        logs = rng.normal(size=(draws, 2)) @ _root(covariance).T - np.diag(covariance) / 2
        signal[layer + 1] = signal[layer] * np.exp(logs[:, 0])
        traces[layer] = np.exp(logs[:, 1])
    identity = np.broadcast_to(np.eye(classes), (draws, classes, classes))
    psi = np.empty((draws, depth + 1, classes, classes))
    psi[:, depth] = signal[depth, :, None, None] * identity
    root = identity
    for layer in reversed(range(depth)):
        factor = _wishart_root(fluctuations.noise[layer].splitting, draws, classes, rng)
        root = root @ factor * np.sqrt(traces[layer])[:, None, None]
        psi[:, layer] = signal[layer, :, None, None] * (root @ root.transpose(0, 2, 1))
    return psi, signal[depth]


def _wishart_root(inverse: float, draws: int, size: int, rng: np.random.Generator) -> _Array:
    """Square roots of C × C Wishart matrices of mean 1 with ν = 1/`inverse` degrees of freedom.

    Bartlett's triangular factor, which takes any ν ≥ C. Below, a Gaussian factor of ⌈ν⌉ rows whose
    last has the weight t with `(r−1+t)²/(r−1+t²) = ν`, so that the variance is right.
    """
    if inverse == 0:
        return np.broadcast_to(np.eye(size), (draws, size, size))
    freedom = max(1.0, 1 / inverse)
    if freedom >= size:
        squares = rng.chisquare(freedom - np.arange(size), size=(draws, size))
        lower = np.tril(rng.normal(size=(draws, size, size)), -1)
        lower[:, range(size), range(size)] = np.sqrt(squares)
        return np.asarray(lower / np.sqrt(freedom))
    whole = int(np.ceil(freedom)) - 1
    inside = max(whole**2 - (freedom - 1) * whole * (freedom - whole), 0.0)
    weight = (whole - np.sqrt(inside)) / (freedom - 1) if whole else 1.0
    rows = rng.normal(size=(draws, whole + 1, size))
    rows[:, -1] *= np.sqrt(weight)
    values, vectors = eigh(rows.transpose(0, 2, 1) @ rows / (whole + weight))
    return np.asarray(vectors * np.sqrt(values.clip(0))[:, None, :])


def _gaussian(covariance: _Array, draws: int, rng: np.random.Generator) -> _Array:
    """Draws of a centred Gaussian vector, `[draws, m]`."""
    return rng.normal(size=(draws, len(covariance))) @ _root(covariance).T


def _root(covariance: _Array) -> _Array:
    """A square root of a positive semi-definite matrix."""
    values, vectors = eigh(covariance)
    return np.asarray(vectors * np.sqrt(values.clip(0)))


def _quadratic(rows: _Array, matrix: _Array) -> float:
    """Mean of `rᵀ M r` over the rows r."""
    return float(np.mean(np.sum(rows @ matrix * rows, axis=1)))


def _relative(values: _Array) -> _Array:
    """Deviations from the mean, as a part of it."""
    mean = values.mean()
    return values / mean - 1 if mean > 0 else np.zeros_like(values)
