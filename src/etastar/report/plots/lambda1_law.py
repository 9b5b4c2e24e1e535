"""λ1 at initialisation against depth × width, within its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial

import numpy as np

from etastar.data import Dataset
from etastar.errors import EtaStarError
from etastar.problem.losses import Loss
from etastar.problem.networks import Network
from etastar.report.chart import Line, Points
from etastar.report.evidence import Family, Group, evenly
from etastar.report.plots.base import (
    Drawing,
    medians,
    network_rows,
    per_loss,
    points,
    stacked,
    where,
)
from etastar.report.plots.eta_law import law_line, law_text
from etastar.report.style import listed
from etastar.study.export import Columns
from etastar.study.measuring import load_data
from etastar.theory.sharpness_bounds import SharpnessBounds, sharpness_bounds

NOTHING = "The study has not measured λ1 (with sharpness set to true in its file it does)."
MOST = 12
"""Networks of a family that bounds are computed for: they take up to a few seconds each."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    if not any(medians(group, "lambda1") for group in family.groups):
        return Drawing([], {}, _CAPTION, NOTHING)
    values, means, refused = bounds_of(family)
    layers = partial(_layers, family, values)
    charts = per_loss(family, layers, "width × depth, n·L", "λ₁ at initialisation")
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
        some = f"{len(values)} of {len(means)} networks"
        missing = f"Bounds are computed for {some}, spread evenly over n·L."
    rows = stacked(_rows(group, values) for group in family.groups)
    return Drawing(charts, rows, _CAPTION + note, missing)


_IN_ROWS = (
    *("lower", "lower_label", "lower_proved", "upper", "upper_label", "upper_proved"),
    "kernel_prediction",
)
"""Columns that the bounds add to the rows, by the names that `SharpnessBounds` has for them."""
_CAPTION = (
    "λ₁ of D^{½}HD^{½} at initialisation, H the Hessian of the training loss over the first "
    "samples of the training set and D the layers' learning-rate ratios (κ on the input layer); "
    "median over seeds with its 95 % interval. The shape of a mark is κ, its colour the depth L, "
    "its size the width n. Lines: the law λ₁ = a·(n·L)^{b}, dotted where the interval of b holds "
    "0; its exponent with a 95 % interval (Student t, over networks) and R². Dashes above and "
    "below, in the same colour: bounds on the expected λ₁ of the Gauss-Newton part of H, from the "
    "inputs alone; proved, or asymptotic in the width, as the rows say for each."
)


def _rows(group: Group, bounds: Mapping[str, SharpnessBounds]) -> Columns:
    rows = network_rows(group, lambda1=True)
    cells = rows.get("cell", [])
    added = {name: [getattr(bounds.get(i), name, None) for i in cells] for name in _IN_ROWS}
    return rows | added if rows else {}


def _layers(
    family: Family, bounds: Mapping[str, SharpnessBounds], group: Group
) -> Sequence[Points | Line]:
    if not (known := where(_rows(group, bounds), "lambda1")):
        return []
    fit = group.law("product", "lambda1")
    label = law_text(fit, "λ₁")
    names = {"lambda1": "λ₁", "seeds": "seeds"}
    found = points(family, group, known, ("", "lambda1"), label, names)
    layers: list[Points | Line] = [found, *law_line(fit, found.colour)]
    for side in ("lower", "upper"):
        if bounded := where(known, side):
            look = {"shape": "dash", "size": 6.0}
            names = {side: f"{side} bound"}
            layers.append(points(family, group, bounded, ("", side), "", names, **look))
    return layers


@lru_cache(maxsize=8)
def bounds_of(family: Family) -> tuple[Mapping[str, SharpnessBounds], Mapping[str, float], str]:
    """What theory says of λ1 of the Gauss-Newton matrix, in the mean over initialisations.

    Args:
        family: Up to `MOST` of its networks are taken, spread evenly over every group's n·L.

    Returns:
        The bounds by the hash of the cell; the measured means over seeds of all networks whose λ1
        is known; and why there are no bounds for some of them, empty if none was refused.
    """
    measured = [(group, known) for group in family.groups if (known := _measured(group))]
    each = max(2, MOST // max(1, len(measured)))
    found: dict[str, SharpnessBounds] = {}
    reasons: dict[str, None] = {}
    bounds = cache(_bounds)  # groups share λ1, and so its bounds
    for group, known in measured:
        cells = [(cell.settings, cell.id) for cell in group.cells if cell.id in known]
        cells.sort(key=lambda cell: (cell[0].width * cell[0].depth, cell[0].width))
        for settings, cell in evenly(cells, each):
            try:
                network, data = settings.network(), load_data(settings)
                found[cell] = bounds(network, data, settings.loss, known[cell][1])
            except EtaStarError as error:
                reasons[f"{group.name}: {error}"] = None
                break
    means = {identity: mean for _, known in measured for identity, (mean, _) in known.items()}
    return found, means, " ".join(reasons)


def _measured(group: Group) -> dict[str, tuple[float, int]]:
    """Mean over seeds of λ1 of the Gauss-Newton matrix, and its samples, by cell."""
    found = {}
    for cell, rows in group.by_cell("lambda1_gauss_newton", "sharpness_samples").items():
        if known := [value for value, _ in rows if value is not None]:
            found[cell] = float(np.mean(known)), int(rows[0][1])
    return found


def _bounds(network: Network, data: Dataset, loss: Loss, samples: int) -> SharpnessBounds:
    inputs = data.x_train[:samples]
    return sharpness_bounds(network, inputs, data.classes, loss=loss, kind="gauss-newton")
