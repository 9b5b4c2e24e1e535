"""What is unusual about a measured curve, or missing, is said, and nothing that is not so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import pytest
from planted_curves import answer, result

from etastar.problem.trial import Outcome, Start, Trial
from etastar.search.curve import Curve
from etastar.search.curve_options import CurveOptions
from etastar.search.curve_result import result_of
from etastar.search.curve_state import CurveState

P = Callable[[float], float]


def rising(at: float, width: float) -> P:
    return lambda lr: 1 / (1 + math.exp(-math.log(lr / at) / width))


def falling(at: float, width: float = 0.1) -> P:
    return lambda lr: 1 - rising(at, width)(lr)


def measured(p: P, slow_below: float = 0.0, seed: int = 0, **options: Any) -> Curve:
    """Measure a curve whose runs fail by divergence, or slowly below a rate."""
    given = {"start_lr": 1e-3, "end_lr": 10.0, "max_steps": 200, "eval_every": 20}
    curve = Curve(CurveOptions(**{**given, **options}))

    def run(trial: Trial) -> Outcome:
        if trial.steps is not None:
            if p(trial.lr) <= 0.3:
                return Outcome("diverged", 5, first_loss=2.3)
            last = 2.3 - 1.5 * min(1, trial.lr / 0.3)
            return Outcome("partial", trial.steps, first_loss=2.3, last_loss=last)
        if np.random.default_rng([seed, trial.seed]).random() < p(trial.lr):
            return Outcome("trained", 50, 0.95, held=trial.to_end or None)
        if trial.lr < slow_below:
            return Outcome("short", 200, 0.5, cause="slow")
        return Outcome("diverged", 10)

    return answer(curve, run)


def told(curve: Curve) -> dict[str, str]:
    return {remark.code: remark.text for remark in result(curve).remarks}


@pytest.mark.parametrize("round_size", [1, 2, 3])
def test_rounds_of_any_size_place_runs_inside_the_window(round_size: int) -> None:
    for seed in range(4):
        found = measured(falling(0.5), seed=seed, round_size=round_size, trials=60).result()
        assert found.recommended is not None
        assert found.recommended.lr is not None


def test_a_cap_that_cuts_only_the_runs_inside_the_window_did_not_end_the_search() -> None:
    curve = measured(falling(0.5), round_size=500)
    found = result(curve)
    assert (found.ended_by, len(curve.whole)) == ("precision", 400)
    assert found.eta_star.safe
    assert "cap" not in told(curve)


def test_steps_taken_before_count_towards_the_budgets() -> None:
    curve = measured(falling(0.5), budgets=40.0, before=200 * 10)
    assert 20 < curve.spent() / 200 <= 30
    text = told(measured(falling(0.5), budgets=12.0, before=200 * 10))["cap"]
    assert "needs about 27 budgets" in text  # 10 before, 1 to locate, 16 of a round


def test_a_window_of_no_width_has_no_upper_end() -> None:
    def both(lr: float) -> float:
        return rising(0.3, 0.15)(lr) * falling(0.5, 0.15)(lr)

    curve = measured(both, slow_below=0.4)
    found = result(curve)
    assert found.eta_star.median == pytest.approx(0.5, rel=0.2)
    assert (found.eta_star.safe, found.curve.eta_95, found.window.high) == (None, None, None)
    assert "no-width" in told(curve)


def test_the_band_holds_what_is_not_known_of_the_slow_edge() -> None:
    inside = wide = 0
    for seed in range(6):
        p = rising(0.05, 0.15)
        found = measured(
            lambda lr, p=p: p(lr) * falling(0.5)(lr), slow_below=0.15, seed=seed, slow_edge=True
        ).result()
        assert found.window.low_status == "found"
        near = [b for b in found.curve.band if 0.03 < b.lr < 0.08]
        inside += sum(b.low <= p(b.lr) <= b.high for b in near)
        wide += len(near)
        assert max(b.high - b.low for b in near) > 0.2
        assert all(b.low <= b.p <= b.high for b in found.curve.band)
    assert inside >= 0.8 * wide


def test_the_highest_p_is_told_where_the_window_has_no_width() -> None:
    curve = measured(lambda lr: rising(0.3, 0.15)(lr) * falling(0.5, 0.15)(lr), slow_below=0.4)
    peak = result(curve).curve.p_max
    assert peak is not None
    text = told(curve)["no-width"]
    trained, tried, lr = re.findall(r"the most were (\d+) of (\d+) about ([\d.]+)\.", text)[0]
    assert int(trained) / int(tried) == pytest.approx(peak.p)
    assert float(lr) == pytest.approx(peak.lr, rel=0.01)


def test_of_two_windows_nothing_is_said_that_is_not_so() -> None:
    """p is 1 in the upper window: one falling edge knows nothing of that."""
    curve = measured(lambda lr: 1.0 if lr < 0.03 or 0.2 < lr < 0.6 else 0.1)
    remarks = told(curve)
    assert "two windows" in remarks["two-windows"]
    assert "probability" not in remarks["no-safe-rate"]
    assert "There may be one" in remarks["no-safe-rate"]
    plateau = measured(lambda lr: 0.8 * falling(0.5)(lr))
    assert "The probability that there is none" in told(plateau)["no-safe-rate"]


def test_a_cap_says_about_how_much_is_needed() -> None:
    free = [measured(falling(0.5), confirm=0, seed=seed) for seed in range(5)]
    trials, steps = (
        median([len(curve.whole) for curve in free]),
        median([curve.spent() for curve in free]),
    )
    for cap in (10, 23, 40):
        for confirm in (0, 20):
            capped = measured(falling(0.5), confirm=confirm, trials=cap)
            text = told(capped)["cap"]
            needed, budgets = map(int, re.findall(r"about (\d+) .* trials, (\d+) budgets", text)[0])
            assert trials / 3 <= needed <= 3 * trials
            assert steps / 600 <= budgets - confirm <= 3 * steps / 200
            opened = result(capped).eta_star.ci_high is None
            assert ("the interval of η* is open" in text) == opened


def test_a_cap_says_what_it_left_open() -> None:
    def slow(lr: float) -> float:
        return rising(0.02, 0.15)(lr) * falling(0.5)(lr)

    free = measured(slow, slow_below=0.1, slow_edge=False, confirm=0)
    cap = len(free.whole) + 4
    curve = measured(slow, slow_below=0.1, slow_edge=True, confirm=0, trials=cap)
    assert "before the slow edge was known" in told(curve)["cap"]


def test_an_interval_that_ends_beyond_the_range_is_said_to() -> None:
    high = measured(falling(9.6))
    assert result(high).eta_star.median is not None
    assert result(high).eta_star.ci_high is None
    assert "open above" in told(high)["above-range"]
    assert "above-range" not in told(measured(falling(0.5)))


def test_a_slow_edge_that_was_not_found_is_said_to_be_unknown() -> None:
    curve = measured(
        lambda lr: rising(0.01, 0.15)(lr) * falling(0.5)(lr),
        slow_below=0.1,
        slow_edge=True,
        trials=40,
    )
    assert result(curve).window.low_status == "not looked for"
    assert "The slow edge was not found" in told(curve)["floor-seen"]
    everywhere = measured(falling(0.5), slow_edge=True)
    assert result(everywhere).window.low_status == "below the range"
    assert "floor-seen" not in told(everywhere)


def test_no_rate_is_recommended_without_a_reason() -> None:
    curve = measured(falling(0.5), confirm=0, trials=4)
    assert result(curve).recommended is None
    assert "not-recommended" in told(curve)


def test_failed_confirmations_may_lead_beyond_the_cap_by_what_they_take() -> None:
    curve = measured(
        lambda lr: (0.85 if lr < 0.3 else 1) * falling(0.5, 0.02)(lr), seed=27, trials=32
    )
    assert not any(attempt.passed for attempt in curve.attempts)
    assert 32 < len(curve.whole) <= 32 + 3 * 20
    found = result(curve)
    assert found.recommended is not None
    assert found.recommended.lr is None
    assert found.recommended.attempts


def two_edges(trial: Trial, seed: int) -> Outcome:
    """Runs are too slow below about 0.2 and fail above about 1.2, two in five of these slowly."""
    slow, fast, how = np.random.default_rng([seed, trial.seed]).random(3)
    if trial.steps is not None:
        if fast > falling(2.4, 0.12)(trial.lr):
            return Outcome("diverged", 5, first_loss=2.3)
        last = 2.3 - 1.5 * min(1, trial.lr / 0.4)
        return Outcome("partial", trial.steps, first_loss=2.3, last_loss=last)
    if slow < rising(0.2, 0.15)(trial.lr) and fast < falling(1.2, 0.12)(trial.lr):
        step = min(220, 11 * math.ceil(20 * (0.2 / trial.lr) ** 0.7))
        return Outcome("trained", step, 0.95, held=trial.to_end or None)
    if slow >= rising(0.2, 0.15)(trial.lr) or how < 0.4:
        return Outcome("short", 220, 0.5, cause="slow")
    return Outcome("diverged", 10)


@pytest.mark.parametrize(("slow_edge", "confirm"), [(False, 10), (True, 0)])
def test_runs_at_the_slow_edge_do_not_cost_the_safe_rate(slow_edge: bool, confirm: int) -> None:
    """Eleven and twelve of twelve have one; where the search does not go on, nine and ten."""
    known = 0
    for seed in range(12):
        curve = Curve(
            CurveOptions(
                1e-5,
                10.0,
                220,
                11,
                precision=0.2,
                confirm=confirm,
                round_size=4,
                slow_edge=slow_edge,
            )
        )
        answer(curve, partial(two_edges, seed=seed))
        known += result(curve).eta_star.safe is not None
    assert known >= 11


@pytest.mark.parametrize("trials", [1, 3, 6, 10, 14])
def test_few_trials_are_not_extrapolated(trials: int) -> None:
    for seed in range(4):
        curve = measured(falling(0.5), seed=seed, confirm=0, round_size=4, trials=trials)
        found = result(curve)
        rates = [point.lr for point in found.curve.points]
        star, inside = found.eta_star, (min(rates) * 0.98, max(rates) * 1.02)
        for rate in (star.median, star.safe, found.window.high):
            assert rate is None or inside[0] <= rate <= inside[1]
        assert star.ci_low is None or star.ci_low <= inside[1]
        assert star.ci_high is None or star.ci_high >= inside[0]
        assert "cap" in told(curve)


def test_an_interval_never_begins_above_nor_ends_below_the_rates_tried() -> None:
    """What lies beyond them may be believed, but only rates that were tried are evidence."""

    def state(kinds: dict[int, tuple[int, int]]) -> CurveState:
        found = CurveState(CurveOptions(1e-3, 10.0, 200, 20))
        for point, (trained, diverged) in kinds.items():
            for kind in ["trained"] * trained + ["diverged"] * diverged:
                seed = len(found.whole)
                trial = Trial(Start(seed, seed), found.lattice.rate(point))
                found.whole.append((point, trial, Outcome(kind, 20)))
        found.ended_by = "trials"
        return found

    above = state({50: (2, 0), 60: (6, 0)})  # the edge is above what was tried
    star, last = result_of(above).eta_star, above.lattice.rate(60)
    assert above.fit().eta_50()[0] > 60
    assert star.ci_low == pytest.approx(last)
    assert star.ci_high is None
    assert star.median is None
    assert star.safe is None or star.safe <= last * (1 + 1e-12)
    far = state({50: (10, 0), 60: (10, 0), 70: (5, 5)})  # and believed not to be far above
    assert far.fit().eta_50()[2] < far.lattice.cells
    assert result_of(far).eta_star.ci_high is None
    below = state({100: (1, 7), 110: (0, 8)})  # and here below
    star, first = result_of(below).eta_star, below.lattice.rate(100)
    assert below.fit().eta_50()[2] < 100
    assert star.ci_high == pytest.approx(first)
    assert star.ci_low is None
    assert star.median is None


@pytest.mark.parametrize("counts_steps", [True, False])
def test_a_rate_that_was_not_tried_is_not_recommended_where_edges_may_cross(
    counts_steps: bool,
) -> None:
    def both(lr: float) -> float:
        return rising(0.3, 0.15)(lr) * falling(0.5, 0.15)(lr)

    without = 0
    for seed in range(6):
        curve = measured(both, 0.4, seed, confirm=0, counts_steps=counts_steps)
        found = result(curve)
        if "no-width" in {remark.code for remark in found.remarks}:
            without += 1
            assert found.recommended is None
    assert without


def test_one_class_at_rates_far_too_low_is_not_taken_for_instability() -> None:
    """The metric is best far above the lowest rate: lower rates are no remedy."""

    def run(trial: Trial) -> Outcome:
        if trial.steps is not None:
            return Outcome("partial", trial.steps, first_loss=2.3, last_loss=2.3 - 0.5 * trial.lr)
        if trial.lr < 0.1:
            return Outcome("short", 200, 0.1, cause="collapsed")
        return Outcome("short", 200, min(0.8, trial.lr), cause="slow")

    curve = answer(Curve(CurveOptions(1e-3, 10.0, 200, 20, round_size=4)), run)
    assert "raise the budget" in told(curve)["nowhere-half"]
    assert "start_lr" not in told(curve)["nowhere-half"]


def told_of(run: Callable[[Trial], Outcome], **options: Any) -> dict[str, str]:
    curve = Curve(CurveOptions(**{"start_lr": 1e-2, "end_lr": 1.0, **BUDGET, **options}))
    return told(answer(curve, run))


BUDGET: dict[str, int] = {"max_steps": 200, "eval_every": 20}


@pytest.mark.parametrize(
    ("share", "cause", "said"),
    [
        (lambda lr: 0.0, "collapsed", "Even at the lowest rate tried, 0.01, runs collapsed: lower"),
        (lambda lr: 0.0, "slow", "No run was unstable: raise end_lr"),
        (lambda lr: 0.4 * lr**2, "slow", "The best lie at the top of the range: raise end_lr"),
        (lambda lr: 0.4 * 0.01 / lr, "diverged", "at the bottom of the range: lower start_lr"),
        (
            lambda lr: 0.3 * (0.07 < lr < 0.14),
            "diverged",
            "Make the threshold easier, or raise the bud",
        ),
    ],
    ids=["collapse", "slowness", "top", "bottom", "middle"],
)
def test_the_remedy_follows_from_where_the_best_runs_lie(share: P, cause: str, said: str) -> None:
    def run(trial: Trial) -> Outcome:
        if trial.steps is not None:
            return Outcome("partial", trial.steps, first_loss=2.3, last_loss=2.0)
        if np.random.default_rng(trial.seed).random() < share(trial.lr):
            return Outcome("trained", 100, 0.95, held=trial.to_end or None)
        if cause == "diverged":
            return Outcome("diverged", 9)
        return Outcome("short", 200, 0.2 + 0.1 * share(trial.lr), cause=cause)  # type: ignore[arg-type]

    assert said in told_of(run)["nowhere-half"]


def test_of_a_few_runs_no_cause_is_told() -> None:
    for trials in (4, 8, 16):
        curve = measured(falling(0.5), confirm=0, round_size=4, trials=trials)
        star = result(curve).eta_star
        assert star.set_by is None
        if star.ci_high is None:
            assert "is open" in told(curve)["cap"]


def test_a_cap_that_fits_no_further_round_says_so() -> None:
    curve = measured(falling(0.5), confirm=0, budgets=18.0)
    left = 18.0 - curve.spent() / 200
    assert result(curve).ended_by == "budgets"
    assert 1 <= left < 16
    assert f"would use the {left:.1f} that are left" in told(curve)["cap"]
    single = measured(falling(0.5), confirm=0, budgets=1.0, round_size=1)
    assert not single.whole
    assert "smaller" not in told(single)["cap"]
