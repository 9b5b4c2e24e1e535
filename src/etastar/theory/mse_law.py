"""The predicted law of λ1(G) at initialisation, in units of λ1(K/m); for MSE, and a lower bound.

Derivation: `docs/theory.md`, §6. Random C × C matrices (`fluctuations.chains`) take the place of
the identity that the outputs see at infinite width. Cross-entropy: `softmax_law.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etastar.theory.dense import eigvalsh
from etastar.theory.fluctuations import chains

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from etastar.problem.networks import MLP
    from etastar.theory.fluctuations import Fluctuations

    _Array: TypeAlias = NDArray[np.float64]

DRAWS = 2048
"""Draws of C × C matrices for MSE: the median has a standard error of about 1 % at log-sd 0.4."""
SCHATTEN = 3
"""Power p of the norm that the upper estimate takes: any p ≥ 1 is above λ1, by a factor of at most
`C^(1/p)` where the kernel's first eigenvalue stands alone; 2 would be loose, 4 within the error of
the prediction where the outputs have split."""
CONTRAST_DRAWS = 4096
"""Draws of logits of one sample."""
NORMS = 17
"""Squared norms of inputs at which they are drawn; between them the traces are interpolated."""


@dataclass(frozen=True)
class Law:
    """λ1(G) over initialisations, in units of λ1(K/m)."""

    limit: float
    """Median at infinite width."""
    median: float
    """Median at this width."""
    above: float
    """Mean Schatten norm at this width, which is above the mean of λ1."""


def mse_law(fluctuations: Fluctuations, classes: int, seed: int) -> Law:
    """MSE: the largest eigenvalue of the C × C matrix on the kernel's first eigenvector.

    The coupling to the other eigenvectors is added, not multiplied: in the direction of a large
    eigenvalue of the C × C matrix, the coupling's square and the gap grow alike.
    """
    psi, _ = chains(fluctuations, classes, DRAWS, seed)
    values = eigvalsh(np.einsum("slij,l->sij", psi, fluctuations.shares)).clip(0)
    shift = (classes - 1) * fluctuations.other + fluctuations.own
    top = fluctuations.top
    others = fluctuations.values[:-1].clip(0) / top if top > 0 else np.zeros(1)
    powers = np.sum(values**SCHATTEN, axis=1) + classes * np.sum(others**SCHATTEN)
    norms = powers ** (1 / SCHATTEN)
    return Law(1.0, float(np.median(values[:, -1])) + shift, float(norms.mean()) + shift)


def contrast_bound(net: MLP, x: _Array, total: _Array, classes: int, seed: int) -> float:
    """Cross-entropy, from below at large width: constant over samples, a contrast over outputs.

    `Σ_i (K1)_i² s_i / (m·1ᵀK1)` with `s_i = E tr(S_i)/(C−1)`, the mean of `aᵀS_i a` over unit
    vectors a ⟂ 1: the constant vector over outputs lies in the null space of every S.
    """
    rows = total.sum(1)
    weight = float(rows.sum()) * len(x)
    if weight <= 0:
        return 0.0
    q = np.sum(x**2, axis=1) / x.shape[1]
    grid = np.linspace(q.min(), q.max(), NORMS)
    normal = np.random.default_rng([seed, 2]).normal(size=(CONTRAST_DRAWS, classes))
    p = _softmax(np.sqrt(net.output_variance * grid)[:, None, None] * normal)
    traces = 1 - np.sum(p**2, axis=-1).mean(-1)
    return float(rows**2 @ np.interp(q, grid, traces)) / weight / (classes - 1)


def _softmax(logits: _Array) -> _Array:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))
