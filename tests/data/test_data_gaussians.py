"""The two normals: their moments, their Bayes accuracy, and draws that never change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from etastar.data import load
from etastar.data.gaussians import BAYES_ACCURACY, DIMENSION, classes

Normals = tuple[np.ndarray, np.ndarray]
"""Means and variances, each `[2, d]`."""


def bayes_accuracy(normals: Normals) -> float:
    """Accuracy of the Bayes classifier for two equally likely normals, by numerical integration.

    Under class 0, with x = μ0 + √σ0 z, the log-likelihood ratio of class 1 to class 0 is
    Q = Σ_i (a_i z_i² + b_i z_i + c_i), z standard normal, whose characteristic function is
    φ(t) = Π_i (1 − 2i a_i t)^(−½) exp(−½ b_i² t² / (1 − 2i a_i t)) e^(i c_i t). Class 0 is
    recognised with probability P(Q < 0) = ½ − (1/π) ∫_0^∞ Im φ(t)/t dt (Gil-Pelaez 1951; Imhof
    1961); class 1 likewise, and the result is the mean of both.

    Args:
        normals: Means and variances `[2, d]`.

    Returns:
        A probability, to about 1e-7.
    """

    def recognised(mean: np.ndarray, other: np.ndarray,
                   var: np.ndarray, other_var: np.ndarray) -> float:  # fmt: skip
        shift = mean - other
        a = 0.5 - 0.5 * var / other_var
        b = -shift * np.sqrt(var) / other_var
        c = float((-0.5 * np.log(other_var / var) - 0.5 * shift**2 / other_var).sum())

        def integrand(t: float) -> float:
            w = 1 - 2j * a * t
            log_phi = 1j * c * t - (0.5 * np.log(w) + 0.5 * b**2 * t**2 / w).sum()
            return float(np.exp(log_phi).imag / t)

        return 0.5 - float(quad(integrand, 0, np.inf, limit=1000)[0]) / math.pi

    (m0, m1), (s0, s1) = normals
    return 0.5 * (recognised(m0, m1, s0, s1) + recognised(m1, m0, s1, s0))


def log_ratio(x: np.ndarray, normals: Normals) -> np.ndarray:
    """Log-likelihood of class 1 less that of class 0, from scipy's densities."""
    logs = [
        stats.norm.logpdf(x, mean, np.sqrt(variance)).sum(-1)
        for mean, variance in zip(*normals, strict=True)
    ]
    return logs[1] - logs[0]


def linear_accuracy(normals: Normals) -> float:
    """Of the best linear classifier through the midpoint: both classes err equally by symmetry."""
    shift = normals[0][1] - normals[0][0]
    weights = shift / normals[1].sum(0)
    return float(stats.norm.cdf(weights @ shift / 2 / math.sqrt(weights**2 @ normals[1][0])))


class TestBayesAccuracy:
    @pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
    def test_equal_covariances_have_a_closed_form(self, distance):
        # P = Φ(Δ/2) with Δ the Mahalanobis distance of the means
        variances = np.array([0.5, 2.0, 1.0])
        mean = np.sqrt(variances / 3) * distance / 2
        normals = np.stack([-mean, mean]), np.stack([variances, variances])
        assert bayes_accuracy(normals) == pytest.approx(stats.norm.cdf(distance / 2), abs=1e-7)

    @pytest.mark.parametrize("ratio", [2.0, 9.0])
    def test_equal_means_have_a_closed_form(self, ratio):
        # N(0, I) against N(0, r I) in d dimensions: class 1 where |x|² > d r ln r / (r − 1)
        dimension = 8
        cut = dimension * ratio * math.log(ratio) / (ratio - 1)
        right = stats.chi2.cdf(cut, dimension), stats.chi2.sf(cut / ratio, dimension)
        variances = np.outer([1.0, ratio], np.ones(dimension))
        normals = np.zeros((2, dimension)), variances
        assert bayes_accuracy(normals) == pytest.approx(sum(right) / 2, abs=1e-7)

    def test_the_documented_value(self):
        assert bayes_accuracy(classes()) == pytest.approx(BAYES_ACCURACY, abs=1e-6)
        assert load("gaussians").provenance["bayes_accuracy"] == BAYES_ACCURACY

    def test_against_simulation(self):
        rng, count, normals = np.random.default_rng(7), 100_000, classes()
        right = 0
        for label in (0, 1):
            noise = rng.standard_normal((count, DIMENSION))
            x = normals[0][label] + np.sqrt(normals[1][label]) * noise
            right += int(((log_ratio(x, normals) > 0) == label).sum())
        error = math.sqrt(BAYES_ACCURACY * (1 - BAYES_ACCURACY) / (2 * count))
        # four standard errors: a false alarm once in 16,000 seeds
        assert right / (2 * count) == pytest.approx(BAYES_ACCURACY, abs=4 * error)

    def test_a_linear_classifier_falls_far_short(self):
        assert linear_accuracy(classes()) == pytest.approx(0.82, abs=0.005)


def test_the_mixture_is_centred_with_second_moment_one():
    means, variances = classes()
    assert means.sum(0) == pytest.approx(0)
    assert (variances + means**2).mean() == pytest.approx(1)
    assert not np.allclose(variances[0], variances[1])


def test_samples_follow_their_normals():
    data, normals = load("gaussians"), classes()
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val)):
        for label in (0, 1):
            z = (x[y == label].double().numpy() - normals[0][label]) / np.sqrt(normals[1][label])
            # Kolmogorov-Smirnov over all coordinates pooled; at 1e-4 for each of four tests, a
            # false alarm once in 2,500 seeds
            assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
            # coordinates are independent: n·r² is χ² with 1 degree of freedom for each of 190
            # pairs; the largest of 4·190 exceeds 20 once in 170 seeds
            squared = np.corrcoef(z.T)[np.triu_indices(DIMENSION, 1)] ** 2
            assert len(z) * squared.max() < 20


def test_the_bayes_classifier_does_as_well_on_the_validation_samples():
    data = load("gaussians")
    right = (log_ratio(data.x_val.double().numpy(), classes()) > 0) == data.y_val.numpy()
    error = math.sqrt(BAYES_ACCURACY * (1 - BAYES_ACCURACY) / len(right))
    # four standard errors: a false alarm once in 16,000 seeds
    assert right.mean() == pytest.approx(BAYES_ACCURACY, abs=4 * error)


def test_any_first_rows_are_balanced():
    data = load("gaussians", train_size=10)
    assert data.y_train.tolist() == [0, 1] * 5


def test_training_and_validation_share_no_sample():
    data = load("gaussians")
    rows = np.concatenate([data.x_train.numpy(), data.x_val.numpy()])
    assert len(np.unique(rows[:, 0])) > 0.99 * len(rows)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_draws_stay_what_they_are():
    data = load("gaussians", train_size=2, val_size=2)
    # recorded when the dataset was fixed: stored results refer to these numbers
    recorded = [
        [0.078407, 1.017033, -0.671721],
        [-0.266381, 1.154371, 0.893584],
        [-2.129337, -0.771899, 2.161188],
    ]
    drawn = [data.x_train[0, :3], data.x_train[1, -3:], data.x_val[1, :3]]
    np.testing.assert_allclose(np.stack(drawn), recorded, rtol=1e-5)
