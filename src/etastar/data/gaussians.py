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
"""Accuracy of the best possible classifier; `tests/data/test_data_gaussians.py` derives it."""


def classes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two normals of this task, on the common scale.

    Returns:
        Means and variances of their independent coordinates, each `[2, d]`.
    """
    variances = LARGEST_VARIANCE ** np.linspace(-1.0, 1.0, DIMENSION)
    mean = np.full(DIMENSION, MEAN_NORM / math.sqrt(DIMENSION))
    second_moment = float((variances + mean**2).mean())  # the same for both classes
    means = np.stack([-mean, mean]) / math.sqrt(second_moment)
    return means, np.stack([variances, variances[::-1]]) / second_moment


def load_gaussians(folder: Path | None, progress: bool) -> RawData:
    """18,000 + 2,000 samples of two normals in 20 dimensions, drawn anew, always the same.

    Args:
        folder: Not used; there are no files.
        progress: Not used.

    Returns:
        Inputs `[N, 20]` in float32, not standardised, and labels 0, 1, 0, 1, ...
    """
    means, variances = classes()
    x_train, x_val = _draw(0, TRAIN_PER_CLASS), _draw(1, VAL_PER_CLASS)
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
            "class_means": means.tolist(),
            "class_variances": variances.tolist(),
            "bayes_accuracy": BAYES_ACCURACY,
        },
    )


def _draw(part: int, count: int) -> NDArray[np.float32]:
    """`count` samples of each class, alternating, `[2·count, d]`."""
    samples = [
        mean + np.sqrt(variance) * _standard_normal((count, DIMENSION), (label, part))
        for label, (mean, variance) in enumerate(zip(*classes(), strict=True))
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
