"""λ1 at initialisation against depth × width, within its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from etastar.report.bounds import bounds_of
from etastar.report.chart import Line, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, marks, medians, network_rows, per_loss
from etastar.report.plots.eta_law import law_line, law_text
from etastar.report.style import listed, number

if TYPE_CHECKING:
    from etastar.theory.sharpness_bounds import SharpnessBounds

NOTHING = "The study has not measured λ1 (sharpness = true in the study file measures it)."


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    if not any(medians(group, "lambda1") for group in family.groups):
        return Drawing([], {}, _CAPTION, NOTHING)
    values, means, refused = bounds_of(family)
    charts = per_loss(
        family,
        lambda group: _layers(family, group, values),
        x_label="width × depth, n·L",
        y_label="λ₁ at initialisation",
    )
    rows = network_rows(family.groups, lambda1=True)
    for name in _IN_ROWS:
        rows[name] = [getattr(values.get(cell), name, None) for cell in rows["cell"]]
    note = missing = ""
    if values:
        inside = sum(b.lower <= means[cell] <= b.upper for cell, b in values.items())
        labels = [
            f"the {side} bounds are {' or '.join(said)}"
            for side in ("lower", "upper")
            for said in [sorted({getattr(b, f"{side}_label") for b in values.values()})]
        ]
        note = (
            f" Here {listed(labels)}. The measured mean of λ₁ of the Gauss-Newton matrix "
            f"over seeds lies within for {inside} of {len(values)} networks."
        )
    if refused:
        missing = f"Drawn without bounds: {refused}"
    elif len(values) < len(means):
        missing = (
            f"Bounds are computed for {len(values)} of {len(means)} networks, spread "
            "evenly over n·L."
        )
    return Drawing(charts, rows, _CAPTION + note, missing)


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


def _layers(
    family: Family, group: Group, bounds: Mapping[str, SharpnessBounds]
) -> Sequence[Points | Line]:
    found = medians(group, "lambda1")
    if found is None or not found.used.any():
        return []
    fit, used = group.law("product", "lambda1"), np.flatnonzero(found.used)
    points = marks(family, group, found, used, "λ₁", law_text(fit, "λ₁"))
    layers: list[Points | Line] = [points]
    if not isinstance(fit, str):
        layers.append(law_line(fit, points.colour))
    ids = [group.cell_id(found.width[i], found.depth[i]) for i in used]
    known = np.array([identity in bounds for identity in ids])
    for side in ("lower", "upper") if known.any() else ():
        values = [(i, getattr(bounds[i], side)) for i in ids if i in bounds]
        hover = [f"{side} bound {number(value)}<br>cell {i}" for i, value in values]
        y = np.array([value for _, value in values])
        layers.append(
            Points(points.x[known], y, points.colour, shape="dash", hover=hover, size=6.0)
        )
    return layers
