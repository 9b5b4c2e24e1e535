"""Where a law was seen to hold: the networks it was fitted to, and how far outside one stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import BoolArray, FloatArray

_EDGE = 1e-9
"""Relative slack, so that the networks on a boundary are inside."""


@dataclass(frozen=True)
class Domain:
    """The convex hull of the fitted networks in (log n, log L), and the cutoff on n/L.

    Attributes:
        corners: (width, depth) of the hull's corners, counter-clockwise; two if the networks lie
            on a line, one if there is only one.
        width: Smallest and largest fitted n.
        depth: Smallest and largest fitted L.
        product: Smallest and largest fitted n·L.
        aspect: Smallest and largest fitted n/L.
        cutoff: n/L below which the law is not claimed, or None.
    """

    corners: tuple[tuple[float, float], ...]
    width: tuple[float, float]
    depth: tuple[float, float]
    product: tuple[float, float]
    aspect: tuple[float, float]
    cutoff: float | None = None

    @classmethod
    def of(cls, width: FloatArray, depth: FloatArray, cutoff: float | None = None) -> Domain:
        """The domain spanned by these networks, arrays `[M]`."""
        corners = convex_hull(np.stack([np.log(width), np.log(depth)], 1))
        return cls(
            tuple((float(np.exp(a)), float(np.exp(b))) for a, b in corners),
            _range(width),
            _range(depth),
            _range(width * depth),
            _range(width / depth),
            cutoff,
        )

    def checked(self, width: float, depth: float, *, strict: bool) -> tuple[str, ...]:
        """What is beyond the domain: see `outside`.

        Raises:
            ConfigError: `strict`, and the network is outside.
        """
        outside = self.outside(width, depth)
        if strict and outside:
            raise ConfigError(
                f"no prediction for width {width:g}, depth {depth:g}: {'; '.join(outside)}. "
                "Measure networks nearer to it, or leave out `strict`."
            )
        return outside

    def outside(self, width: float, depth: float) -> tuple[str, ...]:
        """What is beyond the domain, one sentence each with the distance; empty if inside."""
        said = []
        for name, value, (low, high) in (
            ("width", width, self.width),
            ("depth", depth, self.depth),
            ("n·L", width * depth, self.product),
        ):
            if value > high * (1 + _EDGE):
                said.append(f"{name} {value:g} is {value / high:.3g} times the largest fitted")
            elif value < low * (1 - _EDGE):
                said.append(f"{name} {value:g} is {low / value:.3g} times below the least fitted")
        aspect = width / depth
        if self.cutoff is not None and aspect < self.cutoff * (1 - _EDGE):
            said.append(
                f"n/L {aspect:.3g} is below the cutoff {self.cutoff:.3g}, under which the law "
                f"was not fitted"
            )
        elif not said and not self.contains(width, depth):
            said.append(
                f"width {width:g} and depth {depth:g} were each within the fitted range, but "
                f"not together (n/L {aspect:.3g}; fitted {self.aspect[0]:.3g} to "
                f"{self.aspect[1]:.3g})"
            )
        return tuple(said)

    def contains(self, width: float, depth: float) -> bool:
        """Say whether (log n, log L) is in the convex hull, its boundary included."""
        corners = np.log(np.array(self.corners))
        point = np.array([np.log(width), np.log(depth)])
        beyond = np.maximum(corners.min(0) - point, point - corners.max(0))
        edges = np.roll(corners, -1, 0) - corners  # of a line there and back, of a point none
        lengths = np.maximum(np.linalg.norm(edges, axis=1), _EDGE)
        offset = point - corners
        left = (edges[:, 0] * offset[:, 1] - edges[:, 1] * offset[:, 0]) / lengths
        return bool(np.all(left >= -_EDGE) and np.all(beyond <= _EDGE))


def below_cutoff(width: FloatArray, depth: FloatArray, cutoff: float | None) -> BoolArray:
    """Which networks, arrays `[M]`, have n/L below the cutoff; none if there is no cutoff."""
    return np.asarray(width / depth < (cutoff or 0.0) * (1 - _EDGE))


def convex_hull(points: FloatArray) -> FloatArray:
    """Corners of the hull of points `[M, 2]`, counter-clockwise (Andrew's monotone chain).

    Unlike `scipy.spatial.ConvexHull` it accepts points on a line, of which it returns the two
    ends, and a single point.
    """
    ranked = [np.array(p) for p in sorted({(float(a), float(b)) for a, b in points})]
    if len(ranked) <= 2:
        return np.array(ranked)

    def chain(sequence: list[FloatArray]) -> list[FloatArray]:
        hull: list[FloatArray] = []
        for p in sequence:
            while len(hull) > 1 and _turn(hull[-2], hull[-1], p) <= _EDGE:
                hull.pop()
            hull.append(p)
        return hull[:-1]

    return np.array(chain(ranked) + chain(ranked[::-1]))


def _turn(a: FloatArray, b: FloatArray, c: FloatArray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _range(values: FloatArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
