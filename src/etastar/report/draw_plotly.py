"""Charts as plotly figures."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.errors import ConfigError
from etastar.report.chart import MOST_DECADES, Chart, FloatArray, Heat, Layer, Line, Points
from etastar.report.style import DIVERGING, GRID, INK, MARKS, MUTED, for_html

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PIXELS = 1.5
"""Pixels of a mark per point of its size on paper."""
_PLOT = 330
_LEGEND_LINE = 21
"""Pixels of height: of the plot, and of a line of the legend."""
_FINE, _COARSE = 0.6, 2.2
"""Decades between which 2 and 5 are labelled; below, plotly chooses, above, powers of ten are."""
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


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


def interactive(chart: Chart) -> Figure:
    """The interactive twin of `draw_matplotlib.draw`.

    Raises:
        ConfigError: Plotly is not installed.
    """
    require_plotly()
    from plotly.graph_objects import Figure

    traces = [trace for layer in chart.layers for trace in _traces(layer)]
    return Figure({"data": traces, "layout": _layout(chart)})


def _traces(layer: Layer) -> list[dict[str, Any]]:
    if isinstance(layer, Points):
        return [_points(layer)]
    if isinstance(layer, Line):
        return [_line(layer)]
    return [_heat(layer)]


def _points(layer: Points) -> dict[str, Any]:
    hollow = layer.hollow if layer.hollow is not None else np.zeros(len(layer.x), dtype=bool)
    outlined = layer.shape == "dash"
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if layer.joined else "markers",
        "x": layer.x,
        "y": layer.y,
        "name": for_html(layer.label),
        "showlegend": bool(layer.label),
        "marker": {
            "symbol": MARKS[layer.shape][1],
            "size": _PIXELS * layer.size,
            "color": layer.colour
            if outlined or not hollow.any()
            else ["#ffffff" if empty else layer.colour for empty in hollow],
            "line": {"color": layer.colour, "width": 1.6 if outlined else 1.2},
            "opacity": 1,
        },
        "line": {"color": layer.colour, "width": 1.2},
        "hovertemplate": "%{text}<extra></extra>" if layer.hover else None,
        "text": list(layer.hover) or None,
    }
    for axis, low, high in (
        ("y", layer.y_low, layer.y_high),
        ("x", layer.x_low, layer.x_high),
    ):
        if low is not None and high is not None:
            trace[f"error_{axis}"] = _bars(getattr(layer, axis), low, high, layer.colour)
    return trace


def _bars(value: FloatArray, low: FloatArray, high: FloatArray, colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": np.maximum(0.0, high - value),
        "arrayminus": np.maximum(0.0, value - low),
        "color": _faded(colour),
        "thickness": 1,
        "width": 0,
    }


def _faded(colour: str) -> str:
    """Half transparent, as the intervals are on paper."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"


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
        "texttemplate": "%{text}",
        "textfont": {"size": 11 if len(layer.columns) <= 8 else 9},
        "customdata": [list(texts) for texts in zip(*layer.hover, strict=True)],
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {
            "title": {"text": for_html(layer.label), "side": "right", "font": {"size": 12}},
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def _layout(chart: Chart) -> dict[str, Any]:
    below = 62 + _LEGEND_LINE * chart.legend_lines
    top = 64 if chart.views else 30
    layout: dict[str, Any] = {
        "height": _PLOT + below + top,
        "margin": {"l": 62, "r": 12, "t": top, "b": below},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": INK}, "align": "left"},
        "legend": {
            # an upright legend would take its width from the plot; lying, with entries as wide
            # as the chart, it stands below
            "orientation": "h",
            "entrywidth": 0.98 / chart.legend_columns,
            "entrywidthmode": "fraction",
            "x": 0,
            "xanchor": "left",
            "xref": "container",
            "y": 0,
            "yanchor": "bottom",
            "yref": "container",
            "font": {"size": 12},
            "itemclick": "toggle",
            "bgcolor": "rgba(0,0,0,0)",
        },
        "xaxis": _category(chart.x_label) if chart.is_map else _axis(chart, "x"),
        "yaxis": _category(chart.y_label) if chart.is_map else _axis(chart, "y"),
        "hovermode": "closest",
        "dragmode": "pan",
    }
    if chart.views:
        layout["updatemenus"] = [_switch(chart)]
    return layout


def _category(label: str) -> dict[str, Any]:
    return {"title": {"text": for_html(label)}, "type": "category", "showgrid": False, "ticks": ""}


def _axis(chart: Chart, axis: str) -> dict[str, Any]:
    logarithmic = chart.log_x if axis == "x" else chart.log_y
    settings: dict[str, Any] = {
        "title": {"text": for_html(chart.x_label if axis == "x" else chart.y_label)},
        "gridcolor": GRID,
        "linecolor": MUTED,
        "ticks": "outside",
        "tickcolor": MUTED,
        "zeroline": False,
        "automargin": True,
    }
    if logarithmic:
        settings |= {"type": "log", "tickformat": "~g", "exponentformat": "power"}
        decades = chart.decades(axis)
        if _FINE <= decades < MOST_DECADES:
            settings["dtick"] = "D2" if decades < _COARSE else 1
    if limits := chart.limits(axis):
        settings["range"] = [math.log10(end) if logarithmic else end for end in limits]
    return settings


def _switch(chart: Chart) -> dict[str, Any]:
    """Buttons that put the points of another view in place of these."""
    buttons = []
    for view in (chart, *chart.views):
        points = [layer for layer in view.layers if isinstance(layer, Points | Line)]
        buttons.append(
            {
                "label": for_html(view.name),
                "method": "update",
                "args": [
                    {"x": [layer.x for layer in points], "y": [layer.y for layer in points]},
                    {
                        "xaxis.title.text": for_html(view.x_label),
                        "xaxis.range": _axis(view, "x").get("range"),
                        "xaxis.autorange": view.x_range is None,
                    },
                ],
            }
        )
    return {
        "type": "buttons",
        "direction": "left",
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 4},
        "buttons": buttons,
        "showactive": True,
        "font": {"size": 12},
        "bgcolor": "#ffffff",
        "bordercolor": GRID,
    }
