"""A log-log slope between two noisy measurements, such as η* against λ1."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import CellTable, FloatArray, IntArray, Response
from etastar.scaling.coefficients import Coefficient, coefficient
from etastar.scaling.estimates import estimate_cells
from etastar.scaling.prediction import check_level

LEAST_POINTS = 4
"""Two are needed for a line, and two more for its error."""


_UNBOUNDED = Coefficient("slope", np.inf, np.inf, -np.inf, np.inf, (-np.inf, np.inf))
"""The reverse slope of a y that does not vary beyond its noise."""


@dataclass(frozen=True)
class SlopeFit:
    """A straight line through points (log x, log y) that are noisy in both directions.

    Attributes:
        ols: Ordinary least squares of y on x: too flat by the factor `reliability`.
        corrected: The same, with the measurement variances subtracted (BCES of y on x). This is
            the slope to quote.
        reverse: y on x through the regression of x on y, corrected alike: too steep if y scatters
            around the line by more than its noise. The truth is between the two.
        intercept: That of the corrected line.
        reliability: 1 − mean noise variance of x ÷ variance of x.
        r2: Squared correlation of the points.
        scatter: Standard deviation of y around the corrected line beyond the noise of both.
        n: Number of points.
        level: Coverage of the intervals.
    """

    ols: Coefficient
    corrected: Coefficient
    reverse: Coefficient
    intercept: float
    reliability: float
    r2: float
    scatter: float
    n: int
    level: float

    def excludes(self, slope: float = -1.0) -> bool:
        """Say whether both intervals of the corrected slope exclude this one."""
        return self.corrected.excludes(slope)


def fit_slope(
    x: FloatArray,
    y: FloatArray,
    *,
    x_variance: FloatArray | float = 0.0,
    y_variance: FloatArray | float = 0.0,
    covariance: FloatArray | float = 0.0,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> SlopeFit:
    """The slope of y on x when both are measured with known noise and y scatters besides.

    Method of moments (BCES; Akritas & Bershady 1996, eqs. 14-18): the noise is subtracted from
    the sample moments, `b = (S_xy − mean σ_xy) / (S_xx − mean σ_x²)`, which assumes neither normal
    noise nor any law of the scatter. Least squares weighted in both directions (York 2004) would
    need the scatter's variance to be known.

    Args:
        x: Logarithms, `[M]`.
        y: Logarithms, `[M]`.
        x_variance: Noise variance of x, `[M]` or one number.
        y_variance: Noise variance of y.
        covariance: Covariance of the two noises, e.g. because the same seeds made both.
        n_boot: Bootstrap replicates, points resampled in pairs.
        seed: Seed of the bootstrap.
        level: Coverage of the intervals.

    Raises:
        ConfigError: Fewer than 4 points, values that are not finite, x constant, or x scattering
            no more than its noise, so that no slope is defined.
    """
    check_level(level)
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < LEAST_POINTS:
        raise ConfigError(
            f"a slope needs two arrays of the same length, at least {LEAST_POINTS}; got shapes "
            f"{x.shape} and {y.shape}."
        )
    noise = [
        np.broadcast_to(np.asarray(a, dtype=float), x.shape)
        for a in (x_variance, y_variance, covariance)
    ]
    if not all(np.all(np.isfinite(a)) for a in (x, y, *noise)):
        raise ConfigError("a slope needs finite logarithms and variances; got NaN or inf.")
    zero = np.zeros(len(x))
    reliability = 1 - float(noise[0].mean()) / max(float(np.var(x, ddof=1)), 1e-300)
    if np.ptp(x) < 1e-9 or reliability <= 0:
        raise ConfigError(
            f"x does not vary beyond its noise (variance {np.var(x, ddof=1):.3g}, noise "
            f"{noise[0].mean():.3g}): no slope is defined. Measure points further apart."
        )
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, len(x), (n_boot, len(x)))
    ols = _slope(x, y, zero, zero, pick, level)
    corrected = _slope(x, y, noise[0], noise[2], pick, level)
    varies = float(np.var(y, ddof=1)) > float(noise[1].mean()) + 1e-18
    reverse = _UNBOUNDED
    if varies:
        reverse = _inverted(_slope(y, x, noise[1], noise[2], pick, level))
    residual = y - y.mean() - corrected.value * (x - x.mean())
    b = corrected.value
    explained = float(np.mean(noise[1] + b * b * noise[0] - 2 * b * noise[2]))
    scatter2 = float(residual @ residual) / (len(x) - 2) - explained
    return SlopeFit(
        ols=ols,
        corrected=corrected,
        reverse=reverse,
        intercept=float(y.mean() - b * x.mean()),
        reliability=reliability,
        r2=float(np.corrcoef(x, y)[0, 1] ** 2) if varies else 0.0,
        scatter=float(np.sqrt(max(scatter2, 0.0))),
        n=len(x),
        level=level,
    )


def fit_cell_slope(
    cells: CellTable,
    *,
    x: Response = "lambda1",
    y: Response = "eta_star",
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> SlopeFit:
    """The slope between the cells' medians of two responses, by default of η* on λ1.

    The noise of both medians, and its covariance (the same initialisations made both), come from
    the spread over seeds. Medians of a bivariate normal with correlation ρ correlate by
    (2/π)·arcsin ρ.

    Raises:
        ConfigError: As `fit_slope`, or the rows have no λ1.
    """
    over, up = estimate_cells(cells, x), estimate_cells(cells, y)
    use = over.used & up.used
    rho = 2 / np.pi * np.arcsin(_within_correlation(cells, x, y))
    vx, vy = over.variance[use], up.variance[use]
    return fit_slope(
        over.value[use],
        up.value[use],
        x_variance=vx,
        y_variance=vy,
        covariance=rho * np.sqrt(vx * vy),
        n_boot=n_boot,
        seed=seed,
        level=level,
    )


def _within_correlation(cells: CellTable, x: Response, y: Response) -> float:
    """Correlation of two responses over the seeds of a cell, pooled over cells; 0 if unknown."""
    eta = 0.5 * (cells.log_lo + cells.log_hi)
    middles = {
        "eta_star": eta,
        "lambda1": cells.log_lambda1,
        "eta_lambda1": cells.log_lambda1 + eta,
    }
    pairs = [middles[x], middles[y]]
    both = np.isfinite(pairs[0]) & np.isfinite(pairs[1])
    cell = cells.cell[both]
    count = np.maximum(np.bincount(cell, minlength=len(cells)), 1)
    a, b = (
        value[both] - (np.bincount(cell, value[both], minlength=len(cells)) / count)[cell]
        for value in pairs
    )
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-12 else 0.0


def _slope(
    x: FloatArray,
    y: FloatArray,
    x_variance: FloatArray,
    covariance: FloatArray,
    pick: IntArray,
    level: float,
) -> Coefficient:
    """The corrected slope with its influence-function error and its bootstrap over `[B, M]`."""
    value = float(_moments(x[None], y[None], x_variance[None], covariance[None])[0])
    dx, dy = x - x.mean(), y - y.mean()
    bessel = len(x) / (len(x) - 1)
    spread = float(np.mean(bessel * dx**2 - x_variance))
    influence = (bessel * dx * (dy - value * dx) + value * x_variance - covariance) / spread
    freedom = len(x) - 2
    error = float(np.sqrt(np.sum(influence**2) / (len(x) * freedom)))
    drawn = _moments(x[pick], y[pick], x_variance[pick], covariance[pick])
    drawn = drawn[~np.isnan(drawn)]
    found = coefficient("slope", value, error, freedom, drawn, level)
    return found if found.bootstrap else replace(found, bootstrap=(-np.inf, np.inf))


def _moments(
    x: FloatArray, y: FloatArray, x_variance: FloatArray, covariance: FloatArray
) -> FloatArray:
    """Slopes `[B]` of B samples `[B, M]`; NaN where x does not scatter beyond its noise."""
    # Bessel's factor: without it the noise would be subtracted from a variance that lacks 1/M of it
    dx = (x - x.mean(1, keepdims=True)) * np.sqrt(x.shape[1] / (x.shape[1] - 1))
    dy = (y - y.mean(1, keepdims=True)) * np.sqrt(x.shape[1] / (x.shape[1] - 1))
    spread = (dx**2 - x_variance).mean(1)
    product = (dx * dy - covariance).mean(1)
    return np.asarray(np.divide(product, spread, out=np.full(len(x), np.nan), where=spread > 0))


def _inverted(slope: Coefficient) -> Coefficient:
    """1/slope; an interval that contains 0 becomes unbounded."""

    def interval(low: float, high: float) -> tuple[float, float]:
        return (1 / high, 1 / low) if low * high > 0 else (-np.inf, np.inf)

    if slope.value == 0:
        return _UNBOUNDED
    low, high = interval(slope.low, slope.high)
    error = slope.standard_error / slope.value**2
    ends = interval(*slope.bootstrap) if slope.bootstrap else None
    return Coefficient("slope", 1 / slope.value, error, low, high, ends)
