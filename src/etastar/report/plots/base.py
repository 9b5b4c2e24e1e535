"""What a figure of a study is, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.report.chart import BoolArray, Chart, FloatArray, IntArray, Points
from etastar.report.draw_matplotlib import draw, save_charts
from etastar.report.draw_plotly import interactive
from etastar.report.evidence import Family, Group
from etastar.report.style import SERIES, SHAPES, for_plain_text, number
from etastar.scaling import Response
from etastar.study.export import Columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure as PlotlyFigure

_NORMAL_95 = 1.959964
"""Half-width of a 95 % interval of a normal law, in standard deviations."""
_LAMBDA1 = {"lambda1": "value", "lambda1_low": "low", "lambda1_high": "high"}


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


@dataclass(frozen=True, eq=False)
class Medians:
    """Medians of one response over the networks of a group, `[M]`.

    Attributes:
        width, depth: Of the networks.
        ids: Hashes of the cells.
        value: Median over seeds; NaN where the median seed is not determined.
        low, high: Its 95 % interval, from the spread over seeds and the brackets' width.
        used: Whether the median is known.
        bound: Lower bound where the median seed trained at the top of the range, else NaN.
        seeds, bracketed, all_trained, none_trained: Counts of seeds.
    """

    width: FloatArray
    depth: FloatArray
    ids: list[str]
    value: FloatArray
    low: FloatArray
    high: FloatArray
    used: BoolArray
    bound: FloatArray
    seeds: FloatArray
    bracketed: FloatArray
    all_trained: FloatArray
    none_trained: FloatArray

    @property
    def size(self) -> FloatArray:
        """n·L."""
        return self.width * self.depth

    def hover(self, symbol: str, which: IntArray, extra: Sequence[str] = ()) -> list[str]:
        """What the pointer shows of the networks with these indices; `extra` one line for each."""
        lines = []
        for place, i in enumerate(which):
            value = f"{symbol} {number(self.value[i])}"
            if np.isfinite(self.low[i]):
                value += f" [{number(self.low[i])}, {number(self.high[i])}]"
            if not self.used[i]:
                value = f"{symbol} above {number(self.bound[i])}"
            more = f"<br>{extra[place]}" if extra else ""
            lines.append(
                f"<b>{self.width[i]:g} × {self.depth[i]:g}</b><br>{value}{more}<br>"
                f"{self.seeds[i]:.0f} seeds<br>cell {self.ids[i]}"
            )
        return lines


def medians(group: Group, response: Response = "eta_star") -> Medians | None:
    """Medians of η* or λ1 of a group; None if it has none."""
    table, estimates = group.table.value, group.estimates(response).value
    if table is None or estimates is None:
        return None
    half = _NORMAL_95 * np.sqrt(estimates.variance)
    return Medians(
        width=table.width,
        depth=table.depth,
        ids=[group.cell_id(n, d) for n, d in zip(table.width, table.depth, strict=True)],
        value=np.exp(estimates.value),
        low=np.exp(estimates.value - half),
        high=np.exp(estimates.value + half),
        used=estimates.used,
        bound=np.exp(estimates.bound),
        seeds=np.bincount(table.cell, minlength=len(table)).astype(float),
        bracketed=estimates.bracketed.astype(float),
        all_trained=estimates.all_trained.astype(float),
        none_trained=estimates.none_trained.astype(float),
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
        eta, sharp = medians(group), medians(group, "lambda1") if lambda1 else None
        if eta is None:
            continue
        short = group.budget_share()
        for i in range(len(eta.width)):
            record: dict[str, Any] = {
                "width": int(eta.width[i]),
                "depth": int(eta.depth[i]),
                "input_lr_ratio": group.kappa,
                "loss": group.loss,
                "dataset": group.rows["dataset"][0],
                "seeds": int(eta.seeds[i]),
                "bracketed": int(eta.bracketed[i]),
                "all_trained": int(eta.all_trained[i]),
                "none_trained": int(eta.none_trained[i]),
                "ended_by_budget": plain(short[i]),
                "eta_star": plain(eta.value[i]),
                "eta_star_low": plain(eta.low[i]),
                "eta_star_high": plain(eta.high[i]),
                "eta_star_above": plain(eta.bound[i]),
            }
            if lambda1:
                for name, field in _LAMBDA1.items():
                    record[name] = plain(getattr(sharp, field)[i]) if sharp else None
            record["cell"] = eta.ids[i]
            records.append(record)
    return columns_of(records)


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
