"""What a figure of a study is, and what several of them share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.report.chart import Chart, FloatArray, Points
from etastar.report.draw_matplotlib import draw, save_charts
from etastar.report.draw_plotly import interactive
from etastar.report.evidence import Family, Group
from etastar.report.style import MUTED, SERIES, SHAPES, for_plain_text, number, ordered_colours
from etastar.scaling import CellEstimates, Response, estimate_cells
from etastar.study.export import Columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure as PlotlyFigure

_NORMAL_95 = 1.959964
"""Half-width of a 95 % interval of a normal law, in standard deviations."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure of one family.

    Attributes:
        charts: Its panels; none if there is nothing to draw.
        rows: What it was drawn from, column by column.
        caption: What the marks mean.
        missing: What is not drawn, and why; empty if all is.
    """

    charts: Sequence[Chart]
    rows: Columns
    caption: str
    missing: str = ""


@dataclass(frozen=True)
class Figure:
    """A kind of figure.

    Attributes:
        title: Its heading.
        make: Says what it shows of a family.
    """

    title: str
    make: Callable[[Family], Drawing]

    def draw(self, family: Family, ax: Axes | None = None, *, panel: int = 0) -> Axes:
        """One panel with matplotlib.

        Args:
            family: What to draw.
            ax: Where; a new figure if None.
            panel: Its number, from 0.

        Returns:
            The Axes.

        Raises:
            IndexError: There is no such panel; `make(family).missing` says why.
        """
        return draw(self.make(family).charts[panel], ax)

    def interactive(self, family: Family, *, panel: int = 0) -> PlotlyFigure:
        """The same panel with plotly.

        Args:
            family: What to draw.
            panel: Its number, from 0.

        Returns:
            The interactive figure.

        Raises:
            ConfigError: Plotly is not installed.
            IndexError: There is no such panel.
        """
        return interactive(self.make(family).charts[panel])

    def save(self, family: Family, stem: str | Path) -> list[Path]:
        """Write all panels as `stem.png`, `.pdf` and `.svg`.

        Args:
            family: What to draw.
            stem: The files' path without its ending.

        Returns:
            The files; none if there is nothing to draw.
        """
        drawing = self.make(family)
        return save_charts(drawing.charts, Path(stem), caption=for_plain_text(drawing.caption))


def medians(group: Group, response: Response = "eta_star") -> CellEstimates | None:
    """Medians of η* or λ1 over the networks of a group; None if it has none."""
    found = group.found(estimate_cells, response=response)
    return None if isinstance(found, str) else found


def ends(found: CellEstimates) -> tuple[FloatArray, FloatArray]:
    """95 % intervals of the medians, from the spread over seeds and the brackets' width, `[M]`."""
    half = _NORMAL_95 * np.sqrt(found.variance)
    return np.exp(found.value - half), np.exp(found.value + half)


def points(
    family: Family,
    group: Group,
    rows: Columns,
    axes: tuple[str, str],
    label: str,
    names: Mapping[str, str],
    **look: Any,
) -> Points:
    """Rows as marks: shaped by κ, coloured by depth, sized by width.

    Args:
        family: Holds all depths, widths and κ, which have the same looks in all its panels.
        group: Where the rows come from.
        rows: One row per network, as `rows_of` makes them.
        axes: The columns along x and y; an empty name is n·L. Intervals are drawn where a column
            has others beside it that end in `_low` and `_high`.
        label: In the legend, after κ; not listed there if empty.
        names: What the pointer calls the columns that it shows.
        **look: Other attributes of the points.
    """
    place = family.kappas.index(group.kappa)
    widths = family.sizes("width")
    depths = depth_colours(family)
    columns = rows | {"": np.multiply(rows["width"], rows["depth"])}
    placed = {
        axis + end: np.array(columns[name + end], dtype=float)
        for axis, name in zip("xy", axes, strict=True)
        for end in ("", "_low", "_high")
        if name + end in columns
    }
    rank = np.searchsorted(widths, rows["width"]) / max(1, len(widths) - 1)
    given: dict[str, Any] = {
        "colour": SERIES[place % len(SERIES)],
        "label": f"κ = {group.kappa:g}: {label}" if label else "",
        "shape": SHAPES[place % len(SHAPES)],
        "size": 3.5 + 2.5 * rank,
        "colours": [depths[depth] for depth in rows["depth"]],
        "hover": [_hover(rows, i, names) for i in range(len(rows["cell"]))],
    }
    return Points(**(given | placed | look))


