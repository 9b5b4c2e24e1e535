"""η* against width under each parametrisation, and against the batch size, with slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from etastar.report.chart import Chart, Line, Points
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
DASHES = ("solid", "dash", "dot")
MOST_NETWORKS = 4
"""Slopes in batch size that a legend names; the rows have all."""


def make(family: Family) -> Drawing:
    """Draw a family, and those that differ from it in the parametrisation or the batch size."""
    rows = stacked(_rows(group) for group in family.groups)
    if not family.is_first:
        return Drawing([], rows, _CAPTION, "Drawn with the first of these chapters.")
    charts: list[Chart] = []
    for group in family.groups:
        for name, key in (("parametrization", "width"), ("batch_size", "batch_size")):
            alike = _alike(family, group, name)
            if len(alike) < 2 and (name == "batch_size" or "batch_size" in family.beside):
                continue
            layers = _by_width(family, alike) if key == "width" else _by_batch(family, alike)
            if layers:
                charts.append(
                    Chart(
                        layers=layers,
                        title=group.name if len(family.groups) > 1 else group.loss,
                        x_label="width n" if key == "width" else "batch size B",
                        y_label=family.words["axis"],
                        key=depth_key(family),
                    )
                )
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
    found = []
    for value, groups in family.beside.get(name, ((family.settings.get(name), family.groups),)):
        found += [(value, g) for g in groups if (g.loss, g.kappa) == (group.loss, group.kappa)]
    return found


def _rows(group: Group) -> Columns:
    rows = network_rows(group)
    count = len(rows["cell"]) if rows else 0
    same = {"batch_size": group.batch_size, "parametrization": group.parametrization}
    return rows | {name: [value] * count for name, value in same.items()}


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float] | None:
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


def _exponent(found: tuple[float, float, float]) -> str:
    b, error, _ = found
    return fixed(b) + (f" ± {fixed(error)}" if np.isfinite(error) else "")


def _line(
    x: Sequence[float], found: tuple[float, float, float], colour: str, label: str, dash: str
) -> Line:
    ends = np.array([min(x), max(x)], dtype=float)
    return Line(ends, np.exp(found[2]) * ends ** found[0], colour, label, dash)


def _by_width(family: Family, alike: Sequence[tuple[Any, Group]]) -> list[Points | Line]:
    layers: list[Points | Line] = []
    colours = depth_colours(family)
    for place, (value, group) in enumerate(alike):
        if not (known := where(_rows(group), "eta_star")):
            continue
        lines, label = [], str(value or "η*") if len(alike) > 1 else ""
        for depth in sorted(set(known["depth"])):
            at = [i for i, other in enumerate(known["depth"]) if other == depth]
            x, y = ([known[column][i] for i in at] for column in ("width", "eta_star"))
            if found := slope(x, y):
                text = f"{label or 'η*'}, L = {depth}: n^{{{_exponent(found)}}}"
                dash = DASHES[place % len(DASHES)]
                lines.append(_line(x, found, colours.get(depth, "#444444"), text, dash))
        shown = points(family, group, known, ("width", "eta_star"), "", _NAMES)
        layers.append(replace(shown, label=label, shape=SHAPES[place % len(SHAPES)]))
        layers += lines
    return layers


def _by_batch(family: Family, alike: Sequence[tuple[Any, Group]]) -> list[Points | Line]:
    rows = stacked(where(_rows(group), "eta_star") for _, group in alike)
    known = where(rows, "batch_size") if rows else {}
    if not known:
        return []
    networks = sorted(set(zip(known["width"], known["depth"], strict=True)))
    colours = depth_colours(family)
    lines: list[Points | Line] = []
    named = evenly(networks, MOST_NETWORKS)
    for network in networks:
        pairs = zip(known["width"], known["depth"], strict=True)
        at = [i for i, other in enumerate(pairs) if other == network]
        at.sort(key=lambda i: known["batch_size"][i])
        x, y = ([float(known[name][i]) for i in at] for name in ("batch_size", "eta_star"))
        if len(x) > 1:
            pairs_of_ends = slope(x[:2], y[:2]), slope(x[-2:], y[-2:])
            ends = dict.fromkeys(fixed(found[0]) for found in pairs_of_ends if found)
            text = f"{network[0]}×{network[1]}: " + " … ".join(f"B^{{{b}}}" for b in ends)
            colour, text = colours.get(network[1], "#444444"), text if network in named else ""
            lines.append(Line(np.array(x), np.array(y), colour, text))
    group = alike[0][1]
    return [points(family, group, known, ("batch_size", "eta_star"), "", _NAMES), *lines]
