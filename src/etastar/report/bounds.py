"""Bounds on λ1 at initialisation, for the networks of a family, on the data that the study used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from etastar.errors import EtaStarError
from etastar.report.evidence import Family, Group
from etastar.study.cell import Cell
from etastar.study.measuring import load_data

if TYPE_CHECKING:
    from etastar.theory.sharpness_bounds import SharpnessBounds

MOST = 12
"""Networks of a family that bounds are computed for: they take up to a few seconds each."""


@lru_cache(maxsize=8)
def bounds_of(family: Family) -> tuple[Mapping[str, SharpnessBounds], Mapping[str, float], str]:
    """What theory says of λ1 of the Gauss-Newton matrix, in the mean over initialisations.

    Args:
        family: Up to `MOST` of its networks are taken, spread evenly over every group's n·L.

    Returns:
        The bounds by the hash of the cell; the measured means over seeds of all networks whose λ1
        is known; and why there are no bounds for some of them, empty if none was refused.
    """
    measured = {id(group): _measured(group) for group in family.groups}
    each = max(2, MOST // max(1, sum(map(bool, measured.values()))))
    found: dict[str, SharpnessBounds] = {}
    same: dict[str | None, SharpnessBounds] = {}  # by λ1's own specification
    reasons: dict[str, None] = {}
    for group in family.groups:
        for cell in _spread(group, measured[id(group)], each):
            try:
                if cell.sharpness_id not in same:
                    same[cell.sharpness_id] = _bounds(cell, measured[id(group)][cell.id][1])
                found[cell.id] = same[cell.sharpness_id]
            except EtaStarError as error:
                reasons[f"{group.name}: {error}"] = None
                break
    means = {identity: mean for known in measured.values() for identity, (mean, _) in known.items()}
    return found, means, " ".join(reasons)


def _measured(group: Group) -> dict[str, tuple[float, int]]:
    """Mean over seeds of λ1 of the Gauss-Newton matrix, and its samples, by cell."""
    values: dict[str, list[float]] = {}
    samples: dict[str, int] = {}
    names = ("cell", "lambda1_gauss_newton", "sharpness_samples")
    for identity, value, count in zip(*(group.rows[name] for name in names), strict=True):
        if value is not None:
            values.setdefault(identity, []).append(value)
            samples[identity] = int(count)
    return {i: (float(np.mean(found)), samples[i]) for i, found in values.items()}


def _spread(group: Group, known: Mapping[str, object], most: int) -> Sequence[Cell]:
    """Up to so many cells with a known λ1, the smallest and the largest network among them."""
    cells = [cell for cell in group.cells if cell.id in known]
    cells.sort(key=lambda cell: (cell.settings.width * cell.settings.depth, cell.settings.width))
    if len(cells) > most:
        picks = np.linspace(0, len(cells) - 1, most).round().astype(int)
        cells = [cells[i] for i in picks]
    return cells


def _bounds(cell: Cell, samples: int) -> SharpnessBounds:
    from etastar.theory.sharpness_bounds import sharpness_bounds

    settings = cell.settings
    data = load_data(settings)
    return sharpness_bounds(
        settings.network(),
        data.x_train[:samples],
        data.classes,
        loss=settings.loss,
        kind="gauss-newton",
    )
