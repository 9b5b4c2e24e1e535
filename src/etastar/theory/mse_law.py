"""The predicted law of λ1(G) at initialisation, in units of λ1(K/m); for MSE, and a lower bound.

Derivation: `docs/theory.md`, §8. Random C × C matrices (`fluctuations.chains`) take the place of
the identity that the outputs see at infinite width. Cross-entropy: `softmax_law.py`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from scipy.special import softmax

from etastar.problem.networks import MLP
from etastar.theory.dense import Array, eigh, largest
from etastar.theory.fluctuations import Chains, Fluctuations, chains, fewer

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


Law: TypeAlias = tuple[float, float, float]
"""λ1(G) over initialisations, in units of λ1(K/m): its median at infinite width; its median at this
width; and a mean norm at this width, which is above the mean of λ1."""


def mse_law(fluctuations: Fluctuations, seed: int) -> Law:
    """MSE: λ1 of the C × C matrix on the kernel's first eigenvector, with its shift.

    The norm of the `Law` is Schatten's of power `SCHATTEN`.
    """
    drawn = chains(fluctuations, fewer(DRAWS, len(fluctuations.layers), 128), seed)
    values, shift = split(fluctuations, drawn)
    top = fluctuations.top
    others = fluctuations.values[:-1].clip(0) / top if top > 0 else np.zeros(1)
    powers = np.sum(values**SCHATTEN, axis=1) + fluctuations.classes * np.sum(others**SCHATTEN)
    norms = powers ** (1 / SCHATTEN) + shift
    return 1.0, float(np.median(values[:, -1] + shift)), float(norms.mean())


def split(fluctuations: Fluctuations, drawn: Chains) -> tuple[Array, Array]:
    """Eigenvalues of the C × C matrices, `[S, C]`, ascending, and the shift of the last, `[S]`.

    The shift is of second order in the couplings to the kernel's other eigenvectors. What the
    layers above have amplified in the direction of the matrix's first eigenvector is amplified in
    the gradients' couplings too; the signal's couplings grow with the terms above only.
    """
    values, directions = eigh(np.einsum("slij,l->sij", drawn.psi, fluctuations.shares))
    values, vectors = values.clip(0), directions[:, :, -1]
    level = np.maximum(values[:, -1], np.finfo(float).tiny)
    terms = np.einsum("slij,si,sj->sl", drawn.psi, vectors, vectors)
    above = np.einsum("slij,si,sj->sl", drawn.above, vectors, vectors)
    traces = np.einsum("slii->sl", drawn.above)
    others = (np.einsum("slii->sl", drawn.psi) - terms) / max(fluctuations.classes - 1, 1)
    same, cross = (fluctuations.inverse_gaps(level, factors) for factors in (terms, others))
    shift = np.zeros_like(level)
    for layer, unit in enumerate(fluctuations.layers):
        weights = fluctuations.shares[layer + 1 :]
        later = terms[:, layer + 1 :] @ weights / (weights.sum() or 1.0)
        term, own = drawn.signal[:, layer] * terms[:, layer], above[:, layer]
        shift += term * (traces[:, layer] - own) * (cross @ unit.other)
        shift += term * own * (same @ unit.gradient)
        shift += 2 * np.sqrt(term * own) * later * (same @ unit.crossed)
        shift += later**2 * (same @ unit.signal)
    return values, shift


def contrast_bound(net: MLP, x: Array, total: Array, classes: int, seed: int) -> float:
    """Cross-entropy, from below at large width: `λ1(√s K √s)/m`, a contrast over outputs.

    `s_i = E tr(S_i)/(C−1)` is the mean of `aᵀS_i a` over unit vectors a ⟂ 1: the constant vector
    over outputs lies in the null space of every S.
    """
    q = np.sum(x**2, axis=1) / x.shape[1]
    grid = np.linspace(q.min(), q.max(), NORMS)
    normal = np.random.default_rng([seed, 2]).normal(size=(CONTRAST_DRAWS, classes))
    p = softmax(np.sqrt(net.output_variance * grid)[:, None, None] * normal, axis=-1)
    traces = (1 - np.sum(p**2, axis=-1).mean(-1)) / (classes - 1)
    roots = np.sqrt(np.interp(q, grid, traces))
    return largest(roots[:, None] * total * roots) / len(x)
