"""η* against width under each parametrisation, and against the batch size, with slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from etastar.report.chart import Chart, FloatArray, Line, Points
from etastar.report.evidence import Family, Group, evenly
from etastar.report.plots.base import (
    Drawing,
    depth_colours,
    depth_key,
    network_rows,
    points,
    stacked,
    where,
)
from etastar.report.style import SHAPES, fixed
from etastar.study.export import Columns

_NAMES = {"eta_star": "η*", "batch_size": "batch size", "seeds": "seeds"}
Samples: TypeAlias = Sequence[float] | FloatArray
DASHES = ("solid", "dash", "dot")
MOST_NETWORKS = 4
"""Slopes in batch size that a legend names; the rows have all."""


def make(family: Family) -> Drawing:
    """Draw a family, and those that differ from it in the parametrisation or the batch size."""
    rows = stacked(_rows(group) for group in family.groups)
    if any(alike[0][1] is not family.groups for alike in family.beside.values()):
        return Drawing([], rows, _CAPTION, "Drawn with the first of these chapters.")
    charts: list[Chart] = []
    kinds = {"parametrization": (_by_width, "width n"), "batch_size": (_by_batch, "batch size B")}
    batches = len(family.beside["batch_size"]) > 1
    for group in family.groups:
        title = group.name if len(family.groups) > 1 else group.loss
        for name, (draw, x_label) in kinds.items():
            alike = _alike(family, group, name)
            if len(alike) < 2 and (name == "batch_size" or batches):
                continue
            if layers := draw(family, alike):
                y_label, key = family.words["axis"], depth_key(family)
                charts.append(Chart(x_label, y_label, layers, title=title, key=key))
    missing = "" if charts else family.words["none"]
    return Drawing(charts, rows, _CAPTION, missing)


_CAPTION = (
    "η* with its 95 % interval. Against the width: the shape of a mark is "
    "the parametrisation, its colour the depth L; lines are powers of n, fitted by least squares "
    "to the networks of one depth, and the legend has their exponents, with standard errors from "
    "three widths on. Against the batch size, where a study varies it: one line per network "
    "through its batch sizes, with the exponents between the first two and the last two. Of "
    "parametrisations with rates that go with the width, η is the rate that the ratios multiply."
)


def _alike(family: Family, group: Group, name: str) -> list[tuple[Any, Group]]:
    """Groups of this loss and κ in the families that differ in one setting, by its value."""
    pairs = [(value, g) for value, groups in family.beside[name] for g in groups]
    return [(value, g) for value, g in pairs if (g.loss, g.kappa) == (group.loss, group.kappa)]


def _rows(group: Group) -> Columns:
    if not (rows := network_rows(group)):
        return {}
    count, batch = len(rows["cell"]), group.rows["batch_size"][0]
    rows["batch_size"] = [int(batch) if batch.isdigit() else None] * count
    rows["parametrization"] = [group.cells[0].fields["parametrization"]] * count
    return rows


def slope(x: Samples, y: Samples) -> tuple[float, float, float] | None:
    """Exponent b and prefactor of `y = a·x^b` by least squares of logarithms.

    Args:
        x: Abscissas, positive.
        y: Ordinates, positive.

    Returns:
        b, its standard error (NaN for two points) and ln a; None for fewer than two abscissas.
    """
    if len(set(x)) < 2:
        return None
    u, v = np.log(np.array(x, dtype=float)), np.log(np.array(y, dtype=float))
    b, a = np.polyfit(u, v, 1)
    spread = ((u - u.mean()) ** 2).sum()
    freedom = len(u) - 2
    error = np.sqrt(((v - a - b * u) ** 2).sum() / freedom / spread) if freedom else np.nan
    return float(b), float(error), float(a)


def _by_width(family: Family, alike: Sequence[tuple[Any, Group]]) -> list[Points | Line]:
    layers: list[Points | Line] = []
    colours = depth_colours(family)
    for place, (value, group) in enumerate(alike):
        if not (known := where(_rows(group), "eta_star")):
            continue
        lines, label = [], str(value or "η*") if len(alike) > 1 else ""
        for depth in sorted(set(known["depth"])):
            at = np.equal(known["depth"], depth)
            x, y = (np.array(known[column])[at] for column in ("width", "eta_star"))
            if found := slope(x, y):
                b, error, a = found
                exponent = fixed(b) + (f" ± {fixed(error)}" if np.isfinite(error) else "")
                text = f"{label or 'η*'}, L = {depth}: n^{{{exponent}}}"
                ends = np.array([min(x), max(x)], dtype=float)
                dash = DASHES[place % len(DASHES)]
                lines.append(Line(ends, np.exp(a) * ends**b, colours[depth], text, dash))
        shown = points(family, group, known, ("width", "eta_star"), "", _NAMES)
        layers.append(replace(shown, label=label, shape=SHAPES[place % len(SHAPES)]))
        layers += lines
    return layers


def _by_batch(family: Family, alike: Sequence[tuple[Any, Group]]) -> list[Points | Line]:
    rows = stacked(_rows(group) for _, group in alike)
    if not (known := where(rows, "eta_star", "batch_size")):
        return []
    networks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    names = ("width", "depth", "batch_size", "eta_star")
    for n, d, batch, eta in sorted(zip(*(known[name] for name in names), strict=True)):
        networks.setdefault((n, d), []).append((float(batch), float(eta)))
    layers: list[Points | Line] = []
    layers.append(points(family, alike[0][1], known, ("batch_size", "eta_star"), "", _NAMES))
    named = evenly(list(networks), MOST_NETWORKS)
    for (n, d), at in networks.items():
        if len(at) > 1:
            x, y = np.transpose(at)
            slopes = slope(x[:2], y[:2]), slope(x[-2:], y[-2:])
            ends = dict.fromkeys(fixed(found[0]) for found in slopes if found)
            text = f"{n}×{d}: " + " … ".join(f"B^{{{b}}}" for b in ends)
            label = text if (n, d) in named else ""
            layers.append(Line(x, y, depth_colours(family)[d], label))
    return layers
