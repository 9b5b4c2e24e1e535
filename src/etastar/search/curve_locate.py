"""Where the whole runs of a success curve begin: a search by partial runs."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping

from etastar.problem.trial import Outcome

STRIDE = math.log(3.0)
"""Distance in log η of neighbouring partial runs, before the bracket is cut."""
PARTS = 4
"""Parts into which the bracket is cut, by three runs at once: 3^(1/4) is a factor of 1.32."""


def too_high(outcome: Outcome) -> bool:
    """Whether a partial run was at too high a rate: its loss is not finite or has not fallen.

    Args:
        outcome: Of a partial run.
    """
    if outcome.kind in ("diverged", "dead"):
        return True
    first, last = outcome.first_loss, outcome.last_loss
    if first is None or last is None or not math.isfinite(last):
        return True
    return last >= first


def locate(
    guess: int, cells: int, step: float
) -> Generator[list[int], Mapping[int, Outcome], tuple[float, bool]]:
    """Find the highest rate at which training begins, one seed a rate.

    Three rates a factor of 3 apart around the guess, then further ones two at a time until the
    boundary lies between two, then three between them. The highest rate at which the loss falls
    counts, whatever failed below it: a seed that fails early misleads less than that.

    Args:
        guess: Lattice point where the boundary is expected.
        cells: Number of lattice cells.
        step: Distance of lattice points in log η.

    Yields:
        Lattice points of a round, sent back with their outcomes.

    Returns:
        The boundary as a lattice point (not whole), and whether any run learned.
    """
    stride = max(1, round(STRIDE / step))
    seen: dict[int, bool] = {}
    points = {min(max(guess + k * stride, 0), cells) for k in (-1, 0, 1)}
    while points:
        outcomes = yield sorted(points)
        seen.update({i: too_high(outcomes[i]) for i in points})
        good = [i for i, high in seen.items() if not high]
        if not good:
            points = {max(min(seen) - k * stride, 0) for k in (1, 2)} - set(seen)
        elif max(seen) == max(good):
            points = {min(max(seen) + k * stride, cells) for k in (1, 2)} - set(seen)
        else:
            break
    good = [i for i, high in seen.items() if not high]
    if not good:
        return 0.0, False
    low = max(good)
    high = min((i for i in seen if i > low), default=cells)
    between = {low + round(k * (high - low) / PARTS) for k in range(1, PARTS)} - set(seen)
    if between:
        outcomes = yield sorted(between)
        seen.update({i: too_high(outcomes[i]) for i in between})
        low = max(i for i, high in seen.items() if not high)
        high = min((i for i in seen if i > low), default=cells)
    return (low + high) / 2, True
