import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_laws import WIDTHS, planted_rows, table
from scipy import optimize, stats

from etastar.errors import ConfigError
from etastar.scaling import FORMS, CellTable, fit_power_law, residual_map
from etastar.scaling.least_squares import fit_random_effects, linear_map, log_likelihood, solve


def exact(**settings):
    return table(seed_sd=0.0, resolution=0.0, **settings)


def weighted_lstsq(x, y, v):
    """The brute-force twin: scaled rows handed to LAPACK."""
    s = np.sqrt(v)
    return np.linalg.lstsq(x / s[:, None], y / s, rcond=None)[0]


def paule_mandel_twin(x, y, v):
    def excess(tau2):
        r = y - x @ weighted_lstsq(x, y, v + tau2)
        return np.sum(r**2 / (v + tau2)) - (len(y) - x.shape[1])

    return optimize.brentq(excess, 0, 100, xtol=1e-14) if excess(0.0) > 0 else 0.0


def random_problem(seed, count=20, p=3, misfit=0.3):
    rng = np.random.default_rng(seed)
    x = np.concatenate([np.ones((count, 1)), rng.normal(5, 1, (count, p - 1))], 1)
    v = rng.uniform(0.01, 0.2, count)
    y = x @ rng.normal(size=p) + rng.normal(0, np.sqrt(v + misfit**2))
    return x, y, v


@given(st.floats(-2, 2), st.floats(-3, 3), st.floats(1e-4, 1e4), st.sampled_from(["eta", "lambda"]))
@settings(max_examples=25, deadline=None)
def test_planted_exponents_come_back_exactly_without_noise(width, depth, prefactor, which):
    cells = exact(width=width, depth=depth, prefactor=prefactor)
    response, sign, constant = ("eta_star", 1, prefactor)
    if which == "lambda":
        response, sign, constant = "lambda1", -1, 2 / prefactor
    fit = fit_power_law(cells, form="separate", response=response)
    assert fit["width"].value == pytest.approx(sign * width, abs=1e-9)
    assert fit["depth"].value == pytest.approx(sign * depth, abs=1e-9)
    assert fit["log_prefactor"].value == pytest.approx(np.log(constant), abs=1e-8)
    assert fit.tau2 == pytest.approx(0, abs=1e-12)
    assert fit.predict(100, 5).value == pytest.approx(
        constant * 100 ** (sign * width) * 5 ** (sign * depth), rel=1e-8
    )


