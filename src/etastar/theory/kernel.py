"""The infinite-width tangent kernel of an `MLP` at initialisation, layer by layer.

Statements and proofs: `docs/theory.md`, §2 and §5. Everything here is float64 and follows from the
inputs and the hyperparameters alone; no network is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from etastar.errors import ConfigError, CurvatureError
from etastar.problem.networks import MLP, Network
from etastar.theory.dense import Array

MAX_SAMPLES = 5000
"""Samples beyond which m × m matrices are refused: at 5000 a handful of them take 1 GB."""


@dataclass(frozen=True)
class LayerKernels:
    """What the tangent kernel of m samples is made of, for L hidden layers.

    With `h_l` the output of hidden layer l and `g_l` the gradient of one output in the
    pre-activation of layer l, in the limit of infinite width:
    """

    forward: tuple[Array, ...]
    """`q_0 ... q_L`, each `[m, m]`: `h_l(x)·h_l(x') / width` (for l = 0: `x·x' / d`)."""
    slopes: tuple[Array, ...]
    """`a_1 ... a_L`, each `[m, m]`: twice the chance that a unit of layer l is active on both."""
    terms: tuple[Array, ...]
    """The share of each of the L + 1 layers in the kernel, ratio and bias included, `[m, m]`."""

    @property
    def total(self) -> Array:
        """The tangent kernel K, `[m, m]`: the sum of the terms."""
        return np.asarray(np.sum(self.terms, axis=0))


def kernel(network: Network, x: Any) -> Array:
    """The infinite-width tangent kernel of one output, with the network's learning-rate ratios.

    `K(x, x') = Σ_l κ_l · [∂f(x)/∂θ_l]·[∂f(x')/∂θ_l]` in the limit of infinite width, but with the
    factor n of the standard parametrisation kept: the kernel of the network asked for, up to
    fluctuations of relative size `sqrt(L/n)`. Different outputs have kernel zero.

    Args:
        network: A plain `MLP`; κ is its `input_lr_ratio`.
        x: Inputs `[m, d]`, numpy or torch, at most `MAX_SAMPLES` of them.

    Returns:
        K, `[m, m]`.

    Raises:
        ConfigError: x is not a matrix of finite numbers.
        CurvatureError: The network is not a plain `MLP`.

    Example:
        >>> from etastar.problem.networks import MLP
        >>> round(float(kernel(MLP(width=64, depth=2, biases=False), np.ones((1, 10)))[0, 0]), 6)
        101.0
    """
    net, x = checked_mlp(network), checked_inputs(x)
    first = x @ x.T / x.shape[1]
    total = net.input_lr_ratio * (x.shape[1] * first + net.biases)
    for layer, (q, slope) in enumerate(hidden_kernels(first, net.depth), start=1):
        factor = net.output_variance / 2 if layer == net.depth else 1.0
        total = factor * slope * total + (net.width * q + net.biases)
    return np.asarray(total)


def hidden_kernels(first: Array, depth: int) -> Iterator[tuple[Array, Array]]:
    """`(q_l, a_l)` of the hidden layers l = 1 ... L, from `q_0`: see `layer_kernels`."""
    q = first
    scales = np.sqrt(np.outer(np.diag(q), np.diag(q)))  # the same in every layer
    alive = scales > 0
    for _ in range(depth):
        rho = np.divide(q, scales, out=np.zeros_like(scales), where=alive).clip(-1, 1)
        np.fill_diagonal(rho, 1.0)
        slope = (math.pi - np.arccos(rho)) / math.pi
        q = scales * (np.sqrt(1 - rho**2) / math.pi + rho * slope)
        yield q, np.where(alive, slope, 0.0)


def layer_kernels(net: MLP, x: Array) -> LayerKernels:
    """The kernel's ingredients, of a network and inputs that `kernel` would take.

    The recursion of Cho & Saul (2009) and Jacot et al. (2018), with
    `a0(ρ) = (π − arccos ρ)/π` and `a1(ρ) = (√(1−ρ²) + ρ(π − arccos ρ))/π`:
    `q_l = √(q_{l-1}(x,x) q_{l-1}(x',x')) · a1(ρ_{l-1})`, `b_L = (v/2) a0(ρ_{L-1})`,
    `b_l = b_{l+1} a0(ρ_{l-1})`. An input of zero leaves every unit at its kink, where autograd
    takes the derivative 0: its b is 0.
    """
    first = x @ x.T / x.shape[1]
    hidden, slopes = zip(*hidden_kernels(first, net.depth), strict=True)
    forward, backward, terms = (first, *hidden), np.ones_like(first), []
    for layer in reversed(range(net.depth + 1)):
        own = (net.width if layer else x.shape[1]) * forward[layer] + net.biases
        terms.append(net.layer_ratios()[layer] * backward * own)
        factor = net.output_variance / 2 if layer == net.depth else 1.0
        backward = factor * backward * slopes[layer - 1]  # that of layer 0 is of no use
    return LayerKernels(forward, slopes, tuple(terms[::-1]))


def expected_gradient_norm(network: Network, x: Any) -> Array:
    """`E ‖∂f_k(x)/∂θ‖²_κ` over initialisations, of one output k: exact at any width.

    `q·[n + (v/2)(n(L−1) + κd)] + [1 + (v/2) Σ_l κ_l (1 − 2⁻ⁿ)^(l−1)]` with `q = ‖x‖²/d`; the second
    bracket is the biases' and absent without them (`docs/theory.md`, Proposition 1). It is
    `1 + (v/2)(L−1+κ)` but for the chance that a layer below is dead. For x = 0 it is 1.

    Args:
        network: A plain `MLP`; κ is its `input_lr_ratio`.
        x: Inputs `[m, d]`, numpy or torch.

    Returns:
        The expectations, `[m]`.

    Raises:
        ConfigError: x is not a matrix of finite numbers.
        CurvatureError: The network is not a plain `MLP`.

    Example:
        >>> from etastar.problem.networks import MLP
        >>> net = MLP(width=64, depth=4, input_lr_ratio=0.1)
        >>> expected_gradient_norm(net, np.ones((1, 100))).round(6).tolist()
        [167.55]
    """
    net, x = checked_mlp(network), checked_inputs(x)
    n, depth, half = net.width, net.depth, net.output_variance / 2
    kappa, inputs = net.input_lr_ratio, x.shape[1]
    q = (x**2).sum(1) / inputs
    norms = q * (n + half * (n * (depth - 1) + kappa * inputs))
    if net.biases:
        alive = (1 - 0.5**n) ** np.arange(depth)  # no hidden layer below is zero on x
        norms += 1 + half * (q > 0) * (alive @ net.layer_ratios()[:depth])
    return np.asarray(norms, dtype=np.float64)


def checked_mlp(network: Network) -> MLP:
    """The network, if the theory covers it.

    Raises:
        CurvatureError: It is not a plain `MLP`.
    """
    if type(network) is not MLP:
        raise CurvatureError(
            f"the theory covers plain ReLU MLPs only; got {type(network).__name__}. Measure λ1 "
            "instead: etastar.sharpness or etastar.curvature.stack_sharpness take any network."
        )
    if network.parametrization != "standard":
        raise CurvatureError(
            "the theory covers the standard parametrisation only; got "
            f"{network.parametrization!r}. Measured λ1 takes its ratios into account."
        )
    return network


def checked_inputs(x: Any) -> Array:
    """The inputs as float64 `[m, d]` on the CPU, if it is a matrix of finite numbers.

    Raises:
        ConfigError: It is not, or has more than `MAX_SAMPLES` rows.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    x = np.asarray(x, dtype=np.float64)
    if x.ndim == 2 and len(x) > MAX_SAMPLES:
        raise ConfigError(
            f"the kernel of {len(x)} samples needs {len(x)}² numbers; expected at most "
            f"{MAX_SAMPLES} samples. Pass a part of them, e.g. x[:1000]."
        )
    if x.ndim != 2 or 0 in x.shape:
        raise ConfigError(
            f"x must be a matrix of inputs, [samples, dimension], neither empty; got shape "
            f"{x.shape}. Flatten images, and pass a single input as x[None]."
        )
    if not np.isfinite(x).all():
        raise ConfigError("x holds NaN or infinity; expected finite numbers. Check the data.")
    return np.asarray(x)
