"""CIFAR-10's batches are pickles, and a pickle is a program: it is listed here, and never run.

`pickletools` lists the steps of a pickle with their values. A batch is a dictionary with a list of
labels and an array of pixels, whose bytes stand in that list behind their keys. Nothing is called,
so a manipulated file can at worst be refused.
"""

from __future__ import annotations

import pickletools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from etastar.data.dataset import check_labels
from etastar.errors import DataError

Steps: TypeAlias = list[tuple[str, Any]]
"""Steps of a pickle: what each is called, and its value; texts as bytes."""
_PIXELS = 3 * 32 * 32
_OF_A_LIST = ("EMPTY_LIST", "MARK", "APPENDS", "BINPUT", "LONG_BINPUT", "MEMOIZE")
"""Steps of a list of integers beside its integers."""


def parse_batch(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The images and labels of one batch.

    Args:
        content: The file's bytes.
        name: How to call it in errors.

    Returns:
        Images `[N, 3072]` (red plane, green plane, blue plane, each 32×32) and labels `[N]`, uint8.

    Raises:
        DataError: This is not a batch of CIFAR-10.
    """
    try:
        steps = [
            (code.name, value.encode("latin-1", "ignore") if isinstance(value, str) else value)
            for code, value, _ in pickletools.genops(content)
        ]
        array, listed = (_behind(steps, key) for key in (b"data", b"labels"))
        labels = _labels(listed)
        check_labels(labels, 10, name)
        return _pixels(array, len(labels)), labels.astype(np.uint8)
    except DataError:
        raise
    except Exception as error:  # damaged data may raise anything in pickletools
        raise DataError(
            f"{name} is not a batch of CIFAR-10, or is damaged: {error!s:.200}."
        ) from error


def _behind(steps: Steps, key: bytes) -> Steps:
    """The steps behind a key of the dictionary."""
    for place, (_, value) in enumerate(steps):
        if value == key:
            return steps[place + 1 :]
    raise ValueError(f"it has no entry {key.decode()!r}")


def _labels(steps: Steps) -> NDArray[np.int64]:
    """The integers of the list that comes first in these steps, `[N]`."""
    if "EMPTY_LIST" not in [kind for kind, _ in steps[:2]]:  # one step may store the key
        raise ValueError("'labels' is not a list of integers, as it is in CIFAR-10")
    labels = []
    for kind, value in steps:
        if "INT" in kind and type(value) is int:
            labels.append(value)
        elif kind not in _OF_A_LIST:
            break
    return np.array(labels, dtype=np.int64)


def _pixels(steps: Steps, rows: int) -> NDArray[np.uint8]:
    """The bytes of the array that comes first in these steps, `[rows, 3072]`."""
    stored = max((value for _, value in steps if isinstance(value, bytes)), key=len, default=b"")
    before = steps[: [value for _, value in steps].index(stored)] if stored else []
    # numpy stores a first shape, a version, the shape, the type, the order (not Fortran's), bytes
    numbers = [value for kind, value in before if "INT" in kind and type(value) is int]
    if (
        (rows == 0 or numbers[2:4] != [rows, _PIXELS] or len(stored) != rows * _PIXELS)
        or before[-1:] not in ([("NEWFALSE", None)], [("INT", False)])
        or b"u1" not in (value for _, value in before)
    ):
        raise ValueError(
            f"expected 'data' to be a numpy array of unsigned bytes in C order, {_PIXELS} for each "
            f"of {rows} labels; got {len(stored)} bytes"
        )
    return np.frombuffer(stored, np.uint8).reshape(rows, _PIXELS)
