"""The Gaussian process that predicts, against scikit-learn's and by what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from planted_laws import planted_rows, table

from etastar.errors import ConfigError
from etastar.scaling import CellTable, Kernel, estimate_cells, extrapolate, fit_laws, fit_process


def test_it_is_scikit_learns_process() -> None:
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    kernels = gaussian_process.kernels
    kernel = Kernel(0.37, (1.1, 0.7), (-0.4, -0.9), 0.8, (1.3, 0.2), 10.0, 0.06)
    cells = table(3, widths=(16, 48, 128), depths=(2, 3, 8), misfit_sd=0.2)
    found = fit_process(cells, kernel=kernel)
    width, depth = np.array([300.0, 20.0, 200.0]), np.array([5.0, 16.0, 2.0])

    def features(n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """A linear kernel of these is the prior of the law; f sees the first two."""
        n = np.log(n) - np.log(found.width).mean()
        d = np.log(d) - np.log(found.depth).mean()
        two = d == np.log(2) - np.log(found.depth).mean()
        return np.stack([0.8 * n, 0.8 * d, 1.3 * two, 0.2 * two * n], 1)

    x, target = features(found.width, found.depth), features(width, depth)
    slopes = np.array([-0.5, -1.125, 0.0, 0.0])  # of what is 0.8 times a logarithm
    theirs = gaussian_process.GaussianProcessRegressor(
        kernels.DotProduct(10.0)
        + kernels.ConstantKernel(0.37**2) * kernels.RBF([1.1 * 0.8, 0.7 * 0.8, 1e9, 1e9]),
        alpha=found.variance + 0.06**2,
        optimizer=None,
    )
    level = found.log_value.mean()
    theirs.fit(x, found.log_value - level - x @ slopes)
    mean, sd = theirs.predict(target, return_std=True)
    ours = found.predict_log(width, depth)
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


def test_networks_of_two_layers_do_not_pull_at_deeper_ones() -> None:
    """Planted as it was seen: two layers take a rate that hardly falls with the width."""
    rows = planted_rows(np.random.default_rng(0), width=-0.7, depth=-0.5, seed_sd=0.05, seeds=9)
    for row in rows:
        if row["depth"] == 2:
            for end in ("eta_lo", "eta_hi"):
                row[end] *= 3 * (row["width"] / 16) ** 0.6
    cells = CellTable.from_rows(rows)
    found = fit_process(cells.subset(cells.width * cells.depth <= 512))
    for depth in (2, 4):
        told = found.predict(512, depth)
        truth = 512**-0.7 * depth**-0.5 * (3 * 32**0.6 if depth == 2 else 1)
        assert told.value == pytest.approx(truth, rel=0.25)


def test_two_layers_of_another_architecture_are_like_any_other() -> None:
    """On a planted power law, depth 2 is predicted from 1 and 3, and 3 from 1 and 2."""
    rows = planted_rows(
        np.random.default_rng(0), depths=(1, 2, 3), width=-0.5, depth=-1.0, seed_sd=0.05, seeds=9
    )
    cells = CellTable.from_rows(rows, group_by=["loss"])  # no κ: not the paper's networks
    for left_out in (2, 3):
        told = fit_process(cells.subset(cells.depth != left_out)).predict(64, left_out)
        assert told.value == pytest.approx(64**-0.5 / left_out, rel=0.1)
        assert told.high / told.low < 2
    ours = fit_process(CellTable.from_rows(rows).subset(cells.depth != 2)).predict(64, 2)
    assert ours.high / ours.low > 10


def test_a_studys_laws_may_be_processes() -> None:
    cells = table(0)
    told = fit_laws(cells, form="process").predict(100, 5, loss="mse")
    assert told == fit_process(cells).predict(100, 5)


def test_a_kernel_is_the_processes_alone() -> None:
    with pytest.raises(ConfigError, match="a kernel belongs to the form 'process'; got 'product'"):
        extrapolate(table(), "product", kernel=Kernel())
    wide = extrapolate(table(), "process", kernel=Kernel(sd=1.0))
    assert np.all(wide.half > extrapolate(table(), "process").half)
