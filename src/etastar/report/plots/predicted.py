"""Large networks, predicted from small ones, against what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etastar.report.chart import Chart, FloatArray, Line, Points
from etastar.report.evidence import FRACTION, LAW_FORMS, LEVEL, Family, Group
from etastar.report.plots.base import Drawing, columns_of, identity, sentence, series
from etastar.report.style import MUTED, number, percent
from etastar.scaling import HeldOut

_ROOM = 8.0
"""Bars that reach further than this factor from the points run out of the picture."""
FORM_NAMES = {"product": "one exponent, a·(nL)^{b}", "separate": "separate exponents, a·n^{b}L^{c}"}


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    charts = [
        chart
        for loss in family.losses
        for form in LAW_FORMS
        if (chart := _chart(family, loss, form))
    ]
    reasons = [
        f"No prediction for {group.name} with {FORM_NAMES[form]}: {sentence(found)}"
        for group in family.groups
        for form in LAW_FORMS
        if isinstance(found := group.held_out(form), str)
    ]
    return Drawing(charts, columns_of(_rows(family)), _CAPTION, " ".join(reasons))


_CAPTION = (
    f"The law is fitted to the networks with n·L up to {number(FRACTION)} of the group's largest, "
    f"and predicts the others, which it has not seen; bars are {percent(LEVEL)} prediction "
    "intervals, the seed noise of the measured median included, and may run out of the panel. On "
    "the dotted line predicted and measured agree. In the legend the median error, the share of "
    "measured values inside their intervals, and the number of networks predicted; the table "
    "of predictions has the same for the rules η* ∝ 1/n and η* ∝ L^{−3/2}."
)


def _chart(family: Family, loss: str, form: str) -> Chart | None:
    points = [
        _points(family, group, found)
        for group in family.of_loss(loss)
        if not isinstance(found := group.held_out(form), str)
    ]
    if not points:
        return None
    layers: list[Points | Line] = [*points]
    ends = np.concatenate([np.r_[p.x, p.y] for p in points])
    equal = np.array([ends.min(), ends.max()])
    layers.append(Line(equal, equal, MUTED, dash="dot"))
    low, high = equal[0] / _ROOM, equal[1] * _ROOM
    beyond = any(np.any(p.y_low < low) or np.any(p.y_high > high) for p in points)
    return Chart(
        x_label="measured η*",
        y_label="predicted η*",
        layers=layers,
        title=f"{loss}: {FORM_NAMES[form]}",
        y_range=(float(low), float(high)) if beyond else None,
    )


def _points(family: Family, group: Group, found: HeldOut) -> Points:
    colour, shape = series(family, group)
    _, _, measured, predicted, low, high = _columns(found)
    return Points(
        measured,
        predicted,
        label=(
            f"κ = {group.kappa:g}: off by {percent(found.median_error)}, "
            f"{percent(found.coverage)} inside, of {found.test}"
        ),
        y_low=low,
        y_high=high,
        hover=[
            f"<b>{n:g} × {d:g}</b>, κ = {group.kappa:g}<br>measured {number(measured)}<br>"
            f"predicted {number(predicted)} [{number(low)}, {number(high)}]<br>"
            f"cell {group.cell_id(n, d)}"
            for n, d, measured, predicted, low, high in _zipped(found)
        ],
        colour=colour,
        shape=shape,
    )


def _columns(found: HeldOut) -> tuple[FloatArray, ...]:
    """Width, depth, measured and predicted η*, and both ends of the interval, each `[test]`."""
    centre, half = found.log_predicted, found.half
    logs = (found.log_measured, centre, centre - half, centre + half)
    return found.width, found.depth, *map(np.exp, logs)


def _zipped(found: HeldOut) -> Sequence[tuple[float, ...]]:
    return [tuple(map(float, values)) for values in zip(*_columns(found), strict=True)]


def _rows(family: Family) -> list[dict[str, Any]]:
    return [
        {
            **identity(group, n, d),
            "form": form,
            "measured": measured,
            "predicted": predicted,
            "low": low,
            "high": high,
            "inside": low <= measured <= high,
            "cell": group.cell_id(n, d),
        }
        for group in family.groups
        for form in LAW_FORMS
        if not isinstance(found := group.held_out(form), str)
        for n, d, measured, predicted, low, high in _zipped(found)
    ]
