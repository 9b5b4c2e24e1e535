"""The searches beside plain scripts of them, trial by trial; the estimates beside loops."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landscapes import DIVERGED, OUTCOMES, SHORT, TRAINED, lattice, slow
from scipy.stats import binomtest

from etastar.errors import ConfigError
from etastar.problem.trial import Outcome, Start, Trial
from etastar.search import Bisection, Lattice, Section, SeedResult, Strategy, bracket
from etastar.search.estimate import EtaStar, eta_star, success_curve
from etastar.search.queue import SearchQueue

Landscape = Callable[[int], Outcome]


def tried_by(strategy: Strategy, landscape: Landscape) -> list[int]:
    """Lattice points in the order in which a search tries them, one at a time."""
    index = {strategy.lattice.rate(i): i for i in range(strategy.lattice.cells + 1)}
    order = []
    while not strategy.done:
        (rate,) = strategy.ask()
        order.append(index[rate])
        strategy.tell(rate, landscape(index[rate]))
    assert strategy.ask() == []
    return order


class Script:
    """The section search written from its description, without descents or generators."""

    def __init__(self, landscape: Landscape, cells: int, log_cell: float, **options: float) -> None:
        self.landscape, self.cells, self.log_cell = landscape, cells, log_cell
        self.sections = int(options.get("sections", 2))
        self.coarse, self.scan = options.get("coarse_ratio", 1.6), options.get("scan_ratio", 1.12)
        self.guard, self.at_once = int(options.get("guard", 1)), options.get("at_once", 20)
        self.tried: dict[int, Outcome] = {}

    def trains(self, i: int) -> bool:
        if i not in self.tried:
            self.tried[i] = self.landscape(i)
        return self.tried[i].kind == "trained"

    def at_once_failed(self, i: int) -> bool:
        return self.tried[i].kind in ("diverged", "dead") and self.tried[i].step <= self.at_once

    def stride(self, ratio: float) -> int:
        cells = 1
        while (
            cells * self.sections * self.log_cell <= math.log(ratio) * (1 + 1e-9)
            and cells < self.cells
        ):
            cells *= self.sections
        return min(cells, self.cells)

    def ladder(self, top: int, ratio: float) -> Iterator[int]:
        yield from range(top, 0, -self.stride(ratio))
        yield 0

    def run(self) -> list[int]:
        best = None
        for i in self.ladder(self.cells, self.coarse):
            if self.trains(i):
                best = i
                break
            if not self.at_once_failed(i):
                break
        if best == self.cells:
            return list(self.tried)
        hopeless = [i for i in self.tried if self.trains(i) is False and self.at_once_failed(i)]
        failures: list[Outcome] = []
        best = None
        for i in self.ladder(min(hopeless, default=self.cells), self.scan):
            if self.trains(i):
                best = i
                break
            failures.append(self.tried[i])
            last = [f.score or 0.0 for f in failures[-5:]]
            if (
                len(last) == 5
                and all(f.slow for f in failures[-5:])
                and all(a >= b for a, b in itertools.pairwise(last))
                and last[0] > last[-1]
            ):
                break
        if best is None:
            nearest = max(self.tried, key=lambda i: (self.tried[i].score or 0.0, i))
            reach = self.stride(self.scan) - 1
            for i in range(nearest + reach, nearest - reach - 1, -1):
                if 0 <= i <= self.cells and i not in self.tried and self.trains(i):
                    best = i
                    break
        while best is not None and best < self.cells:
            above = min(i for i in self.tried if i > best)
            if above - best > 1:
                part = math.ceil((above - best) / self.sections)
                inner = list(range(best + part, above, part))[::-1]
                best = next((i for i in inner if self.trains(i)), best)
            else:
                guards = [i for i in range(above + 1, above + self.guard + 1) if i <= self.cells]
                fresh = [i for i in guards[::-1] if i not in self.tried]
                best = next((i for i in fresh if self.trains(i)), None)
        return list(self.tried)


marks = st.sampled_from("TTTdlsxabc")
SLOWS = {"a": slow(0.2), "b": slow(0.5), "c": slow(0.8)}
plans = st.lists(marks, min_size=2, max_size=150).map(lambda m: [(OUTCOMES | SLOWS)[k] for k in m])
stepped = st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 60)).map(
    lambda n: [SLOWS["a"]] * n[0] + [TRAINED] * n[1] + [SHORT] * 3 + [DIVERGED] * (n[2] + 1)
)
OPTIONS: list[dict[str, float]] = [
    {},
    {"guard": 3, "sections": 3},
    {"guard": 0, "scan_ratio": 1.05, "coarse_ratio": 1.05},
    {"coarse_ratio": 3.0, "scan_ratio": 1.3, "at_once": 5},
    {"coarse_ratio": 1e9, "scan_ratio": 1e9, "at_once": 9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(plans | stepped)
@settings(deadline=None, max_examples=120, derandomize=True)
def test_the_section_search_tries_what_its_description_says(
    options: dict[str, float], plan: list[Outcome]
) -> None:
    grid = lattice(len(plan) - 1)
    section = Section(grid, **options)  # type: ignore[arg-type]
    log_cell = math.log(grid.end_lr / grid.start_lr) / grid.cells
    script = Script(plan.__getitem__, grid.cells, log_cell, **options)
    assert tried_by(section, plan.__getitem__) == script.run()
    assert section.outcomes == {grid.rate(i): plan[i] for i in sorted(script.tried)}
    assert section.result() == bracket(section.outcomes)


@given(plans)
@settings(deadline=None, max_examples=120, derandomize=True)
def test_bisection_is_the_papers_algorithm(plan: list[Outcome]) -> None:
    grid = lattice(len(plan) - 1)
    low, high, order = 0, grid.cells, []
    while high - low > 1:
        middle = (low + high) // 2
        order.append(middle)
        low, high = (middle, high) if plan[middle].kind == "trained" else (low, middle)
    if high == grid.cells:
        order.append(high)
    if low == 0 and not (high == grid.cells and plan[high].kind == "trained"):
        order.append(0)
    assert tried_by(Bisection(grid), plan.__getitem__) == order


@given(plans)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_a_bracket_is_read_off_the_tried_rates(plan: list[Outcome]) -> None:
    tried = {0.1 * (i + 1): outcome for i, outcome in enumerate(plan)}
    found = bracket(dict(random.Random(0).sample(sorted(tried.items()), len(tried))))
    trained = [rate for rate, outcome in tried.items() if outcome.kind == "trained"]
    if not trained:
        assert found == SeedResult("none-trained", None, None, None, ())
        return
    lo = max(trained)
    gaps = tuple(r for r in tried if r not in trained and any(t < r for t in trained) and r < lo)
    above = [rate for rate in tried if rate > lo]
    if not above:
        assert found == SeedResult("all-trained", lo, None, None, gaps)
    else:
        assert found == SeedResult("bracketed", lo, above[0], tried[above[0]].kind, gaps)


def test_what_is_wanted_is_what_a_descent_still_needs() -> None:
    strategy = Section(lattice())
    rates = strategy.ask(50)
    below = strategy.lattice.start_lr * 1.05**0.5
    for told in (4, 2):
        strategy.tell(rates[told], TRAINED)
        expected = [k < told for k in range(len(rates))]
        assert [strategy.wanted(rate) for rate in rates] == expected
    strategy.tell(rates[1], DIVERGED)
    assert [strategy.wanted(rate) for rate in rates[:5]] == [True, False, False, False, False]
    # a rate of the lattice that this descent does not hold
    other = next(
        strategy.lattice.rate(i) for i in range(101) if strategy.lattice.rate(i) not in rates
    )
    assert not strategy.wanted(other)
    with pytest.raises(KeyError):
        strategy.wanted(below)
    done = Bisection(lattice(1))
    done.tell(done.ask()[0], TRAINED)
    assert done.done
    assert not done.wanted(done.lattice.end_lr)


def test_a_lattice_of_a_whole_number_of_cells_has_no_more() -> None:
    for cells in (1, 2, 7, 100, 1000):
        grid = Lattice(0.01, 0.01 * 1.05**cells, 0.05)
        assert grid.cells == cells
        for i in range(cells + 1):
            assert grid.rate(i) == pytest.approx(0.01 * 1.05**i, rel=1e-9)
    assert Lattice(1.0, 1.01, 0.05).cells == 1


def test_nonsense_is_refused_word_by_word() -> None:
    for options, says in (
        ({"sections": 1}, "sections must be at least 2, got 1."),
        ({"guard": -1}, "guard must not be negative, got -1."),
        ({"scan_ratio": 1.0}, "scan_ratio must be above 1, got 1.0."),
        (
            {"coarse_ratio": 1.1},
            "coarse_ratio must be at least scan_ratio, got 1.1 and 1.12.",
        ),
    ):
        with pytest.raises(ConfigError) as refused:
            Section(lattice(), **options)  # type: ignore[arg-type]
        assert str(refused.value) == says
    Section(lattice(), guard=0, sections=2, coarse_ratio=1.12)


# the queue


def test_the_queue_hands_out_one_per_seed_and_then_up_to_what_is_useful() -> None:
    queue = SearchQueue({Start(seed, seed): Section(lattice()) for seed in (5, 6, 7)})
    rates = Section(lattice()).ask(3)
    assert queue.take(2) == [Trial.of(5, rates[0]), Trial.of(6, rates[0])]
    assert queue.take(9, 7) == [
        Trial.of(7, rates[0]),
        Trial.of(5, rates[1]),
        Trial.of(6, rates[1]),
        Trial.of(7, rates[1]),
        Trial.of(5, rates[2]),
    ]
    assert queue.take(9, 7) == []
    assert (queue.ended, queue.done) == (0, 0)
    said: list[tuple[Trial, Outcome]] = []
    queue.on_outcome = lambda trial, outcome: said.append((trial, outcome))
    queue.put(Trial.of(5, rates[0]), TRAINED)
    assert said == [(Trial.of(5, rates[0]), TRAINED)]
    assert (queue.ended, queue.done) == (1, 1)
    assert not queue.wanted(Trial.of(5, rates[1]))
    assert not queue.wanted(Trial.of(5, rates[2]))
    assert queue.wanted(Trial.of(6, rates[1]))
    # four run: two each of seeds 6 and 7
    assert queue.take(9, 7) == [
        Trial.of(6, rates[2]),
        Trial.of(7, rates[2]),
        Trial.of(6, Section(lattice()).ask(4)[3]),
    ]
    queue.put(Trial.of(6, rates[0]), DIVERGED)
    queue.put(Trial.of(6, rates[1]), TRAINED)
    assert queue.outcomes() == {
        Trial.of(5, rates[0]): TRAINED,
        Trial.of(6, rates[0]): DIVERGED,
        Trial.of(6, rates[1]): TRAINED,
    }
    assert next(iter(queue.outcomes())).start.order == 5


def test_a_queue_without_speculation_runs_one_trial_per_seed() -> None:
    queue = SearchQueue({Start(seed, seed): Section(lattice()) for seed in range(3)})
    assert len(queue.take(10)) == 3
    assert queue.take(10) == []
    assert queue.take(0) == []


# the estimates

ALL = SeedResult("all-trained", 10.0, None, None, ())
NONE = SeedResult("none-trained", None, None, None, ())


def at(lo: float, ratio: float = 1.05) -> SeedResult:
    return SeedResult("bracketed", lo, lo * ratio, "diverged", ())


def median(values: list[float]) -> float:
    """Keeps infinities; of two middle ones that are not both finite, an infinite one."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2
    return high if math.isfinite(low) else low


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(
    "results",
    [
        [at(1.0), at(1.2, 1.3), at(0.7)],
        [at(1.0), at(1.2, 1.3), at(0.7), at(2.0)],
        [at(1.0), ALL, at(0.7), at(2.0, 1.5), NONE],
        [ALL, at(1.0), at(1.1), ALL],
        [NONE, at(1.0), at(1.1), NONE],
    ],
    ids=len,
)
def test_the_bootstrap_of_the_median_draw_by_draw(seed: int, results: list[SeedResult]) -> None:
    ends = [
        (-math.inf, -math.inf)
        if r.lo is None
        else (math.inf, math.inf)
        if r.hi is None
        else (math.log(r.lo), math.log(r.hi))
        for r in results
    ]
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(results), size=(10_000, len(results)))
    part = rng.random(chosen.shape)
    drawn = []
    for picks, parts in zip(chosen[:], part, strict=True):
        values = []
        for k, u in zip(picks, parts, strict=True):
            low, high = ends[k]
            values.append(low + u * (high - low) if math.isfinite(low) else low)
        drawn.append(median(values))
    drawn.sort()
    # the k-th of 10,000 with k = ⌈10,000 p⌉; (1 − 0.95)/2 is a little above 0.025 in binary
    expected = [drawn[250], drawn[9749]]
    found = eta_star(results, seed=seed)
    middle = median([(low + high) / 2 for low, high in ends])
    wanted = [math.exp(v) if math.isfinite(v) else None for v in (middle, *expected)]
    assert [found.median, found.ci_low, found.ci_high] == [
        None if v is None else pytest.approx(v, rel=1e-9) for v in wanted
    ]
    if seed == 0:
        assert eta_star(results) == found
    assert found.safe is None


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_the_success_curve_seed_by_seed(seed: int, seeds: int) -> None:
    draw = random.Random(seed)
    rates = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    results, tried = [], []
    for _ in range(seeds):
        mine = {r: draw.choice([*OUTCOMES.values(), TRAINED]) for r in rates if draw.random() < 0.5}
        mine = mine or {1.0: TRAINED}
        tried.append(mine)
        results.append(bracket(mine))
    curve = success_curve(results, tried)
    assert [at.lr for at in curve] == sorted({r for mine in tried for r in mine})
    for point in curve:
        counts = {"trained": 0, "diverged": 0, "dead": 0, "short": 0, "above": 0, "below": 0}
        for result, mine in zip(results, tried, strict=True):
            if point.lr in mine:
                counts[mine[point.lr].kind] += 1
            elif result.lo is not None and point.lr < result.lo:
                counts["above"] += 1
            elif result.hi is None or point.lr > result.hi:
                # above what was tried of a seed that always trained says nothing good either
                counts["below"] += 1
        total = sum(counts.values())
        good = counts["trained"] + counts["above"]
        interval = binomtest(good, total).proportion_ci(0.95)
        assert dataclasses.asdict(point) == {
            "lr": point.lr,
            **{kind: counts[kind] for kind in ("trained", "diverged", "dead", "short")},
            "inferred_trained": counts["above"],
            "inferred_failed": counts["below"],
            "p": good / total,
            "ci_low": float(interval.low),
            "ci_high": float(interval.high),
        }


def test_no_number_is_zero_or_infinite() -> None:
    assert eta_star([NONE, NONE]) == EtaStar(None, None, None, None)
    assert eta_star([ALL, ALL]) == EtaStar(None, None, None, None)
