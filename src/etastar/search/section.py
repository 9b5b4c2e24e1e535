"""The default strategy: a scan from above, then sections of the bracket, then a guard."""

from __future__ import annotations

import math

from etastar.errors import ConfigError
from etastar.problem.trial import Outcome
from etastar.search.base import Descent, Plan, Strategy
from etastar.search.lattice import Lattice


class Section(Strategy):
    """Search from above: the highest rate that trains, below failures only.

    1. **Scan** downwards from `end_lr` to the first rate that trains: in strides of up to
       `coarse_ratio` while rates fail at once, then, from the last rate that did, in strides of up
       to `scan_ratio`. Rates far above the boundary fail within a few steps, so this costs little;
       it leaves no island of trainability wider than a stride unseen, and never spends a budget on
       rates far below the boundary.
    2. **Refine**: cut the bracket into `sections` and again take the first point from above that
       trains, until its ends are neighbours on the lattice.
    3. **Guard**: try the next `guard` untried rates above the bracket. If one trains (a
       re-entry), the bracket moves there and is guarded again.

    Args:
        lattice: The rates that may be tried.
        sections: Parts into which each refinement cuts the bracket.
        coarse_ratio: Largest factor between neighbouring rates while they fail at once.
        scan_ratio: Largest factor between neighbouring rates of the rest of the scan.
        guard: Probes above `hi`.
        at_once: A rate failed at once if it diverged or died within this many steps.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        lattice: Lattice,
        *,
        sections: int = 2,
        coarse_ratio: float = 1.6,
        scan_ratio: float = 1.12,
        guard: int = 1,
        at_once: int = 20,
    ) -> None:
        if sections < 2:
            raise ConfigError(f"sections must be at least 2, got {sections}.")
        if guard < 0:
            raise ConfigError(f"guard must not be negative, got {guard}.")
        if scan_ratio <= 1:
            raise ConfigError(f"scan_ratio must be above 1, got {scan_ratio}.")
        if coarse_ratio < scan_ratio:
            raise ConfigError(
                f"coarse_ratio must be at least scan_ratio, got {coarse_ratio} and {scan_ratio}."
            )
        self.sections, self.guard, self.at_once = sections, guard, at_once
        self.coarse_ratio, self.scan_ratio = coarse_ratio, scan_ratio
        super().__init__(lattice)

    def stride(self, ratio: float) -> int:
        """Lattice cells per step of a scan whose rates differ by at most `ratio`, or by one cell.

        A power of `sections`, so that refinements fall on lattice points and a coarser scan on
        points of a finer one.

        Args:
            ratio: Above 1.
        """
        per_cell = math.log(self.lattice.end_lr / self.lattice.start_lr) / self.lattice.cells
        levels = math.log(max(1.0, math.log(ratio) / per_cell), self.sections)
        return int(min(self.sections ** math.floor(levels + 1e-9), self.lattice.cells))

    def plan(self) -> Plan:
        """Scan, refine, guard."""
        found = yield Descent(self._down_from(self.lattice.cells, self.coarse_ratio), self._lasts)
        if found == self.lattice.cells:
            return
        hopeless = [i for i, outcome in self.tried.items() if self._fails_at_once(outcome)]
        top = min(hopeless, default=self.lattice.cells)
        found = yield Descent(self._down_from(top, self.scan_ratio), give_up=too_slow)
        if found is None:
            found = yield Descent(self._around_best())
        while found is not None and found < self.lattice.cells:
            above = min(i for i in self.tried if i > found)
            if above - found > 1:
                part = -(-(above - found) // self.sections)
                found = (yield Descent(tuple(range(found + part, above, part))[::-1])) or found
            else:
                guards = range(above + 1, min(above + self.guard, self.lattice.cells) + 1)
                found = yield Descent(tuple(i for i in reversed(guards) if i not in self.tried))

    def _down_from(self, top: int, ratio: float) -> tuple[int, ...]:
        """Lattice points from `top` to the lowest rate in strides of at most `ratio`."""
        return (*range(top, 0, -self.stride(ratio)), 0)

    def _fails_at_once(self, outcome: Outcome) -> bool:
        return outcome.kind in ("diverged", "dead") and outcome.step <= self.at_once

    def _lasts(self, failures: list[Outcome]) -> bool:
        """Whether the latest failure took long enough to be near the boundary."""
        return not self._fails_at_once(failures[-1])

    def _around_best(self) -> tuple[int, ...]:
        """Where a scan saw nothing train: the untried points around the one that came closest."""
        best = max(self.tried, key=lambda i: (self.tried[i].score or 0.0, i))
        reach = self.stride(self.scan_ratio) - 1
        around = range(max(0, best - reach), min(self.lattice.cells, best + reach) + 1)
        return tuple(i for i in reversed(around) if i not in self.tried)


SLOW_IN_A_ROW = 5
"""Failures that must point downwards: in a ragged region, where accuracies are as good as drawn, so
many in descending order are met once in 120."""


def too_slow(failures: list[Outcome]) -> bool:
    """Whether a descent has come to rates too slow for the budget, so that lower ones are too.

    True after `SLOW_IN_A_ROW` failures that were stable and had learned something (`Outcome.slow`),
    each no nearer to the threshold than the one above it, and the last further away than the first.
    """
    last = failures[-SLOW_IN_A_ROW:]
    reached = [f.score or 0.0 for f in last]
    falling = reached == sorted(reached, reverse=True) and reached[0] > reached[-1]
    return len(last) == SLOW_IN_A_ROW and all(f.slow for f in last) and falling
