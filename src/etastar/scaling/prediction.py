"""Prediction intervals for unseen networks, widened by what back-tests of extrapolation show.

Inside the fitted range the interval is `x·β ± t √(xᵀCx + τ² + noise of the target)`: coefficients,
lack of fit, and the seed noise of the median that a measurement would give. That takes the lack of
fit for independent between networks. A law that bends is not wrong independently, and beyond the
largest n·L its error grows; nothing in a fit's own residuals says how fast. So the fit is repeated
on the smaller networks among those fitted, the larger ones are predicted, and the interval of an
extrapolation is multiplied by the factor that those back-tests would have needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import FloatArray
from etastar.scaling.forms import Form
from etastar.scaling.least_squares import LinearFits, fit_random_effects

LEAST_BACKTESTS = 10
"""Fewest predicted cells from which a quantile of 90 % is taken: our choice."""
_MOST_SPLITS = 12


@dataclass(frozen=True)
class Prediction:
    """η* (or λ1) of a network, with a prediction interval for its measured median.

    Attributes:
        width: n.
        depth: L.
        value: Point prediction, in the response's units.
        low: Lower end of the interval.
        high: Upper end.
        level: Its nominal coverage.
        in_region: Whether the network is inside the domain of the fit.
        warnings: Why the prediction should not be trusted as it stands; empty if `in_region`.
        inflation: Factor by which back-tests of extrapolation widened the interval's log width.
    """

    width: float
    depth: float
    value: float
    low: float
    high: float
    level: float
    in_region: bool
    warnings: tuple[str, ...]
    inflation: float

    @property
    def eta(self) -> float:
        """The point prediction, under its name when the response is η*."""
        return self.value

    def __str__(self) -> str:
        text = (
            f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] at {self.level:.0%} "
            f"for width {self.width:g}, depth {self.depth:g}"
        )
        return "\n".join([text, *(f"WARNING: {w}" for w in self.warnings)])


@dataclass(frozen=True, eq=False)
class Backtest:
    """Extrapolations tried within the fitted cells.

    Attributes:
        distance: log of the predicted n·L over the largest n·L of that fit, `[B]`, positive.
        error: |log measured − log predicted|, `[B]`.
        deviation: The standard deviation claimed, `[B]`.
        freedom: Degrees of freedom of that fit, `[B]`.
    """

    distance: FloatArray
    error: FloatArray
    deviation: FloatArray
    freedom: FloatArray

    def inflation(self, distance: float, level: float) -> float:
        """Factor on the half-width for an extrapolation this far, at least 1.

        It is the conformal quantile, ⌈(B+1)·level⌉-th smallest, of error ÷ half-width over the
        back-tests at least half as far (or half of the farthest, whichever is less). Errors of
        one back-test share its coefficients and are not exchangeable, so this is a calibration
        and no guarantee; NaN if there are fewer than `LEAST_BACKTESTS`.
        """
        if len(self.distance) < LEAST_BACKTESTS:
            return math.nan
        near = self.distance >= 0.5 * min(distance, float(self.distance.max()))
        if near.sum() < LEAST_BACKTESTS:
            near = self.distance >= np.sort(self.distance)[-LEAST_BACKTESTS]
        half = student_quantile(level, self.freedom[near]) * self.deviation[near]
        needed = np.sort(self.error[near] / half)
        rank = min(math.ceil((len(needed) + 1) * level), len(needed))
        return max(1.0, float(needed[rank - 1]))


def student_quantile(level: float, freedom: FloatArray) -> FloatArray:
    """Half-width in standard errors of a two-sided Student t interval."""
    from scipy.special import stdtrit

    distinct, index = np.unique(freedom, return_inverse=True)  # few values, a slow function
    return np.asarray(stdtrit(distinct, 0.5 + 0.5 * level), dtype=float)[index]


def predictive_variance(fits: LinearFits, x: FloatArray, noise: float | FloatArray) -> FloatArray:
    """xᵀCx + τ² + noise of the target for every fit and target, `[K, T]`, for `x` of `[T, p]`."""
    spread = ((x @ fits.covariance) * x).sum(-1)  # (K, T)
    return np.asarray(spread + fits.tau2[:, None] + noise)


def backtest(
    form: Form,
    width: FloatArray,
    depth: FloatArray,
    y: FloatArray,
    v: FloatArray,
) -> Backtest:
    """Fit the cells up to a size, predict the larger ones, for up to 12 sizes.

    A size is used if the cells up to it determine the law with at least two degrees of freedom
    and are at least a quarter of all.

    Args:
        form: The law.
        width: n of the fitted cells, `[M]`.
        depth: L, `[M]`.
        y: log of the measured medians, `[M]`.
        v: Their variances, `[M]`.
    """
    x, offset = form.design(width, depth), form.fixed(width, depth)
    size = np.log(width * depth)
    least = max(x.shape[1] + 2, math.ceil(len(y) / 4))
    limits = [limit for limit in np.unique(size)[:-1] if (size <= limit).sum() >= least]
    if len(limits) > _MOST_SPLITS:
        limits = [limits[i] for i in np.linspace(0, len(limits) - 1, _MOST_SPLITS).astype(int)]
    small = [
        limit for limit in limits if form.is_defined(width[size <= limit], depth[size <= limit])
    ]
    if not small:
        return Backtest(*(np.zeros(0) for _ in range(4)))
    mask = size <= np.array(small)[:, None]  # (K, M)
    fits = fit_random_effects(x, y - offset, v, mask)
    error = np.abs(y - offset - fits.beta @ x.T)
    deviation = np.sqrt(predictive_variance(fits, x, v))
    distance = size - np.array(small)[:, None]
    freedom = np.broadcast_to(fits.freedom[:, None], mask.shape)
    out = ~mask
    return Backtest(distance[out], error[out], deviation[out], freedom[out])


def check_network(width: float, depth: float) -> None:
    """Refuse a width or depth that no network has.

    Raises:
        ConfigError: Either is below 1 or not finite.
    """
    for name, value in (("width", width), ("depth", depth)):
        if not (math.isfinite(value) and value >= 1):
            raise ConfigError(f"{name} must be a number of at least 1; got {value!r}.")


def check_level(level: float) -> None:
    """Refuse a coverage that is not strictly between 0 and 1.

    Raises:
        ConfigError: It is not.
    """
    if not 0 < level < 1:
        raise ConfigError(
            f"level must be between 0 and 1, e.g. 0.9 for a 90 % interval; got {level!r}."
        )
