"""What a figure shows, apart from how it is drawn: axes and layers of points, lines, cells.

A figure of a study is written once, as a `Chart`; `draw_matplotlib` makes the printed picture of
it and `draw_plotly` the interactive twin, so the two cannot disagree. Text may raise an exponent
as `^{2}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

MOST_DECADES = 6
"""On a logarithmic axis; beyond, only powers of ten are labelled."""
_SHORT_LABEL = 26
"""Letters of a legend's entry below which two find room side by side."""


@dataclass(frozen=True, eq=False)
class Points:
    """Marked points, `[M]`.

    Attributes:
        x: Abscissas.
        y: Ordinates.
        colour: Colour of all of them, `#rrggbb`.
        label: In the legend; not listed there if empty.
        shape: A name in `style.SHAPES`, or `up`, `down`, `dash`.
        hollow: Points drawn as outlines; None for none.
        y_low, y_high: Ends of vertical intervals; None for none.
        x_low, x_high: Ends of horizontal intervals.
        hover: What the pointer shows, one text per point; lines apart by `<br>`.
        joined: Whether a thin line runs through them.
        size: Size of the marks, in points; of all, or of each.
        colours: Colours of the marks one by one; intervals and legend keep `colour`. None for one.
    """

    x: FloatArray
    y: FloatArray
    colour: str
    label: str = ""
    shape: str = "circle"
    hollow: BoolArray | None = None
    y_low: FloatArray | None = None
    y_high: FloatArray | None = None
    x_low: FloatArray | None = None
    x_high: FloatArray | None = None
    hover: Sequence[str] = ()
    joined: bool = False
    size: float | FloatArray = 5.0
    colours: Sequence[str] | None = None

    @property
    def errors(self) -> dict[str, FloatArray]:
        """By axis how far intervals reach below and above, `[2, M]`; only axes that have some."""
        found = {}
        for axis in "xy":
            value, low, high = (getattr(self, f"{axis}{end}") for end in ("", "_low", "_high"))
            if low is not None and high is not None:
                found[axis] = np.maximum(0.0, [value - low, high - value])
        return found

    @property
    def edges(self) -> list[str]:
        """The colour of every mark's outline."""
        return list(self.colours or [self.colour] * len(self.x))

    @property
    def faces(self) -> list[str]:
        """The colour of every mark's inside: white if it is hollow."""
        hollow = np.zeros(len(self.x), dtype=bool) if self.hollow is None else self.hollow
        return ["#ffffff" if empty else c for empty, c in zip(hollow, self.edges, strict=True)]


@dataclass(frozen=True, eq=False)
class Line:
    """A line through points, `[M]`; `dash` is `solid`, `dash` or `dot`."""

    x: FloatArray
    y: FloatArray
    colour: str
    label: str = ""
    dash: str = "solid"
    width: float = 1.4


@dataclass(frozen=True, eq=False)
class Heat:
    """Values over two lists of categories, in diverging colours around zero.

    Attributes:
        columns: Names along x, `[W]`.
        rows: Names along y, from below, `[D]`.
        values: `[W, D]`; NaN where there is none.
        limit: Where the colours end, on both sides.
        text: Printed in the fields, `[W][D]`.
        hover: What the pointer shows, `[W][D]`.
        label: What the colours mean.
        ticks: Texts of the scale of colours, by value.
    """

    columns: Sequence[str]
    rows: Sequence[str]
    values: FloatArray
    limit: float
    text: Sequence[Sequence[str]]
    hover: Sequence[Sequence[str]]
    label: str
    ticks: Mapping[float, str]


Layer: TypeAlias = Points | Line | Heat


@dataclass(frozen=True, eq=False)
class Chart:
    """One panel of a figure.

    Attributes:
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        layers: Drawn in this order; legends are in it too.
        title: Above the panel; empty for none.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical one is.
        x_range: Limits of the horizontal axis; found from the data if None.
        y_range: Limits of the vertical axis, likewise.
        name: What this view is called where there are several.
        views: The same layers in other coordinates, to switch to in the page.
        key: What colours of marks mean, above the panel; an empty colour stands for hollow marks.
    """

    x_label: str
    y_label: str
    layers: Sequence[Layer]
    title: str = ""
    log_x: bool = True
    log_y: bool = True
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    name: str = ""
    views: Sequence[Chart] = ()
    key: Sequence[tuple[str, str]] = ()

    @property
    def legend(self) -> list[str]:
        """Labels of the layers that have one."""
        return [layer.label for layer in self.layers if layer.label and not isinstance(layer, Heat)]

    @property
    def legend_columns(self) -> int:
        """How many entries of the legend stand side by side: two if they are short."""
        return 2 if len(self.legend) > 1 and max(map(len, self.legend)) < _SHORT_LABEL else 1

    @property
    def legend_lines(self) -> int:
        """Lines that the legend takes."""
        return math.ceil(len(self.legend) / self.legend_columns)

    @property
    def is_map(self) -> bool:
        """Say whether the axes are lists of categories."""
        return any(isinstance(layer, Heat) for layer in self.layers)

    def extent(self, axis: str) -> tuple[float, float] | None:
        """Ends of the axis `x` or `y`: as given, or the least and largest positive value on it."""
        given: tuple[float, float] | None = getattr(self, f"{axis}_range")
        if given:
            return given
        parts = [
            getattr(layer, name, None)
            for layer in self.layers
            for name in (axis, f"{axis}_low", f"{axis}_high")
        ]
        found = np.concatenate([np.zeros(0), *(values for values in parts if values is not None)])
        found = found[np.isfinite(found) & (found > 0)]
        return (float(found.min()), float(found.max())) if len(found) else None

    def decades(self, axis: str) -> float:
        """How many powers of ten an axis spans; 1 if nothing is on it."""
        extent = self.extent(axis)
        return math.log10(extent[1] / extent[0]) if extent else 1.0
