"""What laws say of themselves: every field of their records, and arguments that reach the fit."""

import dataclasses
import json
import math

import numpy as np
import pytest
from planted_laws import planted_rows, table

from etastar.errors import ConfigError
from etastar.scaling import (
    CellTable,
    compare_forms,
    find_region,
    find_regions,
    fit_laws,
    fit_power_law,
    residual_map,
)
from etastar.scaling.coefficients import Coefficient


def same(one, other):
    """Equal fields, arrays and nested fits included."""
    return repr(dataclasses.asdict(one)) == repr(dataclasses.asdict(other))


def test_the_record_of_a_fit_has_every_number_under_its_name():
    fit = fit_power_law(table(misfit_sd=0.1), form="separate")
    record = fit.to_dict()
    json.dumps(record)
    assert record.pop("coefficients") == [
        {
            "name": c.name,
            "value": c.value,
            "standard_error": c.standard_error,
            "low": c.low,
            "high": c.high,
            "over_seeds": c.over_seeds,
            "bootstrap": c.over_seeds,
        }
        for c in fit.coefficients
    ]
    assert record.pop("domain") == dataclasses.asdict(fit.domain)
    assert record.pop("usage") == dataclasses.asdict(fit.usage)
    assert record == {
        "form": "separate",
        "law": "a n^b L^c",
        "response": "eta_star",
        "labels": {"input_lr_ratio": 0.1, "loss": "mse", "dataset": "digits"},
        "level": 0.95,
        "tau": math.sqrt(fit.tau2),
        "freedom": 33,
        "r2": fit.r2,
        "r2_weighted": fit.r2_weighted,
        "aic": fit.aic,
        "aicc": fit.aicc,
        "bic": fit.bic,
        "bend_p_value": fit.bend.p_value,
        "seed_log_sd": math.sqrt(fit.seed_variance),
        "widths": 6,
        "depths": 6,
    }


def test_numbers_that_are_not_defined_are_null_in_the_record():
    flat = table(
        widths=(16, 32, 64), depths=(2, 4), width=0.0, depth=0.0, seed_sd=0.0, resolution=0.0
    )
    record = fit_power_law(flat, form="product").to_dict()
    assert {k for k, v in record.items() if v is None} == {
        "r2",
        "r2_weighted",
    }
    few = fit_power_law(table(widths=(16, 32), depths=(2, 4)), form="separate")
    record = few.to_dict()
    assert {k for k, v in record.items() if v is None} == {"aicc", "bend_p_value"}


def test_the_record_of_a_compared_form_is_flat():
    row = compare_forms(table())["separate"]
    width, depth = row.fit["width"], row.fit["depth"]
    inside, beyond = row.cross_validated, row.extrapolated
    assert row.to_dict() == {
        "form": "separate",
        "law": "a n^b L^c",
        "baseline": False,
        "parameters": 4,
        "exponents": {
            "width": (width.value, width.low, width.high),
            "depth": (depth.value, depth.low, depth.high),
        },
        "r2": row.fit.r2,
        "tau": math.sqrt(row.fit.tau2),
        "aic": row.fit.aic,
        "aicc": row.fit.aicc,
        "bic": row.fit.bic,
        "cv_train": inside.train,
        "cv_test": inside.test,
        "cv_median_error": inside.median_error,
        "cv_coverage": inside.coverage,
        "cv_median_width": inside.median_width,
        "extrapolation_train": beyond.train,
        "extrapolation_test": beyond.test,
        "extrapolation_median_error": beyond.median_error,
        "extrapolation_coverage": beyond.coverage,
        "extrapolation_median_width": beyond.median_width,
    }


def test_a_form_that_was_not_asked_for_says_so():
    found = compare_forms(table(), forms=("product",))
    with pytest.raises(ConfigError) as refused:
        found["separate"]
    assert str(refused.value) == "form 'separate' was not compared: not asked."
    assert found["product"].form == "product"


