"""Expected times: right in their ratios, and told honestly by a calibration."""

from __future__ import annotations

import time

import pytest
from made_studies import TINY_BASE, lr_task

from etastar.settings import Settings
from etastar.study.cell import SharpnessSettings
from etastar.study.cost import (
    BUDGETS_PER_SEED,
    PER_FLOP,
    Calibration,
    Sizes,
    calibrate,
    lr_seconds,
    sharpness_seconds,
    step_seconds,
)
from etastar.study.measuring import run_task
from etastar.study.plan import Facts
from etastar.study.specification import Study


def test_a_step_is_three_products_per_weight_and_sample() -> None:
    settings = Settings.checked(width=512, depth=4, batch_size=200, biases=False, max_steps=10)
    sizes, recipe = Sizes.of(settings)
    weights = 64 * 512 + 3 * 512 * 512 + 512 * 10
    overhead = step_seconds(
        settings.model_copy(update={"width": 1}), recipe, Sizes(0, 0, sizes.samples)
    ) - (3 * 6 * 200 * PER_FLOP)
    found = step_seconds(settings, recipe, sizes)
    assert found - overhead == pytest.approx(6 * weights * 200 * PER_FLOP)
    assert lr_seconds(settings, recipe, sizes, 3) == pytest.approx(
        10 * BUDGETS_PER_SEED * 3 * found
    )


def test_lambda_costs_what_its_samples_cost() -> None:
    settings = Settings.checked(width=512, depth=1, biases=False)
    sizes = Sizes(inputs=784, classes=10, samples=10**6)
    few, many = (
        sharpness_seconds(settings, SharpnessSettings(samples=n), sizes, 2) for n in (1000, 100_000)
    )
    assert many / few == pytest.approx(100, rel=0.1)
    bounded = sharpness_seconds(settings, SharpnessSettings(samples=10**9), sizes, 2)
    exact = sharpness_seconds(settings, SharpnessSettings(samples=10**6), sizes, 2)
    assert bounded == exact


def test_a_calibration_is_interpolated_and_not_extrapolated() -> None:
    calibration = Calibration({1.0: 2.0, 100.0: 8.0})
    assert calibration.factor(0.01) == pytest.approx(2)
    assert calibration.factor(10) == pytest.approx(4)
    assert calibration.factor(1e6) == pytest.approx(8)


def test_the_calibrated_cost_of_a_cell_is_of_the_right_order() -> None:
    text = TINY_BASE.replace("max_steps = 40", "max_steps = 400") + "[grid]\nwidth = [16, 64]\n"
    study = Study.from_text(text + "depth = 2\nseeds = 6\n")
    facts = Facts.of(study)
    cells = [(cell.settings, *facts.cells[cell.id]) for cell in study.cells]
    calibration = calibrate([(settings, recipe, sizes) for settings, recipe, sizes in cells])
    for cell, known in zip(study.cells, cells, strict=True):
        expected = lr_seconds(*known, 6) * calibration.factor(step_seconds(*known))
        started = time.perf_counter()
        run_task(lr_task(cell))
        # a search takes 2 to 8 budgets per seed, where 5 are expected; the rest is for a machine
        # that has other work
        assert 1 / 8 < (time.perf_counter() - started) / expected < 8
