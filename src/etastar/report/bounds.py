"""Bounds on λ1 at initialisation, for the networks of a group, on the data that the study used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etastar.errors import EtaStarError
from etastar.report.evidence import Group
from etastar.study.cell import Cell
from etastar.study.measuring import load_data

if TYPE_CHECKING:
    from etastar.curvature.theory import SharpnessBounds


@dataclass(frozen=True)
class Bounds:
    """What theory says of λ1.

    Attributes:
        values: By the hash of the cell.
        labels: What the bounds are, each once.
        reason: Why there are none, or not for all; empty if there are.
    """

    values: Mapping[str, SharpnessBounds]
    labels: Sequence[str]
    reason: str = ""


def bounds_of(group: Group) -> Bounds:
    """Bounds on λ1 of the Gauss-Newton matrix, for every cell whose λ1 has been measured."""
    samples = {
        identity: count
        for identity, count, value in zip(
            group.rows["cell"], group.rows["sharpness_samples"], group.rows["lambda1"], strict=True
        )
        if value is not None
    }
    found: dict[str, SharpnessBounds] = {}
    try:
        for cell in group.cells:
            if cell.id in samples:
                found[cell.id] = _bounds(cell, int(samples[cell.id]))
    except EtaStarError as error:
        return Bounds(found, _labels(found), str(error))
    return Bounds(found, _labels(found))


def _bounds(cell: Cell, samples: int) -> SharpnessBounds:
    from etastar.curvature.theory import sharpness_bounds

    settings = cell.settings
    data = load_data(settings)
    return sharpness_bounds(
        settings.network(),
        data.x_train[:samples],
        data.classes,
        loss=settings.loss,
        kind="gauss-newton",
    )


def _labels(found: Mapping[str, SharpnessBounds]) -> list[str]:
    return list(
        dict.fromkeys(
            text
            for bounds in found.values()
            for text in (f"lower, {bounds.lower_label}", f"upper, {bounds.upper_label}")
        )
    )
