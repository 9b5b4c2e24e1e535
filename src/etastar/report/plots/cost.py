"""What the measurements took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etastar.report.chart import Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, columns_of, identity, per_loss, series
from etastar.report.style import number, thousands
from etastar.study.export import Columns

_LABELS = {"seconds_per_seed": "η*", "lambda1_seconds_per_seed": "λ₁"}
"""What the columns of times are called in the legend, in the order of drawing."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    charts = per_loss(
        family,
        lambda group: _layers(family, group),
        x_label="width × depth, n·L",
        y_label="seconds per seed",
    )
    rows: Columns = {}
    for group in family.groups:
        for name, column in cost_rows(group).items():
            rows.setdefault(name, []).extend(column)
    return Drawing(charts, rows, _CAPTION, "" if charts else "No task has ended yet.")


_CAPTION = (
    "Wall-clock seconds per seed of every network: filled for η* (all trials of its search, the "
    "seeds of a network trained side by side), hollow for λ₁. Other work on the machine is in "
    "them; trials and optimizer steps, in the rows, are exact."
)


def cost_rows(group: Group) -> Columns:
    """Seeds, trials, steps and seconds of every network that was measured, a row each."""
    cells = np.array(group.rows["cell"])
    trials, steps = (np.array(group.rows[name]) for name in ("trials", "steps"))
    records = []
    for cell in group.cells:
        own = cells == cell.id
        if not own.any():
            continue
        times = [group.work.get(i or "", (0.0, 0)) for i in (cell.id, cell.sharpness_id)]
        records.append(
            {
                **identity(group, cell.settings.width, cell.settings.depth),
                "seeds": int(own.sum()),
                "trials": int(trials[own].sum()),
                "steps": int(steps[own].sum()),
                **{
                    name: spent / seeds if seeds else None
                    for name, (spent, seeds) in zip(_LABELS, times, strict=True)
                },
                "cell": cell.id,
            }
        )
    return columns_of(records)


def _layers(family: Family, group: Group) -> Sequence[Points]:
    rows = cost_rows(group)
    if not rows:
        return []
    colour, shape = series(family, group)
    size = np.multiply(rows["width"], rows["depth"]).astype(float)
    layers = []
    for name, label in _LABELS.items():
        seconds = np.array(rows[name], dtype=float)
        known = np.flatnonzero(seconds > 0)
        hover = [
            f"<b>{rows['width'][i]} × {rows['depth'][i]}</b>, κ = {group.kappa:g}<br>{label}: "
            f"{number(seconds[i])} s per seed<br>{thousands(rows['trials'][i])} trials, "
            f"{thousands(rows['steps'][i])} steps of {rows['seeds'][i]} seeds<br>"
            f"cell {rows['cell'][i]}"
            for i in known
        ]
        if len(known):
            layers.append(
                Points(
                    size[known],
                    seconds[known],
                    colour,
                    f"κ = {group.kappa:g}: {label}",
                    shape,
                    hollow=np.full(len(known), label == "λ₁"),
                    hover=hover,
                )
            )
    return layers
