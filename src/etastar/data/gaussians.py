"""The synthetic task: two multivariate normals, 9,000 + 1,000 samples of each.

The paper says no more of it than this; dimension, means and covariances are our choice:

- d = 20 dimensions, far fewer than the n·L of any network worth measuring, so that the input
  layer's share of the gradient is small: the opposite of MNIST's 784.
- Class 0 is N(−m, diag(s)), class 1 is N(+m, diag(reversed s)), with m along (1, ..., 1) and the
  variances s in geometric progression from 1/3 to 3. The covariances differ, so the best boundary
  is a quadric and a linear classifier cannot find it (82 % against 98 %).
- Everything is divided by one number, so that the second moment of the mixture, averaged over the
  coordinates, is 1: inputs are on the scale of standardised images.
- Rows alternate between the classes: any first `train_size` rows are balanced.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from etastar.data.raw import RawData

DIMENSION = 20
MEAN_NORM = 1.0
"""Euclidean norm of m, before the common scale."""
LARGEST_VARIANCE = 3.0
"""The variances run from its inverse to this, before the common scale."""
TRAIN_PER_CLASS, VAL_PER_CLASS = 9_000, 1_000
SEED = 2023
BAYES_ACCURACY = 0.983215
"""Of the best possible classifier, from `bayes_accuracy`."""


class Classes(NamedTuple):
    """The two normals: means and variances of their independent coordinates, each `[2, d]`."""

    means: NDArray[np.float64]
    variances: NDArray[np.float64]


def classes() -> Classes:
    """The two normals of this task, on the common scale."""
    variances = LARGEST_VARIANCE ** np.linspace(-1.0, 1.0, DIMENSION)
    mean = np.full(DIMENSION, MEAN_NORM / math.sqrt(DIMENSION))
    second_moment = float((variances + mean**2).mean())  # the same for both classes
    return Classes(
        means=np.stack([-mean, mean]) / math.sqrt(second_moment),
        variances=np.stack([variances, variances[::-1]]) / second_moment,
    )


def bayes_accuracy(normals: Classes) -> float:
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
    from scipy.integrate import quad

    def recognised(mean: NDArray[np.float64], other: NDArray[np.float64],
                   var: NDArray[np.float64], other_var: NDArray[np.float64]) -> float:  # fmt: skip
        shift = mean - other
        a = 0.5 - 0.5 * var / other_var
        b = -shift * np.sqrt(var) / other_var
        c = float((-0.5 * np.log(other_var / var) - 0.5 * shift**2 / other_var).sum())

        def integrand(t: float) -> float:
            w = 1 - 2j * a * t
            log_phi = 1j * c * t - (0.5 * np.log(w) + 0.5 * b**2 * t**2 / w).sum()
            return float(np.exp(log_phi).imag / t)

        return 0.5 - float(quad(integrand, 0, np.inf, limit=1000)[0]) / math.pi

    (m0, m1), (s0, s1) = normals.means, normals.variances
    return 0.5 * (recognised(m0, m1, s0, s1) + recognised(m1, m0, s1, s0))


def load_gaussians(folder: Path | None, progress: bool) -> RawData:
    """18,000 + 2,000 samples of two normals in 20 dimensions, drawn anew, always the same.

    Args:
        folder: Not used; there are no files.
        progress: Not used.

    Returns:
        Inputs `[N, 20]` in float32, not standardised, and labels 0, 1, 0, 1, ...
    """
    normals = classes()
    x_train, x_val = (
        _draw(normals, part, count) for part, count in enumerate((TRAIN_PER_CLASS, VAL_PER_CLASS))
    )
    return RawData(
        name="gaussians",
        x_train=x_train,
        y_train=np.arange(len(x_train)) % 2,
        x_val=x_val,
        y_val=np.arange(len(x_val)) % 2,
        classes=2,
        source="two multivariate normals, drawn by etastar.data.gaussians",
        read_from="generated",
        licence="none needed",
        split="drawn separately",
        notes={
            "seed": SEED,
            "class_means": normals.means.tolist(),
            "class_variances": normals.variances.tolist(),
            "bayes_accuracy": BAYES_ACCURACY,
        },
    )


def _draw(normals: Classes, part: int, count: int) -> NDArray[np.float32]:
    """`count` samples of each class, alternating, `[2·count, d]`."""
    samples = [
        mean + np.sqrt(variance) * _standard_normal((count, DIMENSION), (label, part))
        for label, (mean, variance) in enumerate(zip(*normals, strict=True))
    ]
    return np.stack(samples, axis=1).reshape(-1, DIMENSION).astype(np.float32)


def _standard_normal(shape: tuple[int, int], stream: tuple[int, int]) -> NDArray[np.float64]:
    """Standard normals by inversion from the raw bits of PCG64.

    numpy promises that the bits stay the same in all versions (NEP 19); it promises no such thing
    for its own normals.
    """
    from scipy.special import ndtri

    bits = np.random.PCG64(np.random.SeedSequence(SEED, spawn_key=stream))
    raw = bits.random_raw(math.prod(shape))
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1), 53 bits
    normal: NDArray[np.float64] = ndtri(uniform).reshape(shape)
    return normal
