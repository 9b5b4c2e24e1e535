"""The carried digits are scikit-learn's, value for value."""

from __future__ import annotations

from importlib import resources

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits

from etastar.data import load


def test_every_value_and_the_split():
    data = load("digits")
    images, labels = sklearn_digits(return_X_y=True)
    mean, std = data.provenance["mean"], data.provenance["std"]
    held_out = np.arange(len(labels)) % 5 == 4
    for x, y, rows in (
        (data.x_train, data.y_train, ~held_out),
        (data.x_val, data.y_val, held_out),
    ):
        # whole numbers in 0..16 come back exactly, because rounding errors are far below 1/2
        assert np.array_equal(np.rint(x.double().numpy() * std + mean), images[rows])
        assert np.array_equal(y, labels[rows])
    assert mean == images[~held_out].mean()
    assert abs(std / images[~held_out].std() - 1) < 1e-14


def test_licence_and_source_are_carried_with_the_files():
    carried = resources.files("etastar.data") / "carried"
    names = sorted(item.name for item in carried.iterdir())
    assert names == [
        "digits-LICENCE.txt",
        "digits-images-idx3-ubyte.gz",
        "digits-labels-idx1-ubyte.gz",
    ]
    text = (carried / "digits-LICENCE.txt").read_text("utf-8")
    assert "CC BY 4.0" in text
    assert "10.24432/C50P49" in text
    assert sum(len((carried / name).read_bytes()) for name in names) < 57_000


def test_the_class_counts_that_the_documentation_states():
    data = load("digits")
    counts = data.y_val.bincount()
    assert (len(data.y_val), int(counts.min()), int(counts.max())) == (359, 21, 52)
