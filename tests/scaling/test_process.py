"""The Gaussian process that predicts, against scikit-learn's and by what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from planted_laws import table

from etastar.errors import ConfigError
from etastar.scaling import Kernel, estimate_cells, fit_laws, fit_process


@pytest.mark.parametrize("lambda1", [False, True])
def test_it_is_scikit_learns_process(lambda1: bool) -> None:
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    kernels = gaussian_process.kernels
    kernel = Kernel(0.37, (1.1, 0.7), (-0.4, -0.9), 0.8, 0.8, 10.0, 0.06)
    cells = table(3, widths=(16, 48, 128), depths=(2, 3, 8), misfit_sd=0.2)
    found = fit_process(cells, kernel=kernel, lambda1=lambda1)
    width, depth = np.array([300.0, 20.0]), np.array([5.0, 16.0])
    sharp = np.array([3.0, 1.0]) if lambda1 else None

    columns = [np.log(found.width), np.log(found.depth)]
    targets = [np.log(width), np.log(depth)]
    lengths = [1.1, 0.7]
    if lambda1:
        columns, targets = [*columns, found.log_lambda1], [*targets, sharp]
        lengths = [*lengths, 1e9]
    x, target = np.stack(columns, 1), np.stack(targets, 1)
    slopes = np.array([-0.4, -0.9, 0.0][: x.shape[1]])
    x, target = x - x.mean(0), target - x.mean(0)
    theirs = gaussian_process.GaussianProcessRegressor(
        kernels.ConstantKernel(0.64) * kernels.DotProduct(10.0 / 0.8)
        + kernels.ConstantKernel(0.37**2) * kernels.RBF(lengths),
        alpha=found.variance + 0.06**2,
        optimizer=None,
    )
    level = found.log_value.mean()
    theirs.fit(x, found.log_value - level - x @ slopes)
    mean, sd = theirs.predict(target, return_std=True)
    ours = found.predict_log(width, depth, sharp)
    np.testing.assert_allclose(ours[0], mean + level + target @ slopes, rtol=1e-7)
    np.testing.assert_allclose(ours[1], np.sqrt(sd**2 + 0.06**2), rtol=1e-6)


def test_ninety_percent_intervals_cover_planted_laws() -> None:
    inside = []
    for k in range(60):
        cells = table(k, misfit_sd=0.1, seed_sd=0.1)
        small = cells.width * cells.depth <= 1024
        found = fit_process(cells.subset(small))
        truth = estimate_cells(cells)
        for n, d, value in zip(cells.width, cells.depth, truth.value, strict=True):
            if n * d > 1024:
                told = found.predict(n, d)
                inside.append(told.low <= np.exp(value) <= told.high)
    # 60 studies whose networks err together: the mean has a standard error below 0.03, so that a
    # coverage of 0.9 leaves these limits less than once in 1,000
    assert 0.8 < np.mean(inside) <= 1


def test_far_away_it_doubts_more_and_says_where_it_stands() -> None:
    found = fit_process(table(0, widths=(16, 32, 64), depths=(2, 4, 8)))
    near, far = found.predict(32, 4), found.predict(1024, 32)
    assert near.in_region
    assert not near.warnings
    assert far.high / far.low > near.high / near.low
    assert "width 1024 is 16 times the largest fitted" in far.warnings
    with pytest.raises(ConfigError, match="no prediction for width 1024"):
        found.predict(1024, 32, strict=True)
    exact = found.predict(32, 4, seeds=float("inf"))
    assert exact.high / exact.low < near.high / near.low


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 cells with a known value; got 2 of 2"):
        fit_process(table(0, widths=(16, 32), depths=(2,)))
    found = fit_process(table(0, widths=(16, 32, 64), depths=(2, 4)))
    with pytest.raises(ConfigError, match="lambda1 must be left out"):
        found.predict(16, 2, lambda1=3.0)
    with pytest.raises(ConfigError, match="lambda1 must be a positive number"):
        fit_process(table(0), lambda1=True).predict(16, 2)


def test_a_studys_laws_may_be_processes() -> None:
    cells = table(0)
    told = fit_laws(cells, form="process").predict(100, 5, loss="mse")
    assert told == fit_process(cells).predict(100, 5)
