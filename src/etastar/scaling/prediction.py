"""What a prediction says of a network that was not measured, and the arithmetic of its interval.

The interval is `x·β ± t √(xᵀCx + max(τ², bend²) + noise of the target)`: coefficients, what the law
misses, and the seed noise of the median that a measurement would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import FloatArray


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

    @classmethod
    def around(
        cls,
        network: tuple[FloatArray, FloatArray],
        ends: tuple[float, float],
        level: float,
        outside: tuple[str, ...],
        doubts: Iterable[str] = (),
        second_degree: float | None = None,
    ) -> Prediction:
        """Return the prediction with this interval.

        Args:
            network: Width and depth, `[1]` each.
            ends: Centre and half-width of the interval, as logarithms.
            level: Its nominal coverage.
            outside: Why the network is outside of the domain; empty inside.
            doubts: Further warnings.
            second_degree: See the attributes.
        """
        width, depth = (float(axis[0]) for axis in network)
        centre, half = ends
        value, low, high = map(math.exp, (centre, centre - half, centre + half))
        told = (*outside, *doubts)
        return cls(width, depth, value, low, high, level, not outside, told, second_degree)

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


def check_target(width: float, depth: float, level: float) -> tuple[FloatArray, FloatArray]:
    """Return width and depth of a network, `[1]` each; raise if it or the level cannot be.

    Raises:
        ConfigError: Width or depth is below 1 or not finite, or as `check_level`.
    """
    for name, value in (("width", width), ("depth", depth)):
        if not (math.isfinite(value) and value >= 1):
            raise ConfigError(f"{name} must be a number of at least 1; got {value!r}.")
    check_level(level)
    return np.array([float(width)]), np.array([float(depth)])


def check_level(level: float) -> None:
    """Raise if a coverage is not strictly between 0 and 1.

    Raises:
        ConfigError: It is 0 or less, or 1 or more.
    """
    if not 0 < level < 1:
        raise ConfigError(
            f"level must be between 0 and 1, e.g. 0.9 for a 90 % interval; got {level!r}."
        )
