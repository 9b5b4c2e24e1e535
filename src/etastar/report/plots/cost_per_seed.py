"""What the measurements took."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from etastar.report.chart import Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, per_loss, points, rows_of, stacked, where
from etastar.study.export import Columns

_TIMES = {"seconds_per_seed": "η*", "lambda1_seconds_per_seed": "λ₁"}
"""Columns of times, in the order of drawing, and what the legend calls them."""
_NAMES = {"trials": "trials", "steps": "steps", "seeds": "seeds"}


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    y_label = "seconds per curve" if family.curve else "seconds per seed"
    charts = per_loss(family, partial(_layers, family), "width × depth, n·L", y_label)
    missing = "" if charts else "No task has ended yet."
    return Drawing(charts, stacked(map(cost_rows, family.groups)), _CAPTION, missing)


_CAPTION = (
    "Wall-clock seconds per seed of every network, or per success curve where these are measured: "
    "filled for η* (all trials of its search, trained side by side), hollow for λ₁. The shape of a "
    "mark is κ, its colour the depth L, its size the width n. Other work on the machine is in the "
    "seconds; trials and optimizer steps, in the rows, are exact."
)


def cost_rows(group: Group) -> Columns:
    """Seeds, trials, steps and seconds of every network that was measured, a row each."""
    rows = group.by_cell("trials", "steps")
    cells = [cell for cell in group.cells if cell.id in rows]

    def per_seed(identity: str | None) -> float | None:
        spent, seeds = group.work.get(identity or "", (0.0, 0))
        return spent / seeds if seeds else None

    return rows_of(
        group,
        [cell.settings.width for cell in cells],
        [cell.settings.depth for cell in cells],
        seeds=[len(rows[cell.id]) for cell in cells],
        trials=[sum(trials for trials, _ in rows[cell.id]) for cell in cells],
        steps=[sum(steps for _, steps in rows[cell.id]) for cell in cells],
        seconds_per_seed=[per_seed(cell.id) for cell in cells],
        lambda1_seconds_per_seed=[per_seed(cell.sharpness_id) for cell in cells],
    )


def _layers(family: Family, group: Group) -> Sequence[Points]:
    layers = []
    for name, called in _TIMES.items():
        if known := where(cost_rows(group), name):
            hollow = np.full(len(known["cell"]), called == "λ₁")
            names = {name: f"{called}, s per seed:", **_NAMES}
            layers.append(points(family, group, known, ("", name), called, names, hollow=hollow))
    return layers
