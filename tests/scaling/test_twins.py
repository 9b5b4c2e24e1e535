"""Every fast path of the laws beside a slow and obvious one: loops over cells or points."""

import dataclasses
import math

import numpy as np
import pytest
from planted_laws import planted_rows, table
from scipy import special, stats

from etastar.errors import ConfigError
from etastar.scaling import (
    CellTable,
    Domain,
    compare_forms,
    cross_validate,
    extrapolate,
    find_region,
    fit_cell_slope,
    fit_power_law,
    fit_slope,
)
from etastar.scaling.bend import Bend
from etastar.scaling.estimates import estimate_cells, median_inefficiency
from etastar.scaling.power_law import r_squared
from etastar.scaling.region import _contrasts, _cutoffs
from etastar.scaling.two_way import two_way


def rows_of(seed=0, **settings):
    return planted_rows(np.random.default_rng(seed), **settings)


# the slope of noisy points


def twin_slope(x, y, vx, vy, c, level):
    """Value, standard error and t interval by sums over points, each with scatter of its own."""
    m = len(x)
    x0, y0 = sum(x) / m, sum(y) / m
    spread = sum((a - x0) ** 2 for a in x) / (m - 1)
    true = spread - sum(vx) / m
    product = sum((a - x0) * (b - y0) for a, b in zip(x, y, strict=True)) / (m - 1)
    value = (product - sum(c) / m) / true
    flat = product / spread
    noise = vy + value**2 * vx - 2 * value * c
    weights = (x - x0) / (m - 1) / spread
    rest = sum((b - y0 - flat * (a - x0)) ** 2 for a, b in zip(x, y, strict=True))
    leverage = 1 / m + (x - x0) ** 2 / (m - 1) / spread
    scatter = (rest - sum((1 - leverage) * noise)) / (m - 2)
    variance = sum(weights**2 * noise)
    total = max(variance + scatter * sum(weights**2), variance)
    own = np.mean(c - value * vx) / true
    error = math.sqrt(total * spread**2 / true**2 + own**2 / (m - 1))
    return value, error


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_every_number_of_a_slope(sign, level):
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, 14)
    y = 1 + sign * 0.7 * x + 0.5 * rng.normal(size=14)
    vx, vy, c = (rng.uniform(0.5, 1.5, 14) * size for size in (0.04, 0.02, 0.005))
    fit = fit_slope(x, y, x_variance=vx, y_variance=vy, covariance=c, level=level)
    b, error = twin_slope(x, y, vx, vy, c, level)
    found = fit.corrected
    assert (found.value, found.standard_error) == pytest.approx((b, error), rel=1e-6)
    t = (found.high - b) / error
    # the noise is known and the scatter is not: between the normal law and 12 degrees of freedom
    assert stats.norm.ppf(0.5 + level / 2) <= t <= stats.t.ppf(0.5 + level / 2, 12) + 1e-9
    assert b - found.low == pytest.approx(found.high - b)
    assert fit.intercept == pytest.approx(np.mean(y) - b * np.mean(x))
    assert fit.reliability == pytest.approx(1 - np.mean(vx) / np.var(x, ddof=1))
    assert fit.r2 == pytest.approx(stats.pearsonr(x, y)[0] ** 2)
    rest = sum((y - np.mean(y) - b * (x - np.mean(x))) ** 2) / 12
    assert fit.scatter == pytest.approx(
        math.sqrt(max(0.0, rest - np.mean(vy + b**2 * vx - 2 * b * c)))
    )
    assert (fit.n, fit.level) == (14, level)
    assert fit.excludes(b + 100)
    assert not fit.excludes(b)
    assert fit.excludes() == found.excludes(-1.0)


def test_what_does_not_vary_has_a_slope_of_zero():
    still = fit_slope(np.arange(12.0), np.full(12, 2.0))
    assert (still.r2, still.corrected.value, still.scatter) == (0.0, 0.0, 0.0)
    even = fit_slope(np.arange(-2.0, 3.0), np.array([2.0, -1.0, -2.0, -1.0, 2.0]))
    assert even.corrected.value == 0


