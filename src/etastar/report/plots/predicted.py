"""Large networks, predicted from small ones, against what was measured."""

from __future__ import annotations

from string import Template

import numpy as np

from etastar.report.chart import Chart, Line, Points
from etastar.report.evidence import FRACTION, LEVEL, PREDICTORS, Family, Group
from etastar.report.plots.base import Drawing, alike, points, rows_of, sentence, stacked
from etastar.report.style import MUTED, number, percent
from etastar.study.export import Columns

_ROOM = 4.0
"""Bars that reach further than this factor from the points run out of the picture."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    charts: list[Chart] = []
    for loss in family.losses:
        panels = [_chart(family, loss, form) for form in PREDICTORS]
        charts += alike([panel for panel in panels if panel])
    pairs = [(group, form) for group in family.groups for form in PREDICTORS]
    reasons = [
        f"No prediction for {group.name} with {PREDICTORS[form]}: {sentence(found)}"
        for group, form in pairs
        if isinstance(found := group.held_out(form), str)
    ]
    rows = stacked(_rows(group, form) for group, form in pairs)
    caption = Template(_CAPTION).substitute(family.words)
    return Drawing(charts, rows, caption, " ".join(reasons))


_CAPTION = (
    f"Fitted to the networks with n·L up to {number(FRACTION)} of the group's largest, a Gaussian "
    "process (by which `etastar predict` predicts), the law of one exponent and that of separate "
    f"ones predict the others, which they have not seen; bars are {percent(LEVEL)} prediction "
    "intervals, $noise included, and may run out of the panel. On "
    "the dotted line predicted and measured agree. Shapes, colours and sizes are those of the "
    "figure of η* against depth × width. In the legend the median error, the share of measured "
    "values inside their intervals, and the number of networks predicted; the table of "
    "predictions has the same for the rules η* ∝ 1/n and η* ∝ L^{−3/2}."
)


def _rows(group: Group, form: str) -> Columns:
    """The networks that a law has not seen: measured, predicted, with the ends of the interval."""
    found = group.held_out(form)
    if isinstance(found, str):
        return {}
    centre, half = found.log_predicted, found.half
    logs = (found.log_measured, centre, centre - half, centre + half)
    measured, predicted, low, high = map(np.exp, logs)
    return rows_of(
        group,
        found.width,
        found.depth,
        form=[form] * found.test,
        measured=measured,
        predicted=predicted,
        low=low,
        high=high,
        inside=(low <= measured) & (measured <= high),
    )


def _chart(family: Family, loss: str, form: str) -> Chart | None:
    found = [_points(family, group, form) for group in family.of_loss(loss)]
    layers: list[Points | Line] = [each for each in found if each]
    if not layers:
        return None
    values = np.concatenate([np.r_[layer.x, layer.y] for layer in layers])
    bars = np.concatenate([values, *(np.r_[each.y_low, each.y_high] for each in found if each)])
    low, high = max(values.min() / _ROOM, bars.min()), min(values.max() * _ROOM, bars.max())
    ends = (float(low), float(high))
    layers.append(Line(np.array(ends), np.array(ends), MUTED, dash="dot"))
    return Chart(
        "measured η*",
        "predicted η*",
        layers,
        title=f"{loss}: {PREDICTORS[form]}",
        # the same limits on both axes, so that the diagonal is one
        x_range=ends,
        y_range=ends,
    )


def _points(family: Family, group: Group, form: str) -> Points | None:
    found, rows = group.held_out(form), _rows(group, form)
    if isinstance(found, str):
        return None
    rows |= {"predicted_low": rows["low"], "predicted_high": rows["high"]}
    label = (
        f"off by {percent(found.median_error)}, {percent(found.coverage)} inside, of {found.test}"
    )
    names = {"measured": "measured", "predicted": "predicted"}
    return points(family, group, rows, ("measured", "predicted"), label, names)
