"""The paper's Algorithm 1: bisection between a lower and an upper bound."""

from __future__ import annotations

from etastar.search.base import Descent, Plan, Strategy


class Bisection(Strategy):
    """Train at the midpoint of the bounds; up if it trains, down if it does not (Iyer et al. 2023).

    The midpoint is geometric: our choice. The bounds themselves are tried only when the search ends
    on them. It takes the fewest trials, but it believes that the boundary is the only one: a
    midpoint too slow for the budget sends it down like one that is too fast, and it cannot see
    rates that train above a failure. `Section` is the default for that reason.
    """

    def plan(self) -> Plan:
        """Halve the bracket until it is one cell of the lattice."""
        low, high = 0, self.lattice.cells
        while high - low > 1:
            middle = (low + high) // 2
            if (yield Descent((middle,))) is None:
                high = middle
            else:
                low = middle
        if high == self.lattice.cells and (yield Descent((high,))) is not None:
            return
        if low == 0:
            yield Descent((0,))