def _hover(rows: Columns, row: int, names: Mapping[str, str]) -> str:
    """What the pointer shows of a row: the network, these columns with intervals, the cell."""
    shown = {name: column[row] for name, column in rows.items()}
    lines = ["<b>{width} × {depth}</b>, κ = {input_lr_ratio:g}".format(**shown)]
    for name, called in names.items():
        if type(shown[name]) is int and not shown[name]:  # nothing to count
            continue
        text = f"{called} {number(shown[name])}"
        if f"{name}_low" in shown:
            text += f" [{number(shown[f'{name}_low'])}, {number(shown[f'{name}_high'])}]"
        lines.append(text)
    return "<br>".join([*lines, f"cell {shown['cell']}"])


def depth_colours(family: Family) -> dict[int, str]:
    """The colour of every depth of a family, the same in all panels; grey is of no depth of its."""
    depths = family.sizes("depth")
    return defaultdict(lambda: MUTED, zip(depths, ordered_colours(len(depths)), strict=True))


def depth_key(family: Family) -> list[tuple[str, str]]:
    """What stands above a panel: the depths, each with its colour."""
    colours = depth_colours(family)
    return [(f"L = {d}" if d == min(colours) else f"{d}", c) for d, c in colours.items()]


def per_loss(
    family: Family,
    layers: Callable[[Group], Sequence[Any]],
    x_label: str,
    y_label: str,
    **axes: Any,
) -> list[Chart]:
    """One panel per loss, with the layers of all its κ; losses without any are left out."""
    charts, key = [], depth_key(family)
    for loss in family.losses:
        found = [layer for group in family.of_loss(loss) for layer in layers(group)]
        if any(isinstance(layer, Points) for layer in found):
            charts.append(Chart(x_label, y_label, found, title=loss, key=key, **axes))
    return alike(charts)


def alike(charts: Sequence[Chart]) -> list[Chart]:
    """The same charts with the same limits on their logarithmic axes, so that they compare."""
    found = list(charts)
    for axis in "xy":
        ends = [chart.extent(axis) for chart in found if getattr(chart, f"log_{axis}")]
        known = np.array([end for end in ends if end])
        if len(known):
            low, high = float(known.min()), float(known.max())
            room = 1.5 if high < 1.1 * low else (high / low) ** 0.06
            limits: Any = {f"{axis}_range": (low / room, high * room)}
            found = [replace(chart, **limits) for chart in found]
    return found


def network_rows(group: Group, *, lambda1: bool = False) -> Columns:
    """One row per network: counts of seeds, and η* with its interval.

    Args:
        group: The group.
        lambda1: Whether to add λ1 likewise.
    """
    eta = medians(group)
    if eta is None:
        return {}
    counts = ("bracketed", "all_trained", "none_trained")
    return rows_of(
        group,
        eta.width,
        eta.depth,
        seeds=eta.informative,
        **{name: getattr(eta, name) for name in counts},
        ended_by_budget=group.budget_share(),
        **_with_interval("eta_star", eta),
        eta_star_above=np.exp(eta.bound),
        **(_with_interval("lambda1", medians(group, "lambda1"), len(eta.width)) if lambda1 else {}),
    )


def _with_interval(name: str, found: CellEstimates | None, count: int = 0) -> Columns:
    """Medians and the ends of their intervals; NaN where nothing is known."""
    names = (name, f"{name}_low", f"{name}_high")
    columns = (np.exp(found.value), *ends(found)) if found else [np.full(count, np.nan)] * 3
    return dict(zip(names, map(list, columns), strict=True))


def rows_of(group: Group, width: Iterable[Any], depth: Iterable[Any], **columns: Any) -> Columns:
    """One row per network: what it is, these columns, its cell; None for a number there is not."""
    networks = [(round(n), round(d)) for n, d in zip(width, depth, strict=True)]
    dataset = str(group.cells[0].fields["dataset"])
    same = {"input_lr_ratio": group.kappa, "loss": group.loss, "dataset": dataset}
    return {
        "width": [n for n, _ in networks],
        "depth": [d for _, d in networks],
        **{name: [value] * len(networks) for name, value in same.items()},
        **{name: [_plain(value) for value in column] for name, column in columns.items()},
        "cell": [group.ids[network] for network in networks],
    }


def _plain(value: Any) -> Any:
    """A value of Python's own types; None for a number there is not."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def where(rows: Columns, *names: str) -> Columns:
    """The rows that have a value in these columns."""
    known = zip(*(rows.get(name, ()) for name in names), strict=True)
    keep = [i for i, values in enumerate(known) if None not in values]
    return {name: [column[i] for i in keep] for name, column in rows.items()} if keep else {}


def stacked(tables: Iterable[Columns]) -> Columns:
    """The rows of all these tables."""
    found: Columns = {}
    for table in tables:
        for name, column in table.items():
            found.setdefault(name, []).extend(column)
    return found


def sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    reason = reason.strip()
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "!", "?")) else ".")
