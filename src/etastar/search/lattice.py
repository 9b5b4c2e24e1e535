"""The rates that may be tried: a geometric lattice fixed by the specification alone."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Lattice:
    """Learning rates `start_lr · (end_lr/start_lr)^(i/cells)` for i = 0 … cells.

    Neighbours differ by at most the factor `1 + resolution`, so a bracket of two neighbours meets
    the resolution. Every strategy, seed and device tries rates of this lattice only, hence the
    brackets of different runs can be compared exactly.

    Attributes:
        start_lr: The lowest rate.
        end_lr: The highest rate.
        resolution: Largest relative distance of neighbours.

    Example:
        >>> lattice = Lattice(start_lr=0.01, end_lr=1.0, resolution=0.1)
        >>> lattice.cells, round(lattice.rate(1) / lattice.rate(0), 3)
        (49, 1.099)
    """

    start_lr: float
    end_lr: float
    resolution: float

    @property
    def cells(self) -> int:
        """Number of intervals between neighbouring rates."""
        needed = math.log(self.end_lr / self.start_lr) / math.log1p(self.resolution)
        return max(1, math.ceil(needed - 1e-9))  # a whole number stays one despite rounding

    def rate(self, index: int) -> float:
        """The learning rate at a lattice point; the ends are exactly `start_lr` and `end_lr`.

        Args:
            index: From 0 to `cells`.
        """
        if index == 0:
            return self.start_lr
        if index == self.cells:
            return self.end_lr
        return self.start_lr * float((self.end_lr / self.start_lr) ** (index / self.cells))
