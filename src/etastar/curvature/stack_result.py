"""What `stack_sharpness` gives back, and what it is made of while it is being found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etastar.curvature.graphs import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHECKED = 1000.0
"""Residuals below `CHECKED · machine epsilon · max|θ|` of float32 are computed anew in float64.

Rounding of the products is of that order: for MLPs the error of a converged λ1 was at most 22 such
epsilons (MNIST, 64×4), for layer-normalised networks of 4 to 8 units, whose division amplifies it,
up to 700. A constant would not do: where rounding moves a pre-activation across zero, the network
in float32 lies on another side of a kink than the exact one."""


@dataclass(frozen=True)
class StackSharpness:
    """λ1 of each of R replicas, in their order.

    Some eigenvalue of the matrix at these weights in exact arithmetic lies within `residuals[r]` of
    `values[r]`, and `values[r]` is a lower bound of λ1 up to that. Missed larger eigenvalues are
    not searched for, as `etastar.sharpness` does: at tolerance 1e-3, 2 of 7,168 initialisations of
    MLPs of width 16 and 32 ended at another eigenvalue, up to 2 % below λ1.

    A residual is Lanczos's estimate plus `ROUNDING · machine epsilon · max|θ|`. Where float32's
    estimate is so small that rounding counts (`CHECKED`), value and residual are those of one
    product in float64 with the eigenvector found, and the epsilon is float64's, times `CHECKED`.
    """

    values: tuple[float, ...]
    """NaN where the loss or a product was not finite."""
    residuals: tuple[float, ...]
    """May exceed the tolerance where that is below the rounding of the dtype."""
    iterations: tuple[int, ...]
    """Products with the full data."""
    converged: tuple[bool, ...]
    losses: tuple[float, ...]
    """Training loss at these weights."""
    kind: Kind


class PartialResult:
    """Results of R replicas while they are being found: arrays `[R]`, NaN where nothing is yet.

    Args:
        replicas: R.
    """

    def __init__(self, replicas: int) -> None:
        self.values, self.residuals, self.losses, self.scales = (
            np.full(replicas, np.nan) for _ in range(4)
        )
        self.iterations = np.zeros(replicas, dtype=int)
        self.converged = np.zeros(replicas, dtype=bool)

    def put(self, rows: NDArray[np.int_], found: PartialResult) -> None:
        """Copy the results of some rows."""
        for name, array in vars(found).items():
            vars(self)[name][rows] = array

    def result(self, kind: Kind) -> StackSharpness:
        """As it is given to the caller."""
        return StackSharpness(
            values=tuple(self.values.tolist()),
            residuals=tuple(self.residuals.tolist()),
            iterations=tuple(self.iterations.tolist()),
            converged=tuple(self.converged.tolist()),
            losses=tuple(self.losses.tolist()),
            kind=kind,
        )
