"""Weighted least squares with known variances plus an unknown lack of fit, for many data at once.

The model is `y_i = x_i·β + u_i + e_i` with e_i ~ N(0, v_i), v_i known, and u_i ~ N(0, τ²): a power
law is only approximately true, and τ² is the variance of what it misses. Weights are 1/(v_i + τ²).
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

from etastar.scaling.cells import BoolArray, FloatArray

_HALVINGS = 60
"""How often the interval of τ² is halved: more than the 53 binary digits of float64."""
_LEAST_INFORMATION = 1e-9
"""Of a bound, in units of a measurement: less changes no digit that is read."""


def fit_random_effects(
    x: FloatArray, y: FloatArray, v: FloatArray, mask: BoolArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fit with τ² estimated by Paule and Mandel's method of moments, for each of K subsets.

    τ² solves `Σ (y_i − x_i·β)²/(v_i + τ²) = M − p`, or is 0 if the left-hand side is below M − p
    already at 0 (Paule & Mandel 1982; DerSimonian & Kacker 2007, eq. 8). With that τ² the scale
    factor of Hartung and Knapp is 1, or below 1 and then not applied, so that t quantiles with
    M − p degrees of freedom go with the covariance.

    Args:
        x: Design, `[M, p]`, first column ones.
        y: Responses, `[M]`.
        v: Known variances, `[M]`, positive.
        mask: Cells of each fit, `[K, M]`; all of them, once, if None.

    Returns:
        β `[K, p]`, its covariance `(XᵀWX)⁻¹` `[K, p, p]`, and τ² `[K]` of the K fits. A subset
        with p cells or fewer gets τ² = 0.
    """
    if mask is None:
        mask = np.ones((1, len(y)), dtype=bool)
    freedom = mask.sum(1).astype(float) - x.shape[1]

    design = _centred(x)

    def excess(tau2: FloatArray) -> FloatArray:
        weight = mask / (v + tau2[:, None])
        beta, _ = _solve(design, y, weight)
        return np.asarray((weight * (y - beta @ x.T) ** 2).sum(1) - freedom)

    low = np.zeros(len(mask))
    misfit = (excess(low) > 0) & (freedom > 0)
    # at τ² = RSS(any β)/(M − p) the left-hand side is below M − p; the constant law bounds RSS
    centre = (mask * y).sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1)
    total = (mask * (y - centre) ** 2).sum(1)
    high = np.where(misfit, total / np.maximum(freedom, 1) + 1e-300, 0.0)
    for _ in range(_HALVINGS if misfit.any() else 0):
        middle = 0.5 * (low + high)
        above = (excess(middle) > 0) & misfit
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    tau2 = np.where(misfit, 0.5 * (low + high), 0.0)
    beta, covariance = solve(x, y, mask / (v + tau2[:, None]))
    return beta, covariance, tau2