def test_why_there_is_no_slope_word_by_word():
    def refusal(x, y, **noise):
        with pytest.raises(ConfigError) as refused:
            fit_slope(x, y, **noise)
        return str(refused.value)

    assert refusal(np.arange(3.0), np.arange(3.0)) == (
        "a slope needs two arrays of the same length, at least 4; got shapes (3,) and (3,)."
    )
    assert refusal(np.ones((4, 4)), np.ones((4, 4))).endswith("got shapes (4, 4) and (4, 4).")
    finite = "a slope needs finite logarithms and variances; got NaN or inf."
    four = np.arange(4.0)
    assert refusal(four, np.array([0, 1, 2, np.inf])) == finite
    for name in ("x_variance", "y_variance", "covariance"):
        assert refusal(four, four, **{name: np.nan}) == finite
    assert refusal(four, four, x_variance=5.0) == (
        "x does not vary beyond its noise (variance 1.67, noise 5): no slope is defined. Measure "
        "points further apart."
    )
    assert fit_slope(four, 2 * four).n == 4


def values_of(row, response):
    middle = 0.5 * (math.log(row["eta_lo"]) + math.log(row["eta_hi"]))
    sharp = math.log(row["lambda1"]) if row["lambda1"] else math.nan
    return {"eta_star": middle, "lambda1": sharp, "eta_lambda1": middle + sharp}[response]


@pytest.mark.parametrize("pair", [("lambda1", "eta_star"), ("lambda1", "eta_lambda1")])
def test_noise_of_cells_and_its_covariance_come_from_the_seeds(pair):
    rows = rows_of(2, widths=(16, 32, 64), depths=(2, 4), seeds=7, resolution=0.1)
    for row in rows[::9]:
        row["lambda1"] = None
    fit = fit_cell_slope(CellTable.from_rows(rows), x=pair[0], y=pair[1])
    a, b = [], []
    for size in sorted({(r["width"], r["depth"]) for r in rows}):
        here = [r for r in rows if (r["width"], r["depth"]) == size and r["lambda1"]]
        for name, out in zip(pair, (a, b), strict=True):
            got = [values_of(r, name) for r in here]
            out += [g - sum(got) / len(got) for g in got]
    rho = 2 / math.pi * math.asin(np.dot(a, b) / math.sqrt(np.dot(a, a) * np.dot(b, b)))
    over, up = (estimate_cells(CellTable.from_rows(rows), name) for name in pair)
    expected = fit_slope(
        over.value,
        up.value,
        x_variance=over.variance,
        y_variance=up.variance,
        covariance=rho * np.sqrt(over.variance * up.variance),
        width=over.width,
        depth=over.depth,
    )
    for name in ("value", "standard_error", "low", "high"):
        ours, theirs = (getattr(f.corrected, name) for f in (fit, expected))
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_seeds_that_do_not_differ_share_no_noise():
    cells = table(seed_sd=0.0, resolution=0.0, seeds=3)
    assert fit_cell_slope(cells).corrected.value == pytest.approx(-1, abs=1e-9)


# the law


def test_errors_and_intervals_of_the_coefficients():
    cells = table(misfit_sd=0.1)
    fit = fit_power_law(cells, form="separate", level=0.8)
    x = np.stack([np.ones(36), np.log(fit.width), np.log(fit.depth)], 1)
    w = np.diag(1 / (fit.variance + fit.tau2))
    inverse = np.linalg.inv(x.T @ w @ x)
    estimates = estimate_cells(cells)
    drawn = fit.log_value + np.sqrt(fit.variance) * np.random.default_rng(2).normal(
        size=(20_000, 36)
    )
    replicates = drawn @ (inverse @ x.T @ w).T  # as other seeds would have it
    effects = two_way(x, fit.log_value, fit.variance, fit.width, fit.depth, np.diag(w))
    for k, c in enumerate(fit.coefficients):
        assert c.standard_error == pytest.approx(math.sqrt(effects.covariance[k, k]), rel=1e-8)
        half = stats.t.ppf(0.9, effects.freedom(np.eye(3)[k])) * c.standard_error
        assert (c.low, c.high) == pytest.approx((c.value - half, c.value + half), rel=1e-9)
        ends = np.percentile(replicates[:, k], [10, 90])
        assert c.over_seeds == pytest.approx(ends, abs=0.05 * (ends[1] - ends[0]))
    plain, weighted = np.ones(36), np.diag(w)
    for weight, found in ((plain, fit.r2), (weighted, fit.r2_weighted)):
        mean = sum(weight * fit.log_value) / sum(weight)
        total = sum(weight * (fit.log_value - mean) ** 2)
        assert found == pytest.approx(1 - sum(weight * fit.residual**2) / total, rel=1e-9)
    assert math.isnan(r_squared(np.ones(3), np.zeros(3), plain[:3]))
    assert fit.seed_variance == pytest.approx(np.mean(estimates.seed_variance))
    assert fit.usage.contradicted == 0


