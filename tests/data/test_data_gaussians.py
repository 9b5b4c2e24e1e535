"""The two normals: their moments, their Bayes accuracy, and draws that never change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from etastar.data import load
from etastar.data.gaussians import BAYES_ACCURACY, DIMENSION, Classes, bayes_accuracy, classes


def log_ratio(x: np.ndarray, normals: Classes) -> np.ndarray:
    """Log-likelihood of class 1 less that of class 0, from scipy's densities."""
    logs = [
        stats.norm.logpdf(x, mean, np.sqrt(variance)).sum(-1)
        for mean, variance in zip(*normals, strict=True)
    ]
    return logs[1] - logs[0]


def linear_accuracy(normals: Classes) -> float:
    """Of the best linear classifier through the midpoint: both classes err equally by symmetry."""
    shift = normals.means[1] - normals.means[0]
    weights = shift / normals.variances.sum(0)
    return float(stats.norm.cdf(weights @ shift / 2 / math.sqrt(weights**2 @ normals.variances[0])))


class TestBayesAccuracy:
    @pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
    def test_equal_covariances_have_a_closed_form(self, distance):
        # P = Φ(Δ/2) with Δ the Mahalanobis distance of the means
        variances = np.array([0.5, 2.0, 1.0])
        mean = np.sqrt(variances / 3) * distance / 2
        normals = Classes(np.stack([-mean, mean]), np.stack([variances, variances]))
        assert bayes_accuracy(normals) == pytest.approx(stats.norm.cdf(distance / 2), abs=1e-7)

    @pytest.mark.parametrize("ratio", [2.0, 9.0])
    def test_equal_means_have_a_closed_form(self, ratio):
        # N(0, I) against N(0, r I) in d dimensions: class 1 where |x|² > d r ln r / (r − 1)
        dimension = 8
        cut = dimension * ratio * math.log(ratio) / (ratio - 1)
        right = stats.chi2.cdf(cut, dimension), stats.chi2.sf(cut / ratio, dimension)
        variances = np.outer([1.0, ratio], np.ones(dimension))
        normals = Classes(np.zeros((2, dimension)), variances)
        assert bayes_accuracy(normals) == pytest.approx(sum(right) / 2, abs=1e-7)

    def test_the_documented_value(self):
        assert bayes_accuracy(classes()) == pytest.approx(BAYES_ACCURACY, abs=1e-6)
        assert load("gaussians").provenance["bayes_accuracy"] == BAYES_ACCURACY

    def test_against_simulation(self):
        rng, count, normals = np.random.default_rng(7), 100_000, classes()
        right = 0
        for label in (0, 1):
            noise = rng.standard_normal((count, DIMENSION))
            x = normals.means[label] + np.sqrt(normals.variances[label]) * noise
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
            z = (x[y == label].double().numpy() - normals.means[label]) / np.sqrt(
                normals.variances[label]
            )
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
