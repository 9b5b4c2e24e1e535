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
    plain,
    series,
)
from etastar.report.plots.eta_law import law_line, law_text
from etastar.report.style import listed

NOTHING = "The study has not measured λ1 (sharpness = true in the study file measures it)."


def make(family: Family) -> Drawing:
    """See the module."""
    if not any(medians(group, "lambda1") for group in family.groups):
        return Drawing([], {}, _CAPTION, NOTHING)
    bounds = {id(group): bounds_of(group) for group in family.groups}
    charts = per_loss(
        family,
        lambda group: _layers(family, group, bounds[id(group)]),
        x_label="width × depth, n·L",
        y_label="λ₁ at initialisation",
    )
    rows = network_rows(family.groups, lambda1=True)
    every = {key: value for found in bounds.values() for key, value in found.values.items()}
    for name in ("lower", "upper", "kernel_prediction"):
        rows[f"bound_{name}" if name != "kernel_prediction" else name] = [
            plain(getattr(every[cell], name)) if cell in every else None for cell in rows["cell"]
        ]
    labels = list(dict.fromkeys(text for found in bounds.values() for text in found.labels))
    note = f" Bounds: {listed(labels)}." if labels else ""
    reasons = dict.fromkeys(found.reason for found in bounds.values() if found.reason)
    missing = f"Drawn without some bounds: {' '.join(reasons)}" if reasons else ""
    return Drawing(charts, rows, _CAPTION + note, missing)


_CAPTION = (
    "λ₁ of D^{½}HD^{½} at initialisation, H the Hessian of the training loss over the first "
    "samples of the training set and D the layers' learning-rate ratios (κ on the input layer); "
    "median over seeds with its 95 % interval. Dashes above and below, in the same colour: bounds "
    "on λ₁ of the Gauss-Newton part. Solid lines: the law λ₁ = a·(n·L)^{b}, its exponent with a "
    "95 % interval (Student t, over networks) and R²."
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
            hover=found.hover(f"κ = {group.kappa:g}, λ₁", used),
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
                        f"{side} bound {value:.4g}<br>{found.ids[i]}"
                        for i, value in zip(np.flatnonzero(known), values, strict=True)
                    ],
                    size=6.0,
                )
            )
    return layers
