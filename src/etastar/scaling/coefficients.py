"""A coefficient of a law, or a slope, with its two intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from etastar.scaling.cells import FloatArray


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of a law, or one estimate of a slope.

    Attributes:
        name: `log_prefactor`, the name of the exponent, or `slope`.
        value: The estimate.
        standard_error: That of a law allows for lack of fit that networks of one width or depth
            share; that of a slope is robust to unequal scatter.
        low: Lower end of the Student t interval: what an exponent would be over other networks
            of this range. It contains seed noise and lack of fit.
        high: Upper end.
        bootstrap: Percentile interval. For a law it is over seeds and brackets of these very
            networks: what repeating the study with other seeds would give; None if `n_boot` was 0,
            or if most cells have a single seed, which resampling cannot vary. For a slope it is
            over points resampled in pairs.
    """

    name: str
    value: float
    standard_error: float
    low: float
    high: float
    bootstrap: tuple[float, float] | None

    @property
    def widest(self) -> tuple[float, float]:
        """The lower of both lower ends and the higher of both upper ends."""
        low, high = self.bootstrap or (self.low, self.high)
        return min(self.low, low), max(self.high, high)

    def excludes(self, value: float) -> bool:
        """Say whether `value` is outside both intervals."""
        low, high = self.widest
        return not low <= value <= high


def coefficient(
    name: str, value: float, error: float, freedom: float, replicates: FloatArray, level: float
) -> Coefficient:
    """A coefficient with both of its intervals.

    Args:
        name: What it is called.
        value: The estimate.
        error: Its standard error.
        freedom: Degrees of freedom of the Student t interval.
        replicates: Bootstrap replicates, `[B]`; there is no bootstrap interval if empty.
        level: Coverage.
    """
    half = float(stdtrit(freedom, 0.5 + 0.5 * level)) * error
    ends = None
    if len(replicates):
        tail = 50 * (1 - level)
        low, high = np.percentile(replicates, [tail, 100 - tail])
        ends = (float(low), float(high))
    return Coefficient(name, value, error, value - half, value + half, ends)