def test_too_few_cells_word_by_word():
    def refusal(**options):
        with pytest.raises(ConfigError) as refused:
            fit_power_law(table(widths=(8, 16), depths=(2,)), **options)
        return str(refused.value)

    assert refusal() == (
        "the form a (nL)^b needs at least 3 cells for an interval; got 2 that are bracketed, of 2. "
        "Measure more networks, widen their range of learning rates."
    )
    assert refusal(cutoff=5.0) == (
        "the form a (nL)^b needs at least 3 cells for an interval; got 1 that are bracketed and "
        "have n/L of at least 5, of 2. Measure more networks or lower it."
    )


def test_what_does_not_vary_word_by_word():
    with pytest.raises(ConfigError) as refused:
        fit_power_law(table(depths=(4,), widths=(8, 16, 32, 64)), form="separate")
    assert str(refused.value) == (
        "depth does not vary over the 4 cells that can be used (width 8, 16, 32, 64; depth 4), so "
        "the exponent depth of the form a n^b L^c is not defined. Measure networks that differ in "
        "depth, or fit a form without it."
    )
    with pytest.raises(ConfigError, match=r"\(width 64; depth 2 to 12\)"):
        fit_power_law(table(widths=(64,)), form="separate")
    pairs = [r for r in rows_of(depths=(2, 4, 8, 16)) if r["width"] == 8 * r["depth"]]
    with pytest.raises(ConfigError) as refused:
        fit_power_law(CellTable.from_rows(pairs), form="separate")
    assert str(refused.value) == (
        "width and depth vary only together over the 4 cells that can be used (width 16, 32, 64, "
        "128; depth 2, 4, 8, 16), so the separate exponents width, depth are not defined. Add "
        "networks off that line, or fit one exponent, as in the form 'product'."
    )


def test_the_gradient_norm_is_the_documented_sum():
    rows = rows_of(inputs=50, output_variance=0.3)
    cells = CellTable.from_rows(rows)
    fit = fit_power_law(cells, form="gradient-norm")
    n, d = fit.width, fit.depth
    expected = np.log(n + 0.15 * (n * (d - 1) + 0.1 * 50))
    assert fit.design(n, d)[:, 1] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ConfigError) as refused:
        fit_power_law(table(), form="gradient-norm")
    assert str(refused.value) == (
        "the form gradient-norm is computed from the labels 'input_lr_ratio' and 'inputs' of ReLU "
        "networks, and these cells have no 'inputs'; got input_lr_ratio, loss, dataset. If they "
        "are of ReLU networks, add it to the rows (and to `group_by`, where that is given); else "
        "go by the other forms."
    )


# the bend


