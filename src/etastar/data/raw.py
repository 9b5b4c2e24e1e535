"""From a loader's arrays to a `Dataset`: sizes, standardising, provenance.

Every loader returns a `RawData`, so that what is done to the numbers is done in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etastar.data.dataset import Dataset, provenance
from etastar.errors import ConfigError, DataError

_ABOUT = ("name", "source", "read_from", "files", "checksums_match", "licence", "split")
"""Fields that are part of a data set's provenance as they are."""

_ROWS = 1024
"""Images per block in the histogram: its 64-bit copy of a block stays small."""


@dataclass(frozen=True, eq=False)
class RawData:
    """Arrays as a loader has read them, and where they come from.

    Pixels (uint8) are standardised by `to_dataset`; float32 inputs are used as they are.
    """

    name: str
    x_train: NDArray[Any]
    """uint8 or float32, `[N, *input_shape]`."""
    y_train: NDArray[Any]
    """Integers `[N]`, checked by the loader to lie in `0 .. classes - 1`."""
    x_val: NDArray[Any]
    y_val: NDArray[Any]
    classes: int
    source: str
    """Whose data it is and where it is published."""
    read_from: str
    """The folder the files were read from, or `package`, or `generated`."""
    licence: str
    split: str
    """The rule that separates training from validation."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file read, as stored, by file name."""
    checksums_match: bool | None = None
    """True if those files carry the SHA-256 pinned for the download; False also for the same
    images compressed or packed otherwise, None where nothing is pinned."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further entries of the provenance."""

    def to_dataset(self, train_size: int | None = None, val_size: int | None = None) -> Dataset:
        """The first `train_size` and `val_size` samples, as tensors.

        Raises:
            ConfigError: A size is below 1 or above what there is.
            DataError: The pixels are all equal.
        """
        import torch

        train = check_size("train_size", train_size, len(self.x_train), self.name)
        val = check_size("val_size", val_size, len(self.x_val), self.name)
        scale = pixel_statistics(self.x_train) if self.x_train.dtype == np.uint8 else None
        if scale and scale[1] == 0:
            raise DataError(
                f"every training pixel of {self.name} is {scale[0]}: expected images, got no "
                "spread."
            )
        about = {key: getattr(self, key) for key in _ABOUT}
        record = provenance(about, scale, (len(self.x_train), len(self.x_val)), (train, val))
        return Dataset(
            name=self.name,
            x_train=torch.from_numpy(_flat(self.x_train[:train], scale)),
            y_train=torch.from_numpy(self.y_train[:train].astype(np.int64)),
            x_val=torch.from_numpy(_flat(self.x_val[:val], scale)),
            y_val=torch.from_numpy(self.y_val[:val].astype(np.int64)),
            classes=self.classes,
            input_shape=self.x_train.shape[1:],
            provenance=record | self.notes,
        )


def check_size(
    setting: str, size: int | None, available: int | None = None, name: str = "the dataset"
) -> int:
    """The number of samples to use.

    Args:
        setting: What is being checked, `train_size` or `val_size`.
        size: What was asked for; None for all.
        available: How many there are; None where that is not known yet.
        name: The dataset, for the message.

    Returns:
        `size`, or `available` if that is None (0 where neither is known).

    Raises:
        ConfigError: `size` is not an integer from 1 to `available`.
    """
    if size is None:
        return available or 0
    upper = "" if available is None else f" and at most {available}, which is all {name} has"
    whole = isinstance(size, int) and not isinstance(size, bool)
    if not whole or size < 1 or (available is not None and size > available):
        raise ConfigError(f"{setting} is {size!r}; expected a whole number of at least 1{upper}.")
    return size


def pixel_statistics(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and (population) standard deviation over all pixels, exact to the last rounding.

    The sums are integers, taken from the histogram of the 256 values: no float copy of the images
    is made and the order of summation cannot matter.

    Args:
        pixels: uint8, any shape, not empty.

    Returns:
        Mean and standard deviation in pixel values (0 to 255; digits 0 to 16).
    """
    histogram = np.zeros(256, np.int64)
    for start in range(0, len(pixels), _ROWS):
        histogram += np.bincount(pixels[start : start + _ROWS].ravel(), minlength=256)
    counts = [int(count) for count in histogram]
    number = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    return total / number, float(np.sqrt((squares * number - total**2) / number**2))


def _flat(x: NDArray[Any], scale: tuple[float, float] | None) -> NDArray[np.float32]:
    """`[N, d]` in float32, standardised where mean and deviation are given; one copy is made."""
    out = np.empty(x.shape, np.float32)  # in C order even where x is a transposed view
    if scale is None:
        out[...] = x
    else:
        np.subtract(x, np.float32(scale[0]), out=out, dtype=np.float32)
        out /= np.float32(scale[1])
    return out.reshape(len(x), -1)
