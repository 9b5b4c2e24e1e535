"""η* against depth × width, with the law of one exponent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from string import Template

import numpy as np

from etastar.report.chart import Line, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, network_rows, per_loss, points, stacked, where
from etastar.report.style import count, fixed, interval
from etastar.scaling import PowerLawFit


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    words = family.words
    charts = per_loss(family, partial(_layers, family), "width × depth, n·L", words["axis"])
    rows = stacked(map(network_rows, family.groups))
    known = zip(rows.get("eta_star", ()), rows.get("eta_star_above", ()), strict=True)
    lost = sum(values == (None, None) for values in known)
    missing = "" if charts else words["none"]
    if lost and charts:
        who = f"{count(lost, 'network')} {words['lost']}"
        missing = f"{who} cannot be drawn: η* is below the range."
    return Drawing(charts, rows, Template(_CAPTION).substitute(words), missing)


_CAPTION = (
    "η* of every network: $eta. The shape of a mark is κ, its colour the depth L, its size the "
    "width n. Hollow: $ended, not because training was unstable. Hollow triangles: lower bounds, "
    "where the highest rate tried still trains. Lines: the law η* = a·(n·L)^{b}, fitted by "
    "weighted least squares to the networks with a known η*, dotted where the interval of b holds "
    "0; in the legend b with its 95 % interval (Student t, over networks) and R²."
)


def law_text(fit: PowerLawFit | str, symbol: str = "η*") -> str:
    """`η* ∝ (nL)^{−0.62} [−0.70, −0.54], R² 0.82`."""
    if isinstance(fit, str):
        return "no law (too few networks)"
    exponent = fit["product"]
    return (
        f"{symbol} ∝ (nL)^{{{fixed(exponent.value)}}} {interval(exponent.low, exponent.high)}, "
        f"R² {fixed(fit.r2)}"
    )


def law_line(fit: PowerLawFit | str, colour: str) -> list[Line]:
    """The law over the networks that it was fitted to; it must be a law of n·L alone."""
    if isinstance(fit, str):
        return []
    low, high = fit.domain.product
    size = np.geomspace(low, high, 2)
    dash = "dot" if fit["product"].low < 0 < fit["product"].high else "solid"
    return [Line(size, np.exp(fit.predict_log(size, np.ones(2))), colour, dash=dash)]


def _layers(family: Family, group: Group) -> Sequence[Points | Line]:
    rows, fit = network_rows(group), group.law("product")
    words = {"eta_star": "η*", "ended_by_budget": family.words["share"], "seeds": "seeds"}
    layers: list[Points | Line] = []
    if known := where(rows, "eta_star"):
        label = law_text(fit)
        hollow = np.array(known["ended_by_budget"], dtype=float) > 0.5
        layers.append(points(family, group, known, ("", "eta_star"), label, words, hollow=hollow))
        layers += law_line(fit, layers[0].colour)
    if above := where(rows, "eta_star_above"):
        many = len(above["cell"])
        label = f"at least this ({count(many, 'network')})"
        look = {"shape": "up", "hollow": np.ones(many, dtype=bool)}
        names = {"eta_star_above": "η* above", "seeds": "seeds"}
        layers.append(points(family, group, above, ("", "eta_star_above"), label, names, **look))
    return layers
