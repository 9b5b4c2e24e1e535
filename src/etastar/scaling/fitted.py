"""What laws and processes have in common: the cells that they were fitted to, and predictions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import BoolArray, CellTable, FloatArray, IntArray, Response
from etastar.scaling.domain import Domain, below_cutoff
from etastar.scaling.estimates import CellEstimates, Usage, estimate_cells, tally
from etastar.scaling.prediction import Prediction, check_level


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted(ABC):
    """A fit to the cells of one group. Arrays are over those used, `[M]`; logarithms are natural.

    Attributes:
        response: What was fitted.
        labels: The group it holds for: loss, κ, dataset, ....
        width: n.
        depth: L.
        log_value: log of the measured medians.
        variance: Their sampling variances v, from the cells' own seeds or intervals.
        seeds: Seeds of every cell that its median is over.
        domain: Where the cells lie.
        usage: Counts of cells and seeds.
    """

    response: Response
    labels: Mapping[str, str | float]
    width: FloatArray
    depth: FloatArray
    log_value: FloatArray
    variance: FloatArray
    seeds: IntArray
    domain: Domain
    usage: Usage

    @abstractmethod
    def interval_log(
        self, width: FloatArray, depth: FloatArray, level: float, seeds: float | None
    ) -> tuple[float, float]:
        """Centre and half-width of the prediction interval of one network, in log.

        Args:
            width: n, `[1]`.
            depth: L, `[1]`.
            level: Nominal coverage.
            seeds: As `predict` takes them.
        """

    def doubts(
        self, width: FloatArray, depth: FloatArray, centre: float, outside: bool
    ) -> tuple[list[str], float | None]:
        """Warnings about the fit itself, and what it predicts with second-degree terms.

        Args:
            width: n, `[1]`.
            depth: L, `[1]`.
            centre: Logarithm of the prediction.
            outside: Whether the network is outside the domain.
        """
        return [], None

    def predict(
        self,
        width: float,
        depth: float,
        *,
        level: float = 0.9,
        seeds: float | None = None,
        strict: bool = False,
    ) -> Prediction:
        """The median over seeds of an unseen network, with a prediction interval.

        Args:
            width: n.
            depth: L.
            level: Nominal coverage of the interval.
            seeds: Seeds that the median is taken over; by default as many as the fitted cells
                have, or for a process as noisy as these. `math.inf` leaves the seed noise out.
            strict: Raise for a network outside the domain instead of warning.

        Raises:
            ConfigError: Width, depth or level cannot be; or `strict`, and the network is outside
                the domain.
        """
        for name, value in (("width", width), ("depth", depth)):
            if not (math.isfinite(value) and value >= 1):
                raise ConfigError(f"{name} must be a number of at least 1; got {value!r}.")
        check_level(level)
        width, depth = float(width), float(depth)
        n, d = np.array([width]), np.array([depth])
        outside = self.domain.checked(width, depth, strict=strict)
        centre, half = self.interval_log(n, d, level, seeds)
        doubts, second_degree = self.doubts(n, d, centre, bool(outside))
        return Prediction(
            *(width, depth, math.exp(centre), math.exp(centre - half), math.exp(centre + half)),
            level=level,
            in_region=not outside,
            warnings=(*outside, *doubts),
            second_degree=second_degree,
        )


def chosen_cells(
    cells: CellTable, response: Response, cutoff: float | None
) -> tuple[CellEstimates, BoolArray, dict[str, Any]]:
    """Choose the cells of one group that a fit uses: known medians within the cutoff.

    Returns:
        Estimates of all cells, which are below the cutoff, `[M]`, and the fields of `Fitted` but
        the domain.

    Raises:
        ConfigError: The cells mix groups, or have no such response.
    """
    labels = cells.the_labels()
    estimates = estimate_cells(cells, response)
    beyond = below_cutoff(cells.width, cells.depth, cutoff)
    use = estimates.used & ~beyond
    return (
        estimates,
        beyond,
        {
            "response": response,
            "labels": labels,
            "width": cells.width[use],
            "depth": cells.depth[use],
            "log_value": estimates.value[use],
            "variance": estimates.variance[use],
            "seeds": estimates.informative[use],
            "usage": tally(cells, estimates, beyond),
        },
    )