def test_a_bend_is_tested_by_an_f_statistic():
    fit = fit_power_law(table(bend=2.0, misfit_sd=0.05), form="product")
    n, d = np.log(fit.width), np.log(fit.depth)
    assert fit.bend.centre == pytest.approx((np.mean(n), np.mean(d)))
    n, d = n - np.mean(n), d - np.mean(d)
    own = np.stack([np.ones(36), np.log(fit.width * fit.depth)], 1)
    # of n and d one is left, since their sum is the form's own column; of the squares all three
    assert fit.bend.kept == (0, 2, 3, 4)
    longer = np.concatenate([own, np.stack([n, (n + d) ** 2, n**2, d**2], 1)], 1)

    def fitted(design, v):
        s = np.sqrt(v)
        beta = np.linalg.lstsq(design / s[:, None], fit.residual / s, rcond=None)[0]
        return beta, fit.residual - design @ beta

    low, high = 0.0, 1.0
    for _ in range(200):  # Paule and Mandel's τ² of the longer law, by bisection
        tau2 = (low + high) / 2
        rest = fitted(longer, fit.variance + tau2)[1]
        above = sum(rest**2 / (fit.variance + tau2)) > 30
        low, high = (tau2, high) if above else (low, tau2)
    v = fit.variance + (low if low > 1e-12 else 0.0)
    beta, rest = fitted(longer, v)
    shorter = fitted(own, v)[1]
    gain = sum(shorter**2 / v) - sum(rest**2 / v)
    f = gain / 4 / max(sum(rest**2 / v) / 30, 1.0)
    assert fit.bend.beta == pytest.approx(beta, rel=1e-5, abs=1e-7)
    assert fit.bend.f_statistic == pytest.approx(f, rel=1e-6)
    assert fit.bend.p_value == pytest.approx(stats.f.sf(f, 4, 30), rel=1e-5)
    at = np.array([100.0]), np.array([5.0])
    shift = fit.bend.shift(fit.design(*at), *at)
    a, b = math.log(100) - fit.bend.centre[0], math.log(5) - fit.bend.centre[1]
    by_hand = np.dot(fit.bend.beta, [1, math.log(500), a, (a + b) ** 2, a**2, b**2])
    assert shift[0] == pytest.approx(by_hand, rel=1e-9)
    assert fit.bend.variance(fit.design(*at), *at)[0] == pytest.approx(
        (1 - 1 / fit.bend.f_statistic) * by_hand**2
    )


@pytest.mark.parametrize(("f", "factor"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (4.0, 0.75)])
def test_a_shift_that_noise_would_produce_counts_for_nothing(f, factor):
    bend = Bend((0.0, 0.0), (0,), np.array([0.0, 2.0]), f, 0.5)
    at = np.array([np.e]), np.array([1.0])
    assert bend.variance(np.ones((1, 1)), *at).tolist() == pytest.approx([4 * factor])
    unknown = Bend((0.0, 0.0), (), np.zeros(0), math.nan, math.nan)
    assert not unknown.known
    assert unknown.shift(np.ones((2, 1)), *at).tolist() == [0, 0]
    assert unknown.variance(np.ones((2, 1)), *at).tolist() == [0, 0]


def test_a_bend_beyond_the_cells_is_told_in_numbers():
    fit = fit_power_law(table(bend=4.0, seed_sd=0.05), form="separate")
    p = fit.predict(2048, 2)
    bent = next(w for w in p.warnings if "bend" in w)
    assert bent == (
        f"the cells bend away from the form separate (p = {fit.bend.p_value:.1g}); with the "
        f"curvature that they show, the prediction is {p.second_degree:.4g}, "
        f"{p.second_degree / p.value:.3g} times this one"
    )
    assert fit.predict(64, 4).warnings == ()
    few = fit_power_law(table(widths=(16, 32), depths=(2, 4)), form="separate")
    assert few.predict(24, 3).warnings == ()
    assert few.predict(512, 4).warnings[-1] == (
        "the cells are too few to show whether the law bends: the interval assumes not"
    )


# cells


