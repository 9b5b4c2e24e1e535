"""A coefficient of a law with its two intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etastar.scaling.cells import FloatArray
from etastar.scaling.least_squares import LinearFits
from etastar.scaling.prediction import student_quantile


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of a law.

    Attributes:
        name: `log_prefactor`, or the name of the exponent.
        value: The estimate.
        standard_error: With the lack of fit τ² in the weights.
        low: Lower end of the Student t interval: what the exponent would be over other networks
            of this range. It contains seed noise and lack of fit.
        high: Upper end.
        bootstrap: Percentile interval over seeds and brackets for these very networks: what
            repeating the study with other seeds would give. None if `n_boot` was 0, or if most
            cells have a single seed, which resampling cannot vary.
    """

    name: str
    value: float
    standard_error: float
    low: float
    high: float
    bootstrap: tuple[float, float] | None

    def excludes(self, value: float) -> bool:
        """Whether `value` is outside both intervals."""
        inside = self.low <= value <= self.high
        if self.bootstrap is not None:
            inside = inside or self.bootstrap[0] <= value <= self.bootstrap[1]
        return not inside


def coefficients(
    names: Sequence[str], fits: LinearFits, replicates: FloatArray, level: float
) -> tuple[Coefficient, ...]:
    """The coefficients of a single fit, with both intervals.

    Args:
        names: Of the coefficients, p.
        fits: One fit.
        replicates: Of the bootstrap, `[B, p]`; may be empty.
        level: Coverage.
    """
    t = float(student_quantile(level, fits.freedom)[0])
    tail = 50 * (1 - level)
    out = []
    for k, name in enumerate(names):
        value, error = float(fits.beta[0, k]), math.sqrt(float(fits.covariance[0, k, k]))
        percentiles = None
        if len(replicates):
            low, high = np.percentile(replicates[:, k], [tail, 100 - tail])
            percentiles = (float(low), float(high))
        out.append(
            Coefficient(name, value, error, value - t * error, value + t * error, percentiles)
        )
    return tuple(out)
