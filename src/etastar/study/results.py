"""What a task gives back: plain values that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


CurveFound: TypeAlias = dict[str, Any]
"""The blocks of `search.curve_blocks.CurveResult` as JSON has them, with `status` and `hi_outcome`
as of a seed, and `runs`: seed, rate and whether it went on to the end, of every whole trial."""


@dataclass(frozen=True)
class Results:
    """What a task found.

    Attributes:
        seeds: By seed: the bracket of η*, or λ1. Or the one curve, by what was asked of it.
        resolved: What the specification came to: recipe, classes, provenance of the data.
        seconds: Wall-clock time.
        environment: Versions, device, threads.
        trials: Every trial that the searches for η* used; of a curve all that are known.
    """

    seeds: Mapping[Any, SeedResult | SharpnessRow | CurveFound]
    resolved: Mapping[str, Any]
    seconds: float
    environment: Mapping[str, Any]
    trials: Mapping[Trial, Outcome] = field(default_factory=dict)
