"""Expected times: right in their ratios, and told honestly by a calibration."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_studies import TINY_BASE, lr_task, seed_rows, tiny

from etastar.settings import Settings
from etastar.study.cell import SharpnessSettings
from etastar.study.cost import BUDGETS_PER_SEED, PER_FLOP, Cost, calibrate, interpolated
from etastar.study.measuring import run_task
from etastar.study.plan import State, costs, like_before, plan
from etastar.study.runner import run_study
from etastar.study.specification import Study
from etastar.study.store import Store


def test_a_step_is_three_products_per_weight_and_sample() -> None:
    settings = Settings.checked(width=512, depth=4, batch_size=200, biases=False, max_steps=10)
    cost = Cost.of(settings)
    assert cost.weights == 64 * 512 + 3 * 512 * 512 + 512 * 10
    overhead = replace(cost, weights=0).step
    assert cost.step - overhead == pytest.approx(6 * cost.weights * 200 * PER_FLOP)
    assert cost.lr(3) == pytest.approx(10 * BUDGETS_PER_SEED * 3 * cost.step)


def test_lambda_costs_what_its_samples_cost() -> None:
    settings = Settings.checked(width=512, depth=1, biases=False)
    cost = replace(Cost.of(settings), weights=784 * 512 + 512 * 10, samples=10**6)
    few, many = (cost.sharpness(SharpnessSettings(samples=n), 2) for n in (1000, 100_000))
    assert many / few == pytest.approx(100, rel=0.1)
    bounded = cost.sharpness(SharpnessSettings(samples=10**9), 2)
    exact = cost.sharpness(SharpnessSettings(samples=10**6), 2)
    assert bounded == exact


def test_a_calibration_is_interpolated_and_not_extrapolated() -> None:
    factor = interpolated({1.0: 2.0, 100.0: 8.0})
    assert factor(0.01) == pytest.approx(2)
    assert factor(10) == pytest.approx(4)
    assert factor(1e6) == pytest.approx(8)
    assert interpolated({3.0: 5.0})(7) == pytest.approx(5)


def test_the_calibrated_cost_of_a_cell_is_of_the_right_order() -> None:
    text = TINY_BASE.replace("max_steps = 40", "max_steps = 400") + "[grid]\nwidth = [16, 64]\n"
    study = Study.from_text(text + "depth = 2\nseeds = 6\n")
    known = costs(study)
    factor = calibrate(known.values())
    for cell in study.cells:
        expected = known[cell.id].lr(6) * factor(known[cell.id].step)
        started = time.perf_counter()
        run_task(lr_task(cell))
        # a search takes 2 to 8 budgets per seed, where 5 are expected; the rest is for a machine
        # that has other work
        assert 1 / 8 < (time.perf_counter() - started) / expected < 8


@pytest.mark.parametrize("strategy", ["section", "curve"])
def test_what_is_done_predicts_what_is_left(tmp_path: Path, strategy: str) -> None:
    more = 'strategy = "curve"\nprecision = 0.5\ntrials = 32\nconfirm = 0\n'
    text = TINY_BASE.replace("resolution = 0.5\n", more) if strategy == "curve" else TINY_BASE
    grid = "[grid]\nwidth = 16\ndepth = [1]\n" + ("seeds = 3\n" if strategy == "section" else "")
    small = tiny(tmp_path / "s.toml", text + grid)
    known = costs(small)
    assert like_before(small, known, plan(small, known, State()), tmp_path / "none") is None
    run_study(small)
    study = tiny(tmp_path / "s.toml", text + grid.replace("[1]", "[1, 2, 3]"))
    known, state = costs(study), State.of_file(study.default_store)
    tasks = plan(study, known, state)
    found = like_before(study, known, tasks, study.default_store)
    assert found is not None
    with Store(study.default_store) as store:
        rows = seed_rows(study, store)
        ((seconds,),) = store.rows("SELECT seconds FROM work")
    assert found[0] == pytest.approx(2 * sum(row["trials"] for row in rows))  # two more networks
    ratio = sum(expected for _, expected in tasks) / known[small.cells[0].id].lr(len(rows))
    assert found[1] == pytest.approx(seconds * ratio)
