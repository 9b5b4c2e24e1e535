"""What a figure of a study is, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.report.chart import Chart, FloatArray, IntArray, Points
from etastar.report.draw_matplotlib import draw, save_charts
from etastar.report.draw_plotly import interactive
from etastar.report.evidence import Family, Group
from etastar.report.style import SERIES, SHAPES, for_plain_text, number
from etastar.scaling import CellEstimates, Response
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
        if not drawing.charts:
            return []
        return save_charts(drawing.charts, Path(stem), caption=for_plain_text(drawing.caption))


def medians(group: Group, response: Response = "eta_star") -> CellEstimates | None:
    """Medians of η* or λ1 over the networks of a group; None if it has none."""
    found = group.estimates(response)
    return None if isinstance(found, str) else found


def ends(found: CellEstimates) -> tuple[FloatArray, FloatArray]:
    """95 % intervals of the medians, from the spread over seeds and the brackets' width, `[M]`."""
    half = _NORMAL_95 * np.sqrt(found.variance)
    return np.exp(found.value - half), np.exp(found.value + half)


def marks(
    family: Family,
    group: Group,
    found: CellEstimates,
    which: IntArray,
    symbol: str,
    label: str,
    extra: Sequence[str] = (),
) -> Points:
    """The medians of the networks with these indices against n·L.

    Args:
        family: Decides the colour and shape of the group's κ.
        group: The group.
        found: Its medians.
        which: Indices of networks, `[P]`.
        symbol: What the pointer calls the median.
        label: In the legend, after the group's κ.
        extra: A line for each of these networks that the pointer shows too, `[P]`.
    """
    kappa = f"κ = {group.kappa:g}"
    low, high = ends(found)
    texts = []
    for place, i in enumerate(which):
        if found.used[i]:
            value = f"{number(np.exp(found.value[i]))} [{number(low[i])}, {number(high[i])}]"
        else:
            value = f"above {number(np.exp(found.bound[i]))}"
        more = f"<br>{extra[place]}" if len(extra) else ""
        texts.append(
            f"<b>{found.width[i]:g} × {found.depth[i]:g}</b><br>{kappa}, {symbol} {value}{more}<br>"
            f"{found.informative[i]:.0f} seeds<br>cell "
            f"{group.cell_id(found.width[i], found.depth[i])}"
        )
    colour, shape = series(family, group)
    return Points(
        (found.width * found.depth)[which],
        np.exp(found.value[which]),
        colour,
        f"{kappa}: {label}",
        shape,
        y_low=low[which],
        y_high=high[which],
        hover=texts,
    )


def series(family: Family, group: Group) -> tuple[str, str]:
    """Colour and shape of a group's κ, the same in all panels of a family."""
    place = family.kappas.index(group.kappa)
    return SERIES[place % len(SERIES)], SHAPES[place % len(SHAPES)]


def per_loss(family: Family, layers: Callable[[Group], Sequence[Any]], **axes: Any) -> list[Chart]:
    """One panel per loss, with the layers of all its κ; losses without any are left out."""
    charts = []
    for loss in family.losses:
        found = [layer for group in family.of_loss(loss) for layer in layers(group)]
        if any(isinstance(layer, Points) for layer in found):
            charts.append(Chart(layers=found, title=loss, **axes))
    return charts


def network_rows(groups: Sequence[Group], *, lambda1: bool = False) -> Columns:
    """One row per network: its settings, counts of seeds, and η* with its interval.

    Args:
        groups: The groups.
        lambda1: Whether to add λ1 likewise.
    """
    records = []
    for group in groups:
        if (eta := medians(group)) is None:
            continue
        sharp = medians(group, "lambda1") if lambda1 else None
        numbers = {
            "ended_by_budget": group.budget_share(),
            "eta_star": np.exp(eta.value),
            **dict(zip(("eta_star_low", "eta_star_high"), ends(eta), strict=True)),
            "eta_star_above": np.exp(eta.bound),
        }
        if lambda1:
            unknown = np.full(len(eta.width), np.nan)
            low, high = ends(sharp) if sharp else (unknown, unknown)
            numbers |= {"lambda1": np.exp(sharp.value) if sharp else unknown}
            numbers |= {"lambda1_low": low, "lambda1_high": high}
        for i, (n, d) in enumerate(zip(eta.width, eta.depth, strict=True)):
            records.append(
                {
                    **identity(group, n, d),
                    "seeds": int(eta.informative[i]),
                    "bracketed": int(eta.bracketed[i]),
                    "all_trained": int(eta.all_trained[i]),
                    "none_trained": int(eta.none_trained[i]),
                    **{name: plain(values[i]) for name, values in numbers.items()},
                    "cell": group.cell_id(n, d),
                }
            )
    return columns_of(records)


def identity(group: Group, width: float, depth: float) -> dict[str, Any]:
    """The columns that every figure's rows begin with."""
    return {
        "width": int(width),
        "depth": int(depth),
        "input_lr_ratio": group.kappa,
        "loss": group.loss,
        "dataset": str(group.cells[0].fields["dataset"]),
    }


def columns_of(records: Sequence[dict[str, Any]]) -> Columns:
    """Records with the same keys, column by column."""
    return {name: [record[name] for record in records] for name in (records[0] if records else ())}


def plain(value: Any) -> float | None:
    """A number for a table: None where there is none."""
    value = float(value)
    return value if np.isfinite(value) else None


def sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    reason = reason.strip()
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "!", "?")) else ".")
