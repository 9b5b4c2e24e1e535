"""The test for cells that bend away from a law, and how far off that puts an extrapolation.

A power law is straight in (log n, log L). What it misses is taken as independent between networks
(τ²), which is fair between the fitted networks and false beyond them: a law that bends is wrong in
the same direction everywhere out there, and the more so the further. So a second law is fitted
beside it, with the terms that the form leaves out up to the second degree. Where the two predict
differently, the difference counts as an error of the law, in the measure in which the cells show
that the second law is needed at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from etastar.scaling.cells import FloatArray
from etastar.scaling.least_squares import fit_random_effects, solve

_SPARE = 2
"""Degrees of freedom that the second law must leave."""


@dataclass(frozen=True, eq=False)
class Bend:
    """The second-degree law beside a fitted form, in residuals of the latter.

    Attributes:
        centre: Mean of log n and log L over the fitted cells.
        kept: Which of log n, log L, log²(nL), log²n, log²L the cells determine beyond the form.
        beta: Coefficients of the form's own columns (as a correction to them) and of the kept
            terms; empty if the cells determine none.
        f_statistic: Share of the residuals that the terms explain, against their noise; about 1
            if the form is right. NaN if the cells determine none.
        p_value: That of the F statistic if the form is right: small, the law bends.
    """

    centre: tuple[float, float]
    kept: tuple[int, ...]
    beta: FloatArray
    f_statistic: float
    p_value: float

    @property
    def known(self) -> bool:
        """Say whether the cells can show a bend at all."""
        return len(self.beta) > 0

    def shift(self, x: FloatArray, width: FloatArray, depth: FloatArray) -> FloatArray:
        """Log of the second law over the form, `[T]`, for the form's design `x` of `[T, p]`."""
        if not self.known:
            return np.zeros(len(x))
        extra = _terms(self.centre, width, depth)[:, list(self.kept)]
        return np.concatenate([x, extra], 1) @ self.beta

    def variance(self, x: FloatArray, width: FloatArray, depth: FloatArray) -> FloatArray:
        """Expected square of the form's systematic error, `[T]`: `(1 − 1/F)₊ · shift²`.

        The factor is the positive-part shrinkage of James and Stein, with F as the estimate of
        signal and noise over noise: a shift that noise alone would produce counts for nothing.
        """
        shrink = max(0.0, 1 - 1 / self.f_statistic) if self.f_statistic > 0 else 0.0
        return np.asarray(shrink * self.shift(x, width, depth) ** 2)


def find_bend(
    x: FloatArray, residual: FloatArray, v: FloatArray, width: FloatArray, depth: FloatArray
) -> Bend:
    """Fit the terms up to the second degree that a form leaves out.

    Args:
        x: The form's design, `[M, p]`.
        residual: log measured − log fitted by the form, `[M]`.
        v: Variances of the measurements, `[M]`.
        width: n, `[M]`.
        depth: L, `[M]`.
    """
    centre = float(np.log(width).mean()), float(np.log(depth).mean())
    terms = _terms(centre, width, depth)
    design, kept = x, list[int]()
    for k in range(terms.shape[1]):
        longer = np.concatenate([design, terms[:, [k]]], 1)
        room = len(x) - longer.shape[1] >= _SPARE
        if room and np.linalg.matrix_rank(longer, tol=1e-6) == longer.shape[1]:
            design, kept = longer, [*kept, k]
    if not kept:
        return Bend(centre, (), np.zeros(0), math.nan, math.nan)
    beta, _, tau2 = fit_random_effects(design, residual, v)
    # both sums with the second law's weights, so that the form's lack of fit cannot hide the bend
    weight = 1 / (v + tau2[0])
    plain, _ = solve(x, residual, weight[None])
    rest = float(np.sum(weight * (residual - design @ beta[0]) ** 2))
    gain = float(np.sum(weight * (residual - x @ plain[0]) ** 2)) - rest
    freedom = len(x) - design.shape[1]
    f_statistic = max(gain, 0.0) / len(kept) / max(rest / freedom, 1.0)
    p_value = float(fdtrc(len(kept), freedom, f_statistic))
    return Bend(centre, tuple(kept), beta[0], f_statistic, p_value)


def _terms(centre: tuple[float, float], width: FloatArray, depth: FloatArray) -> FloatArray:
    """Candidates, most wanted first; log n · log L is a combination of the squares."""
    n, d = np.log(width) - centre[0], np.log(depth) - centre[1]
    return np.stack([n, d, (n + d) ** 2, n**2, d**2], 1)