def test_the_product_of_eta_and_lambda_is_taken_seed_by_seed():
    # λ1 is planted as 2/η* of the same seed, so the product has no seed noise but λ1's own
    fit = fit_power_law(table(seed_sd=0.3, resolution=0.0), response="eta_lambda1")
    assert np.sqrt(fit.seed_variance) == pytest.approx(0.15, rel=0.2)
    assert abs(fit["product"].value) < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_its_own_law_exactly(form):
    exponents = {"product": (-0.7, -0.7), "separate": (-0.4, -1.2), "width": (-0.6, 0.0)}
    exponents |= {"depth": (0.0, -0.9), "constant": (0.0, 0.0)}
    exponents |= {
        "gradient-norm": (0.0, 0.0),
        "inverse-width": (-1.0, 0.0),
        "depth^-3/2": (0.0, -1.5),
    }
    width, depth = exponents[form]
    rows = planted_rows(
        np.random.default_rng(0), width=width, depth=depth, seed_sd=0.0, resolution=0.0, inputs=50
    )
    if form == "gradient-norm":
        for row in rows:
            norm = row["width"] * (1 + row["depth"]) / 2 + 0.1 * 50 / 2
            row["eta_lo"] = row["eta_hi"] = norm**-0.8
    fit = fit_power_law(CellTable.from_rows(rows), form=form)
    assert np.abs(fit.residual).max() < 1e-9
    assert fit["log_prefactor"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_least_squares_against_lapack(seed):
    x, y, v = random_problem(seed)
    beta, covariance = solve(x, y, (1 / v)[None])
    assert beta[0] == pytest.approx(weighted_lstsq(x, y, v), rel=1e-9)
    assert covariance[0] == pytest.approx(np.linalg.inv(x.T @ (x / v[:, None])), rel=1e-7)
    assert linear_map(x, 1 / v) @ y == pytest.approx(beta[0], rel=1e-9)


@pytest.mark.parametrize("misfit", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_lack_of_fit_against_a_root_finder_on_every_subset(seed, misfit):
    x, y, v = random_problem(seed, misfit=misfit)
    mask = ~np.eye(len(y), dtype=bool)
    betas, _, tau2s = fit_random_effects(x, y, v, mask)
    for k, kept in enumerate(mask):
        tau2 = paule_mandel_twin(x[kept], y[kept], v[kept])
        assert tau2s[k] == pytest.approx(tau2, abs=1e-9)
        assert betas[k] == pytest.approx(weighted_lstsq(x[kept], y[kept], v[kept] + tau2), rel=1e-6)


@pytest.mark.parametrize("misfit", [0.0, 0.3])
def test_likelihood_against_a_general_optimiser(misfit):
    x, y, v = random_problem(7, misfit=misfit)

    def negative(theta):
        return -stats.norm.logpdf(y, x @ theta[:3], np.sqrt(v + theta[3] ** 2)).sum()

    start = np.append(weighted_lstsq(x, y, v), 0.2)
    found = optimize.minimize(
        negative,
        start,
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 20_000, "maxfev": 20_000},
    )
    score, tau2 = log_likelihood(x, y, v)
    assert score == pytest.approx(-found.fun, abs=1e-6)
    assert np.sqrt(tau2) == pytest.approx(abs(found.x[3]), abs=1e-3)


def test_criteria_and_r_squared_are_their_definitions():
    cells = table(misfit_sd=0.2)
    fit = fit_power_law(cells, form="separate")
    count, parameters = 36, 4
    assert fit.aic == pytest.approx(2 * parameters - 2 * fit.log_likelihood)
    assert fit.bic == pytest.approx(parameters * np.log(count) - 2 * fit.log_likelihood)
    assert fit.aicc == pytest.approx(fit.aic + 2 * parameters * 5 / (count - 5))
    y = fit.log_value
    assert fit.r2 == pytest.approx(1 - np.sum(fit.residual**2) / np.sum((y - y.mean()) ** 2))
    w = 1 / (fit.variance + fit.tau2)
    mean = np.sum(w * y) / np.sum(w)
    expected = 1 - np.sum(w * fit.residual**2) / np.sum(w * (y - mean) ** 2)
    assert fit.r2_weighted == pytest.approx(expected)


def test_units_of_eta_move_only_the_prefactor():
    rows = planted_rows(np.random.default_rng(0))
    scaled = [{**r, "eta_lo": 7 * r["eta_lo"], "eta_hi": 7 * r["eta_hi"]} for r in rows]
    a, b = (fit_power_law(CellTable.from_rows(r), form="separate") for r in (rows, scaled))
    shift = np.array([np.log(7), 0, 0])
    assert b.beta - a.beta == pytest.approx(shift, abs=1e-9)
    for one, other, by in zip(a.coefficients, b.coefficients, shift, strict=True):
        assert np.subtract(other.over_seeds, one.over_seeds) == pytest.approx([by, by], abs=1e-9)
    assert b.bic == pytest.approx(a.bic, abs=1e-6)


@given(st.integers(2, 50))
@settings(max_examples=10, deadline=None)
def test_rescaled_widths_move_only_the_prefactor(factor):
    rows = planted_rows(np.random.default_rng(0), misfit_sd=0.1)
    wide = [{**r, "width": factor * r["width"]} for r in rows]
    a, b = (fit_power_law(CellTable.from_rows(r), form="separate") for r in (rows, wide))
    assert b.beta[1:] == pytest.approx(a.beta[1:], abs=1e-9)
    expected = a.beta[0] - a.beta[1] * np.log(factor)
    assert b.beta[0] == pytest.approx(expected, abs=1e-8)
    assert b.tau2 == pytest.approx(a.tau2, abs=1e-9)


def test_noisy_cells_weigh_less():
    rows = planted_rows(np.random.default_rng(0), seed_sd=0.02, seeds=8)
    rng = np.random.default_rng(1)
    for row in rows:
        if row["width"] == 512:  # these cells are wrong, and their seeds say that they are noisy
            factor = np.exp(0.8 + 1.5 * rng.normal())
            row["eta_lo"], row["eta_hi"] = row["eta_lo"] * factor, row["eta_hi"] * factor
    fit = fit_power_law(CellTable.from_rows(rows), form="separate")
    x = fit.design(fit.width, fit.depth)
    plain = np.linalg.lstsq(x, fit.log_value, rcond=None)[0]
    assert abs(fit["width"].value + 0.5) < 0.25 * abs(plain[1] + 0.5)
    noisy = fit.width == 512
    assert fit.variance[noisy].min() > 10 * fit.variance[~noisy].max()


def test_wide_brackets_weigh_less():
    rows = planted_rows(np.random.default_rng(0), seed_sd=0.0)
    for row in rows:
        if row["depth"] == 12:
            row["eta_hi"] = 2 * row["eta_lo"]
    fit = fit_power_law(CellTable.from_rows(rows))
    wide = fit.depth == 12
    # seeds in one bracket share its rounding error: at least w²/12 however many they are
    assert np.all(fit.variance[wide] >= np.log(2) ** 2 / 12)
    assert np.all(fit.variance[~wide] < 0.1 * np.log(2) ** 2 / 12)


def test_coefficient_intervals_cover_at_their_level():
    studies, inside = 200, {"width": 0, "depth": 0}
    alone = 0
    for k in range(studies):
        fit = fit_power_law(table(k, misfit_sd=0.1 * (k % 2), seeds=5), form="separate")
        for name, truth in (("width", -0.5), ("depth", -1.0)):
            inside[name] += fit[name].low <= truth <= fit[name].high
        if k % 2 == 0:  # without misfit the seeds are all the noise there is
            low, high = fit["width"].over_seeds
            alone += low <= -0.5 <= high
    # binomial tests at 1e-3 each: together a false-alarm rate of 0.3 %
    for count in inside.values():
        assert stats.binomtest(count, studies, 0.95).pvalue > 1e-3
    # variances of seeds that share a bracket err towards too wide
    assert stats.binomtest(alone, studies // 2, 0.95, alternative="less").pvalue > 1e-3


def test_lack_of_fit_is_found_and_not_invented():
    none = [fit_power_law(table(k), form="separate").tau2 for k in range(30)]
    some = [fit_power_law(table(k, misfit_sd=0.2), form="separate").tau2 for k in range(30)]
    assert np.sqrt(np.median(none)) < 0.05
    # the mean of 30 variances with 33 degrees of freedom each: relative standard error 5 %
    assert np.mean(some) == pytest.approx(0.04, rel=0.25)


def test_censored_cells_are_counted_and_checked_against_the_law():
    rows = planted_rows(np.random.default_rng(0), seed_sd=0.05, top=0.08)
    for row in rows:
        if (row["width"], row["depth"]) == (512, 12):
            row.update(status="none-trained", eta_lo=None, eta_hi=None)
    fit = fit_power_law(CellTable.from_rows(rows), form="separate")
    usage = fit.usage
    assert usage.cells == 36
    assert usage.untrained == 1
    assert usage.bounds == usage.right_censored  # the cell below has no seed that trained
    assert usage.seeds_none_trained == 6
    assert usage.right_censored >= 2
    assert usage.used + usage.right_censored + usage.untrained + usage.below_cutoff == usage.cells
    statuses = [r["status"] for r in rows]
    assert usage.seeds_all_trained == statuses.count("all-trained")
    assert usage.seeds_bracketed == statuses.count("bracketed")
    assert usage.contradicted == 0
    for row in rows:  # a cell that the law puts far below the top, and that trained there
        if (row["width"], row["depth"]) == (256, 8):
            row.update(status="all-trained", eta_lo=0.08, eta_hi=None)
    assert fit_power_law(CellTable.from_rows(rows), form="separate").usage.contradicted == 1


def test_cells_below_the_cutoff_are_counted():
    fit = fit_power_law(table(), form="separate", cutoff=8)
    assert fit.usage.used + fit.usage.below_cutoff == 36
    assert np.all(fit.width / fit.depth >= 8)
    assert fit.domain.cutoff == 8


@pytest.mark.parametrize(
    ("settings", "form", "says"),
    [
        ({"widths": (64,)}, "separate", r"width does not vary .*width 64;"),
        ({"depths": (4,)}, "separate", r"depth does not vary .*depth 4\)"),
        ({"depths": (4,)}, "depth", "depth does not vary"),
        ({"widths": (64,), "depths": (4,)}, "product", "at least 3 cells .* got 1"),
        ({"widths": (8, 16), "depths": (2,)}, "product", "at least 3 cells .* got 2"),
        ({"top": 1e-9}, "product", "at least 3 cells .* got 0 that are bracketed, of 36"),
    ],
)
def test_designs_that_determine_nothing_are_refused(settings, form, says):
    with pytest.raises(ConfigError, match=says):
        fit_power_law(table(**settings), form=form)


def test_width_and_depth_that_vary_only_together_are_refused():
    rows = [
        r
        for r in planted_rows(np.random.default_rng(0), depths=(2, 4, 8, 16, 32, 64))
        if r["width"] == 8 * r["depth"]
    ]
    cells = CellTable.from_rows(rows)
    with pytest.raises(ConfigError, match="width and depth vary only together"):
        fit_power_law(cells, form="separate")
    assert fit_power_law(cells, form="product").usage.used == len(WIDTHS)


def test_unknown_names_and_levels_are_refused():
    with pytest.raises(ConfigError, match="unknown form 'seperate'; did you mean 'separate'"):
        fit_power_law(table(), form="seperate")
    with pytest.raises(ConfigError, match="unknown response 'eta'; did you mean"):
        fit_power_law(table(), response="eta")
    with pytest.raises(ConfigError, match="level must be between 0 and 1"):
        fit_power_law(table(), level=95)
    with pytest.raises(ConfigError, match="unknown coefficient 'with'; did you mean 'width'"):
        fit_power_law(table(), form="separate")["with"]
    rows = [
        {k: v for k, v in r.items() if k != "lambda1"}
        for r in planted_rows(np.random.default_rng(0))
    ]
    with pytest.raises(ConfigError, match="needs the field 'lambda1_preconditioned'"):
        fit_power_law(CellTable.from_rows(rows), response="lambda1")


def test_single_seeds_do_not_show_their_noise_and_the_interval_honest():
    inside = 0
    for k in range(100):
        fit = fit_power_law(table(k, seeds=1), form="separate")
        assert fit["width"].over_seeds is None
        inside += fit["width"].low <= -0.5 <= fit["width"].high
    assert stats.binomtest(inside, 100, 0.95).pvalue > 1e-3  # false-alarm rate 1e-3


def test_residual_map_has_every_cell_in_its_place():
    rows = [
        r
        for r in planted_rows(np.random.default_rng(0), misfit_sd=0.3)
        if (r["width"], r["depth"]) != (64, 4)
    ]
    fit = fit_power_law(CellTable.from_rows(rows), form="separate")
    widths, depths, log_residual, _ = residual_map(fit)
    assert log_residual.shape == (6, 6)
    assert np.argwhere(np.isnan(log_residual)).tolist() == [[2, 2]]
    for n, d, r in zip(fit.width, fit.depth, fit.residual, strict=True):
        at = np.searchsorted(widths, n), np.searchsorted(depths, d)
        assert log_residual[at] == r


def test_the_record_is_json():
    record = json.loads(json.dumps(fit_power_law(table(), form="separate").to_dict()))
    assert [c["name"] for c in record["coefficients"]] == ["log_prefactor", "width", "depth"]
