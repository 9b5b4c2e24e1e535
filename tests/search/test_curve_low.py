"""The strategy `curve` where fewer than half of the runs train at any rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from planted_curves import answer, slow_twin

from etastar.problem.trial import Outcome, Trial
from etastar.search.curve import Curve
from etastar.search.curve_blocks import CurveResult
from etastar.search.curve_fit import Counts, Fit
from etastar.search.curve_options import CurveOptions


def found(run: Callable[[Trial], Outcome], **options: object) -> CurveResult:
    given = {"start_lr": 1e-3, "end_lr": 10.0, "max_steps": 400, "eval_every": 20}
    curve = Curve(CurveOptions(**{**given, **options}))  # type: ignore[arg-type]
    return answer(curve, run).result()


@pytest.mark.parametrize("round_size", [4, 16])
def test_the_highest_p_of_a_task_too_hard_for_its_budget_is_found(round_size: int) -> None:
    near = 0
    for salt in range(8):
        eta = math.exp(np.random.default_rng([7, salt]).uniform(math.log(0.01), 0))
        result = found(slow_twin(eta, salt), round_size=round_size)
        peak = result.curve.p_max
        assert peak is not None
        assert result.eta_star.median is None
        assert result.remarks[0].code == "nowhere-half"
        assert "start_lr" not in result.remarks[0].text
        near += peak.ci_low <= 0.35 <= peak.ci_high and abs(math.log(peak.lr / eta)) < 0.55
    assert near >= 6  # of fifty, 46 are; at nine of ten, fewer than six of eight come once in 26


def none_trains(trial: Trial) -> Outcome:
    return Outcome("short", 400, 0.1, cause="slow")


@pytest.mark.parametrize("options", [{}, {"trials": 20}])
def test_where_none_trains_nothing_is_claimed_where_nothing_was_tried(
    options: dict[str, int],
) -> None:
    result = found(none_trains, **options)
    peak, points = result.curve.p_max, result.curve.points
    assert peak is not None
    assert peak.p == 0
    assert 0.1 < peak.ci_high < (0.75 if options else 0.5)
    for at in result.curve.band:
        tried = sum(p.tried for p in points if abs(math.log(p.lr / at.lr)) < 0.19)
        assert at.low == 0
        assert tried or at.high > 0.8
        assert at.low <= at.p <= at.high
    text = " ".join(remark.text for remark in result.remarks)
    assert f"none of {result.cost.trials} did" in text
    assert "start_lr" not in text
    assert ("to say whether any rate trains half of the runs needs about 80" in text) == bool(
        options
    )


def test_two_runs_of_hundreds_are_no_half_whatever_ended_the_search() -> None:
    """As measured (MNIST under MSE, 32×4): the cap ended it where none of 92 had trained."""
    lattice = Curve(CurveOptions(1e-3, 10.0, max_steps=400, eval_every=20)).lattice
    step = math.log(lattice.rate(1) / lattice.rate(0))
    counts = Counts(np.zeros(lattice.cells + 1), np.zeros((4, lattice.cells + 1)))
    slow = {0.0114: 100, 0.0259: 90, 0.045: 60, 0.08: 50, 0.11: 40, 0.16: 15, 0.25: 6, 0.33: 4}
    unstable = {0.08: 1, 0.11: 2, 0.16: 4, 0.25: 6, 0.33: 8, 0.43: 6}
    for row, of_rates in ((0, unstable), (3, slow)):
        for rate, runs in of_rates.items():
            counts.failures[row, round(math.log(rate / 1e-3) / step)] += runs
    counts.trained[round(math.log(0.25 / 1e-3) / step)] += 2
    fit = Fit.to(counts, step)
    assert fit.peak() is not None
    assert not fit.nowhere_half()  # all that is above the slow edge is few
    assert fit.without_half()


def test_budgets_too_few_for_a_round_say_how_many_are_needed() -> None:
    result = found(slow_twin(0.3, 0), budgets=6)
    assert result.cost.trials == 0
    assert "17 budgets, or a smaller round_size" in result.remarks[0].text
