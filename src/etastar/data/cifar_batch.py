"""CIFAR-10's batches are pickles, and a pickle is a program: it is run here with nothing to call.

The files need numpy's array and dtype, which are replaced by inert records below, and plain dicts,
lists, bytes and numbers. No function or class from outside this file can be reached, so a
manipulated file can at worst be refused. Pixels are then taken from the recorded bytes.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from etastar.errors import DataError

_PIXELS = 3 * 32 * 32


class _Dtype:
    """Stands in for `numpy.dtype`: remembers its code, `u1` in the real files."""

    code: Any = None

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which a single byte does not have."""


class _Array:
    """Stands in for `numpy.ndarray` and for the function that reconstructs one."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


_INERT = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


_BARRED = b"".join(
    (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID),
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    )
)
"""Instructions that make objects by other means; the real files use none of them."""


# The implementation in Python, not the one in C: there a single damaged byte in a memo index can
# ask for tens of gigabytes before anything is checked.
class _BatchUnpickler(pickle._Unpickler):
    """Knows the names in `_INERT`, and not the instructions in `_BARRED`."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: act for code, act in pickle._Unpickler.dispatch.items() if code not in _BARRED
    }

    def find_class(self, module: str, name: str) -> Any:
        """An inert record; anything else is refused."""
        if (module, name) not in _INERT:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _INERT[module, name]


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
        return _images_and_labels(batch, name)
    except DataError:
        raise
    # the documentation of pickle promises no list of what damaged data can raise, and the values
    # it leaves behind can make even their own repr fail
    except Exception as error:
        raise DataError(
            f"{name} is not a batch of CIFAR-10, or is damaged: expected a pickled dict of bytes, "
            f"lists and one numpy array, got {type(error).__name__}: {error!s:.200}."
        ) from error


def _images_and_labels(batch: Any, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The two entries of a batch that are wanted, once they are what they should be."""
    if not isinstance(batch, dict):
        raise DataError(
            f"{name} holds a {type(batch).__name__}; expected a dict with 'data' and 'labels'."
        )
    images = _pixels(_entry(batch, "data", name), name)
    labels = _labels(_entry(batch, "labels", name), name)
    if len(labels) != len(images):
        raise DataError(
            f"{name} holds {len(images)} images but {len(labels)} labels; expected one per image."
        )
    return images, labels


def _entry(batch: dict[Any, Any], key: str, name: str) -> Any:
    """`batch[key]`; Python 2 wrote the keys as bytes."""
    for written in (key.encode(), key):
        if written in batch:
            return batch[written]
    raise DataError(f"{name} has no entry {key!r}; expected a batch of CIFAR-10.")


def _pixels(array: Any, name: str) -> NDArray[np.uint8]:
    """The recorded array as uint8 `[N, 3072]`, once it is what it should be."""
    state = array.state if isinstance(array, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise DataError(f"{name}: 'data' is not a numpy array, as it is in CIFAR-10.")
    _, shape, dtype, fortran, stored = state
    code = dtype.code if isinstance(dtype, _Dtype) else None
    if code not in (b"u1", "u1") or fortran or not isinstance(stored, bytes):
        raise DataError(
            f"{name}: 'data' has elements of {code!r}{' in Fortran order' if fortran else ''}; "
            "expected unsigned bytes ('u1') in C order."
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
    wrong = next((value for value in values if not 0 <= value < 10), None)
    if wrong is not None:
        raise DataError(
            f"{name} holds the label {wrong} at position {values.index(wrong)}; expected labels in "
            "0..9."
        )
    return np.array(values, np.uint8)
