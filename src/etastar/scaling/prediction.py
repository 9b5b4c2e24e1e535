"""What a prediction says of a network that was not measured, and the arithmetic of its interval.

The interval is `x·β ± t √(xᵀCx + max(τ², bend²) + noise of the target)`: coefficients, what the law
misses, and the seed noise of the median that a measurement would give.
"""

from __future__ import annotations

from dataclasses import dataclass

from etastar.errors import ConfigError


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
        warnings: Why the prediction should not be trusted as it stands.
        second_degree: What the law with second-degree terms predicts here, as a measure of doubt
            and not as a better prediction; None if the cells cannot determine it.
    """

    width: float
    depth: float
    value: float
    low: float
    high: float
    level: float
    in_region: bool
    warnings: tuple[str, ...]
    second_degree: float | None

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


def check_level(level: float) -> None:
    """Raise if a coverage is not strictly between 0 and 1.

    Raises:
        ConfigError: It is 0 or less, or 1 or more.
    """
    if not 0 < level < 1:
        raise ConfigError(
            f"level must be between 0 and 1, e.g. 0.9 for a 90 % interval; got {level!r}."
        )
