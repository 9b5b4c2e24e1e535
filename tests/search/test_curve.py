"""The strategy `curve` on planted curves: what it asks, in any order, and what it answers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_curves import PlantedCurve, answer, measured, result

from etastar.errors import ConfigError
from etastar.problem.trial import Cause, Outcome, Start, Trial
from etastar.search.curve import LOCATING, OWN_STREAM, Curve
from etastar.search.curve_options import CurveOptions

PLANTED = PlantedCurve("logistic", 0.12)
QUICK: dict[str, Any] = {"precision": 0.2, "round_size": 8, "confirm": 5}


def options(**given: Any) -> CurveOptions:
    return CurveOptions(
        **{"start_lr": 1e-3, "end_lr": 10.0, "max_steps": 400, "eval_every": 20, **given}
    )


# asking and telling


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), most=st.integers(1, 20), slow_edge=st.booleans())
def test_any_order_and_any_number_of_workers_give_the_same_result(
    seed: int, most: int, slow_edge: bool
) -> None:
    shuffle = random.Random(seed)
    planted = PlantedCurve("early", 0.12, salt=seed)
    curve = Curve(options(slow_edge=slow_edge, **QUICK))
    running: list[Trial] = []
    while not curve.done:
        running += curve.ask(shuffle.randint(0, most))
        if not running:
            running += curve.ask(1)
        trial = running.pop(shuffle.randrange(len(running)))
        assert curve.wanted(trial)
        for _ in range(shuffle.randint(1, 2)):
            curve.tell(trial, planted.run(trial))
    expected = measured(planted, slow_edge=slow_edge, **QUICK)
    assert curve.runs() == expected.runs()
    assert result(curve) == expected.result()


def test_the_answer_is_computed_again_from_stored_outcomes() -> None:
    curve = measured(PLANTED, **QUICK)
    stored = dict(curve.runs())
    again = Curve(options(**QUICK))
    for trial in sorted(stored):  # told before any of them is asked
        again.tell(trial, stored[trial])
    assert again.done
    assert again.ask(5) == []
    assert again.result() == result(curve)


def test_an_interrupted_measurement_goes_on_where_it_was() -> None:
    curve = measured(PLANTED, **QUICK)
    stored = dict(curve.runs()[:20])
    again = Curve(options(**QUICK))
    for trial, outcome in stored.items():
        again.tell(trial, outcome)
    asked: list[Trial] = []
    while not again.done:
        for trial in again.ask(3):
            asked.append(trial)
            again.tell(trial, PLANTED.run(trial))
    assert not set(asked) & set(stored)
    assert again.result() == result(curve)


def test_trials_are_handed_out_once_and_the_first_outcome_counts() -> None:
    curve = Curve(options())
    first = curve.ask(2)
    rest = curve.ask(10)
    assert len(first) == 2
    assert not set(first) & set(rest)
    assert curve.ask(10) == []
    assert curve.wanted(first[0])
    curve.tell(first[0], Outcome("diverged", 5))
    curve.tell(first[0], Outcome("partial", 50, first_loss=2.0, last_loss=1.0))
    assert not curve.wanted(first[0])
    for trial in [first[1], *rest]:
        curve.tell(trial, Outcome("diverged", 5))
    assert curve.located[0][1] == Outcome("diverged", 5)


def test_seeds_are_fresh_and_rates_lie_on_a_lattice_of_four_percent() -> None:
    curve = measured(PLANTED, first_seed=70, **QUICK)
    whole = [trial for trial, _ in curve.runs() if trial.steps is None]
    assert [t.start for t in whole] == [Start(70 + i, 70 + i) for i in range(len(whole))]
    partial = [trial for trial, _ in curve.located]
    assert {t.steps for t in partial} == {math.ceil(LOCATING * 400)}
    assert [t.start.order for t in partial] == [70 + OWN_STREAM + k for k in range(len(partial))]
    assert {t.lr for t in [*whole, *partial]} <= set(
        map(curve.lattice.rate, range(curve.lattice.cells + 1))
    )
    assert curve.lattice.rate(1) / curve.lattice.rate(0) <= 1.04
    assert all(t.to_end for t in whole[-5:])
    assert not any(t.to_end for t in whole[:-5])


def test_rounds_have_their_size() -> None:
    curve = Curve(options(round_size=7, confirm=0))
    while not curve.done:
        asked = curve.ask(100)
        assert len(asked) == 7 or asked[0].steps is not None or len(asked) == 6
        for trial in asked:
            curve.tell(trial, PLANTED.run(trial))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"precision": 0.0}, {"trials": 0}, {"round_size": -1}, {"confirm": -1}),
        *({"budgets": 0.0}, {"end_lr": 1e-4}, {"start_lr": 0.0}, {"guess": -1.0}),
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Curve(options(**wrong))


# locating


@pytest.mark.parametrize("family", ["logistic", "early", "gumbel"])
@pytest.mark.parametrize("factor", [1 / 3, 3.0])
def test_a_guess_wrong_by_three_costs_at_most_eight_more_partial_runs(
    family: str, factor: float
) -> None:
    for salt in range(6):
        planted = PlantedCurve(family, 0.15, salt=salt)
        right, wrong = (
            measured(planted, guess=0.5 * off, trials=1, confirm=0) for off in (1.0, factor)
        )
        assert len(wrong.located) <= len(right.located) + 8
        where = [trial.lr for trial, outcome in wrong.located if outcome.kind == "partial"]
        assert 0.1 < max(where) < 1.5


@pytest.mark.parametrize("eta", [2e-3, 0.02, 5.0])
def test_the_edge_is_found_from_the_middle_of_the_range(eta: float) -> None:
    curve = measured(PlantedCurve("logistic", 0.1, eta=eta), confirm=0, precision=0.2)
    assert result(curve).eta_star.median == pytest.approx(eta, rel=0.25)
    assert len(curve.located) <= 14


# what it answers


@pytest.mark.parametrize("family", ["logistic", "gumbel", "lapse", "early"])
def test_the_interval_is_as_narrow_as_asked_and_says_the_truth(family: str) -> None:
    covered, safe = [], []
    for salt in range(10):
        planted = PlantedCurve(family, 0.1, salt=100 + salt)
        found = measured(planted, precision=0.15, confirm=0).result()
        star = found.eta_star
        assert star.median is not None
        assert star.ci_low is not None
        assert star.ci_high is not None
        assert found.ended_by == "precision"
        assert star.ci_high / star.median <= 1.15 + 1e-9
        assert star.median / star.ci_low <= 1.15 + 1e-9
        covered.append(star.ci_low <= (planted.rate(0.5) or 0) <= star.ci_high)
        safe.append(star.safe is None or planted.p(star.safe) >= 0.9)
    assert sum(covered) >= 8  # of an honest 95 % interval at most 7 in one of 10,000
    assert sum(safe) >= 9


def test_the_blocks_of_the_json_are_those_of_the_specification() -> None:
    found = measured(PLANTED, **QUICK).result(seconds=1.5)
    block = json.loads(json.dumps(found.as_dict()))
    assert set(block["eta_star"]) == {"median", "ci_low", "ci_high", "safe", "set_by"}
    assert set(block["curve"]) == {"eta_50", "eta_95", "eta_95_low", "p_max", "points", "band"}
    assert set(block["curve"]["p_max"]) == {"lr", "p", "ci_low", "ci_high"}
    assert set(block["curve"]["points"][0]) == (
        {"lr", "tried", "trained", "diverged", "dead", "collapsed", "slow"}
        | {"p", "ci_low", "ci_high", "median_steps"}
    )
    assert set(block["curve"]["band"][0]) == {"lr", "p", "low", "high"}
    assert block["window"] == {
        "low": None,
        "high": block["curve"]["eta_95"],
        "low_status": "not looked for",
    }
    assert set(block["recommended"]) == (
        {"lr", "tried", "trained", "held", "p_low", "confidence", "median_steps", "attempts"}
    )
    assert set(block["cost"]) == {"trials", "steps", "seconds", "budgets"}
    assert block["eta_star"]["median"] == block["curve"]["eta_50"]
    assert block["eta_star"]["safe"] == block["curve"]["eta_95_low"]


def test_points_and_cost_count_every_whole_run_and_every_step() -> None:
    curve = measured(PLANTED, **QUICK)
    found = result(curve)
    lrs = [point.lr for point in found.curve.points]
    assert lrs == sorted(lrs)
    assert sum(point.tried for point in found.curve.points) == found.cost.trials
    for point in found.curve.points:
        fails = point.diverged + point.dead + point.collapsed + point.slow
        assert point.trained + fails == point.tried
        assert point.ci_low <= point.p <= point.ci_high
    steps = 0
    for trial, outcome in curve.runs():
        steps += 400 if trial.to_end and outcome.kind == "trained" else outcome.step
    assert found.cost.steps == steps
    assert found.cost.budgets == steps / 400
    bands = found.curve.band
    assert all(b.low - 0.01 <= b.p <= b.high + 0.01 for b in bands)
    assert [b.p for b in bands] == sorted((b.p for b in bands), reverse=True)


def test_eta_star_is_set_by_the_budget_only_where_slow_runs_end_it() -> None:
    for cause, said in (("slow", "budget"), ("fast", "stability")):
        planted = PlantedCurve("logistic", 0.1, cause=cause)
        assert measured(planted, confirm=0).result().eta_star.set_by == said


def test_the_slow_edge_is_found_where_it_is_looked_for() -> None:
    planted = PlantedCurve("logistic", 0.1, floor=0.2)
    found = measured(planted, slow_edge=True).result()
    assert found.window.low_status == "found"
    # the planted steps meet the budget at 0.2 of 0.5 in the median; 95 % are fast enough at 0.25
    assert 0.10 < (found.window.low or 0) < 0.16
    assert found.recommended is not None
    assert found.window.low < (found.recommended.lr or 0) < (found.eta_star.safe or 0)
    none = PlantedCurve("logistic", 0.1, floor=1e-6)
    assert measured(none, slow_edge=True).result().window.low_status == "below the range"


# the recommended rate


def test_a_confirmed_rate_says_what_twenty_of_twenty_mean() -> None:
    found = measured(PLANTED).result()
    advice = found.recommended
    assert advice is not None
    assert (advice.tried, advice.trained, advice.held) == (20, 20, 20)
    assert advice.p_low == pytest.approx(0.04 ** (1 / 20))
    assert advice.confidence == 0.95
    assert [a.lr for a in advice.attempts] == [advice.lr]
    assert (advice.lr or 1) < (found.eta_star.safe or 0)


def test_without_confirmation_the_rate_is_named_and_not_tried() -> None:
    advice = measured(PLANTED, confirm=0).result().recommended
    assert advice is not None
    assert advice.lr
    assert (advice.tried, advice.trained, advice.held) == (0, None, None)
    assert (advice.p_low, advice.confidence) == (None, None)


def test_without_steps_it_is_a_part_of_the_safe_rate_and_that_is_said() -> None:
    curve = measured(PLANTED, confirm=0, counts_steps=False)
    found = result(curve)
    assert found.recommended is not None
    ratio = (found.recommended.lr or 0) / (found.eta_star.safe or 1)
    assert 0.8 / 1.04 <= ratio <= 0.8 + 1e-9
    assert "no-steps" in {remark.code for remark in found.remarks}


def failing_confirmations(fails: int) -> Callable[[Trial], Outcome]:
    """A curve whose first so many attempts to confirm a rate fail."""
    seen: list[float] = []

    def run(trial: Trial) -> Outcome:
        if trial.to_end:
            if trial.lr not in seen:
                seen.append(trial.lr)
            if seen.index(trial.lr) < fails and trial.start.order % 5 == 0:
                return Outcome("diverged", 300)
        return PLANTED.run(trial)

    return run


def test_a_failed_attempt_enters_the_fit_and_a_lower_rate_is_tried() -> None:
    curve = answer(Curve(options(confirm=20)), failing_confirmations(1))
    first, second = curve.attempts
    assert not first.passed
    assert second.passed
    assert second.point < first.point
    assert set(first.runs) <= {(trial, outcome) for _, trial, outcome in curve.whole}
    assert not set(second.runs) & {(trial, outcome) for _, trial, outcome in curve.whole}
    advice = result(curve).recommended
    assert advice is not None
    assert advice.p_low is not None
    assert advice.p_low < 0.005 ** (1 / 20) + 1e-9
    assert len(advice.attempts) == 2


def test_after_failed_attempts_nothing_is_recommended() -> None:
    curve = answer(Curve(options(confirm=20)), failing_confirmations(9))
    assert 1 <= len(curve.attempts) <= 3
    found = result(curve)
    assert found.recommended is not None
    assert found.recommended.lr is None
    assert len(found.recommended.attempts) == len(curve.attempts)
    assert "not-confirmed" in {remark.code for remark in found.remarks}


# bad input


def codes(curve: Curve) -> set[str]:
    return {remark.code for remark in result(curve).remarks}


def test_a_cap_that_is_too_small_leaves_the_interval_as_it_is() -> None:
    curve = measured(PlantedCurve("logistic", 0.3), trials=40, confirm=0)
    found = result(curve)
    assert found.cost.trials == 40
    assert found.ended_by == "trials"
    assert found.eta_star.median is not None
    text = next(remark.text for remark in found.remarks if remark.code == "cap")
    assert "40 whole trials" in text
    assert "would need about" in text


@pytest.mark.parametrize("budgets", [0.3, 1.0, 17.0, 30.0, 55.0])
def test_budgets_are_never_exceeded(budgets: float) -> None:
    curve = measured(PlantedCurve("logistic", 0.2), budgets=budgets)
    found = result(curve)
    assert found.cost.budgets <= budgets
    assert "cap" in codes(curve) or found.ended_by == "precision"
    if budgets < 10:
        assert found.eta_star.median is None
        assert found.recommended is None


def test_a_threshold_that_few_runs_reach_anywhere() -> None:
    for round_size in (4, 16):
        curve = measured(PlantedCurve("hopeless", 0.1), round_size=round_size)
        found = result(curve)
        assert found.eta_star.median is None
        assert found.recommended is None
        assert found.curve.p_max is not None
        assert found.curve.p_max.ci_low < 0.36
        assert "nowhere-half" in codes(curve)
        assert found.cost.trials <= 150


def test_a_threshold_that_no_run_reaches() -> None:
    curve = answer(Curve(options()), lambda trial: Outcome("short", 400, 0.1, cause="slow"))
    found = result(curve)
    assert found.eta_star.median is None
    assert found.curve.p_max is not None
    assert found.curve.p_max.p == 0
    assert found.cost.trials <= 48
    assert "nowhere-half" in codes(curve)


@pytest.mark.parametrize("round_size", [4, 16])
@pytest.mark.parametrize("eta", [0.02, 0.5, 6.0])
def test_a_window_above_everything_that_partial_runs_saw_begin_is_found(
    eta: float, round_size: int
) -> None:
    """Training that begins late: within 1/8 of the budget the loss falls by chance alone."""

    def run(trial: Trial) -> Outcome:
        distance = math.log(trial.lr / (0.6 * eta)) / 0.5
        if trial.steps is not None:
            last = 2.299 if trial.lr < eta / 20 else 2.301
            return Outcome("partial", trial.steps, first_loss=2.3, last_loss=last)
        if abs(distance) <= 1:
            return Outcome("trained", 300, 0.9)
        cause: Cause = "slow" if distance < 0 else "collapsed"
        return Outcome("short", 400, 0.1 + 0.5 * math.exp(-(distance**2) / 8), cause=cause)

    found = answer(Curve(options(round_size=round_size, confirm=0, precision=0.2)), run).result()
    assert found.eta_star.median == pytest.approx(0.6 * eta * math.exp(0.5), rel=0.2)


def test_a_plateau_below_the_promise_has_no_safe_rate() -> None:
    curve = measured(PlantedCurve("plateau", 0.1, salt=3), precision=0.15)
    found = result(curve)
    assert found.eta_star.median == pytest.approx(0.49, rel=0.15)
    assert found.eta_star.safe is None
    assert found.curve.p_max is not None
    assert found.curve.p_max.ci_low < 0.86 < found.curve.p_max.ci_high
    assert "no-safe-rate" in codes(curve)


def test_a_range_that_ends_too_low_or_begins_too_high() -> None:
    low = measured(PLANTED, end_lr=0.1)
    assert result(low).eta_star.median is None
    assert "above-range" in codes(low)
    high = measured(PLANTED, start_lr=1.5)
    assert result(high).eta_star.median is None
    assert codes(high) & {"below-range", "nowhere-half"}


def test_a_window_of_no_width_is_said_to_have_none() -> None:
    curve = measured(PlantedCurve("logistic", 0.1, floor=0.55, salt=4), slow_edge=True)
    assert codes(curve) & {"no-width", "no-safe-rate"}
    assert result(curve).eta_star.median == pytest.approx(0.5, rel=0.2)


def test_two_windows_are_reported() -> None:
    def run(trial: Trial) -> Outcome:
        if 0.12 < trial.lr < 0.28 and trial.steps is None:
            return Outcome("diverged", 30)
        return PLANTED.run(trial)

    assert "two-windows" in codes(answer(Curve(options(confirm=0)), run))


@pytest.mark.parametrize(("part", "expected"), [(0.3, "island"), (0.95, "two-windows")])
def test_an_island_above_is_reported(part: float, expected: str) -> None:
    def run(trial: Trial) -> Outcome:
        if 1.6 < trial.lr < 3.4:  # partial runs see it, and whole runs begin there
            good = trial.steps is not None or 7 * trial.start.order % 20 < 20 * part
            return PLANTED.run(replace(trial, lr=0.3)) if good else Outcome("diverged", 9)
        return PLANTED.run(trial)

    curve = answer(Curve(options(confirm=0)), run)
    assert expected in codes(curve)
    if expected == "island":
        assert result(curve).eta_star.median == pytest.approx(0.5, rel=0.2)


def test_a_module_promises_over_orders_only() -> None:
    assert "only-order" in codes(measured(PLANTED, only_order=True, **QUICK))
