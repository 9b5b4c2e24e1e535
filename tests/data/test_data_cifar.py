"""CIFAR-10: all its forms give the same arrays; its pickles can call nothing."""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import cifar_archive, cifar_batches, idx, pixels, python2_batch, write_idx_set

from etastar.data import load
from etastar.data.cifar10 import BATCHES, read_archive
from etastar.data.cifar_batch import parse_batch
from etastar.errors import DataError

FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
IMAGES = pixels(3, 3072)


def python3_batch(protocol: int) -> bytes:
    """A batch pickled anew; below protocol 5 numpy writes arrays the way CIFAR's files have it."""
    return pickle.dumps({b"labels": [1, 2, 3], b"data": IMAGES}, protocol=protocol)


@pytest.mark.parametrize(
    "content", [python2_batch(IMAGES, [1, 2, 3]), python3_batch(3), python3_batch(4)]
)
def test_a_batch_comes_back(content):
    images, labels = parse_batch(content, "b")
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == [1, 2, 3]


def test_the_made_batch_is_a_pickle_that_numpy_itself_reads():
    content = python2_batch(IMAGES, [1, 2, 3])
    pickletools.dis(content, out=io.StringIO())  # raises on an ill-formed pickle
    batch = pickle.loads(content, encoding="bytes")
    assert np.array_equal(batch[b"data"], IMAGES)
    assert batch[b"filenames"] == [b"a_s_000001.png"] * 3


def forbidden_pickles(target: Path) -> dict[str, bytes]:
    """Pickles that would create `target`, or reach for something they have no business with."""
    command = f"touch {target}".encode()

    class Calls:
        def __reduce__(self):
            return (target.touch, ())

    return {
        "reduce": b"cposix\nsystem\n(S'" + command + b"'\ntR.",
        "inst": b"(S'" + command + b"'\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\nS'" + command + b"'\no.",
        "stack_global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c"
        + bytes([len(command)]) + command + b"\x85R.",
        "eval": b"cbuiltins\neval\n(S'open(\"" + str(target).encode() + b"\", \"w\")'\ntR.",
        "method": pickle.dumps({b"data": Calls(), b"labels": []}),
        "numpy_load": b"cnumpy\nload\n(S'/etc/hostname'\ntR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0ecompat.os.system\x93.",
        "newobj": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pname\n.",
        "object_array": pickle.dumps({b"data": np.array([Calls()]), b"labels": [1]}, protocol=4),
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(forbidden_pickles(Path("/"))))
def test_no_pickle_can_call_anything(tmp_path, kind):
    target = tmp_path / "touched"
    with pytest.raises(DataError, match=r"b is not a batch of CIFAR-10"):
        parse_batch(forbidden_pickles(target)[kind], "b")
    assert not target.exists()


def batch_with(**changes) -> bytes:
    entries = {"labels": [1, 2, 3], "data": IMAGES} | changes
    return pickle.dumps({key: value for key, value in entries.items() if value is not None}, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "exhausted before seeing STOP"),
        (pickle.dumps([1]), "has no entry 'data'"),
        (batch_with(labels=None), "has no entry 'labels'"),
        (batch_with(data=None), "has no entry 'data'"),
        (batch_with(labels=[1, 2]), "3072 for each of 2 labels; got 9216 bytes"),
        (batch_with(labels=[1, 2, 10]), r"label 10 at position 2 .*; expected labels in 0\.\.9"),
        (batch_with(labels=[1, 2, -1]), "label -1 at position 2"),
        (batch_with(labels=[1, 2, True]), "each of 2 labels; got 9216 bytes"),
        (batch_with(labels=[1, 2, 3.0]), "each of 2 labels; got 9216 bytes"),
        (batch_with(labels=(1, 2, 3)), "not a list of integers"),
        (batch_with(data=[1, 2]), "expected 'data' to be a numpy array"),
        (batch_with(data=IMAGES.astype(np.int64)), "unsigned bytes in C order"),
        (batch_with(data=IMAGES[:, :3071].copy()), "3072 for each of 3 labels; got 9213 bytes"),
        (batch_with(data=np.asfortranarray(IMAGES)), "unsigned bytes in C order"),
        (batch_with(data=IMAGES[:0], labels=[]), "3072 for each of 0 labels"),
        (batch_with(labels=[1, 2, 10**5000]), "not a batch of CIFAR-10"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_batch_is_refused(content, message):
    with pytest.raises(DataError, match=f"(?s)^b.*{message}"):
        parse_batch(content, "b")


def test_a_huge_memo_index_costs_nothing():
    # the C implementation would reserve 2·index pointers, here 64 GB, before reading on
    content = b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."
    with pytest.raises(DataError, match=r"no entry 'data'"):
        parse_batch(content, "b")


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content):
    for head in (b"", b"\x80\x02}q\x01("):
        with pytest.raises(DataError):
            parse_batch(head + content, "b")


@FUZZ
@given(st.data())
def test_a_changed_batch_is_refused_or_parsed(data):
    content = bytearray(python2_batch(IMAGES, [1, 2, 3]))
    structure = [at for at in range(len(content)) if not 300 < at < len(content) - 200]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.sampled_from(structure))] = data.draw(st.integers(0, 255))
    try:
        images, labels = parse_batch(bytes(content), "b")
    except DataError:
        return
    assert images.shape[1] == 3072
    assert len(images) == len(labels)
    assert labels.max() <= 9