def test_estimates_of_cells_one_by_one():
    rows = rows_of(3, widths=(8, 16, 32), depths=(2, 3), resolution=0.3, seeds=6, misfit_sd=0.2)
    for row in rows:
        if row["seed"] == 5 and row["width"] == 16:
            row.update(status="all-trained", eta_hi=None)
        if row["seed"] < 2 and (row["width"], row["depth"]) == (32, 2):  # less than half
            row.update(status="none-trained", eta_lo=None, eta_hi=None)
        if row["seed"] < 4 and (row["width"], row["depth"]) == (32, 3):
            row.update(status="none-trained", eta_lo=None, eta_hi=None)
        if row["seed"] < 4 and (row["width"], row["depth"]) == (8, 2):
            row.update(status="all-trained", eta_hi=None)
    cells = CellTable.from_rows(rows)
    found = estimate_cells(cells)
    own, freedom, twins = [], [], []
    for size in sorted({(r["width"], r["depth"]) for r in rows}):
        here = [r for r in rows if (r["width"], r["depth"]) == size]
        seen = [r for r in here if r["status"] != "none-trained"]
        finite = [r for r in seen if r["status"] == "bracketed"]
        middle = [values_of(r, "eta_star") for r in finite]
        widths = [math.log(r["eta_hi"] / r["eta_lo"]) for r in finite]
        rounding = np.mean(np.square(widths)) / 12
        own.append(np.var(middle, ddof=1) + rounding)
        freedom.append(len(finite) - 1)
        nowhere = len(here) - len(seen)
        ranked = [-math.inf] * nowhere + middle + [math.inf] * (len(seen) - len(finite))
        value = np.median(ranked)
        twins.append((size, seen, value, rounding, nowhere, len(finite)))
    own, freedom = np.array(own), np.array(freedom)
    e = np.log(own) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = np.var(e, ddof=1) - np.mean(special.polygamma(1, freedom / 2))
    if excess > 1e-6:
        low, high = 1e-6, 1e7
        for _ in range(300):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if special.polygamma(1, middle) > excess else (low, middle)
        prior = 2 * low
        common = math.exp(np.mean(e) + special.digamma(low) - math.log(low))
        shrunk = (prior * common + freedom * own) / (prior + freedom)
    else:
        shrunk = np.full(len(own), np.sum(own * freedom) / np.sum(freedom))
    assert found.seed_variance == pytest.approx(shrunk, rel=1e-6)
    for k, (size, seen, value, rounding, nowhere, bracketed) in enumerate(twins):
        m = 6
        q = min(nowhere, 2) / m  # of a median that is lost, as of one that is just kept
        density = (1 - q) * stats.norm.pdf(stats.norm.ppf((0.5 - q) / (1 - q)))  # at the median
        lost = (stats.norm.pdf(0) / density) ** 2
        distinct = len({r["eta_lo"] for r in seen})
        usable = math.isfinite(value)
        assert found.used[k] == usable, size
        assert found.value[k] == pytest.approx(value if usable else math.nan, nan_ok=True)
        expected = lost * median_inefficiency(m) * shrunk[k] / m + rounding / distinct
        assert found.variance[k] == pytest.approx(expected, rel=1e-6)
        assert (found.informative[k], found.bracketed[k]) == (m, bracketed)
        assert found.all_trained[k] == m - bracketed - nowhere
        assert found.none_trained[k] == nowhere
    assert found.used.tolist() == [False, True, True, True, True, False]
    censored = [math.log(r["eta_lo"]) for r in twins[0][1]]
    assert found.bound[0] == pytest.approx(np.median(censored))
    assert np.isnan(found.bound[1:]).all()
    below = [r for r in twins[5][1] if r["status"] == "bracketed"]
    lowest = min(values_of(r, "eta_star") for r in below) if below else math.nan
    assert found.ceiling[5] == pytest.approx(lowest, nan_ok=True)
    assert np.isnan(found.ceiling[:5]).all()


@pytest.mark.parametrize("spread", ["equal", "unequal"])
def test_variances_of_many_seeds_are_pooled_only_when_they_agree(spread):
    rng = np.random.default_rng(5)
    rows = []
    for k, n in enumerate((8, 16, 32, 64, 128, 256)):
        sd = 0.2 if spread == "equal" else 0.05 * 2**k
        rows += planted_rows(rng, widths=(n,), depths=(2,), seeds=12, seed_sd=sd, resolution=0.0)
    found = estimate_cells(CellTable.from_rows(rows)).seed_variance
    if spread == "equal":
        own = [
            np.var([math.log(r["eta_lo"]) for r in rows if r["width"] == n], ddof=1)
            for n in (8, 16, 32, 64, 128, 256)
        ]
        assert found == pytest.approx(np.full(6, np.mean(own)))
    else:
        assert np.all(np.diff(found) > 0)


# domain, cutoffs and comparisons


def test_networks_on_a_line_have_a_segment_for_a_domain():
    domain = Domain.of(np.array([16.0, 32.0, 64.0]), np.array([2.0, 4.0, 8.0]))
    assert sorted(domain.corners) == [pytest.approx((16, 2)), pytest.approx((64, 8))]
    assert domain.contains(16, 2)
    assert domain.contains(64, 8)
    assert domain.contains(32 * 2**0.5, 4 * 2**0.5)
    assert not domain.contains(8, 1)  # on the line, before its beginning
    assert not domain.contains(128, 16)  # and beyond its end
    assert not domain.contains(32, 4.1)
    assert not domain.contains(33, 4)
    single = Domain.of(np.array([16.0]), np.array([2.0]))
    assert single.contains(16, 2)
    assert not single.contains(16, 2.1)
    assert not single.contains(17, 2)


