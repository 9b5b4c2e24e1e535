"""λ1 at initialisation against depth × width, within its bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etastar.report.bounds import Bounds, bounds_of
from etastar.report.chart import Line, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import (
    Drawing,
    medians,
    network_rows,
    per_loss,
    series,
)
from etastar.report.plots.eta_law import law_line, law_text
from etastar.report.style import listed, number

NOTHING = "The study has not measured λ1 (sharpness = true in the study file measures it)."


def make(family: Family) -> Drawing:
    """See the module."""
    if not any(medians(group, "lambda1") for group in family.groups):
        return Drawing([], {}, _CAPTION, NOTHING)
    bounds = bounds_of(family)
    charts = per_loss(
        family,
        lambda group: _layers(family, group, bounds),
        x_label="width × depth, n·L",
        y_label="λ₁ at initialisation",
    )
    rows = network_rows(family.groups, lambda1=True)
    for name in _IN_ROWS:
        rows[name] = [getattr(bounds.values.get(cell), name, None) for cell in rows["cell"]]
    note = ""
    if bounds.values:
        note = (
            f" Here {listed(bounds.labels)}. The measured mean of λ₁ of the Gauss-Newton matrix "
            f"over seeds lies within for {bounds.inside} of {len(bounds.values)} networks."
        )
    return Drawing(charts, rows, _CAPTION + note, _missing(bounds))


def _missing(bounds: Bounds) -> str:
    if bounds.reason:
        return f"Drawn without bounds: {bounds.reason}"
    if len(bounds.values) < bounds.networks:
        return (
            f"Bounds are computed for {len(bounds.values)} of {bounds.networks} networks, spread "
            "evenly over n·L."
        )
    return ""


_IN_ROWS = (
    *("lower", "lower_label", "lower_proved", "upper", "upper_label", "upper_proved"),
    "kernel_prediction",
)
"""Columns that the bounds add to the rows, by the names that `SharpnessBounds` has for them."""
_CAPTION = (
    "λ₁ of D^{½}HD^{½} at initialisation, H the Hessian of the training loss over the first "
    "samples of the training set and D the layers' learning-rate ratios (κ on the input layer); "
    "median over seeds with its 95 % interval. Solid lines: the law λ₁ = a·(n·L)^{b}, its exponent "
    "with a 95 % interval (Student t, over networks) and R². Dashes above and below, in the same "
    "colour: bounds on the expected λ₁ of the Gauss-Newton part of H, from the inputs alone; "
    "proved, or asymptotic in the width, as the rows say for each."
)


def _layers(family: Family, group: Group, bounds: Bounds) -> Sequence[Points | Line]:
    found = medians(group, "lambda1")
    if found is None or not found.used.any():
        return []
    fit = group.law("product", "lambda1").value
    (colour, shape), used = series(family, group), found.used
    layers: list[Points | Line] = [
        Points(
            found.size[used],
            found.value[used],
            label=f"κ = {group.kappa:g}: {law_text(fit, 'λ₁')}",
            y_low=found.low[used],
            y_high=found.high[used],
            hover=found.hover(f"κ = {group.kappa:g}, λ₁", np.flatnonzero(used)),
            colour=colour,
            shape=shape,
        )
    ]
    if fit is not None:
        layers.append(law_line(fit, colour))
    for side in ("lower", "upper"):
        known = np.array([identity in bounds.values for identity in found.ids]) & used
        if known.any():
            values = np.array(
                [getattr(bounds.values[found.ids[i]], side) for i in np.flatnonzero(known)]
            )
            layers.append(
                Points(
                    found.size[known],
                    values,
                    colour,
                    shape="dash",
                    hover=[
                        f"{side} bound {number(value)}<br>cell {found.ids[i]}"
                        for i, value in zip(np.flatnonzero(known), values, strict=True)
                    ],
                    size=6.0,
                )
            )
    return layers
