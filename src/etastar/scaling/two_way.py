"""Covariance of a law's coefficients if networks of one width or depth share what it misses.

The model of the residuals is `r_ij = w_i + d_j + u_ij + e_ij`: an effect of the width, one of the
depth, one of the network, and measurement noise of known variance. A law that bends a little along
one axis misses whole rows of networks alike, and intervals that take the misses as independent are
then too narrow: `benchmarks/laws.py` has the numbers. The three variances are found by quadratic
estimation, and degrees of freedom by Satterthwaite's formula, so that an exponent of width is known
no better than the number of widths allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from etastar.scaling.cells import FloatArray

_LEAST_FREEDOM = 1.0


@dataclass(frozen=True, eq=False)
class TwoWay:
    """Variances of what a law misses, and what they mean for its coefficients.

    Attributes:
        covariance: Of the coefficients, `[p, p]`.
        noise: The part of it that the measurements' known variances make, `[p, p]`.
        widths: Distinct widths that carry the law.
        depths: Distinct depths that carry it.
        components: Variance of the network's own effect, and of those of width and depth as far
            as the cells can tell them apart; in that order, by name.
        inflow: Derivative of the covariance by each component, `[K, p, p]`.
        doubt: Covariance of the estimated components, `[K, K]`.
        most: M − p: no contrast has more degrees of freedom.
    """

    covariance: FloatArray
    noise: FloatArray
    widths: int
    depths: int
    components: dict[str, float]
    inflow: FloatArray
    doubt: FloatArray
    most: int

    def freedom(self, contrast: FloatArray) -> float:
        """Degrees of freedom of the variance of a combination `[p]` of the coefficients.

        Satterthwaite (1946): `2 V² / Var(V)`, between 1 and M − p.
        """
        variance = float(contrast @ self.covariance @ contrast)
        slope = contrast @ self.inflow @ contrast  # [K]
        spread = float(slope @ self.doubt @ slope)
        found = 2 * variance**2 / spread if spread > 0 else float(self.most)
        return float(np.clip(found, _LEAST_FREEDOM, max(self.most, _LEAST_FREEDOM)))

    def p_value(self, contrast: FloatArray, beta: FloatArray) -> float:
        """Two-sided p-value of "this combination of the coefficients is 0", by Student t."""
        deviation = np.sqrt(float(contrast @ self.covariance @ contrast))
        return 2 * float(stdtr(self.freedom(contrast), -abs(float(contrast @ beta)) / deviation))


def two_way(
    x: FloatArray,
    y: FloatArray,
    v: FloatArray,
    width: FloatArray,
    depth: FloatArray,
    weight: FloatArray,
) -> TwoWay:
    """Find the variances, and the covariance of the coefficients fitted with these weights.

    Args:
        x: The design, `[A, p]`: of the M measured networks, then of those that stand for bounds,
            which say nothing about the variances.
        y: The responses of the measured networks, `[M]`.
        v: The known variances, `[A]`.
        width: n, `[A]`.
        depth: L, `[A]`.
        weight: Those that the coefficients were fitted with, `[A]`.
    """
    count, p = len(y), x.shape[1]
    seen = slice(count)
    shared = {"network": np.eye(len(x)), "width": _same(width), "depth": _same(depth)}
    kept = {
        k: z for k, z in shared.items() if k == "network" or _told_apart(x[seen], z[seen, seen])
    }
    parts = np.stack(list(kept.values()))  # [K, A, A]
    if count > p:
        variances, doubt = _minque(x[seen], y, v[seen], parts[:, seen, seen], weight[seen])
    else:
        variances, doubt = np.zeros(len(parts)), np.zeros((len(parts), len(parts)))
    fitted = np.linalg.solve((x.T * weight) @ x, x.T * weight)  # [p, A]
    inflow = fitted @ parts @ fitted.T
    noise = (fitted * v) @ fitted.T
    covariance = noise + np.tensordot(variances, inflow, 1)
    # a matrix of estimates need not be positive: no direction is better known than its noise allows
    scale = np.linalg.cholesky(noise)
    values, vectors = np.linalg.eigh(_between(scale, covariance))
    covariance = scale @ (vectors * np.maximum(values, 1.0)) @ vectors.T @ scale.T
    return TwoWay(
        covariance=covariance,
        noise=noise,
        widths=len(np.unique(width[seen])),
        depths=len(np.unique(depth[seen])),
        components={k: float(s) for k, s in zip(kept, variances, strict=True)},
        inflow=inflow,
        doubt=doubt,
        most=count - p,
    )


def _minque(
    x: FloatArray, y: FloatArray, v: FloatArray, parts: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Variances `[K]` by MINQUE with the weights as prior, and their covariance `[K, K]`.

    The quadratic forms `yᵀP Z_k P y` are set equal to their expectations, which are linear in the
    variances (Rao 1971). A variance may come out negative: only so is the variance of an exponent,
    a sum of them, unbiased, and in a balanced design this is the analysis of variance, whose tests
    are exact.
    """
    turned = x.T * weight
    p = np.diag(weight) - turned.T @ np.linalg.solve(turned @ x, turned)  # [M, M]
    forms = p @ parts @ p  # [K, M, M]
    inverse = np.linalg.pinv(np.einsum("kij,lij->kl", forms, parts))
    found = inverse @ (np.einsum("i,kij,j->k", y, forms, y) - np.einsum("kii,i->k", forms, v))
    spread = forms @ (np.diag(v) + np.tensordot(found, parts, 1))
    doubt = 2 * inverse @ np.einsum("kij,lji->kl", spread, spread) @ inverse
    return np.asarray(found), np.asarray(doubt)


def _same(axis: FloatArray) -> FloatArray:
    """1 where two networks share the value of the axis, `[M, M]`."""
    return np.asarray(axis[:, None] == axis[None, :], dtype=float)


def _told_apart(x: FloatArray, z: FloatArray) -> bool:
    """Whether an effect shared so is neither part of the law nor the network's own effect."""
    both = np.linalg.matrix_rank(np.concatenate([x, z], 1), tol=1e-6)
    return bool(np.linalg.matrix_rank(x, tol=1e-6) < both < len(x))


def _between(scale: FloatArray, covariance: FloatArray) -> FloatArray:
    """`L⁻¹ C L⁻ᵀ`, made symmetric, for a triangular L."""
    half = np.linalg.solve(scale, covariance)
    turned = np.linalg.solve(scale, half.T)
    return np.asarray(0.5 * (turned + turned.T))
