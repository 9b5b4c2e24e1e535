"""Charts as matplotlib Axes, and files for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.report.chart import MOST_DECADES, Chart, Heat, Line, Points
from etastar.report.style import DIVERGING, GRID, INK, MARKS, MUTED, STYLE, for_matplotlib
from etastar.study.filesystem import as_a_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf", "svg")
"""Files of every figure."""
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_PANEL = (3.7, 3.0)
"""Inches of a panel without its legend: two of them fill the text width of a paper."""
_LEGEND_LINE = 0.165
"""Inches."""
_STEPS = (
    (0.6, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)),
    (1.0, (1, 2, 3, 5, 7)),
    (2.2, (1, 2, 5)),
    (math.inf, (1,)),
)
"""Ticks of logarithmic axes that span fewer decades than the first number."""


def draw(chart: Chart, ax: Axes | None = None) -> Axes:
    """Draw a chart.

    Args:
        chart: What to draw.
        ax: Where; a new figure if None.

    Returns:
        The Axes.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(_PANEL[0] + 1.4, _PANEL[1] + 0.6), layout="constrained")[1]
    if not chart.is_map:
        _axes(chart, ax)
    for layer in chart.layers:
        if isinstance(layer, Points):
            _points(layer, ax)
        elif isinstance(layer, Line):
            _line(layer, ax)
        else:
            _heat(layer, ax)
    if chart.title:
        ax.set_title(for_matplotlib(chart.title), loc="left", fontsize=9, color=INK)
    ax.set_xlabel(for_matplotlib(chart.x_label))
    ax.set_ylabel(for_matplotlib(chart.y_label))
    if chart.key:
        ax.add_artist(_key(chart, ax))
    if chart.legend:
        ax.legend(
            loc="upper left",
            bbox_to_anchor=(-0.15, -46 / (72 * _PANEL[1])),
            borderaxespad=0.0,
            handlelength=1.4,
            handletextpad=0.6,
            labelspacing=0.35,
            ncols=chart.legend_columns,
        )
    return ax


def save_charts(charts: Sequence[Chart], stem: Path, *, caption: str = "") -> list[Path]:
    """Write charts side by side to `stem.png`, `.pdf` and `.svg`, each as a whole or not at all.

    Args:
        charts: The panels of a figure.
        stem: The files' path without its ending.
        caption: Kept in the files' metadata.

    Returns:
        The files, the SVG last; none if there is no chart.
    """
    if not charts:
        return []
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(charts), 2 if len(charts) in (2, 4) else 3)
    rows = math.ceil(len(charts) / columns)
    # without dates, so that the same results give the same bytes
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Description": caption},
        "pdf": {"Subject": caption, "CreationDate": None},
        "svg": {"Description": caption, "Date": None},
    }
    written = []
    with rc_context(STYLE):
        heights = [
            _PANEL[1] + _LEGEND_LINE * max(c.legend_lines for c in charts[i : i + columns])
            for i in range(0, len(charts), columns)
        ]
        figure = Figure(figsize=(_PANEL[0] * columns, sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
        for place, ax in enumerate(grid.flat):
            if place < len(charts):
                draw(charts[place], ax)
            else:
                ax.set_axis_off()
        # laid out once, not for every format
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for ending in FORMATS:
            path = stem.with_name(f"{stem.name}.{ending}")
            with as_a_whole(path) as partial:
                figure.savefig(partial, format=ending, metadata=metadata[ending])
            written.append(path)
    return written


def _key(chart: Chart, ax: Axes) -> Any:
    """A line above the panel that says what colours mean."""
    marks = [
        ax.scatter([], [], s=16, c=colour or "white", edgecolors=colour or MUTED, lw=0.8)
        for _, colour in chart.key
    ]
    return ax.legend(
        marks,
        [text for text, _ in chart.key],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.1,
        handletextpad=0.0,
        columnspacing=0.5,
        fontsize=7,
        ncols=len(chart.key),
    )


def _axes(chart: Chart, ax: Axes) -> None:
    ax.set_xscale("log" if chart.log_x else "linear")
    ax.set_yscale("log" if chart.log_y else "linear")
    if chart.log_x:
        decimal_ticks(ax.xaxis, chart.decades("x"))
    if chart.log_y:
        decimal_ticks(ax.yaxis, chart.decades("y"))
    ax.grid(True, color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(colors=MUTED, labelcolor=INK, which="both", width=0.6)
    ends = {"xlim": chart.x_range, "ylim": chart.y_range}
    ax.set(**{name: limits for name, limits in ends.items() if limits})


def decimal_ticks(axis: Any, decades: float) -> None:
    """Label a logarithmic axis 0.2, 0.5, 1 rather than in powers of ten, where they find room.

    Args:
        axis: Of matplotlib.
        decades: How many powers of ten it spans.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if decades > MOST_DECADES:
        return
    steps = next(finer for most, finer in _STEPS if decades < most)
    axis.set_major_locator(LogLocator(10, subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _points(layer: Points, ax: Axes) -> None:
    if reach := layer.errors:
        look: Any = {"fmt": "none", "ecolor": layer.colour, "elinewidth": 0.7, "alpha": 0.5}
        ax.errorbar(layer.x, layer.y, reach.get("y"), reach.get("x"), **look)
    if layer.joined:
        ax.plot(layer.x, layer.y, color=layer.colour, lw=0.9, alpha=0.8)
    mark: dict[str, Any] = {"marker": MARKS[layer.shape][0], "zorder": 3, "lw": 0.8}
    if layer.shape == "dash":  # which has no inside
        mark |= {"lw": 1.2}
    else:
        mark |= {"edgecolors": layer.edges}
    ax.scatter(layer.x, layer.y, s=np.square(layer.size), c=layer.faces, **mark)
    if layer.label:
        # the legend shows the usual mark, whatever the first point happens to be
        all_hollow = layer.hollow is not None and len(layer.hollow) and layer.hollow.all()
        mark |= {"edgecolors": layer.colour, "c": "white" if all_hollow else layer.colour}
        ax.scatter([], [], s=25, label=for_matplotlib(layer.label), **mark)


def _line(layer: Line, ax: Axes) -> None:
    ax.plot(
        layer.x,
        layer.y,
        color=layer.colour,
        ls=_DASHES[layer.dash],
        lw=layer.width,
        zorder=2.5,
        label=for_matplotlib(layer.label) or None,
    )


def _heat(layer: Heat, ax: Axes) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("around zero", DIVERGING)
    image = ax.imshow(
        layer.values.T,
        origin="lower",
        aspect="auto",
        cmap=colours,
        vmin=-layer.limit,
        vmax=layer.limit,
    )
    ax.set_xticks(range(len(layer.columns)), layer.columns)
    ax.set_yticks(range(len(layer.rows)), layer.rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    small = 7 if len(layer.columns) <= 8 else 5
    for i, texts in enumerate(layer.text):
        for j, text in enumerate(texts):
            value = layer.values[i, j]
            ink = "white" if abs(value) > 0.7 * layer.limit else INK
            ax.text(i, j, text, ha="center", va="center", fontsize=small, color=ink)
    if ax.figure is not None:
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=25, ticks=list(layer.ticks))
        bar.ax.set_yticklabels(list(layer.ticks.values()))
        bar.outline.set_visible(False)
        bar.set_label(for_matplotlib(layer.label), fontsize=8)
        bar.ax.tick_params(labelsize=7, length=2)
