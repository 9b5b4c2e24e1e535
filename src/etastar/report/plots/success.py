"""p(η): how the chance to train falls as the learning rate rises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from etastar.problem.trial import Outcome, OutcomeKind
from etastar.report.chart import Chart, Points
from etastar.report.evidence import Family, Group, evenly
from etastar.report.plots.base import (
    Drawing,
    depth_colours,
    medians,
    points,
    rows_of,
    stacked,
)
from etastar.report.style import SHAPES, count, number
from etastar.search.base import SeedResult
from etastar.search.estimate import success_curve
from etastar.study.export import Columns

MOST = 6
"""Networks in a panel: more curves cannot be told apart."""
KINDS: tuple[str, ...] = tuple(k for k in get_args(OutcomeKind) if k != "partial")
Curve: TypeAlias = dict[str, npt.NDArray[Any]]
"""p(η) of one network, by the names of the columns of the rows, each over its rates `[R]`."""
_SAME = ("lr", "p", *KINDS, "inferred_trained", "inferred_failed")
_COLUMNS = {"lr": "lr", "p": "p", "p_low": "ci_low", "p_high": "ci_high"} | {n: n for n in _SAME}
"""Columns of the rows, and what `search.estimate.SuccessAt` calls them."""
_NO_BRACKET = SeedResult("bracketed", 0.0, math.inf, None, ())
"""From which nothing follows for a rate that was not tried."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    found = [(group, curves(group)) for group in family.groups]
    chosen = [(group, own, _spread(group, own)) for group, own in found]
    charts = [_chart(family, group, own, some) for group, own, some in chosen if some]
    shown, total = sum(len(some) for _, _, some in chosen), sum(len(own) for _, own in found)
    missing = ""
    if not charts:
        missing = "No network has a known η* and trials, so there is nothing to draw."
    elif shown < total:
        missing = (
            f"{shown} of {count(total, 'network')} are drawn: up to {MOST} per panel with a known "
            "η*, spread evenly over n·L. The rows hold all of them."
        )
    rows = stacked(_rows(group, cell, curve) for group, own in found for cell, curve in own.items())
    return Drawing(charts, rows, (_OF_CURVES if family.curve else _OF_BRACKETS) + _CAPTION, missing)


_OF_CURVES = "The fraction of the runs at each rate that train, every run with a fresh seed. "
_OF_BRACKETS = (
    "The fraction of seeds that train at each rate that some seed of the network tried. Hollow: "
    "some seeds were not tried there, and their bracket was taken instead, as if trainability "
    "were monotone. "
)
_CAPTION = (
    "The colour of a curve is the depth L, the shape of its marks the width n; "
    "lines only join the rates that were tried. The rate is divided by the network's own η*: "
    "curves that then lie on each other differ by a factor only. Exact "
    "binomial intervals, and what became of the seeds that failed, are in the rows and under the "
    "pointer. Beyond the right edge no seed trained."
)


def curves(group: Group) -> dict[str, Curve]:
    """p(η) of every network of a group, by the hash of the cell, in the order of the hashes."""
    tried: dict[str, dict[int, dict[float, Outcome]]] = {}
    columns = (group.trials[name] for name in ("cell", "seed", "lr", "outcome"))
    for cell, seed, lr, kind in zip(*columns, strict=True):
        tried.setdefault(cell, {}).setdefault(seed, {})[lr] = Outcome(kind, 0)
    rows = group.by_cell("seed", "status", "eta_lo", "eta_hi", "hi_outcome")
    found = {}
    for cell, seeds in sorted(tried.items()):
        own = {
            seed: SeedResult(status, lo, hi, why, ())
            for seed, status, lo, hi, why in rows.get(cell, ())
            if seed is not None  # a success curve has no seed whose bracket stands for a trial
        } or dict.fromkeys(seeds, _NO_BRACKET)
        at = success_curve(list(own.values()), [seeds.get(seed, {}) for seed in own])
        found[cell] = {
            column: np.array([getattr(point, name) for point in at])
            for column, name in _COLUMNS.items()
        }
    return found


def _rows(group: Group, cell: str, curve: Curve) -> Columns:
    """The points of a curve, one row each."""
    width, depth = next(network for network, own in group.ids.items() if own == cell)
    rates = len(curve["lr"])
    return rows_of(group, [width] * rates, [depth] * rates, **curve)


def _spread(group: Group, found: Mapping[str, Curve]) -> list[tuple[str, str, float]]:
    """Cell, name and η* of up to `MOST` networks that have a curve, from small to large."""
    known = medians(group)
    if known is None:
        return []
    networks = [
        (n * d, n, group.cell_id(n, d), f"{n:g} × {d:g}", float(np.exp(value)))
        for n, d, value in zip(known.width, known.depth, known.value, strict=True)
        if np.isfinite(value)
    ]
    networks = sorted(network for network in networks if network[2] in found)
    return [(cell, name, eta) for _, _, cell, name, eta in evenly(networks, MOST)]


def _chart(
    family: Family,
    group: Group,
    found: Mapping[str, Curve],
    chosen: Sequence[tuple[str, str, float]],
) -> Chart:
    layers = [
        _points(family, group, cell, found[cell], f"{network}, η* = {number(eta)}")
        for cell, network, eta in chosen
    ]

    def view(x_label: str, name: str, scales: Sequence[float]) -> Chart:
        moved, ends = [], []
        for layer, scale in zip(layers, scales, strict=True):
            rates, trained = layer.x / scale, np.flatnonzero(layer.y)
            moved.append(replace(layer, x=rates))
            # beyond the rate above the last that trains, p is 0 by definition
            ends.append((rates[0], rates[min(trained[-1] + 1, len(rates) - 1)]))
        low, high = np.transpose(ends)
        return Chart(
            x_label,
            "fraction of seeds that train",
            moved,
            title=group.name,
            log_y=False,
            x_range=(float(low.min() / 1.15), float(high.max() * 1.5)),
            y_range=(-0.04, 1.04),
            name=name,
            key=[] if family.curve else [("some seeds inferred", "")],
        )

    plain = view("learning rate η", "η", [1.0] * len(chosen))
    scaled = view("η ÷ η* of the network", "η ÷ η*", [eta for _, _, eta in chosen])
    return replace(scaled, views=[plain])


def _points(family: Family, group: Group, cell: str, curve: Curve, label: str) -> Points:
    rows = _rows(group, cell, curve)
    width, depth = rows["width"][0], rows["depth"][0]
    look = {
        "colour": depth_colours(family)[depth],
        "shape": SHAPES[family.sizes("width").index(width) % len(SHAPES)],
        "hollow": curve["inferred_trained"] + curve["inferred_failed"] > 0,
        "joined": True,
        "size": 4.0,
    }
    names = {name: name.replace("_", " ") for name in _SAME} | {"lr": "η"}
    # their intervals, of a few seeds each, would hide the curves
    found = points(family, group, rows, ("lr", "p"), "", names, y_low=None, y_high=None, **look)
    return replace(found, label=label)
