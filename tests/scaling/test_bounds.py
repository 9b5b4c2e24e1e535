"""Cells of which only a bound is known: against the censored likelihood, maximised by hand."""

import numpy as np
import pytest
from planted_laws import planted_rows
from scipy.optimize import minimize
from scipy.stats import norm

from etastar.scaling import CellTable, estimate_cells, fit_power_law
from etastar.scaling.least_squares import fit_random_effects, solve, stand_ins


def minus_log_likelihood(beta, x, y, v, tau2, bounds):
    """The definition: densities of what was measured, probabilities of what was bounded."""
    total = norm.logpdf(y, x @ beta, np.sqrt(v + tau2)).sum()
    for row, c, own, side in zip(*bounds, strict=True):
        z = (c - row @ beta) / np.sqrt(own + tau2)
        total += norm.logsf(z) if side > 0 else norm.logcdf(z)
    return -total


def planted(seed, bounded):
    rng = np.random.default_rng(seed)
    x = np.concatenate([np.ones((12, 1)), rng.normal(size=(12, 2))], 1)
    y = x @ [0.3, -0.6, -0.8] + 0.3 * rng.normal(size=12)
    v = rng.uniform(0.01, 0.1, 12)
    side = np.where(rng.random(bounded) < 0.5, 1.0, -1.0)
    bounds = (x[:bounded], y[:bounded] - 0.1 * side, v[:bounded], side)
    return x[bounded:], y[bounded:], v[bounded:], 0.05, bounds


@pytest.mark.parametrize("seed", range(5))
def test_with_the_stand_ins_least_squares_maximises_the_censored_likelihood(seed):
    x, y, v, tau2, bounds = planted(seed, 4)
    (alone,), _ = solve(x, y, 1 / (v + tau2)[None])
    found, values, variances = stand_ins(alone, x, y, v, tau2, bounds)
    weight, whole = 1 / (np.append(v, variances) + tau2), np.concatenate([x, bounds[0]])
    (beta,), (covariance,) = solve(whole, np.append(y, values), weight[None])
    assert found == pytest.approx(beta, abs=1e-12)
    args = (x, y, v, tau2, bounds)
    best = minimize(minus_log_likelihood, np.zeros(3), args, options={"gtol": 1e-9}).x
    assert beta == pytest.approx(best, abs=1e-6)
    step, axes = 1e-4, np.eye(3)

    def at(*moves):
        return minus_log_likelihood(beta + step * np.sum(moves, 0), *args)

    curvature = [
        [(at(i, j) - at(i, -j) - at(-i, j) + at(-i, -j)) / (4 * step**2) for j in axes]
        for i in axes
    ]
    assert covariance == pytest.approx(np.linalg.inv(curvature), rel=1e-4, abs=1e-7)


def test_a_bound_far_from_the_law_says_nothing_and_one_against_it_is_a_measurement():
    x, y, v, tau2, (xb, _, vb, _) = planted(0, 1)
    (alone,), _ = solve(x, y, 1 / (v + tau2)[None])
    for side in (1.0, -1.0):
        far = (xb, xb @ alone - 50 * side, vb, np.array([side]))
        _, _, variance = stand_ins(alone, x, y, v, tau2, far)
        assert variance[0] > 1e6
        against = (xb, xb @ alone + 50 * side, vb, np.array([side]))
        _, value, variance = stand_ins(alone, x, y, v, tau2, against)
        assert value == pytest.approx(against[1], rel=0.01)
        assert variance[0] + tau2 == pytest.approx(vb[0] + tau2, rel=0.01)


def test_the_bounds_of_cells_are_what_their_seeds_say():
    rows = planted_rows(np.random.default_rng(0), widths=(8, 16, 32), depths=(2,), seeds=3)
    cell = {width: [row for row in rows if row["width"] == width] for width in (8, 16, 32)}
    for row in cell[8][:2]:
        row.update(status="none-trained", eta_lo=None, eta_hi=None)
    for row in cell[16]:
        row.update(status="none-trained", eta_lo=None, eta_hi=None)
    for row in cell[32][:2]:
        row.update(status="all-trained", eta_lo=2.0, eta_hi=None)
    found = estimate_cells(CellTable.from_rows(rows))
    left = cell[8][2]
    assert found.ceiling[0] == pytest.approx(0.5 * np.log(left["eta_lo"] * left["eta_hi"]))
    assert found.bound[2] == pytest.approx(np.log(2.0))
    assert np.isnan([found.ceiling[1], found.ceiling[2], found.bound[0], found.bound[1]]).all()
    assert np.isfinite(found.variance).all()


def test_exponents_where_the_range_ends_below_some_networks():
    """η* of the smallest networks is above the range: as bounds they leave the law where it is.

    In 200 other studies the exponents were −0.503 and −1.006 with standard deviations of 0.035 and
    0.070, and both intervals covered in 97 %; with these cells left out −0.479 and −0.961, and 94
    and 92 %: those that the range keeps are low for their size.
    """
    ours, measured, inside = [], [], 0
    for k in range(60):
        rows = planted_rows(np.random.default_rng(k), top=0.05, misfit_sd=0.2)
        fit = fit_power_law(CellTable.from_rows(rows), form="separate")
        assert fit.usage.right_censored >= 2
        ours.append(fit.beta[1:])
        x = np.stack([np.ones_like(fit.width), np.log(fit.width), np.log(fit.depth)], 1)
        (left_out,), _, _ = fit_random_effects(x, fit.log_value, fit.variance)
        measured.append(left_out[1:])
        inside += sum(fit[n].low <= v <= fit[n].high for n, v in (("width", -0.5), ("depth", -1)))
    # standard errors 0.0045 and 0.009, of the difference of both ways a third of that
    assert np.mean(ours, 0) == pytest.approx([-0.5, -1], abs=0.03)
    assert (np.mean(measured, 0) - np.mean(ours, 0) > [0.01, 0.02]).all()
    assert inside > 105  # of 120 at 95 %: false-alarm rate 1e-3