def test_corners_leave_out_points_between_them():
    square = [(8, 2), (8, 4), (8, 8), (16, 2), (16, 4), (16, 8), (32, 2), (32, 4), (32, 8)]
    width, depth = (np.array(axis, dtype=float) for axis in zip(*square, strict=True))
    corners = {(round(n), round(d)) for n, d in Domain.of(width, depth).corners}
    assert corners == {(8, 2), (32, 2), (32, 8), (8, 8)}
    assert len(Domain.of(width, depth).corners) == 4


def test_the_distance_from_the_domain_word_by_word():
    domain = Domain.of(np.array([16.0, 64, 16, 64]), np.array([2.0, 2, 8, 8]), cutoff=2.0)
    assert domain.outside(128, 2) == ("width 128 is 2 times the largest fitted",)
    assert domain.outside(8, 2) == (
        "width 8 is 2 times below the least fitted",
        "n·L 16 is 2 times below the least fitted",
    )
    assert domain.outside(64, 16) == (
        "depth 16 is 2 times the largest fitted",
        "n·L 1024 is 2 times the largest fitted",
    )
    assert domain.outside(16, 8.5) == (
        "depth 8.5 is 1.06 times the largest fitted",
        "n/L 1.88 is below the cutoff 2, under which the law was not fitted",
    )
    triangle = Domain.of(np.array([16.0, 64, 64]), np.array([2.0, 2, 8]))
    assert triangle.outside(16, 8) == (
        "width 16 and depth 8 were each within the fitted range, but not together (n/L 2; fitted 8 "
        "to 32)",
    )


def test_a_network_of_one_unit_or_one_layer_is_one():
    fit = fit_power_law(table(widths=(1, 2, 4), depths=(1, 2, 4)), form="separate")
    assert fit.predict(1, 1).in_region
    for width, depth, says in (
        (0.5, 1, "width must be a number of at least 1; got 0.5."),
        (1, math.inf, "depth must be a number of at least 1; got inf."),
    ):
        with pytest.raises(ConfigError) as refused:
            fit.predict(width, depth)
        assert str(refused.value) == says
    with pytest.raises(ConfigError) as refused:
        fit.predict(2, 2, level=1.0)
    assert str(refused.value) == (
        "level must be between 0 and 1, e.g. 0.9 for a 90 % interval; got 1.0."
    )


def test_at_most_thirty_cutoffs_are_tried_with_both_ends():
    cells = table(widths=tuple(range(10, 60, 7)), depths=tuple(range(2, 10)), seeds=2)
    fit = fit_power_law(cells, form="separate")
    aspects = sorted(set(fit.width / fit.depth))
    usable = [
        c
        for c in aspects
        if (kept := fit.width / fit.depth >= c).sum() >= 5
        and np.linalg.matrix_rank(fit.design(fit.width[kept], fit.depth[kept])) == 3
    ]
    found = _cutoffs(fit)
    assert len(found) == 30 < len(usable)
    assert (found[0], found[-1]) == (usable[0], usable[-1])
    assert found == [usable[round(i * (len(usable) - 1) / 29)] for i in range(30)]


def test_contrasts_are_changes_of_exponents_in_units_of_their_deviation():
    fit = fit_power_law(table(misfit_sd=0.1), form="separate")
    x = fit.design(fit.width, fit.depth)
    weight = 1 / (fit.variance + fit.tau2)
    aspect = fit.width / fit.depth
    masks = [aspect >= 4, aspect >= 16]
    found = _contrasts(x, weight, masks)

    def beta(y, kept):
        s = np.sqrt(weight[kept])
        return np.linalg.lstsq(x[kept] * s[:, None], y[kept] * s, rcond=None)[0]

    y = fit.log_value
    expected = []
    for mask in masks:
        change = (beta(y, mask) - beta(y, aspect > 0))[1:]
        inverse = [
            np.linalg.inv(x[kept].T @ (x[kept] * weight[kept][:, None]))
            for kept in (mask, aspect > 0)
        ]
        expected += list(change / np.sqrt(np.diag(inverse[0] - inverse[1])[1:]))
    assert found @ y == pytest.approx(expected, rel=1e-6)


