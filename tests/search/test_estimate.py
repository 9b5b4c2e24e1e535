"""From brackets to η*: closed forms, censoring, a planted distribution, binomial intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from landscapes import DEAD, DIVERGED, SHORT, TRAINED
from scipy.stats import beta, binomtest

from etastar.search import SeedResult
from etastar.search.estimate import eta_star, level_of, success_curve

ALL = SeedResult("all-trained", 10.0, None, None, ())
NONE = SeedResult("none-trained", None, None, None, ())


def at(lo: float, ratio: float = 1.05) -> SeedResult:
    return SeedResult("bracketed", lo, lo * ratio, "diverged", ())


def test_median_of_odd_and_even_counts() -> None:
    middle = math.sqrt(1.05)
    assert eta_star([at(1), at(2), at(4)]).median == pytest.approx(2 * middle)
    assert eta_star([at(1), at(4)]).median == pytest.approx(2 * middle)


def test_unbracketed_seeds_hold_their_place() -> None:
    assert eta_star([ALL, at(1), at(2)]).median == pytest.approx(2 * math.sqrt(1.05))
    assert eta_star([ALL, ALL, at(2)]).median is None
    assert eta_star([NONE, NONE, at(2)]).median is None
    assert eta_star([NONE, ALL]).median is None
    assert eta_star([NONE, ALL, at(2)]).median == pytest.approx(2 * math.sqrt(1.05))


def test_a_single_seed_has_no_interval_over_seeds() -> None:
    found = eta_star([at(1)])
    assert (found.ci_low, found.ci_high, found.safe) == (None, None, None)


def test_identical_brackets_leave_the_uncertainty_within_the_bracket() -> None:
    found = eta_star([at(1.0)] * 8)
    assert 1.0 < found.ci_low < found.median < found.ci_high < 1.05


brackets = st.lists(st.floats(0.01, 5.0).map(at), min_size=2, max_size=9)


@given(brackets, st.randoms())
def test_the_order_of_seeds_does_not_matter_to_the_estimates(results, rng) -> None:  # type: ignore[no-untyped-def]
    shuffled = results[:]
    rng.shuffle(shuffled)
    one, two = eta_star(results), eta_star(shuffled)
    assert one.median == pytest.approx(two.median)


@given(brackets, st.floats(0.1, 10.0))
def test_rates_in_other_units_scale_the_estimates(results: list[SeedResult], unit: float) -> None:
    scaled = [at(r.lo * unit) for r in results if r.lo]
    one, two = eta_star(results), eta_star(scaled)
    assert two.median == pytest.approx(one.median * unit)
    assert two.ci_low == pytest.approx(one.ci_low * unit)
    assert two.ci_high == pytest.approx(one.ci_high * unit)
    assert one.ci_low <= one.median <= one.ci_high


def test_success_curve_by_hand() -> None:
    results = [at(1.0), at(2.0), ALL, NONE]
    tried = [
        {1.0: TRAINED, 1.05: DIVERGED, 3.0: DEAD},
        {2.0: TRAINED, 2.1: SHORT},
        {10.0: TRAINED},
        {1.0: SHORT, 2.0: DEAD},
    ]
    curve = {point.lr: point for point in success_curve(results, tried)}
    assert sorted(curve) == [1.0, 1.05, 2.0, 2.1, 3.0, 10.0]
    one = curve[1.0]
    assert (one.trained, one.short, one.inferred_trained, one.inferred_failed) == (1, 1, 2, 0)
    assert one.p == 0.75
    assert one.ci_low == pytest.approx(beta.ppf(0.025, 3, 2))  # Clopper & Pearson 1934
    assert one.ci_high == pytest.approx(beta.ppf(0.975, 4, 1))
    three = curve[3.0]
    assert (three.dead, three.inferred_trained, three.inferred_failed) == (1, 1, 2)
    ten = curve[10.0]
    assert (ten.trained, ten.inferred_failed, ten.p) == (1, 3, 0.25)


def test_coverage_of_the_interval_is_what_is_said() -> None:
    """400 studies of 8 seeds, log-normal with sd 0.2. The bootstrap of a median of 8 is known to be
    a little short of its nominal 95 %; measured here 93–96 %. Below 90 % would be 4.6 standard
    errors from 95 %: a false alarm of 2e-6 for an interval with exact coverage."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        logs = rng.normal(0, 0.2, size=8)
        cell = 1.05 ** np.floor(logs / math.log(1.05))
        found = eta_star([at(float(lo)) for lo in cell])
        covered += found.ci_low <= 1.0 <= found.ci_high
    assert covered >= 360


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6])
def test_few_seeds_have_the_level_that_is_said(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    covered, studies = 0, 300
    for _ in range(studies):
        found = eta_star([at(float(lo), 1 + 1e-9) for lo in np.exp(rng.normal(0, 0.2, size=seeds))])
        covered += found.ci_low <= 1.0 <= found.ci_high
    # exact order statistics of the whole range up to five seeds: a false alarm of 1e-3
    assert binomtest(covered, studies, level_of(seeds)).pvalue > 1e-3