def test_the_record_of_a_region_and_of_its_rows():
    region = find_region(table(bend=2.0))
    record = region.to_dict()
    rows = record.pop("rows")
    assert record == {
        "labels": {"input_lr_ratio": 0.1, "loss": "mse", "dataset": "digits"},
        "cutoff": region.cutoff,
        "tested": region.tested,
        "domain": dataclasses.asdict(region.fit.domain),
    }
    for row, found in zip(region.rows, rows, strict=True):
        last = row is region.rows[-1]
        assert found == {
            "cutoff": row.cutoff,
            "cells": row.fit.usage.used,
            "exponents": {
                name: (row.fit[name].value, row.fit[name].low, row.fit[name].high)
                for name in ("width", "depth")
            },
            "r2": row.fit.r2,
            "r2_weighted": row.fit.r2_weighted,
            "tau": math.sqrt(row.fit.tau2),
            "cv_median_error": row.cross_validated.median_error,
            "cv_coverage": row.cross_validated.coverage,
            "movement": None if last else row.movement,
            "p_value": None if last else row.p_value,
        }
        assert last == math.isnan(row.movement) == math.isnan(row.p_value)


def test_what_could_not_be_held_out_is_null_in_the_row_of_a_cutoff():
    rows = planted_rows(np.random.default_rng(0), depths=(4,), widths=(16,))
    rows += planted_rows(np.random.default_rng(1), widths=(32,), depths=(2, 4))
    region = find_region(CellTable.from_rows(rows), form="product")
    held = dataclasses.replace(region.rows[0].cross_validated, test=0)
    record = dataclasses.replace(region.rows[0], cross_validated=held).to_dict()
    assert record["cv_median_error"] is None
    assert record["cv_coverage"] is None


def test_the_doubts_of_a_region_word_by_word():
    region = find_region(table(bend=4.0, seed_sd=0.1))
    assert region.tested
    cutoff = region.cutoff
    assert region.doubts(4 * cutoff, 4) == ()  # on the cutoff is inside
    assert region.doubts(16, 12) == (
        f"n/L = 1.33 is below {cutoff:.3g}, from where on the law was seen to hold",
    )
    untested = dataclasses.replace(region, tested=False)
    assert untested.doubts(512, 2) == (
        "no region was found in which the law holds: its exponents move with the smallest n/L up "
        "to the last that could be tried",
    )
    for tested in (True, False):
        single = dataclasses.replace(region, rows=region.rows[:1], tested=tested)
        assert single.doubts(512, 2) == ("too few networks to see from which n/L on the law holds",)
    pair = dataclasses.replace(region, rows=region.rows[:2])
    assert pair.doubts(512, 2) == ()


@pytest.mark.parametrize("response", ["eta_star", "lambda1"])
def test_arguments_reach_the_fit_of_every_group(response):
    rng = np.random.default_rng(0)
    rows = planted_rows(rng, misfit_sd=0.1) + planted_rows(rng, input_lr_ratio=1.0, width=-0.9)
    rows += planted_rows(rng, input_lr_ratio=2.0, widths=(64,), depths=(4,))
    cells = CellTable.from_rows(rows)
    options = {"form": "product", "response": response, "level": 0.8}
    laws = fit_laws(cells, cutoff=4.0, **options)
    regions, skipped = find_regions(cells, **options)
    for kappa, law, region in zip((0.1, 1.0), laws.fits, regions, strict=True):
        group = cells.select(input_lr_ratio=kappa)
        assert same(law, fit_power_law(group, cutoff=4.0, **options))
        alone = find_region(group, **options)
        assert region.cutoff == alone.cutoff
        assert [r.p_value for r in region.rows[:-1]] == [r.p_value for r in alone.rows[:-1]]
        assert same(region.fit, alone.fit)
        assert region.fit.level == 0.95  # `level` of a region is of its tests
    for left_out in (laws.skipped, skipped):
        ((labels, reason),) = left_out
        assert labels == {"input_lr_ratio": 2.0, "loss": "mse", "dataset": "digits"}
        assert "needs at least 3 cells" in reason


def test_the_defaults_of_the_laws_are_those_of_the_fit():
    cells = table(misfit_sd=0.1)
    (law,) = fit_laws(cells).fits
    assert same(law, fit_power_law(cells, form="separate"))
    assert law.level == 0.95
    ((region,), ()) = find_regions(cells)
    assert same(region.fit, find_region(cells).fit)
    assert region.fit.form == "separate"