def test_the_response_and_the_level_reach_every_judgement():
    cells = table(misfit_sd=0.1, bend=1.0)
    found = compare_forms(
        cells, forms=("separate",), response="lambda1", cutoff=2.0, level=0.5, seed=3
    )
    row = found["separate"]
    assert found.level == 0.5
    assert row.fit.response == "lambda1"
    assert row.fit.domain.cutoff == 2.0
    assert repr(row.cross_validated) == repr(cross_validate(row.fit, level=0.5, seed=3))
    assert row.cross_validated != cross_validate(row.fit, level=0.9)
    options = {"form": "separate", "response": "lambda1", "level": 0.5}
    assert repr(row.extrapolated) == repr(extrapolate(cells, cutoff=2.0, **options))
    assert row.extrapolated != extrapolate(cells, **options)
    region = find_region(cells, response="lambda1")
    assert {r.fit.response for r in region.rows} == {"lambda1"}
    assert region.fit["width"].value > 0


def test_an_extrapolation_knows_the_small_cells_alone():
    cells = table(misfit_sd=0.1)
    held = extrapolate(cells, form="separate", fraction=0.25, cutoff=4.0, level=0.8)
    size, aspect = cells.width * cells.depth, cells.width / cells.depth
    usable = aspect >= 4
    small = usable & (size <= 0.25 * size[usable].max())
    fit = fit_power_law(cells.subset(small), form="separate")
    errors, inside, widths = [], 0, []
    for k in np.flatnonzero(usable & ~small):
        measured = math.exp(estimate_cells(cells).value[k])
        p = fit.predict(cells.width[k], cells.depth[k], level=0.8, seeds=6)
        errors.append(abs(p.value / measured - 1))
        inside += p.low <= measured <= p.high
        widths.append(math.log(p.high / p.low))
    assert held.median_error == pytest.approx(np.median(errors))
    assert held.coverage == pytest.approx(inside / len(errors))
    assert held.median_width == pytest.approx(math.exp(np.median(widths)))
    assert (held.train, held.test, held.unpredicted) == (small.sum(), len(errors), 0)
    with pytest.raises(ConfigError) as refused:
        extrapolate(cells, form="separate", cutoff=1e9)
    assert str(refused.value) == (
        "no cell can be used: none is bracketed within the cutoff on n/L."
    )


def test_the_best_form_by_every_criterion():
    found = compare_forms(table(), forms=("product", "separate", "constant"))
    scores = {
        "aic": lambda row: row.fit.aic,
        "aicc": lambda row: row.fit.aicc,
        "bic": lambda row: row.fit.bic,
        "cv": lambda row: row.cross_validated.median_error,
        "extrapolation": lambda row: row.extrapolated.median_error,
    }
    for by, score in scores.items():
        assert found.best(by) == min(found.rows, key=score).form
    assert found.best() == found.best("bic")
    # the least of each criterion wins, whichever row that is
    worse = dataclasses.replace(found["separate"], extrapolated=None)
    rows = tuple(worse if row.form == "separate" else row for row in found.rows)
    assert dataclasses.replace(found, rows=rows).best("extrapolation") != "separate"
    none = tuple(dataclasses.replace(row, extrapolated=None) for row in found.rows)
    with pytest.raises(ConfigError) as refused:
        dataclasses.replace(found, rows=none).best("extrapolation")
    assert str(refused.value) == (
        "no form can be ranked by 'extrapolation': there are too few cells for it."
    )
    separate = found["separate"].fit
    difference = separate["width"].value - separate["depth"].value
    c = separate.covariance
    error = math.sqrt(c[1, 1] + c[2, 2] - 2 * c[1, 2])
    freedom = separate.effects.freedom(np.array([0.0, 1.0, -1.0]))
    p = 2 * stats.t.sf(abs(difference) / error, freedom)
    assert found.equal_exponents == pytest.approx(p, rel=1e-6)
