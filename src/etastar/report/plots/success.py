"""p(η): how the chance to train falls as the learning rate rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from etastar.problem.trial import OutcomeKind
from etastar.report.chart import Chart, FloatArray, Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, identity, medians
from etastar.report.style import count, number, ordered_colours, percent
from etastar.study.export import Columns

MOST = 6
"""Networks in a panel: more curves cannot be told apart."""
KINDS: tuple[str, ...] = tuple(k for k in get_args(OutcomeKind) if k != "partial")
_TAIL = 0.025
"""Probability on each side of an interval, which covers 95 %."""
Curve: TypeAlias = dict[str, npt.NDArray[Any]]
"""p(η) of one network, by the names of the columns of the rows, each over its rates `[R]`."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    charts: list[Chart] = []
    rows: Columns = {}
    shown = total = 0
    for group in family.groups:
        found = curves(group)
        for name, values in _rows(group, found).items():
            rows.setdefault(name, []).extend(values)
        chosen = _spread(group, found)
        shown, total = shown + len(chosen), total + len(found)
        if chosen:
            charts.append(_chart(group, found, chosen))
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


def curves(group: Group) -> dict[str, Curve]:
    """p(η) of every network of a group, by the hash of the cell, in the order of the hashes.

    The same numbers as `search.estimate.success_curve`, for thousands of networks at once: at
    every rate that some seed tried, ascending, the seeds that were trained there by outcome, those
    that were not and whose bracket lies above or below, and the fraction that trains with its exact
    (Clopper-Pearson) 95 % interval.
    """
    trials, rows = group.trials, group.rows
    lr, low, high = (
        np.array(column, dtype=float) for column in (trials["lr"], rows["eta_lo"], rows["eta_hi"])
    )
    tried, seeds = (np.array(table["seed"], dtype=float) for table in (trials, rows))
    kinds, own = np.array(trials["outcome"]), _places(rows["cell"])
    # a success curve has no seed whose bracket could stand for a trial
    own |= {cell: [] for cell, places in own.items() if np.isnan(seeds[places]).all()}
    found = {}
    for cell, pick in sorted(_places(trials["cell"]).items()):
        ends = low[own[cell]], high[own[cell]]
        found[cell] = _curve(lr[pick], tried[pick], kinds[pick], seeds[own[cell]], *ends)
    return found


def _places(cells: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        places.setdefault(cell, []).append(place)
    return places


def _curve(
    lr: FloatArray,
    seed: FloatArray,
    kind: npt.NDArray[np.str_],
    seeds: FloatArray,
    low: FloatArray,
    high: FloatArray,
) -> Curve:
    """One curve from the trials `[T]` and the seeds' brackets `[S]`, NaN where there is no end."""
    rates, rate = np.unique(lr, return_inverse=True)
    counts = {name: np.bincount(rate[kind == name], minlength=len(rates)) for name in KINDS}
    order = np.argsort(seeds)
    tried = np.zeros((len(rates), len(seeds)), dtype=bool)
    if len(seeds):
        tried[rate, order[np.searchsorted(seeds[order], seed)]] = True
    with np.errstate(invalid="ignore"):  # a comparison with NaN is false, as it should be
        above = ~tried & (rates[:, None] < low)
        below = ~tried & ~above & (np.isnan(high) | (rates[:, None] > high))
    good = counts["trained"] + above.sum(1)
    bad = sum(counts.values()) + above.sum(1) + below.sum(1) - good
    return {
        "lr": rates,
        "p": good / (good + bad),
        "p_low": np.where(good > 0, betaincinv(np.maximum(good, 1), bad + 1, _TAIL), 0.0),
        "p_high": np.where(bad > 0, betaincinv(good + 1, np.maximum(bad, 1), 1 - _TAIL), 1.0),
        **counts,
        "inferred_trained": above.sum(1),
        "inferred_failed": below.sum(1),
    }


def _spread(group: Group, found: Mapping[str, Curve]) -> list[tuple[str, str, float]]:
    """Cell, name and η* of up to `MOST` networks that have a curve, from small to large."""
    known = medians(group)
    if known is None:
        return []
    ids = [group.cell_id(n, d) for n, d in zip(known.width, known.depth, strict=True)]
    order = np.lexsort([known.width, known.width * known.depth])
    order = order[[bool(known.used[i]) and ids[i] in found for i in order]]
    if len(order) > MOST:
        order = order[np.linspace(0, len(order) - 1, MOST).round().astype(int)]
    eta = np.exp(known.value)
    return [(ids[i], f"{known.width[i]:g} × {known.depth[i]:g}", float(eta[i])) for i in order]


def _chart(
    group: Group, found: Mapping[str, Curve], chosen: Sequence[tuple[str, str, float]]
) -> Chart:
    raw, normalised, ends, relative = [], [], [], []
    for (cell, name, eta), colour in zip(chosen, ordered_colours(len(chosen)), strict=True):
        curve = found[cell]
        rates, trained = curve["lr"], np.flatnonzero(curve["p"])
        points = Points(
            rates,
            curve["p"],
            colour,
            f"{name}, η* = {number(eta)}",
            hollow=curve["inferred_trained"] + curve["inferred_failed"] > 0,
            hover=_hover(cell, name, curve),
            joined=True,
            size=4.0,
        )
        raw.append(points)
        normalised.append(replace(points, x=rates / eta))
        # beyond the rate above the last that trains, p is 0 by definition
        span = np.array([rates[0], rates[min(trained[-1] + 1, len(rates) - 1)]])
        ends.append(span)
        relative.append(span / eta)

    def chart(x_label: str, name: str, layers: list[Points], ends: list[FloatArray]) -> Chart:
        low, high = np.transpose(ends)
        return Chart(
            x_label,
            "fraction of seeds that train",
            layers,
            title=group.name,
            log_y=False,
            x_range=(float(low.min() / 1.15), float(high.max() * 1.5)),
            y_range=(-0.04, 1.04),
            name=name,
        )

    plain = chart("learning rate η", "η", raw, ends)
    return replace(chart("η ÷ η* of the network", "η ÷ η*", normalised, relative), views=[plain])


def _hover(cell: str, name: str, curve: Curve) -> list[str]:
    texts = []
    for i, rate in enumerate(curve["lr"]):
        causes = [f"{curve[kind][i]} {kind}" for kind in KINDS if curve[kind][i]]
        inferred = int(curve["inferred_trained"][i] + curve["inferred_failed"][i])
        seeds = inferred + sum(int(curve[kind][i]) for kind in KINDS)
        p, low, high = (percent(curve[key][i]) for key in ("p", "p_low", "p_high"))
        texts.append(
            f"<b>{name}</b>, η = {number(rate)}<br>{p} of {seeds} train [{low}, {high}]<br>"
            f"{', '.join(causes)}"
            + (f"; {inferred} inferred" if inferred else "")
            + f"<br>cell {cell}"
        )
    return texts


def _rows(group: Group, found: Mapping[str, Curve]) -> Columns:
    """The points of all curves, one row each."""
    networks = {cell: network for network, cell in group.ids.items()}
    columns: Columns = {}
    for cell, curve in found.items():
        size = len(curve["lr"])
        named = {name: [value] * size for name, value in identity(group, *networks[cell]).items()}
        measured = {name: values.tolist() for name, values in curve.items()}
        for name, values in {**named, **measured, "cell": [cell] * size}.items():
            columns.setdefault(name, []).extend(values)
    return columns
