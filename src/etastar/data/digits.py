"""The optical digits of the UCI repository, carried in the package: the dataset without a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etastar.data.files import sha256_of
from etastar.data.idx import read_idx
from etastar.data.raw import RawData

_FILES = {"digits-images-idx3-ubyte.gz": 3, "digits-labels-idx1-ubyte.gz": 1}
"""Carried files, beside `digits-LICENCE.txt` in `carried/`, and their dimensions."""

_EVERY = 5


def load_digits(folder: Path | None, progress: bool) -> RawData:
    """1,797 handwritten digits of 8×8 pixels in 0..16, as scikit-learn's `load_digits` has them.

    There is no official split of these. Ours: every fifth sample (rows 4, 9, 14, ...) is
    validation, 359 of 1,797. The samples are ordered by writer, so every writer is in both parts.
    The rule takes no notice of the classes: validation has 21 to 52 samples of each.

    Args:
        folder: Not used; the files are in the package.
        progress: Not used.

    Returns:
        Images `[N, 1, 8, 8]` and labels.
    """
    folder = Path(__file__).parent / "carried"
    images, labels = (read_idx(folder / name, number) for name, number in _FILES.items())
    held_out = np.arange(len(labels)) % _EVERY == _EVERY - 1
    return RawData(
        name="digits",
        x_train=images[~held_out, None],
        y_train=labels[~held_out],
        x_val=images[held_out, None],
        y_val=labels[held_out],
        classes=10,
        source=(
            "Optical Recognition of Handwritten Digits, Alpaydin & Kaynak 1998, UCI Machine "
            "Learning Repository, https://doi.org/10.24432/C50P49 (its test file, as scikit-learn "
            "ships it)"
        ),
        read_from="package",
        licence="CC BY 4.0",
        split=f"ours: every {_EVERY}th sample (rows 4, 9, 14, ...) is validation",
        files={name: sha256_of(folder / name) for name in _FILES},
    )
