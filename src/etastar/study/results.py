"""What a task gives back: plain values that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from etastar.problem.trial import Outcome, Trial
from etastar.search.base import SeedResult


class SharpnessRow(NamedTuple):
    """λ1 at initialisation of one seed; None where it is not finite.

    The names are those of the exported columns. The store's columns are older: there
    `lambda1_preconditioned` is called `lambda1`.
    """

    lambda1_preconditioned: float | None
    """λ1 of `D^½ H D^½`, D the layers' learning-rate ratios: κ on the input layer."""
    lambda1_gauss_newton: float | None
    """λ1 of `D^½ G D^½`, G the Gauss-Newton matrix."""
    lambda1_plain: float | None
    """λ1 of the Hessian H itself."""
    residual: float | None
    """Some eigenvalue of `D^½ H D^½` is at most this far from `lambda1_preconditioned`."""
    converged: bool
    """True if all three met their tolerance."""


@dataclass(frozen=True)
class LrResult:
    """Brackets of η*.

    Attributes:
        seeds: By seed.
        trials: Every trial that the searches used.
        resolved: What the specification came to: recipe, classes, provenance of the data.
        seconds: Wall-clock time.
        environment: Versions, device, threads.
    """

    seeds: Mapping[int, SeedResult]
    trials: Mapping[Trial, Outcome]
    resolved: Mapping[str, Any]
    seconds: float
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class LambdaResult:
    """λ1 at initialisation; attributes as in `LrResult`."""

    seeds: Mapping[int, SharpnessRow]
    resolved: Mapping[str, Any]
    seconds: float
    environment: Mapping[str, Any]


Results: TypeAlias = LrResult | LambdaResult
