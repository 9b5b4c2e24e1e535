"""η* against λ1: is the maximal learning rate inverse to the sharpness?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from string import Template

import numpy as np

from etastar.report.chart import Chart, Line, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import (
    Drawing,
    medians,
    network_rows,
    per_loss,
    points,
    sentence,
    stacked,
    where,
)
from etastar.report.plots.lambda1_law import NOTHING
from etastar.report.style import MUTED, count, fixed, interval
from etastar.scaling import SlopeFit
from etastar.scaling.slope import LEAST_POINTS
from etastar.study.export import Columns


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    caption = Template(_CAPTION).substitute(family.words)
    if not any(medians(group, "lambda1") for group in family.groups):
        return Drawing([], {}, caption, NOTHING)
    x_label, y_label = "λ₁ at initialisation, median over seeds", family.words["axis"]
    charts = per_loss(family, partial(_layers, family), x_label, y_label)
    charts = [_with_reference(chart) for chart in charts]
    reasons = [
        f"No slope for {group.name}: {_why(group)}"
        for group in family.groups
        if isinstance(group.slope, str)
    ]
    rows = stacked(network_rows(group, lambda1=True) for group in family.groups)
    return Drawing(charts, rows, caption, " ".join(reasons))


_CAPTION = (
    "Every network once: η*, $eta, and λ₁ of D^{½}HD^{½} at initialisation, the median over seeds "
    "with its 95 % interval. The shape of a mark is κ, its colour the depth L, its size the width "
    "n. Lines: the slope of log η* on log λ₁, corrected for the noise of both (BCES), with its "
    "95 % interval (Student t, with scatter that networks of one width or depth share); dashed "
    "where that holds 0. Dotted: slope −1, η* ∝ 1/λ₁, through the middle of the points."
)


def _known(group: Group) -> Columns:
    return where(network_rows(group, lambda1=True), "eta_star", "lambda1")


def _why(group: Group) -> str:
    """Why a group has no slope."""
    both = len(_known(group).get("cell", ()))
    if both < LEAST_POINTS:
        return f"{count(both, 'network')} with known η* and λ₁; at least {LEAST_POINTS} are needed."
    return sentence(str(group.slope))


def slope_text(fit: SlopeFit | str) -> str:
    """`slope −0.62 [−0.70, −0.54], −1 excluded`."""
    if isinstance(fit, str):
        return "no slope"
    b, verdict = fit.corrected, "−1 excluded" if fit.excludes(-1.0) else "−1 not excluded"
    return f"slope {fixed(b.value)} {interval(b.low, b.high)}, {verdict}"


def _layers(family: Family, group: Group) -> Sequence[Points | Line]:
    if not (known := _known(group)):
        return []
    fit = group.slope
    label = slope_text(fit)
    names = {"eta_star": "η*", "lambda1": "λ₁", "seeds": "seeds"}
    found = points(family, group, known, ("lambda1", "eta_star"), label, names)
    if isinstance(fit, str):
        return [found]
    b, span = fit.corrected, np.array([found.x.min(), found.x.max()])
    y = np.exp(fit.intercept + b.value * np.log(span))
    return [found, Line(span, y, found.colour, dash="dash" if b.low < 0 < b.high else "solid")]


def _with_reference(chart: Chart) -> Chart:
    """The same with a line of slope −1 through the centre of all points."""
    points = [layer for layer in chart.layers if isinstance(layer, Points)]
    x, y = (np.concatenate([getattr(p, axis) for p in points]) for axis in ("x", "y"))
    ends = np.array([x.min(), x.max()])
    line = np.exp(np.log(y).mean() + np.log(x).mean()) / ends
    reference = Line(ends, line, MUTED, "slope −1: η* ∝ 1/λ₁", dash="dot")
    return replace(chart, layers=[*chart.layers, reference])