def stand_ins(
    beta: FloatArray,
    x: FloatArray,
    y: FloatArray,
    v: FloatArray,
    tau2: float,
    bounds: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Measurements that stand for bounds: with them, least squares is the censored likelihood.

    The likelihood of `y_i > c_i` (or <) under the normal model (Tobin 1958) has the derivatives, at
    its maximum over β, of a measurement of the value `μ + s/(h − z)` with the variance
    `s²/(h (h − z))`: μ = x_i·β, s² = v_i + τ², z = (c_i − μ)/s and h the hazard φ(z)/(1 − Φ(z)).
    Newton's steps find β, the likelihood being concave in it.

    Args:
        beta: β of the measured cells alone, `[p]`, where the steps begin.
        x: Their design, `[M, p]`.
        y: Responses, `[M]`.
        v: Known variances, `[M]`.
        tau2: τ².
        bounds: Design `[B, p]`, bounds c `[B]`, variances `[B]`, and 1 where the response is
            above the bound, −1 where it is below it, `[B]`.

    Returns:
        β `[p]` of both together, and values `[B]` and variances without τ² `[B]` of the
        measurements.
    """
    xb, bound, vb, side = bounds
    scale, whole = np.sqrt(vb + tau2), np.concatenate([x, xb])
    values, variances = bound, vb
    for _ in range(100 if len(bound) else 0):
        z = side * (bound - xb @ beta) / scale
        hazard = np.exp(-0.5 * z**2 - log_ndtr(-z)) / np.sqrt(2 * np.pi)
        beyond = np.maximum(hazard - z, 1e-6)  # its digits are lost far above the bound
        values = xb @ beta + side * scale / beyond
        variances = scale**2 / np.clip(hazard * beyond, _LEAST_INFORMATION, 1) - tau2
        before, weight = beta, 1 / (np.append(v, variances) + tau2)
        (beta,), _ = solve(whole, np.append(y, values), weight[None])
        if np.abs(beta - before).max() < 1e-12:
            break
    return beta, values, variances


def solve(x: FloatArray, y: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Minimise `Σ w_i (y_i − x_i·β)²` for each of K rows of weights.

    The regressors are centred at their unweighted mean before the normal equations are formed:
    log n and log L have means large against their spread, which would cost digits.

    Args:
        x: `[M, p]`, first column ones.
        y: `[M]` or `[K, M]`.
        weight: `[K, M]`.

    Returns:
        β `[K, p]` and `(XᵀWX)⁻¹` `[K, p, p]`.
    """
    design = _centred(x)
    beta, inverse = _solve(design, y, weight)
    back = design[2]
    return beta, back @ inverse @ back.T


def _centred(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return centred regressors, their products `[M, p·p]`, and the matrix back to those of x."""
    p = x.shape[1]
    mean = x[:, 1:].mean(0)
    z = np.concatenate([x[:, :1], x[:, 1:] - mean], 1)
    back = np.eye(p)
    back[0, 1:] = -mean
    return z, (z[:, :, None] * z[:, None, :]).reshape(len(z), p * p), back


def _solve(
    design: tuple[FloatArray, FloatArray, FloatArray], y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return β and the inverse of the centred normal matrix."""
    z, squares, back = design
    p = len(back)
    inverse = np.asarray(np.linalg.inv((weight @ squares).reshape(-1, p, p)), np.float64)
    moments = (weight * y) @ z  # (K, p)
    return (inverse @ moments[:, :, None])[:, :, 0] @ back.T, inverse


def linear_map(x: FloatArray, weight: FloatArray) -> FloatArray:
    """`(XᵀWX)⁻¹XᵀW`, `[p, M]`, for one row of weights `[M]`: many responses, one product."""
    _, covariance = solve(x, np.zeros(len(x)), weight[None])
    return np.asarray(covariance[0] @ (x.T * weight))


def log_likelihood(x: FloatArray, y: FloatArray, v: FloatArray) -> tuple[float, float]:
    """Maximum of the normal likelihood over β and τ², for comparing laws with AIC and BIC.

    Maximum likelihood and not Paule and Mandel's estimate (nor REML), because likelihoods of laws
    with different coefficients are comparable only then.

    Returns:
        The maximal log-likelihood and the τ² that attains it.
    """

    def scores(tau2: FloatArray) -> FloatArray:
        s = v + tau2[:, None]
        beta, _ = solve(x, y, 1 / s)
        residual = y - beta @ x.T
        return np.asarray(-0.5 * np.sum(np.log(2 * np.pi * s) + residual**2 / s, 1))

    top = float(np.var(y)) + float(np.max(v))
    # the likelihood of τ² may have two humps; a scan of its logarithm finds the right one
    grid = np.concatenate([[0.0], np.geomspace(top * 1e-12, top, 49)])
    for _ in range(6):  # each zoom narrows the bracket 16 times
        heights = scores(grid)
        best = int(np.argmax(heights))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        tau2, height = float(grid[best]), float(heights[best])
        grid = np.append(np.linspace(low, high, 33), tau2)
        grid.sort()
    return height, tau2
