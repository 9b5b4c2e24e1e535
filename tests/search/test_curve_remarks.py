"""What is unusual about a measured curve, or missing, is said, and nothing that is not so."""

from __future__ import annotations

import math
from collections.abc import Callable
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
