"""The IDX parser: right arrays from right files, a DataError for everything else."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import idx, labels, pixels, write_idx_set

from etastar.data.files import gunzip
from etastar.data.idx import parse_idx, read_idx, read_split
from etastar.errors import DataError

FUZZ = settings(max_examples=300, deadline=None, derandomize=True)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (2, 3, 4, 5)])
def test_an_array_comes_back(shape):
    array = pixels(*shape)
    assert np.array_equal(parse_idx(idx(array), "f", array.ndim), array)


def test_the_array_is_a_view_and_not_a_copy():
    content = idx(pixels(5, 4, 4))
    assert not parse_idx(content, "f", 3).flags.owndata


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file.*got nothing"),
        (b"\x00\x00", "not an IDX file.*got 00 00"),
        (b"\x00\x00\x0d\x03" + bytes(12), "unsigned bytes.*expected.*00 00 08 03.*got 00 00 0d 03"),
        (b"\x89PNG" + bytes(12), "not an IDX file"),
        (idx(labels(7)), r"1-dimensional data \(labels\); expected 3-dimensional.*swapped"),
        (idx(pixels(2, 3, 3))[:10], "ends inside its header: expected at least 16 bytes, got 10"),
        (idx(pixels(2, 3, 3))[:-1], "announces 2×3×3 = 18 bytes.*got 17"),
        (idx(pixels(2, 3, 3)) + b"x", "announces 2×3×3 = 18 bytes.*got 19"),
        (idx(np.zeros((0, 3, 3))), "at least one sample"),
        (idx(np.zeros((3, 0, 3))), "at least one sample"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(content, message):
    with pytest.raises(DataError, match=f"(?s)digits-file.*{message}"):
        parse_idx(content, "digits-file", 3)


@pytest.mark.parametrize("compressed", [True, False])
def test_files_may_be_compressed_or_not(tmp_path, compressed):
    arrays = write_idx_set(tmp_path, compressed=compressed)
    ending = ".gz" if compressed else ""
    array, sha256 = read_idx(tmp_path / f"train-images-idx3-ubyte{ending}", 3)
    assert np.array_equal(array, arrays["train-images-idx3-ubyte"])
    assert len(sha256) == 64


def test_truncated_gzip(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(pixels(50, 28, 28)))[:-100])
    with pytest.raises(DataError, match=r"idx3-ubyte.gz is damaged or cut short.*Fetch the file"):
        read_idx(path, 3)


def test_damaged_gzip(tmp_path):
    content = bytearray(gzip.compress(idx(pixels(50, 28, 28))))
    content[200:210] = bytes(10)
    path = tmp_path / "images.gz"
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"images.gz is damaged or cut short"):
        read_idx(path, 3)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*nothing"):
        read_idx(tmp_path / "nothing", 3)


class TestFourFiles:
    shape = (28, 28)

    def paths(self, folder: Path) -> list[Path]:
        return [
            folder / f"{part}-{kind}-ubyte.gz"
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]

    def replace(self, path: Path, array) -> None:
        path.write_bytes(gzip.compress(idx(array)))

    def test_all_four_come_back(self, tmp_path):
        arrays = write_idx_set(tmp_path)
        split, files = read_split(self.paths(tmp_path), [self.shape], 10)
        for got, expected in zip(split, arrays.values(), strict=True):
            assert np.array_equal(got, expected)
        assert list(files) == [path.name for path in self.paths(tmp_path)]

    def test_labels_where_images_belong(self, tmp_path):
        write_idx_set(tmp_path)
        paths = self.paths(tmp_path)
        with pytest.raises(DataError, match=r"train-labels.*holds 1-dimensional.*swapped"):
            read_split([paths[1], paths[0], *paths[2:]], [self.shape], 10)

    def test_label_above_nine(self, tmp_path):
        write_idx_set(tmp_path)
        wrong = labels(20)
        wrong[13] = 10
        self.replace(self.paths(tmp_path)[1], wrong)
        with pytest.raises(DataError, match=r"train-labels.*label 10 at position 13.*0\.\.9"):
            read_split(self.paths(tmp_path), [self.shape], 10)

    def test_counts_that_differ(self, tmp_path):
        write_idx_set(tmp_path)
        self.replace(self.paths(tmp_path)[3], labels(9))
        with pytest.raises(DataError, match=r"t10k-images.*10 images.*t10k-labels.*9 labels"):
            read_split(self.paths(tmp_path), [self.shape], 10)

    def test_images_of_another_shape(self, tmp_path):
        write_idx_set(tmp_path)
        self.replace(self.paths(tmp_path)[2], pixels(10, 27, 28))
        with pytest.raises(DataError, match=r"t10k-images.*\(27, 28\); expected \(28, 28\)"):
            read_split(self.paths(tmp_path), [self.shape], 10)

    def test_two_allowed_shapes_are_not_mixed(self, tmp_path):
        write_idx_set(tmp_path)
        self.replace(self.paths(tmp_path)[2], pixels(10, 14, 56))
        with pytest.raises(DataError, match=r"expected the same shape"):
            read_split(self.paths(tmp_path), [self.shape, (14, 56)], 10)


@FUZZ
@given(st.binary(max_size=200), st.sampled_from([1, 3, 4]))
def test_random_bytes_are_refused_or_parsed(content, dimensions):
    for head in (b"", bytes([0, 0, 8, dimensions])):
        try:
            array = parse_idx(head + content, "f", dimensions)
        except DataError:
            continue
        assert idx(array) == head + content


@FUZZ
@given(st.data())
def test_changed_bytes_are_refused_or_parsed(data):
    content = bytearray(idx(pixels(3, 2, 2)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = parse_idx(bytes(content), "f", 3)
    except DataError:
        return
    assert idx(array) == bytes(content)


@FUZZ
@given(st.data())
def test_changed_gzip_is_refused_or_right(data):
    plain = idx(pixels(3, 2, 2))
    stored = bytearray(gzip.compress(plain, mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    stored = bytes(stored[: data.draw(st.integers(0, len(stored)))])
    try:
        content = gunzip(stored, "f")
    except DataError:
        return
    # only fields of the header that do not matter (time, system) may have changed
    assert content in (plain, stored)


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_behind_a_gzip_header(content):
    with contextlib.suppress(DataError):
        gunzip(b"\x1f\x8b\x08\x00" + content, "f")
