"""What the measurements took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
    curve = family.curve
    charts = per_loss(
        family,
        lambda group: _layers(family, group),
        x_label="width × depth, n·L",
        y_label="seconds per curve" if curve else "seconds per seed",
    )
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
    totals: dict[str, Counter[str]] = {"seeds": Counter(group.rows["cell"])}
    for name in ("trials", "steps"):
        totals[name] = Counter()
        for cell, value in zip(group.rows["cell"], group.rows[name], strict=True):
            totals[name][cell] += value
    cells = [cell for cell in group.cells if cell.id in totals["seeds"]]
    times = [[group.work.get(i or "", (0.0, 0)) for i in (c.id, c.sharpness_id)] for c in cells]
    each = [[spent / seeds if seeds else None for spent, seeds in both] for both in times]
    return rows_of(
        group,
        [cell.settings.width for cell in cells],
        [cell.settings.depth for cell in cells],
        **{name: [total[cell.id] for cell in cells] for name, total in totals.items()},
        **{name: [both[place] for both in each] for place, name in enumerate(_TIMES)},
    )


def _layers(family: Family, group: Group) -> Sequence[Points]:
    layers = []
    for name, called in _TIMES.items():
        if known := where(cost_rows(group), name):
            hollow = np.full(len(known["cell"]), called == "λ₁")
            names = {name: f"{called}, s per seed:", **_NAMES}
            layers.append(points(family, group, known, ("", name), called, names, hollow=hollow))
    return layers
