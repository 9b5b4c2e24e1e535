"""p(η): how the chance to train falls as the learning rate rises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt

from etastar.problem.trial import OutcomeKind
from etastar.report.chart import Chart, FloatArray, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, medians
from etastar.report.style import count, number, ordered_colours, percent
from etastar.study.export import Columns

MOST = 6
"""Networks in a panel: more curves cannot be told apart."""
KINDS: tuple[str, ...] = get_args(OutcomeKind)
_TAIL = 0.025
"""Of each side of an interval: it covers 95 %."""


@dataclass(frozen=True, eq=False)
class Curve:
    """p(η) of one network; arrays are over its rates, `[R]`.

    The same numbers as `search.estimate.success_curve`, for thousands of networks at once.

    Attributes:
        cell: Hash.
        rates: Every rate that some seed tried, ascending.
        counts: Seeds that were trained there, by outcome in the order of `KINDS`, `[R, 4]`.
        above: Seeds not tried there whose bracket lies above.
        below: Seeds not tried there whose bracket lies below.
    """

    cell: str
    rates: FloatArray
    counts: npt.NDArray[np.int64]
    above: npt.NDArray[np.int64]
    below: npt.NDArray[np.int64]

    @property
    def seeds(self) -> npt.NDArray[np.int64]:
        """Seeds that are counted at each rate."""
        return np.asarray(self.counts.sum(1) + self.above + self.below)

    @property
    def good(self) -> npt.NDArray[np.int64]:
        """Seeds that train there, or are inferred to."""
        return self.counts[:, 0] + self.above

    @property
    def p(self) -> FloatArray:
        """Fraction of the seeds that train."""
        return np.asarray(self.good / self.seeds)

    def interval(self) -> tuple[FloatArray, FloatArray]:
        """Exact (Clopper–Pearson) 95 % binomial intervals."""
        from scipy.special import betaincinv

        good, bad = self.good, self.seeds - self.good
        low = np.where(good > 0, betaincinv(np.maximum(good, 1), bad + 1, _TAIL), 0.0)
        high = np.where(bad > 0, betaincinv(good + 1, np.maximum(bad, 1), 1 - _TAIL), 1.0)
        return low, high


def curves(group: Group) -> list[Curve]:
    """p(η) of every network of a group, in the order of their cells in the trials."""
    trials = group.trials
    if not trials["cell"]:
        return []
    cells, cell = np.unique(np.array(trials["cell"]), return_inverse=True)
    order = np.argsort(cell, kind="stable")
    ends = np.searchsorted(cell[order], np.arange(len(cells) + 1))
    rates = np.array(trials["lr"], dtype=float)
    seeds = np.array(trials["seed"], dtype=np.int64)
    kinds = _codes(trials["outcome"])
    brackets = _brackets(group.rows)
    found = []
    for i, identity in enumerate(cells.tolist()):
        pick = order[ends[i] : ends[i + 1]]
        found.append(_curve(identity, rates[pick], seeds[pick], kinds[pick], *brackets[identity]))
    return found


def _codes(outcomes: list[str]) -> npt.NDArray[np.int64]:
    code = {kind: number for number, kind in enumerate(KINDS)}
    return np.fromiter((code[kind] for kind in outcomes), dtype=np.int64, count=len(outcomes))


def _brackets(
    rows: Columns,
) -> dict[str, tuple[npt.NDArray[np.int64], FloatArray, FloatArray]]:
    """Seeds, and both ends of their brackets, by cell; NaN where there is no end."""
    places: dict[str, list[int]] = {}
    for place, identity in enumerate(rows["cell"]):
        places.setdefault(identity, []).append(place)
    low, high = (np.array(rows[name], dtype=float) for name in ("eta_lo", "eta_hi"))
    seeds = np.array(rows["seed"], dtype=np.int64)
    return {key: (seeds[pick], low[pick], high[pick]) for key, pick in places.items()}


def _curve(
    identity: str,
    lr: FloatArray,
    seed: npt.NDArray[np.int64],
    kind: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.int64],
    low: FloatArray,
    high: FloatArray,
) -> Curve:
    rates, rate = np.unique(lr, return_inverse=True)
    counts = np.bincount(rate * len(KINDS) + kind, minlength=len(rates) * len(KINDS))
    order = np.argsort(seeds)
    tried = np.zeros((len(rates), len(seeds)), dtype=bool)
    tried[rate, order[np.searchsorted(seeds[order], seed)]] = True
    with np.errstate(invalid="ignore"):  # a comparison with NaN is false, as it should be
        above = ~tried & (rates[:, None] < low)
        below = ~tried & ~above & (np.isnan(high) | (rates[:, None] > high))
    return Curve(
        identity, rates, counts.reshape(len(rates), len(KINDS)), above.sum(1), below.sum(1)
    )


def make(family: Family) -> Drawing:
    """See the module."""
    charts, shown, total = [], 0, 0
    rows: Columns = {}
    for group in family.groups:
        found = curves(group)
        _append(rows, group, found)
        chosen = _spread(group, found)
        shown, total = shown + len(chosen), total + len(found)
        if chosen:
            charts.append(_chart(group, chosen))
    missing = ""
    if not charts:
        missing = "No network has a known η* and trials, so there is nothing to draw."
    elif shown < total:
        missing = (
            f"{shown} of {count(total, 'network')} are drawn: up to {MOST} per panel with a known "
            "η*, spread evenly over n·L. The rows hold all of them."
        )
    return Drawing(charts, rows, _CAPTION, missing)


_CAPTION = (
    "The fraction of seeds that train at each rate that some seed of the network tried. Hollow: "
    "some seeds were not tried there, and their bracket was taken instead, as if trainability "
    "were monotone. The rate is divided by the network's own η* (median over seeds): curves that "
    "then lie on each other differ by a factor only. Exact binomial intervals, and what became "
    "of the seeds that failed, are in the rows and under the pointer. Beyond the right edge no "
    "seed trained."
)


def _spread(group: Group, found: list[Curve]) -> list[tuple[Curve, float, float, float]]:
    """Up to `MOST` curves with width, depth and η* of their networks, from small to large."""
    known = medians(group)
    if known is None:
        return []
    by_id = {curve.cell: curve for curve in found}
    order = [
        i for i in np.lexsort([known.width, known.size]) if known.used[i] and known.ids[i] in by_id
    ]
    if len(order) > MOST:
        picks = np.linspace(0, len(order) - 1, MOST).round().astype(int)
        order = [order[i] for i in picks]
    return [(by_id[known.ids[i]], known.width[i], known.depth[i], known.value[i]) for i in order]


def _chart(group: Group, chosen: list[tuple[Curve, float, float, float]]) -> Chart:
    colours = ordered_colours(len(chosen))

    def layers(normalised: bool) -> list[Points]:
        return [
            Points(
                curve.rates / eta if normalised else curve.rates,
                curve.p,
                colour,
                f"{width:g} × {depth:g}, η* = {number(eta)}",
                hollow=curve.above + curve.below > 0,
                hover=_hover(curve, f"{width:g} × {depth:g}"),
                joined=True,
                size=4.0,
            )
            for (curve, width, depth, eta), colour in zip(chosen, colours, strict=True)
        ]

    def chart(x_label: str, normalised: bool, name: str) -> Chart:
        return Chart(
            x_label,
            "fraction of seeds that train",
            layers(normalised),
            title=group.name,
            log_y=False,
            x_range=_range(chosen, normalised),
            y_range=(-0.04, 1.04),
            name=name,
        )

    raw = chart("learning rate η", False, "η")
    return replace(chart("η ÷ η* of the network", True, "η ÷ η*"), views=[raw])


def _range(
    chosen: list[tuple[Curve, float, float, float]], normalised: bool
) -> tuple[float, float]:
    """From the lowest rate to somewhat above the last that trains: beyond, p is 0 by definition."""
    low, high = [], []
    for curve, _, _, eta in chosen:
        scale = eta if normalised else 1.0
        good = np.flatnonzero(curve.good)
        low.append(curve.rates[0] / scale)
        high.append(curve.rates[min(good[-1] + 1, len(curve.rates) - 1)] / scale)
    return min(low) / 1.15, max(high) * 1.5


def _hover(curve: Curve, name: str) -> list[str]:
    low, high = curve.interval()
    texts = []
    for i, rate in enumerate(curve.rates):
        causes = [f"{n} {kind}" for n, kind in zip(curve.counts[i], KINDS, strict=True) if n]
        inferred = int(curve.above[i] + curve.below[i])
        texts.append(
            f"<b>{name}</b>, η = {number(rate)}<br>{percent(curve.p[i])} of {curve.seeds[i]} train "
            f"[{percent(low[i])}, {percent(high[i])}]<br>{', '.join(causes)}"
            + (f"; {inferred} inferred" if inferred else "")
            + f"<br>cell {curve.cell}"
        )
    return texts


def _append(rows: Columns, group: Group, found: list[Curve]) -> None:
    """The points of all curves, one row each."""
    names = {identity: network for network, identity in group.ids.items()}
    for curve in found:
        low, high = curve.interval()
        width, depth = names[curve.cell]
        size = len(curve.rates)
        for name, values in (
            ("width", [width] * size),
            ("depth", [depth] * size),
            ("input_lr_ratio", [group.kappa] * size),
            ("loss", [group.loss] * size),
            ("dataset", [group.rows["dataset"][0]] * size),
            ("lr", curve.rates.tolist()),
            ("p", curve.p.tolist()),
            ("p_low", low.tolist()),
            ("p_high", high.tolist()),
            *((kind, curve.counts[:, i].tolist()) for i, kind in enumerate(KINDS)),
            ("inferred_trained", curve.above.tolist()),
            ("inferred_failed", curve.below.tolist()),
            ("cell", [curve.cell] * size),
        ):
            rows.setdefault(name, []).extend(values)
