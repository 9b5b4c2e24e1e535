"""Files in the formats the data room reads, made from arrays: a second, independent writer."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An IDX file of unsigned bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int = 10) -> np.ndarray[Any, Any]:
    return (np.arange(count) % classes).astype(np.uint8)


def write_idx_set(
    folder: Path, shape: tuple[int, ...] = (28, 28), *, train: int = 20, val: int = 10,
    compressed: bool = True,
) -> dict[str, np.ndarray[Any, Any]]:  # fmt: skip
    """The four files of an image set in MNIST's naming; returns their arrays by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = f"idx{1 + len(shape)}"
    arrays = {
        f"train-images-{kind}-ubyte": pixels(train, *shape, seed=1),
        "train-labels-idx1-ubyte": labels(train),
        f"t10k-images-{kind}-ubyte": pixels(val, *shape, seed=2),
        "t10k-labels-idx1-ubyte": labels(val),
    }
    for name, array in arrays.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


def python2_batch(images: np.ndarray[Any, Any], batch_labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle (protocol 2) and its numpy wrote CIFAR's own files."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def small(value: int) -> bytes:
        return b"K" + bytes([value])

    rows, width = images.shape
    dtype = (
        b"cnumpy\ndtype\nq\x0a" + text(b"u1") + small(0) + small(1) + b"\x87q\x0bRq\x0c"
        + b"(" + small(3) + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + small(0) + b"tb"
    )  # fmt: skip
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07"
        + small(0) + b"\x85" + text(b"b") + b"\x87q\x08Rq\x09"
        + b"(" + small(1) + b"J" + struct.pack("<i", rows) + b"M" + struct.pack("<H", width)
        + b"\x86" + dtype + b"I00\n" + b"T" + struct.pack("<i", images.size) + images.tobytes()
        + b"tb"
    )  # fmt: skip
    names = b"]r\x00\x01\x00\x00(" + text(b"a_s_000001.png") * rows + b"e"
    return (
        b"\x80\x02}q\x01("
        + text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03"
        + text(b"labels") + b"q\x04]q\x05(" + b"".join(map(small, batch_labels)) + b"e"
        + text(b"data") + array
        + text(b"filenames") + names
        + b"u."
    )  # fmt: skip


def cifar_batches(count: int = 4) -> tuple[dict[str, bytes], np.ndarray[Any, Any]]:
    """The six batches by name, and all their images `[6·count, 3072]` in order."""
    images = pixels(6 * count, 3072, seed=3)
    names = (*BATCHES, "test_batch")
    files = {}
    for number, name in enumerate(names):
        part = images[number * count : (number + 1) * count]
        files[name] = python2_batch(part, [(number + row) % 10 for row in range(count)])
    return files, images


def cifar_archive(files: dict[str, bytes]) -> bytes:
    """`cifar-10-python.tar.gz` around the given batches, with the small files it also has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, body in {
            "readme.html": b"<html>",
            "batches.meta": b"\x80\x02}.",
            **files,
        }.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return buffer.getvalue()
