"""Laws whose lack of fit is shared by networks of one width or one depth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from etastar.scaling import two_way

WIDTHS, DEPTHS = np.array([32.0, 64, 128, 256, 512]), np.array([2.0, 3, 4, 6, 8])
SHARED = np.array([0.0, 1.0, -1.0])


def design() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Width, depth and the design of separate exponents on a full grid."""
    width, depth = (axis.ravel() for axis in np.meshgrid(WIDTHS, DEPTHS))
    return width, depth, np.stack([np.ones(len(width)), np.log(width), np.log(depth)], 1)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_coverage_and_size_whatever_is_shared(share: float) -> None:
    width, depth, x = design()
    row, column = np.searchsorted(WIDTHS, width), np.searchsorted(DEPTHS, depth)
    rng = np.random.default_rng(7)
    inside, rejected = [], []
    for _ in range(800):
        effects = rng.normal(size=5)[row] + rng.normal(size=5)[column]
        own = rng.normal(size=25)
        missed = 0.2 * (np.sqrt(share / 2) * effects + np.sqrt(1 - share) * own)
        y = x @ [0.0, -0.6, -0.6] + missed + 0.05 * rng.normal(size=25)
        beta = np.linalg.lstsq(x, y, rcond=None)[0]
        found = two_way(x, y, np.full(25, 0.05**2), width, depth, np.ones(25))
        rejected.append(found.p_value(SHARED, beta) < 0.05)
        for k in (1, 2):
            t = stats.t.ppf(0.975, found.freedom(np.eye(3)[k]))
            inside.append(abs(beta[k] + 0.6) <= t * np.sqrt(found.covariance[k, k]))
    # 1,600 intervals and 800 tests: a true 95 % leaves the first limits once in 10,000 by chance,
    # a true 5 % the second once in 300
    assert 0.92 < np.mean(inside) < 0.98
    assert 0.03 < np.mean(rejected) < 0.08


def test_a_full_grid_is_the_analysis_of_variance() -> None:
    width, depth, x = design()
    y = x @ [1.0, -0.5, -0.9] + 0.3 * np.random.default_rng(1).normal(size=25)
    found = two_way(x, y, np.full(25, 1e-6), width, depth, np.ones(25))
    # the exponent of width is the slope through the five means, with three degrees of freedom
    means = y.reshape(5, 5).mean(0)
    line = stats.linregress(np.log(WIDTHS), means)
    assert found.freedom(np.eye(3)[1]) == pytest.approx(3)
    assert np.sqrt(found.covariance[1, 1]) == pytest.approx(line.stderr, rel=1e-3)
    assert (found.widths, found.depths) == (5, 5)


def test_axes_that_cannot_be_told_apart_are_left_to_the_network() -> None:
    width, depth = np.array([16.0, 32, 64, 128]), np.full(4, 2.0)
    x = np.stack([np.ones(4), np.log(width)], 1)
    found = two_way(x, np.array([0.1, 0.3, 0.2, 0.5]), np.full(4, 1e-3), width, depth, np.ones(4))
    assert list(found.components) == ["network"]
    assert found.freedom(np.array([0.0, 1.0])) == pytest.approx(2)
    assert (found.widths, found.depths) == (4, 1)
