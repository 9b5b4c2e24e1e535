"""Many seeds through one queue: no seed's answer depends on the others, on slots or on order."""

from __future__ import annotations

import random

import pytest
from landscapes import DIVERGED, SHORT, TRAINED, lattice

from etastar.problem.trial import Outcome, Start, Trial
from etastar.search import STRATEGIES, SeedResult
from etastar.search.queue import SearchQueue

GRID = lattice(120)


def outcome(trial: Trial) -> Outcome:
    """A noisy boundary that differs by seed; islands included."""
    noise = random.Random(f"{trial.seed} {trial.lr}").gauss(0, 0.08)
    edge = 0.8 * 1.15 ** (trial.seed % 5 - 2)
    if trial.lr * (1 + noise) < edge:
        return TRAINED
    return SHORT if trial.lr < 1.4 * edge else DIVERGED


def engine(queue: SearchQueue, slots: int, seed: int, width: int = 1) -> int:
    """A stand-in for the engine that ends running trials in a random order; returns its trials."""
    order, running, started = random.Random(seed), [], 0
    while True:
        running = [trial for trial in running if queue.wanted(trial)]
        fresh = queue.take(slots - len(running), width)
        assert len(fresh) <= slots - len(running)
        running += fresh
        started += len(fresh)
        assert len(set(running)) == len(running)
        if not running:
            return started
        trial = running.pop(order.randrange(len(running)))
        queue.put(trial, outcome(trial))


def search(seeds: range, name: str, slots: int, width: int = 1) -> dict[int, SeedResult]:
    queue = SearchQueue({Start(seed, seed): STRATEGIES[name](GRID) for seed in seeds})
    engine(queue, slots, seed=slots, width=width)
    assert queue.done == len(seeds)
    return {start.order: strategy.result() for start, strategy in queue.strategies.items()}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_seed_alone_and_among_eight(name: str) -> None:
    among = search(range(8), name, slots=5)
    for seed in range(8):
        assert search(range(seed, seed + 1), name, slots=1)[seed] == among[seed]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("slots", [1, 2, 7, 40])
@pytest.mark.parametrize("width", [1, 4, 64])
def test_slots_speculation_and_order_change_nothing(name: str, slots: int, width: int) -> None:
    assert search(range(6), name, slots, width) == search(range(6), name, slots=3)


def test_sure_needs_come_first_and_speculation_stops_at_the_width() -> None:
    queue = SearchQueue({Start(seed, seed): STRATEGIES["section"](GRID) for seed in range(3)})
    first = queue.take(100, 5)
    assert [trial.seed for trial in first[:3]] == [0, 1, 2]
    assert {trial.lr for trial in first[:3]} == {GRID.end_lr}
    assert len(first) == 5
    assert queue.take(100, 5) == []
    assert SearchQueue({Start(0, 0): STRATEGIES["section"](GRID)}).take(0) == []


def test_outcomes_hold_what_the_searches_used() -> None:
    queue = SearchQueue({Start(seed, seed): STRATEGIES["section"](GRID) for seed in range(3)})
    started = engine(queue, slots=30, seed=0, width=30)
    used = queue.outcomes()
    assert all(used[trial] == outcome(trial) for trial in used)
    assert len(used) <= started
    assert queue.ended <= started
