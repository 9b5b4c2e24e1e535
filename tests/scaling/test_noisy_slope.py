import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_laws import planted_rows
from scipy import stats

from etastar.errors import ConfigError
from etastar.scaling import CellTable, fit_cell_slope, fit_slope
from etastar.study.export import error_of_median


def noisy_line(seed, count, *, slope=-0.7, x_sd=0.3, y_sd=0.2, scatter=0.1):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 3, count)
    y = 1 + slope * x + scatter * rng.normal(size=count)
    return x + x_sd * rng.normal(size=count), y + y_sd * rng.normal(size=count)


@given(st.floats(-3, 3), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_points_on_a_line_give_it_back(slope, intercept):
    x = np.array([0.0, 1.0, 2.0, 4.0, 7.0])
    fit = fit_slope(x, intercept + slope * x)
    assert fit.corrected.value == pytest.approx(slope, abs=1e-9)
    assert fit.intercept == pytest.approx(intercept, abs=1e-8)
    assert fit.reliability == 1


def test_least_squares_is_scipys():
    x, y = noisy_line(0, 30)
    fit, expected = fit_slope(x, y), stats.linregress(x, y)
    assert fit.corrected.value == pytest.approx(expected.slope, rel=1e-10)
    assert fit.r2 == pytest.approx(expected.rvalue**2, rel=1e-10)
    assert fit.corrected.standard_error == pytest.approx(expected.stderr, rel=1e-6)


def test_noise_in_x_is_undone():
    fits = [
        fit_slope(*noisy_line(k, 200, x_sd=0.6), x_variance=0.36, y_variance=0.04)
        for k in range(20)
    ]
    # standard error 0.01; the plain slope is attenuated by 0.75/(0.75 + 0.36), to −0.47
    assert np.mean([fit.corrected.value for fit in fits]) == pytest.approx(-0.7, abs=0.05)
    assert np.mean([fit.reliability for fit in fits]) == pytest.approx(0.75 / 1.11, abs=0.03)
    assert np.mean([fit.scatter for fit in fits]) == pytest.approx(0.1, abs=0.05)


def test_shared_noise_is_undone():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        x = rng.uniform(0, 3, 200)
        shared = 0.5 * rng.normal(size=200)
        # the noise moves points along slope +1, the law has slope −0.7
        noise = dict.fromkeys(("x_variance", "y_variance", "covariance"), 0.25)
        found.append(fit_slope(x + shared, -0.7 * x + shared, **noise).corrected.value)
    assert np.mean(found) == pytest.approx(-0.7, abs=0.06)


@pytest.mark.parametrize("count", [20, 60])
def test_the_verdict_on_a_true_slope_is_rarely_wrong(count):
    studies = 300
    covered = 0
    for k in range(studies):
        x, y = noisy_line(k, count)
        fit = fit_slope(x, y, x_variance=0.09, y_variance=0.04)
        covered += fit.corrected.low <= -0.7 <= fit.corrected.high
    assert stats.binomtest(covered, studies, 0.95).pvalue > 1e-3  # false-alarm rate 1e-3


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_scatter_that_widths_and_depths_share_is_allowed_for(share):
    rng = np.random.default_rng(3)
    width, depth = (
        axis.ravel() for axis in np.meshgrid(2.0 ** np.arange(5, 10), 2.0 ** np.arange(1, 6))
    )
    row, column = (np.unique(axis, return_inverse=True)[1] for axis in (width, depth))
    covered, studies = 0, 600
    for _ in range(studies):
        x = np.log(width * depth)
        effects = rng.normal(size=5)[row] + rng.normal(size=5)[column]
        scatter = np.sqrt(share / 2) * effects + np.sqrt(1 - share) * rng.normal(size=25)
        y = -0.7 * x + 0.2 * scatter + 0.1 * rng.normal(size=25)
        seen = x + 0.2 * rng.normal(size=25)
        fit = fit_slope(*(seen, y), x_variance=0.04, y_variance=0.01, width=width, depth=depth)
        covered += not fit.excludes(-0.7)
    # a true 95 % leaves these limits once in 1,000 by chance
    assert 0.92 < covered / studies < 0.98


def test_cells_say_whether_eta_is_inversely_related_to_sharpness():
    inverse = CellTable.from_rows(planted_rows(np.random.default_rng(0), seed_sd=0.1))
    fit = fit_cell_slope(inverse)
    assert fit.corrected.value == pytest.approx(-1, abs=0.05)
    assert not fit.excludes(-1)
    rows = planted_rows(np.random.default_rng(0), seed_sd=0.1)
    for row in rows:
        row["lambda1"] = row["lambda1"] ** 2
    fit = fit_cell_slope(CellTable.from_rows(rows))
    assert fit.corrected.value == pytest.approx(-0.5, abs=0.05)
    assert fit.excludes(-1)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.arange(3.0), np.arange(3.0), "at least 4"),
        (np.arange(5.0), np.arange(4.0), "same length"),
        (np.full(5, 2.0), np.arange(5.0), "does not vary beyond its noise"),
        (np.array([0, 1, 2, np.nan]), np.arange(4.0), "finite"),
    ],
)
def test_points_without_a_slope_are_refused(x, y, says):
    with pytest.raises(ConfigError, match=says):
        fit_slope(x, y)


def test_noise_larger_than_the_spread_is_refused():
    with pytest.raises(ConfigError, match="does not vary beyond its noise"):
        fit_slope(np.arange(5.0), np.arange(5.0), x_variance=10.0)


@pytest.mark.parametrize("told", [True, False])
def test_the_error_of_a_curves_lambda1_is_allowed_for(told):
    """λ1 of a curve is a median over seeds; without its error the slope is attenuated."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 3, 400)
        noisy, eta = x + 0.6 * rng.normal(size=400), np.exp(1 - 0.7 * x)
        rows = [
            {
                **{"width": 8 + i, "depth": 2 + i % 7, "input_lr_ratio": 1.0, "loss": "mse"},
                **{"seed": None, "status": "bracketed", "eta_lo": None, "eta_hi": None},
                **{"eta": eta[i], "eta_ci_low": eta[i] / 1.02, "eta_ci_high": eta[i] * 1.02},
                "lambda1_preconditioned": np.exp(noisy[i]),
                **({"lambda1_error": 0.6} if told else {}),
            }
            for i in range(400)
        ]
        found.append(fit_cell_slope(CellTable.from_rows(rows)).corrected.value)
    plain = -0.7 * 0.75 / (0.75 + 0.36)
    assert np.mean(found) == pytest.approx(-0.7 if told else plain, abs=0.04)


def test_the_error_of_a_median_is_that_of_medians():
    draws = np.random.default_rng(0).normal(size=(4000, 8))
    expected = np.median(draws, axis=1).std()
    errors = [error_of_median(np.exp(draw)) for draw in draws[:1000]]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(expected, rel=0.05)
    assert error_of_median([2.0]) is None
