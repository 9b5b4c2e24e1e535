"""η* against depth × width, with the law of one exponent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from etastar.report.chart import Line, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, marks, medians, network_rows, per_loss
from etastar.report.style import count, fixed, interval
from etastar.scaling import PowerLawFit


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    charts = per_loss(
        family,
        lambda group: _layers(family, group),
        x_label="width × depth, n·L",
        y_label="η*, median over seeds",
    )
    lost = sum(_lost(group) for group in family.groups)
    missing = ""
    if lost:
        missing = (
            f"{count(lost, 'network')} whose median seed trains nowhere cannot be drawn: η* is "
            "below the range."
        )
    if not charts:
        missing = "No network has a bracketed η*, so there is nothing to draw."
    return Drawing(charts, network_rows(family.groups), _CAPTION, missing)


_CAPTION = (
    "η* of every network, the median over its seeds, with its 95 % interval from the spread over "
    "seeds and the width of the brackets. Hollow: most of the network's brackets end because the "
    "budget was spent, not because training was unstable. Hollow triangles: lower bounds, where "
    "the highest rate tried still trains. Lines: the law η* = a·(n·L)^{b}, fitted by weighted "
    "least squares to the networks with a known median; in the legend b with its 95 % interval "
    "(Student t, over networks) and R²."
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


def law_line(fit: PowerLawFit, colour: str) -> Line:
    """The law over the networks that it was fitted to; it must be a law of n·L alone."""
    low, high = fit.domain.product
    size = np.geomspace(low, high, 2)
    return Line(size, np.exp(fit.predict_log(size, np.ones(2))), colour)


def _layers(family: Family, group: Group) -> Sequence[Points | Line]:
    found, fit = medians(group), group.law("product")
    if found is None or not (found.used.any() or np.isfinite(found.bound).any()):
        return []
    short = group.budget_share()
    used = np.flatnonzero(found.used)
    # filled ones first: plotly's legend shows the mark of the first
    used = used[np.argsort(short[used] > 0.5, kind="stable")]
    shares = [f"{100 * share:.0f} % of brackets end by the budget" for share in short[used]]
    points = marks(family, group, found, used, "η*", law_text(fit), shares)
    layers: list[Points | Line] = [replace(points, hollow=short[used] > 0.5)]
    if len(above := np.flatnonzero(np.isfinite(found.bound) & ~found.used)):
        label = f"at least this ({count(len(above), 'network')})"
        bounded = marks(family, group, found, above, "η*", label)
        hollow, bound = np.ones(len(above), dtype=bool), np.exp(found.bound[above])
        layers.append(replace(bounded, y=bound, y_low=None, y_high=None, shape="up", hollow=hollow))
    if not isinstance(fit, str):
        layers.append(law_line(fit, points.colour))
    return layers


def _lost(group: Group) -> int:
    found = medians(group)
    return 0 if found is None else int((~found.used & ~np.isfinite(found.bound)).sum())
