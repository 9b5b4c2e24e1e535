"""A coefficient of a law, or a slope, with its intervals."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import ndtri, stdtrit


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of a law, or the slope of a line.

    Attributes:
        name: `log_prefactor`, the name of the exponent, or `slope`.
        value: The estimate.
        standard_error: It allows for lack of fit that networks of one width or depth share.
        low: Lower end of the Student t interval: what an exponent would be over other networks
            of this range. It contains seed noise and lack of fit.
        high: Upper end.
        over_seeds: Normal interval from seeds and brackets alone: what repeating the study of
            these very networks with other seeds would give. None for a slope, and where most
            networks have a single seed, which does not show how seeds differ.
    """

    name: str
    value: float
    standard_error: float
    low: float
    high: float
    over_seeds: tuple[float, float] | None = None

    def excludes(self, value: float) -> bool:
        """Say whether `value` is outside the Student t interval."""
        return not self.low <= value <= self.high


def coefficient(
    name: str,
    value: float,
    error: float,
    freedom: float,
    level: float,
    seed_error: float | None = None,
) -> Coefficient:
    """A coefficient with its intervals.

    Args:
        name: What it is called.
        value: The estimate.
        error: Its standard error.
        freedom: Degrees of freedom of the Student t interval.
        level: Coverage.
        seed_error: The standard error that seeds alone give; None if it is not known.
    """
    half = float(stdtrit(freedom, 0.5 + 0.5 * level)) * error
    ends = None
    if seed_error is not None:
        part = float(ndtri(0.5 + 0.5 * level)) * seed_error
        ends = (value - part, value + part)
    return Coefficient(name, value, error, value - half, value + half, ends)
