"""What entered a fit and what did not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etastar.scaling.cells import BoolArray, CellTable
from etastar.scaling.estimates import CellEstimates


@dataclass(frozen=True)
class Usage:
    """What entered the fit and what did not: nothing is dropped unseen.

    Attributes:
        cells: Cells given.
        used: Cells fitted.
        below_cutoff: Cells left out because n/L is below the cutoff.
        right_censored: Cells left out because η* is above the range: the median seed trained at
            the top of it.
        untrained: Cells left out because η* is below the range: the median seed trained nowhere,
            seeds that train nowhere being below all others; or because λ1 of no seed is known.
        contradicted: Right-censored cells that the law puts below the top of their range, outside
            its 95 % prediction interval: evidence that leaving them out bends the law.
        seeds_bracketed: Seeds of all given cells that were bracketed.
        seeds_all_trained: Right-censored seeds.
        seeds_none_trained: Seeds that trained nowhere in their range; each keeps its place, the
            lowest, in the median of its cell.
    """

    cells: int
    used: int
    below_cutoff: int
    right_censored: int
    untrained: int
    contradicted: int
    seeds_bracketed: int
    seeds_all_trained: int
    seeds_none_trained: int


def tally(cells: CellTable, estimates: CellEstimates, beyond: BoolArray) -> Usage:
    """Count the cells by what became of them; `contradicted`, which needs the law, is left at 0.

    Args:
        cells: All cells given.
        estimates: Their estimates.
        beyond: Cells below the cutoff on n/L, `[M]`.
    """
    censored = np.isfinite(estimates.bound)
    unused = ~estimates.used
    return Usage(
        cells=len(cells),
        used=int((estimates.used & ~beyond).sum()),
        below_cutoff=int(beyond.sum()),
        right_censored=int((unused & censored & ~beyond).sum()),
        untrained=int((unused & ~censored & ~beyond).sum()),
        contradicted=0,
        seeds_bracketed=int(estimates.bracketed.sum()),
        seeds_all_trained=int(estimates.all_trained.sum()),
        seeds_none_trained=int(estimates.none_trained.sum()),
    )