class TestForms:
    """The archive, the unpacked folder and IDX files hold the same images in the same order."""

    def write(self, folder: Path, form: str) -> None:
        files, images = cifar_batches()
        if form == "archive":
            (folder / "cifar-10-python.tar.gz").write_bytes(cifar_archive(files))
        elif form.startswith("batches"):
            place = folder / "cifar-10-batches-py" if form == "batches" else folder
            place.mkdir(exist_ok=True)
            for name, content in files.items():
                (place / name).write_bytes(content)
        else:
            colour = images.reshape(-1, 3, 32, 32)
            labels = np.array([parse_batch(files[name], name)[1] for name in BATCHES]).ravel()
            if form == "idx":
                colour = colour.transpose(0, 2, 3, 1)
            for part, rows in (("train", slice(20)), ("t10k", slice(20, None))):
                names = f"{part}-images-idx4-ubyte", f"{part}-labels-idx1-ubyte.gz"
                (folder / names[0]).write_bytes(idx(colour[rows]))
                (folder / names[1]).write_bytes(gzip.compress(idx(labels[rows])))

    @pytest.mark.parametrize("form", ["archive", "batches", "batches-bare", "idx", "idx-channels"])
    def test_every_form_gives_the_same_tensors(self, tmp_path, form):
        self.write(tmp_path, form)
        data = load("cifar10", data_dir=tmp_path)
        _, images = cifar_batches()
        mean, std = images[:20].mean(dtype=np.float64), images[:20].std(dtype=np.float64)
        expected = (images - mean) / std
        assert data.input_shape == (3, 32, 32)
        assert data.y_train.tolist() == [(n + row) % 10 for n in range(5) for row in range(4)]
        assert data.y_val.tolist() == [5, 6, 7, 8]
        np.testing.assert_allclose(data.x_train, expected[:20], atol=1e-6)
        np.testing.assert_allclose(data.x_val, expected[20:], atol=1e-6)
        assert data.x_train.is_contiguous()
        assert data.provenance["checksums_match"] is False

    def test_a_missing_batch_is_named(self, tmp_path):
        self.write(tmp_path, "batches")
        (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
        with pytest.raises(DataError, match=r"incomplete; missing: .*data_batch_3"):
            load("cifar10", data_dir=tmp_path)

    def test_an_archive_without_a_batch(self, tmp_path):
        files, _ = cifar_batches()
        del files["data_batch_4"]
        (tmp_path / "a.tar.gz").write_bytes(cifar_archive(files))
        with pytest.raises(DataError, match=r"a.tar.gz lacks data_batch_4"):
            read_archive(tmp_path / "a.tar.gz")

    def test_a_member_far_too_large(self, tmp_path, monkeypatch):
        self.write(tmp_path, "archive")
        monkeypatch.setattr("etastar.data.cifar10._LARGEST_BATCH", 1000)
        with pytest.raises(DataError, match=r"expected a batch of CIFAR-10, below 1000"):
            load("cifar10", data_dir=tmp_path)

    @pytest.mark.parametrize("keep", [0, 5, 100, 3000])
    def test_a_truncated_archive(self, tmp_path, keep):
        content = cifar_archive(cifar_batches()[0])
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(content[:keep])
        with pytest.raises(DataError, match=r"cifar-10-python.tar.gz is damaged or cut short"):
            load("cifar10", data_dir=tmp_path)

    def test_idx_images_of_a_wrong_shape(self, tmp_path):
        write_idx_set(tmp_path, (32, 32, 4))
        with pytest.raises(
            DataError, match=r"\(32, 32, 4\); expected \(32, 32, 3\) or \(3, 32, 32\)"
        ):
            load("cifar10", data_dir=tmp_path)


ORIGINAL = cifar_batches(1)[0]
ARCHIVE = cifar_archive(ORIGINAL)
TAR = gzip.decompress(ARCHIVE)
BLOCKS = [at for at in range(0, len(TAR), 512) if TAR[at + 257 : at + 262] == b"ustar"]
HEADER_BYTES = [block + at for block in BLOCKS for at in range(350)]


@FUZZ
@given(st.data())
def test_a_changed_archive_is_refused_or_read(tmp_path_factory, data):
    content = bytearray(TAR)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(HEADER_BYTES))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("tar") / "changed.tar.gz"
    path.write_bytes(gzip.compress(bytes(content), 1))
    try:
        batches = read_archive(path)
    except DataError:
        return
    assert [name.rsplit(" ", 1)[-1] for name, _ in batches] == list(BATCHES)


@FUZZ
@given(st.data())
def test_a_damaged_archive_is_refused_or_right(tmp_path_factory, data):
    content = bytearray(ARCHIVE)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("tar") / "damaged.tar.gz"
    path.write_bytes(bytes(content))
    try:
        batches = read_archive(path)
    except DataError:
        return
    # only what no checksum covers may have changed: the gzip header's time and system
    assert [body for _, body in batches] == list(ORIGINAL.values())
