"""Charts as plotly figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.errors import ConfigError
from etastar.report.chart import MOST_DECADES, Chart, Heat, Line, Points
from etastar.report.style import DIVERGING, MARKS, MUTED, for_html

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PIXELS = 1.5
"""Pixels of a mark per point of its size on paper."""
_PLOT = 330
_LEGEND_LINE = 21
"""Pixels of height: of the plot, and of a line of the legend."""
_FINE, _COARSE = 0.6, 2.2
"""Decades between which 2 and 5 are labelled; below, plotly chooses, above, powers of ten are."""


def require_plotly() -> None:
    """Raise if a package that the page needs is missing.

    Raises:
        ConfigError: Plotly or Jinja is not installed; the message says how to install it.
    """
    for package in ("plotly.offline", "jinja2"):
        try:
            import_module(package)
        except ImportError:
            name = package.split(".")[0]
            raise ConfigError(
                f"the page of a study needs {name}, which is not installed: pip install "
                "'etastar[report]'."
            ) from None


@cache
def _template() -> Any:
    """The look that all charts share, as plotly has it: `chart.json`."""
    return json.loads(Path(__file__).with_name("chart.json").read_text(encoding="utf-8"))


def interactive(chart: Chart) -> Figure:
    """The interactive twin of `draw_matplotlib.draw`.

    Raises:
        ConfigError: Plotly is not installed.
    """
    require_plotly()
    from plotly.graph_objects import Figure

    kinds: dict[type, Callable[[Any], dict[str, Any]]] = {Points: _points, Line: _line, Heat: _heat}
    return Figure(
        {"data": [kinds[type(each)](each) for each in chart.layers], "layout": _layout(chart)}
    )


def _points(layer: Points) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if layer.joined else "markers",
        "x": layer.x,
        "y": layer.y,
        "name": for_html(layer.label),
        "showlegend": bool(layer.label),
        "marker": {
            "symbol": MARKS[layer.shape][1],
            "size": _PIXELS * np.asarray(layer.size),
            "color": layer.faces,
            "line": {"color": layer.edges, "width": 1.6 if layer.shape == "dash" else 1.2},
        },
        "line": {"color": layer.colour, "width": 1.2},
        "hovertemplate": "%{text}<extra></extra>" if layer.hover else None,
        "text": list(layer.hover) or None,
    }
    red, green, blue = (int(layer.colour[i : i + 2], 16) for i in (1, 3, 5))
    for axis, (below, above) in layer.errors.items():
        trace[f"error_{axis}"] = {
            "array": above,
            "arrayminus": below,
            "color": f"rgba({red},{green},{blue},0.5)",
            "thickness": 1,
            "width": 0,
        }
    return trace


def _line(layer: Line) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": layer.x,
        "y": layer.y,
        "name": for_html(layer.label),
        "showlegend": bool(layer.label),
        "line": {"color": layer.colour, "width": layer.width + 0.4, "dash": layer.dash},
        "hoverinfo": "skip",
    }


def _heat(layer: Heat) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "x": list(layer.columns),
        "y": list(layer.rows),
        "z": layer.values.T,
        "zmin": -layer.limit,
        "zmax": layer.limit,
        "colorscale": list(zip(np.linspace(0, 1, len(DIVERGING)), DIVERGING, strict=True)),
        "text": [list(texts) for texts in zip(*layer.text, strict=True)],
        "textfont": {"size": 11 if len(layer.columns) <= 8 else 9},
        "customdata": [list(texts) for texts in zip(*layer.hover, strict=True)],
        "colorbar": {
            "title": {"text": for_html(layer.label)},
            "tickvals": list(layer.ticks),
            "ticktext": list(layer.ticks.values()),
        },
    }


def _layout(chart: Chart) -> dict[str, Any]:
    below = 62 + _LEGEND_LINE * chart.legend_lines
    top = 64 if chart.views else 30
    marks = [
        f'<span style="color:{colour or MUTED}">{"●" if colour else "○"}</span> {text}'
        for text, colour in chart.key
    ]
    return {
        "template": _template(),
        "height": _PLOT + below + top,
        "margin": {"l": 62, "r": 12, "t": top, "b": below},
        # an upright legend would take its width from the plot; lying, with entries as wide as the
        # chart, it stands below
        "legend": {"entrywidth": 0.98 / chart.legend_columns},
        "xaxis": _axis(chart, "x"),
        "yaxis": _axis(chart, "y"),
        "updatemenus": [{"buttons": _switch(chart)}] if chart.views else [],
        "annotations": [{"text": "  ".join(marks)}] if marks else [],
    }


def _axis(chart: Chart, axis: str) -> dict[str, Any]:
    title, logarithmic, limits = (
        getattr(chart, name) for name in (f"{axis}_label", f"log_{axis}", f"{axis}_range")
    )
    settings: dict[str, Any] = {"title": {"text": for_html(title)}}
    if chart.is_map:
        return settings | {"type": "category", "showgrid": False, "ticks": ""}
    if logarithmic:
        settings |= {"type": "log", "tickformat": "~g", "exponentformat": "power"}
        decades = chart.decades(axis)
        if _FINE <= decades < MOST_DECADES:
            settings["dtick"] = "D2" if decades < _COARSE else 1
    if limits:
        settings["range"] = [math.log10(end) if logarithmic else end for end in limits]
    return settings


def _switch(chart: Chart) -> list[dict[str, Any]]:
    """Buttons that put the points of another view in place of these."""
    buttons = []
    for view in (chart, *chart.views):
        points = [layer for layer in view.layers if isinstance(layer, Points | Line)]
        axis = {
            "xaxis.title.text": for_html(view.x_label),
            "xaxis.range": _axis(view, "x").get("range"),
            "xaxis.autorange": view.x_range is None,
        }
        data = {"x": [layer.x for layer in points], "y": [layer.y for layer in points]}
        buttons.append({"label": for_html(view.name), "method": "update", "args": [data, axis]})
    return buttons
