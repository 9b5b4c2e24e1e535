"""Where the whole runs of a success curve begin: a search by partial runs."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping

from etastar.problem.trial import Outcome

STRIDE = math.log(3.0)
"""Distance in log η of neighbouring partial runs, before the bracket is cut."""
PART, LEARNED = 0.3, 0.05
"""Part of the largest fall of the loss that says that a higher rate trains, too; and the part of
the first loss by which it must have fallen, anywhere, to be more than the noise of batches."""
PARTS = 4
"""Parts into which the bracket is cut, by three runs at once: 3^(1/4) is a factor of 1.32."""


def fall(outcome: Outcome) -> float:
    """By what part of the first loss a partial run's loss fell; −∞ where it is not finite.

    Args:
        outcome: Of a partial run.
    """
    first, last = outcome.first_loss, outcome.last_loss
    if outcome.kind in ("diverged", "dead") or first is None or last is None:
        return -math.inf
    return (first - last) / abs(first) if math.isfinite(last) and first else -math.inf


def locate(
    guess: int, cells: int, step: float
) -> Generator[list[int], Mapping[int, Outcome], tuple[float, bool]]:
    """Find the highest rate at which training begins, one seed a rate.

    Three rates a factor of 3 apart around the guess, then further ones two at a time: upwards until
    the loss of the highest fell by less than `PART` of the largest fall, downwards until that is
    not at the lowest rate. Then three between the highest rate whose loss fell by so much and the
    next above it. A network that has collapsed may end below its first loss, but not so far below.

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
    seen: dict[int, float] = {}
    points = {min(max(guess + k * stride, 0), cells) for k in (-1, 0, 1)}
    while points:
        outcomes = yield sorted(points)
        seen.update({i: fall(outcomes[i]) for i in points})
        best = max(seen, key=lambda i: (seen[i], i))
        up = {min(max(seen) + k * stride, cells) for k in (1, 2)} - set(seen)
        down = {max(min(seen) - k * stride, 0) for k in (1, 2)} - set(seen)
        if seen[best] < LEARNED:  # nothing is known yet, but that a loss rose is a sign
            points = down if seen[max(seen)] < -LEARNED else up or down
        else:
            learns = seen[max(seen)] >= PART * seen[best]
            points = up if learns and up else down if best == min(seen) else set()
    if seen[best] <= 0:
        return 0.0, False
    low, high = _bracket(seen, best, cells)
    between = {low + round(k * (high - low) / PARTS) for k in range(1, PARTS)} - set(seen)
    if between:
        outcomes = yield sorted(between)
        seen.update({i: fall(outcomes[i]) for i in between})
        low, high = _bracket(seen, best, cells)
    return (low + high) / 2, True


def _bracket(seen: Mapping[int, float], best: int, cells: int) -> tuple[int, int]:
    """The highest rate whose loss fell nearly as much as the best one's, and the next above it."""
    low = max(i for i in seen if i >= best and seen[i] >= PART * seen[best])
    return low, min((i for i in seen if i > low), default=cells)
