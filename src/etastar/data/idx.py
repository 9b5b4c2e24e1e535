"""The IDX format of MNIST: images and labels as unsigned bytes behind a small header.

Format (LeCun, Cortes & Burges): two zero bytes, one byte for the element type (0x08 is unsigned
byte), one byte for the number of dimensions, each dimension as a big-endian 32-bit integer, then
the elements in C order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etastar.data.dataset import check_labels
from etastar.data.files import read_file
from etastar.errors import DataError

_UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, name: str, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file's bytes, without copying them.

    Args:
        content: The file, decompressed.
        name: How to call it in errors.
        dimensions: How many there must be: 1 for labels, 3 for grey images, 4 for colour.

    Returns:
        A read-only view, uint8.

    Raises:
        DataError: This is not an IDX file of unsigned bytes with so many dimensions, or its length
            is not what its header announces, or it holds no sample.
    """
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    magic = content[:4]
    if len(magic) < 4 or magic[:3] != expected[:3]:
        raise DataError(
            f"{name} is not an IDX file of unsigned bytes: expected it to start with "
            f"{expected.hex(' ')}, got {magic.hex(' ') or 'nothing'}."
        )
    if magic[3] != dimensions:
        raise DataError(
            f"{name} holds {_kind(magic[3])}; expected {_kind(dimensions)} (magic "
            f"{expected.hex(' ')}, got {magic.hex(' ')}). Have two files been swapped?"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(
            f"{name} ends inside its header: expected at least {start} bytes, got {len(content)}."
        )
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    size, body = math.prod(shape), len(content) - start
    if size != body:
        raise DataError(
            f"{name} announces {'×'.join(map(str, shape))} = {size} bytes after its header; got "
            f"{body}. The file is cut short or damaged: fetch it again."
        )
    if size == 0:
        raise DataError(f"{name} announces shape {shape}; expected at least one sample, got none.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx(path: Path, dimensions: int) -> tuple[NDArray[np.uint8], str]:
    """The array in an IDX file, gzip-compressed or not, and the file's SHA-256.

    Raises:
        DataError: See `parse_idx` and `etastar.data.files.read_file`.
    """
    content, sha256 = read_file(path)
    return parse_idx(content, str(path), dimensions), sha256


def read_split(
    paths: Sequence[Path], shapes: Sequence[tuple[int, ...]], classes: int
) -> tuple[list[NDArray[np.uint8]], dict[str, str]]:
    """Training images, training labels, validation images, validation labels, checked together.

    Args:
        paths: The four IDX files, in that order.
        shapes: The shapes an image may have.
        classes: Labels must lie in `0 .. classes - 1`.

    Returns:
        The four arrays, images `[N, *shape]` as stored; and the SHA-256 of every file, by name.

    Raises:
        DataError: A file is damaged, images have another shape, a label is out of range, or images
            and labels differ in number.
    """
    read = [read_idx(path, 1 if i % 2 else 1 + len(shapes[0])) for i, path in enumerate(paths)]
    arrays = [array for array, _ in read]
    for i in (0, 2):
        images, labels = arrays[i : i + 2]
        if images.shape[1:] not in shapes:
            raise DataError(
                f"{paths[i]} holds images of {images.shape[1:]}; expected "
                f"{' or '.join(map(str, shapes))}."
            )
        check_labels(labels, classes, paths[i + 1])
        if len(images) != len(labels):
            raise DataError(
                f"{paths[i]} holds {len(images)} images but {paths[i + 1]} holds {len(labels)} "
                "labels; expected one label per image."
            )
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise DataError(
            f"{paths[0]} holds images of {arrays[0].shape[1:]} but {paths[2]} of "
            f"{arrays[2].shape[1:]}; expected the same shape."
        )
    return arrays, {path.name: sha256 for path, (_, sha256) in zip(paths, read, strict=True)}


def _kind(dimensions: int) -> str:
    """Say in words what an array of so many dimensions holds."""
    words = {1: "labels", 3: "grey images", 4: "colour images"}
    return f"{dimensions}-dimensional data ({words.get(dimensions, 'neither images nor labels')})"
