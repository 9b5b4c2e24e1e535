"""The optical digits of the UCI repository, carried in the package: the dataset without a file."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from etastar.data.files import gunzip
from etastar.data.idx import parse_idx
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
    arrays, sums = [], {}
    for name, dimensions in _FILES.items():
        stored = (resources.files("etastar.data") / "carried" / name).read_bytes()
        arrays.append(parse_idx(gunzip(stored, name), name, dimensions))
        sums[name] = hashlib.sha256(stored).hexdigest()
    images, labels = arrays[0][:, None], arrays[1]
    held_out = slice(_EVERY - 1, None, _EVERY)
    training = [row for row in range(len(labels)) if row % _EVERY != _EVERY - 1]
    return RawData(
        name="digits",
        x_train=images[training],
        y_train=labels[training],
        x_val=images[held_out],
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
        files=sums,
    )
