"""Planted landscapes: what every lattice point of one seed would do, and a search run on it."""

from __future__ import annotations

import random
from collections.abc import Callable

from etastar.problem.trial import Outcome
from etastar.search import Lattice, SeedResult, Strategy

TRAINED = Outcome("trained", 200, 0.95)
DIVERGED = Outcome("diverged", 6)
LATE = Outcome("diverged", 150, 0.4)
SHORT = Outcome("short", 400, 0.5)
DEAD = Outcome("dead", 9)
OUTCOMES = {"T": TRAINED, "d": DIVERGED, "l": LATE, "s": SHORT, "x": DEAD}


def slow(accuracy: float) -> Outcome:
    """A run that was still learning when its budget ended."""
    return Outcome("short", 400, accuracy, slow=True)


def monotone(boundary: int) -> Callable[[int], Outcome]:
    """Trains up to and including lattice point `boundary`, diverges above."""
    return lambda i: TRAINED if i <= boundary else DIVERGED


def run(strategy: Strategy, landscape: Callable[[int], Outcome], width: int = 1) -> SeedResult:
    """Answer a strategy until it is done, `width` rates at a time, in a random order."""
    index = {strategy.lattice.rate(i): i for i in range(strategy.lattice.cells + 1)}
    shuffle = random.Random(width)
    while not strategy.done:
        rates = strategy.ask(width)
        assert rates
        shuffle.shuffle(rates)
        for rate in rates:
            strategy.tell(rate, landscape(index[rate]))
    return strategy.result()


def lattice(cells: int = 100) -> Lattice:
    """A lattice of that many cells at 5 %."""
    return Lattice(0.01, 0.01 * 1.05**cells, 0.05)
