import json
import math

import numpy as np
import pytest
from planted_laws import planted_rows, table

from etastar.errors import ConfigError
from etastar.scaling import CellTable, find_region, find_regions, fit_power_law


def test_a_law_that_holds_everywhere_has_the_loosest_cutoff():
    loosest = [find_region(table(k, misfit_sd=0.05)).cutoff for k in range(40)]
    # Each of twelve nested tests rejects a true law in 5 % of studies; in 300 other studies 11 %
    # were rejected somewhere. 15 or more of 40 at 11 %: false-alarm rate 1e-5.
    assert np.sum(np.array(loosest) > 16 / 12 + 1e-9) < 15


@pytest.mark.parametrize("bend", [2.0, 4.0])
def test_a_planted_bend_is_cut_off(bend):
    for k in range(5):
        cells = table(k, bend=bend, seed_sd=0.1)
        region = find_region(cells)
        whole = fit_power_law(cells, form="separate")
        assert region.cutoff > 2
        assert region.rows[0].p_value < 0.05
        # what is left of the bend at the cutoff, exp(−bend·L/n), is a small share of it
        assert abs(region.fit["depth"].value + 1) < 0.5 * abs(whole["depth"].value + 1)
        assert region.fit.domain.cutoff == region.cutoff
        assert region.fit.domain.aspect[0] >= region.cutoff
        assert not region.fit.predict(16, 12).in_region


def test_the_scan_holds_the_fit_at_every_cutoff():
    cells = table(bend=2.0)
    region = find_region(cells)
    cutoffs = [row.cutoff for row in region.rows]
    assert cutoffs == sorted(set(cutoffs))
    assert cutoffs[0] == pytest.approx(16 / 12)
    for row in region.rows:
        again = fit_power_law(cells, form="separate", cutoff=row.cutoff)
        assert row.fit.beta == pytest.approx(again.beta)
        assert row.fit.usage.used == np.sum(cells.width / cells.depth >= row.cutoff)
    assert math.isnan(region.rows[-1].p_value)
    record = json.loads(json.dumps(region.to_dict()))
    assert len(record["rows"]) == len(region.rows)


def test_a_single_cutoff_is_not_called_tested():
    region = find_region(table(widths=(16, 32), depths=(2, 4)), form="product")
    assert [row.cutoff for row in region.rows] == [4.0]
    assert not region.tested


def test_exact_data_are_accepted_from_the_first_cell():
    region = find_region(table(seed_sd=0.0, resolution=0.0))
    assert region.cutoff == pytest.approx(16 / 12)
    assert region.tested


def test_regions_lie_side_by_side_over_kappa():
    rng = np.random.default_rng(0)
    rows = planted_rows(rng) + planted_rows(rng, input_lr_ratio=1.0, bend=4.0)
    rows += planted_rows(rng, input_lr_ratio=0.0, widths=(64,))
    regions, skipped = find_regions(CellTable.from_rows(rows))
    assert [r.fit.labels["input_lr_ratio"] for r in regions] == [0.1, 1.0]
    assert regions[1].cutoff > regions[0].cutoff
    assert skipped[0][0]["input_lr_ratio"] == 0.0
    assert "width does not vary" in skipped[0][1]


def test_a_form_without_exponents_has_no_region():
    with pytest.raises(ConfigError, match="no exponent that could move"):
        find_region(table(), form="inverse-width")


def test_doubts_name_what_was_not_seen():
    region = find_region(table(0, bend=4.0, seed_sd=0.1))
    assert region.tested
    assert region.doubts(512, 512 / region.cutoff) == ()
    (narrow,) = region.doubts(16, 12)
    assert narrow.startswith("n/L = 1.33 is below")
    few = CellTable.from_rows(
        [r for r in planted_rows(np.random.default_rng(0)) if r["depth"] in (2, 4)][:24]
    )
    alone = find_region(few, form="product")
    assert alone.tested or alone.doubts(512, 1)