def test_no_group_with_a_law_names_every_reason():
    rng = np.random.default_rng(0)
    rows = planted_rows(rng, widths=(64,)) + planted_rows(rng, depths=(4,), loss="cross-entropy")
    with pytest.raises(ConfigError) as refused:
        fit_laws(CellTable.from_rows(rows))
    text = str(refused.value)
    assert text.startswith("no group can be fitted. ")
    assert "width does not vary" in text
    assert " depth does not vary" in text or " the form" in text


def test_laws_are_found_by_their_conditions_word_by_word():
    rng = np.random.default_rng(0)
    rows = planted_rows(rng) + planted_rows(rng, input_lr_ratio=1.0, width=-0.9)
    rows += planted_rows(rng, loss="cross-entropy", widths=(64,))
    laws = fit_laws(CellTable.from_rows(rows))
    small, large = sorted(laws.fits, key=lambda fit: fit.labels["input_lr_ratio"])
    assert laws.find(input_lr_ratio=1.0) is large
    assert laws.find(loss="mse", input_lr_ratio=0.1) is small

    def refusal(**labels):
        with pytest.raises(ConfigError) as refused:
            laws.find(**labels)
        return str(refused.value)

    assert refusal(input_lr_ratio=0.5) == (
        "input_lr_ratio = 0.5 was never measured under these conditions, and a law does not carry "
        "over between values of input_lr_ratio; measured: 0.1, 1.0."
    )
    assert refusal(loss="mse") == (
        "2 groups have these conditions; choose of input_lr_ratio: 0.1, 1.0."
    )
    assert refusal() == (
        "3 groups have these conditions; choose of input_lr_ratio: 0.1, 1.0; "
        "loss: cross-entropy, mse."
    )
    assert refusal(loss="cross-entropy").startswith(
        "these conditions were measured but have no law: width does not vary"
    )
    assert refusal(kappa=1.0).startswith("unknown label 'kappa'")
    asked = {"level": 0.5, "seeds": 3.0}
    found = laws.predict(128, 6, input_lr_ratio=1.0, **asked)
    assert found == large.predict(128, 6, **asked)
    assert laws.predict(128, 6, input_lr_ratio=1.0) == large.predict(128, 6, level=0.9)
    assert not laws.predict(4096, 6, input_lr_ratio=1.0).in_region
    with pytest.raises(ConfigError, match="no prediction for width 4096"):
        laws.predict(4096, 6, input_lr_ratio=1.0, strict=True)


@pytest.mark.parametrize(
    ("value", "outside"), [(0.9, True), (1.0, False), (2.0, False), (2.5, True), (3.0, True)]
)
def test_a_coefficient_excludes_what_its_interval_does(value, outside):
    assert Coefficient("width", 1.5, 0.2, 1.0, 2.0, None).excludes(value) is outside


def test_the_residual_map_is_in_units_of_the_noise():
    fit = fit_power_law(table(misfit_sd=0.3), form="separate")
    widths, depths, log_residual, in_noise = residual_map(fit)
    for n, d, r, v in zip(fit.width, fit.depth, fit.residual, fit.variance, strict=True):
        at = np.searchsorted(widths, n), np.searchsorted(depths, d)
        assert log_residual[at] == r
        assert in_noise[at] == pytest.approx(r / math.sqrt(v))
    _, _, *gone = residual_map(
        fit_power_law(
            CellTable.from_rows(
                [
                    r
                    for r in planted_rows(np.random.default_rng(0))
                    if (r["width"], r["depth"]) != (64, 4)
                ]
            ),
        )
    )
    for values in gone:
        assert np.isnan(values[2, 2])
        assert np.isfinite(values).sum() == 35


def test_a_prediction_prints_its_interval_and_its_warnings():
    fit = fit_power_law(table(), form="separate")
    inside, beyond = fit.predict(128, 6), fit.predict(4096, 6)
    assert str(inside) == (
        f"{inside.value:.4g} [{inside.low:.4g}, {inside.high:.4g}] at 90% for width 128, depth 6"
    )
    lines = str(beyond).splitlines()
    assert lines[0].endswith("at 90% for width 4096, depth 6")
    assert lines[1:] == [f"WARNING: {w}" for w in beyond.warnings]
    assert len(lines) > 1
    assert inside.eta == inside.value
