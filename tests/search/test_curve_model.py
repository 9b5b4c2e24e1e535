"""The model of p(η) against a slow twin, and the rules that choose a rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import beta, binom, norm

from etastar.problem.trial import Outcome
from etastar.search import curve_model
from etastar.search.choosing import (
    ERRORS,
    cheapest,
    enough,
    exact_interval,
    lower_bound,
    lowest_seen,
    mean_steps,
)
from etastar.search.curve_budget import in_time, set_by
from etastar.search.curve_counts import CAUSES, Counts, cause_of, slow_edge
from etastar.search.curve_fit import Fit, peak_of, shoulder
from etastar.search.curve_model import Posterior, shapes

STEP = math.log(1.04)


def counts(rows: dict[int, tuple[int, int, int]], cells: int = 120) -> Counts:
    """Trained, diverged and slow runs by lattice point."""
    runs = [
        (i, outcome)
        for i, numbers in rows.items()
        for number, outcome in zip(
            numbers,
            (Outcome("trained", 100), Outcome("diverged", 9), Outcome("short", 400, cause="slow")),
            strict=True,
        )
        for _ in range(number)
    ]
    return Counts.of(cells, runs)


DATA = {50: (4, 0, 0), 56: (5, 1, 0), 60: (3, 3, 0), 63: (2, 4, 0), 70: (0, 4, 0)}


# the model


def test_p_is_one_half_at_eta_50_and_falls() -> None:
    grid = shapes()
    assert grid.success(np.zeros(1)) == pytest.approx(np.full(len(grid.width), 0.5), abs=1e-9)
    p = grid.success(np.linspace(-3, 3, 61)[:, None])
    assert (np.diff(p, axis=0) <= 1e-12).all()
    assert np.exp(grid.log_prior).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_drop_is_where_p_has_that_level(level: float) -> None:
    grid = shapes()
    drop = grid.drop(level)
    there = np.isfinite(drop)
    assert (there == (1 - grid.lapse > level)).all()
    assert grid.success(-drop)[there] == pytest.approx(np.full(there.sum(), level), abs=1e-6)


def slow_twin(data: Counts, level: float, parts: list[float]) -> list[float]:
    """Quantiles of the posterior by plain sums over every point of the grid, in float64."""
    grid, half = shapes(), STEP / 2
    points = np.arange(2 * 20, 2 * 110)
    at, weight = [], []
    tried = np.flatnonzero(data.tried)
    drop = np.zeros(len(grid.width)) if level == 0.5 else grid.drop(level)
    for m in points:
        p = np.clip(
            grid.success((tried[:, None] * 2 - m) * half),
            curve_model.FLOOR,
            curve_model.CEILING,
        )
        yes, no = data.trained[tried][:, None], data.failed[tried][:, None]
        weight.append(grid.log_prior + (yes * np.log(p) + no * np.log1p(-p)).sum(axis=0))
        at.append(m / 2 - drop / STEP)
    where, mass = np.ravel(at), np.exp(np.ravel(weight) - np.max(weight))
    order = np.argsort(where)
    total = np.cumsum(mass[order]) / mass.sum()
    return [float(where[order][np.searchsorted(total, part)]) for part in parts]


@pytest.mark.parametrize(("level", "parts"), [(0.5, [0.025, 0.5, 0.975]), (0.95, [0.3, 0.5, 0.8])])
def test_the_posterior_is_that_of_its_slow_twin(level: float, parts: list[float]) -> None:
    data = counts(DATA)
    fast = Posterior(STEP, 120, data.trained, data.failed)
    expected = slow_twin(data, level, parts)
    assert fast.quantile(level, np.array(parts)) == pytest.approx(expected, abs=0.6)


def test_the_band_holds_the_mean_and_narrows_with_runs() -> None:
    few, many = counts(DATA), counts({i: (4 * a, 4 * b, 0) for i, (a, b, _) in DATA.items()})
    points = np.arange(45.0, 75.0)
    widths = []
    for data in (few, many):
        posterior = Posterior(STEP, 120, data.trained, data.failed)
        mean, low, high = posterior.band(points)
        assert (low <= mean + 0.01).all()
        assert (mean <= high + 0.01).all()
        assert mean == pytest.approx(posterior.mean(points))
        widths.append((high - low).mean())
    assert widths[1] < 0.75 * widths[0]


# counts and the slow edge


def test_causes() -> None:
    assert cause_of(Outcome("trained", 5)) is None
    assert cause_of(Outcome("dead", 5)) == "dead"
    assert cause_of(Outcome("short", 5)) == "slow"
    assert cause_of(Outcome("short", 5, cause="collapsed")) == "collapsed"


def test_a_slow_edge_needs_runs_that_are_slower_below() -> None:
    found = slow_edge(
        counts({10: (0, 0, 5), 20: (1, 0, 4), 30: (5, 0, 0), 50: (6, 0, 0)}), STEP, 60
    )
    assert found.last == 20
    assert found.low is not None
    assert found.lower is not None
    assert found.upper is not None
    assert 20 < found.lower <= found.low <= found.upper < 40
    flat = slow_edge(counts({10: (9, 0, 1), 30: (9, 0, 1), 50: (9, 0, 1)}), STEP, 60)
    assert flat.last == -1
    assert flat.low is None
    rising = slow_edge(counts({10: (9, 0, 0), 30: (9, 0, 1), 50: (4, 0, 5)}), STEP, 60)
    assert rising.last == -1


def test_below_the_peak_a_collapsed_run_is_a_slow_one() -> None:
    slow = counts({10: (0, 0, 6), 30: (6, 0, 0), 50: (6, 0, 0), 60: (0, 0, 4)})
    mixed = counts({10: (0, 0, 3), 30: (6, 0, 0), 50: (6, 0, 0), 60: (0, 0, 4)})
    mixed.failures[CAUSES.index("collapsed"), 10] = 3
    of_slow, of_mixed = Fit.to(slow, STEP), Fit.to(mixed, STEP)
    assert of_slow.slow.low is not None
    assert of_mixed.slow == of_slow.slow
    assert of_mixed.eta_50() == pytest.approx(of_slow.eta_50())


def test_the_shoulder_is_not_left_of_runs_that_all_trained() -> None:
    """At the slow edge 50 of 58 trained: the peak, by its lower bound; above it all of ten did."""
    rows = {10: (50, 0, 8), 30: (3, 0, 0), 33: (3, 0, 0), 36: (4, 0, 0), 60: (0, 5, 0)}
    seen = counts(rows)
    peak = peak_of(seen, STEP)
    assert peak is not None
    assert peak[0] == 10
    assert shoulder(seen, STEP, peak) == 36
    assert shoulder(counts({10: (5, 0, 0), 30: (4, 0, 1)}), STEP, (10, 5, 5)) == 10


def test_slow_runs_up_to_the_shoulder_belong_to_the_slow_edge() -> None:
    """Those between the peak, by its lower bound, and the shoulder do, too."""
    rows = {2: (0, 0, 4), 10: (50, 0, 8), 20: (2, 0, 3), 30: (3, 0, 0), 33: (3, 0, 0)}
    seen = counts({**rows, 36: (4, 0, 0), 60: (0, 5, 0)})
    peak = peak_of(seen, STEP)
    assert peak is not None
    assert peak[0] == 10
    fit = Fit.to(seen, STEP)
    assert fit.slow == slow_edge(seen, STEP, 36 + 1)
    assert fit.slow != slow_edge(seen, STEP, peak[0] + 1)


# what the budget ends


def test_slow_runs_that_twice_the_budget_trains_are_those_of_the_censored_likelihood() -> None:
    """A line in log η with normal log steps, by direct maximisation; runs over 400 are censored."""
    rng = np.random.default_rng(3)
    points = np.repeat(np.arange(50, 66, 2), 12)
    steps = np.exp(math.log(370) + 0.05 * (points - 60) + 0.25 * rng.normal(size=len(points)))
    late = steps > 400
    assert 20 < late.sum() < 70
    seen = Counts.of(
        120,
        [
            (int(i), Outcome("short", 400, cause="slow") if s > 400 else Outcome("trained", int(s)))
            for i, s in zip(points, steps, strict=True)
        ],
    )
    log_steps = np.log(steps.astype(int))

    def loss(theta: np.ndarray) -> float:
        mean, sd = theta[0] + theta[1] * (points - 60), math.exp(theta[2])
        within = norm.logpdf(log_steps[~late], mean[~late], sd).sum()
        return -float(within + norm.logsf(math.log(400), mean[late], sd).sum())

    a, b, log_sd = minimize(loss, [math.log(300), 0.0, -1.0], method="Nelder-Mead").x
    mean, sd = a + b * (np.arange(50, 66) - 60), math.exp(log_sd)
    left, right = norm.sf(np.log([400, 800])[:, None], mean, sd)
    found = in_time(Fit.to(seen, STEP), 400)[50:66]
    assert found == pytest.approx(1 - right / left, abs=0.01)


@pytest.mark.parametrize("collapsed", [0, 60])
def test_runs_below_the_slow_edge_do_not_change_what_ends_eta_star(collapsed: int) -> None:
    rows = {10: (0, 0, 9), 30: (8, 0, 0), 50: (8, 0, 0), 58: (6, 0, 2), 62: (4, 0, 4)}
    seen = counts({**rows, 66: (1, 0, 7), 70: (0, 0, 8)})
    seen.failures[CAUSES.index("collapsed"), 10] = collapsed
    fit = Fit.to(seen, STEP)
    assert 10 <= fit.slow.below < 58
    assert set_by(fit, 400) == "budget"


# choosing


def test_bounds_are_exact() -> None:
    assert lower_bound(20, 20, 0.04) == pytest.approx(0.04 ** (1 / 20))
    assert binom.sf(17 - 1, 20, lower_bound(17, 20, 0.025)) == pytest.approx(0.025)
    low, high = exact_interval(3, 10)
    assert (low, high) == pytest.approx((beta.ppf(0.025, 3, 8), beta.ppf(0.975, 4, 7)))
    assert exact_interval(0, 4)[0] == 0
    assert exact_interval(4, 4)[1] == 1
    assert sum(ERRORS) == pytest.approx(0.05)


def test_how_many_must_train() -> None:
    assert [enough(k) for k in (1, 4, 5, 10, 11, 20, 25)] == [1, 4, 4, 9, 9, 18, 22]


def test_of_equal_rates_the_one_farthest_from_both_edges_is_taken() -> None:
    points = np.arange(10, 51)
    flat = np.full(41, 100.0)
    assert cheapest(points, flat, (10, 50), 1) == 30
    steep = 100 * np.exp(np.abs(points - 40) / 10)
    assert cheapest(points, steep, (10, 50), 1) == 40 - 0  # only 40 ± 0.95 are within 10 %
    coarse = cheapest(points, steep, (10, 50), 200)
    assert coarse == 30  # within one evaluation of the cheapest
    assert cheapest(points, np.full(41, np.nan), (10, 50), 1) is None
    assert cheapest(points, flat, (60, 70), 1) is None


def test_the_floor_is_the_lowest_rate_above_two_failures() -> None:
    data = counts({10: (3, 0, 0), 20: (0, 0, 2), 30: (2, 0, 0), 40: (3, 0, 0), 44: (0, 1, 0)})
    assert lowest_seen(data, 45.0) == 30
    assert lowest_seen(counts({60: (1, 0, 0)}), 45.0) is None


def test_steps_are_interpolated_and_never_extrapolated() -> None:
    runs = [(i, Outcome("trained", round(1000 / i))) for i in (10, 20, 40) for _ in range(3)]
    data = Counts.of(60, runs)
    fitted = mean_steps(data, np.array([5, 10, 20, 30, 40, 41]), 60)
    assert np.isnan(fitted[[0, 5]]).all()
    assert fitted[[1, 2, 4]] == pytest.approx([100, 50, 25], rel=0.01)
    assert 25 < fitted[3] < 50
