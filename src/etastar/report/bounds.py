"""Bounds on λ1 at initialisation, for the networks of a family, on the data that the study used."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from etastar.errors import EtaStarError
from etastar.report.evidence import Family, Group, evenly
from etastar.study.measuring import load_data

if TYPE_CHECKING:
    from etastar.data import Dataset
    from etastar.problem.losses import Loss
    from etastar.problem.networks import Network
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
    measured = [(group, known) for group in family.groups if (known := _measured(group))]
    each = max(2, MOST // max(1, len(measured)))
    found: dict[str, SharpnessBounds] = {}
    reasons: dict[str, None] = {}
    bounds = cache(_bounds)  # groups share λ1, and so its bounds
    for group, known in measured:
        cells = [cell for cell in group.cells if cell.id in known]
        cells.sort(
            key=lambda cell: (cell.settings.width * cell.settings.depth, cell.settings.width)
        )
        for cell in evenly(cells, each):
            try:
                network, data = cell.settings.network(), load_data(cell.settings)
                found[cell.id] = bounds(network, data, cell.settings.loss, known[cell.id][1])
            except EtaStarError as error:
                reasons[f"{group.name}: {error}"] = None
                break
    means = {identity: mean for _, known in measured for identity, (mean, _) in known.items()}
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


def _bounds(network: Network, data: Dataset, loss: Loss, samples: int) -> SharpnessBounds:
    from etastar.theory.sharpness_bounds import sharpness_bounds

    inputs = data.x_train[:samples]
    return sharpness_bounds(network, inputs, data.classes, loss=loss, kind="gauss-newton")
