"""A log-log slope between two noisy measurements, such as η* against λ1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import CellTable, FloatArray, Response
from etastar.scaling.coefficients import Coefficient, coefficient
from etastar.scaling.estimates import estimate_cells
from etastar.scaling.prediction import check_level
from etastar.scaling.two_way import two_way

LEAST_POINTS = 4
"""Two are needed for a line, and two more for its error."""
_LEAST_VARIANCE = 1e-12
"""Of points that are said to have no noise."""


@dataclass(frozen=True)
class SlopeFit:
    """A straight line through points (log x, log y) that are noisy in both directions.

    Attributes:
        corrected: The slope, with the measurement variances subtracted (BCES of y on x).
        intercept: That of the line.
        reliability: 1 − mean noise variance of x ÷ variance of x: by this factor ordinary least
            squares of y on x is too flat.
        r2: Squared correlation of the points; 0 if y does not vary beyond its noise.
        scatter: Standard deviation of y around the line beyond the noise of both.
        n: Number of points.
        level: Coverage of the interval.
    """

    corrected: Coefficient
    intercept: float
    reliability: float
    r2: float
    scatter: float
    n: int
    level: float

    def excludes(self, slope: float = -1.0) -> bool:
        """Say whether the interval of the slope excludes this one."""
        return self.corrected.excludes(slope)


def fit_slope(
    x: FloatArray,
    y: FloatArray,
    *,
    x_variance: FloatArray | float = 0.0,
    y_variance: FloatArray | float = 0.0,
    covariance: FloatArray | float = 0.0,
    width: FloatArray | None = None,
    depth: FloatArray | None = None,
    level: float = 0.95,
) -> SlopeFit:
    """The slope of y on x when both are measured with known noise and y scatters besides.

    Method of moments (BCES; Akritas & Bershady 1996, eqs. 14-18): the noise is subtracted from
    the sample moments, `b = (S_xy − mean σ_xy) / (S_xx − mean σ_x²)`, which assumes neither normal
    noise nor any law of the scatter. Least squares weighted in both directions (York 2004) would
    need the scatter's variance to be known. The error is that of least squares whose residuals
    have the noise of both directions, `σ_y² + b²σ_x² − 2bσ_xy`, and effects that points of one
    width or one depth share (`two_way`), divided by the reliability of x; to it is added what the
    noise of x does to its own moment (Fuller, *Measurement Error Models*, 1987, eq. 1.2.21).

    Args:
        x: Logarithms, `[M]`.
        y: Logarithms, `[M]`.
        x_variance: Noise variance of x, `[M]` or one number.
        y_variance: Noise variance of y.
        covariance: Covariance of the two noises, e.g. because the same seeds made both.
        width: n of the network of every point, `[M]`; scatter is each point's own if None.
        depth: L, likewise.
        level: Coverage of the interval.

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
    count = len(x)
    vx, vy, shared = (
        np.broadcast_to(np.asarray(a, dtype=float), x.shape)
        for a in (x_variance, y_variance, covariance)
    )
    if not all(np.all(np.isfinite(a)) for a in (x, y, vx, vy, shared)):
        raise ConfigError("a slope needs finite logarithms and variances; got NaN or inf.")
    variance = float(np.var(x, ddof=1))
    reliability = 1 - float(vx.mean()) / max(variance, 1e-300)
    if np.ptp(x) < 1e-9 or reliability <= 0:
        raise ConfigError(
            f"x does not vary beyond its noise (variance {variance:.3g}, noise {vx.mean():.3g}): "
            "no slope is defined. Measure points further apart."
        )
    true_variance = variance * reliability
    b = (float(np.cov(x, y)[0, 1]) - float(shared.mean())) / true_variance
    noise = vy + b * b * vx - 2 * b * shared
    alone = np.arange(count, dtype=float)
    n, d = (alone if axis is None else axis for axis in (width, depth))
    design, known = np.stack([np.ones(count), x], 1), np.maximum(noise, _LEAST_VARIANCE)
    effects = two_way(design, y, known, n, d, np.ones(count))
    own = float((shared - b * vx).mean()) / true_variance
    error = float(np.sqrt(effects.covariance[1, 1] / reliability**2 + own**2 / (count - 1)))
    varies = float(np.var(y, ddof=1)) > float(vy.mean()) + 1e-18
    residual = y - y.mean() - b * (x - x.mean())
    scatter2 = float(residual @ residual) / (count - 2) - float(noise.mean())
    return SlopeFit(
        corrected=coefficient("slope", b, error, effects.freedom(np.array([0.0, 1.0])), level),
        intercept=float(y.mean() - b * x.mean()),
        reliability=reliability,
        r2=float(np.corrcoef(x, y)[0, 1] ** 2) if varies else 0.0,
        scatter=float(np.sqrt(max(scatter2, 0.0))),
        n=count,
        level=level,
    )


def fit_cell_slope(
    cells: CellTable,
    *,
    x: Response = "lambda1",
    y: Response = "eta_star",
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
        width=cells.width[use],
        depth=cells.depth[use],
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
