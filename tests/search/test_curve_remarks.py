"""What is unusual about a measured curve, or missing, is said, and nothing that is not so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest

from etastar.problem.trial import Outcome, Trial
from etastar.search.curve import Curve
from etastar.search.curve_options import CurveOptions

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

    while not curve.done:
        for trial in curve.ask(10**6):
            curve.tell(trial, run(trial))
    return curve


def told(curve: Curve) -> dict[str, str]:
    return {remark.code: remark.text for remark in curve.result().remarks}


@pytest.mark.parametrize("round_size", [1, 2, 3])
def test_rounds_of_any_size_place_runs_inside_the_window(round_size: int) -> None:
    for seed in range(4):
        found = measured(falling(0.5), seed=seed, round_size=round_size, trials=60).result()
        assert found.recommended is not None
        assert found.recommended.lr is not None


def test_a_cap_that_cuts_only_the_runs_inside_the_window_did_not_end_the_search() -> None:
    curve = measured(falling(0.5), round_size=500)
    found = curve.result()
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
    found = curve.result()
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
    peak = curve.result().curve.p_max
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
            opened = capped.result().eta_star.ci_high is None
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
    assert high.result().eta_star.median is not None
    assert high.result().eta_star.ci_high is None
    assert "open above" in told(high)["above-range"]
    assert "above-range" not in told(measured(falling(0.5)))


def test_a_slow_edge_that_was_not_found_is_said_to_be_unknown() -> None:
    curve = measured(
        lambda lr: rising(0.01, 0.15)(lr) * falling(0.5)(lr),
        slow_below=0.1,
        slow_edge=True,
        trials=40,
    )
    assert curve.result().window.low_status == "not looked for"
    assert "The slow edge was not found" in told(curve)["floor-seen"]
    everywhere = measured(falling(0.5), slow_edge=True)
    assert everywhere.result().window.low_status == "below the range"
    assert "floor-seen" not in told(everywhere)


def test_no_rate_is_recommended_without_a_reason() -> None:
    curve = measured(falling(0.5), confirm=0, trials=4)
    assert curve.result().eta_star.safe is not None
    assert (curve.result().recommended is None) == ("not-recommended" in told(curve))


def test_failed_confirmations_may_lead_beyond_the_cap_by_what_they_take() -> None:
    curve = measured(
        lambda lr: (0.85 if lr < 0.3 else 1) * falling(0.5, 0.02)(lr), seed=27, trials=32
    )
    assert not any(attempt.passed for attempt in curve.attempts)
    assert 32 < len(curve.whole) <= 32 + 3 * 20
    found = curve.result()
    assert found.recommended is not None
    assert found.recommended.lr is None
    assert found.recommended.attempts
