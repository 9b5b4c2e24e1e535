"""CIFAR-10's batches are pickles, and a pickle is a program: it is run here with nothing to call.

The files need numpy's array and dtype, which are replaced by an inert record, and plain dicts,
lists, bytes and numbers. No function or class from outside this file can be reached, so a
manipulated file can at worst be refused. Pixels are then taken from the recorded bytes.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from etastar.data.dataset import check_labels
from etastar.errors import DataError

_PIXELS = 3 * 32 * 32

_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
"""Names that a batch may ask for."""

_BARRED = b"".join(
    (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID),
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    )
)
"""Instructions that make objects by other means; the real files use none of them."""


class _Record:
    """Stands in for all of `_NAMES`: keeps what it is made with, and does nothing."""

    def __init__(self, *made_with: Any) -> None:
        self.made_with = made_with
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


# The implementation in Python, not the one in C: there a single damaged byte in a memo index can
# ask for tens of gigabytes before anything is checked.
class _BatchUnpickler(pickle._Unpickler):
    """Knows `_NAMES`, and not the instructions in `_BARRED`."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: act for code, act in pickle._Unpickler.dispatch.items() if code not in _BARRED
    }

    def find_class(self, module: str, name: str) -> Any:
        """An inert record; anything else is refused."""
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Record


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
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise DataError(f"{name} holds a {type(batch).__name__}; expected a dict.")
        # Python 2 wrote the keys as bytes
        entries = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        for key in ("data", "labels"):
            if key not in entries:
                raise DataError(f"{name} has no entry {key!r}; expected a batch of CIFAR-10.")
        images, labels = _pixels(entries["data"], name), _labels(entries["labels"], name)
        if len(labels) != len(images):
            raise DataError(
                f"{name} holds {len(images)} images but {len(labels)} labels; expected one each."
            )
    except DataError:
        raise
    # the documentation of pickle promises no list of what damaged data can raise, and the values
    # it leaves behind can make even their own repr fail
    except Exception as error:
        raise DataError(
            f"{name} is not a batch of CIFAR-10, or is damaged: expected a pickled dict of bytes, "
            f"lists and one numpy array, got {type(error).__name__}: {error!s:.200}."
        ) from error
    return images, labels


def _pixels(array: Any, name: str) -> NDArray[np.uint8]:
    """The recorded array as uint8 `[N, 3072]`, once it is what it should be."""
    if not isinstance(array, _Record) or not isinstance(array.state, tuple):
        raise DataError(f"{name}: 'data' is not a numpy array, as it is in CIFAR-10.")
    _, shape, dtype, fortran, stored = array.state
    if dtype.made_with[0] not in (b"u1", "u1") or fortran or not isinstance(stored, bytes):
        raise DataError(
            f"{name}: 'data' has elements of {dtype.made_with[0]!r}"
            f"{' in Fortran order' if fortran else ''}; expected unsigned bytes ('u1') in C order."
        )
    rows = len(stored) // _PIXELS
    if rows == 0 or shape != (rows, _PIXELS) or len(stored) != rows * _PIXELS:
        raise DataError(
            f"{name}: 'data' announces shape {shape!r} and has {len(stored)} bytes; expected "
            f"(N, {_PIXELS}) with N of at least 1, and as many bytes."
        )
    return np.frombuffer(stored, np.uint8).reshape(rows, _PIXELS)


def _labels(values: Any, name: str) -> NDArray[np.uint8]:
    """The labels `[N]`, once they are integers in 0..9."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise DataError(f"{name}: 'labels' is not a list of integers, as it is in CIFAR-10.")
    labels = np.array(values)
    check_labels(labels, 10, name)
    return labels.astype(np.uint8)
