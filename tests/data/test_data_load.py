"""`load`: what every dataset has in common, folders, sizes, and what happens to the numbers."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import cifar_archive, cifar_batches, idx, write_idx_set

from etastar.data import DATASETS, load
from etastar.data.download import PUBLISHED
from etastar.data.raw import pixel_statistics
from etastar.errors import ConfigError, DataError

# A new dataset: one row. Training and validation samples (of the made files, for the image sets),
# classes, shape of an input.
TABLE = {
    "digits": (1438, 359, 10, (1, 8, 8)),
    "mnist": (20, 10, 10, (1, 28, 28)),
    "fashion-mnist": (20, 10, 10, (1, 28, 28)),
    "cifar10": (20, 10, 10, (3, 32, 32)),
    "gaussians": (18_000, 2_000, 2, (20,)),
}
# Known mean and standard deviation over all training pixels, and sizes, of the real files;
# the first two are what everybody's MNIST code normalises by. 255 is the largest pixel.
REAL = {
    "mnist": (60_000, 10_000, 0.1307, 0.3081),
    "fashion-mnist": (60_000, 10_000, 0.2860, 0.3530),
}


@pytest.fixture
def folder(tmp_path):
    """A data folder with small made files of every image set."""
    write_idx_set(tmp_path / "mnist")
    write_idx_set(tmp_path / "fashion-mnist", compressed=False)
    write_idx_set(tmp_path / "cifar10", (32, 32, 3))
    return tmp_path


def test_the_table_names_every_dataset():
    assert set(TABLE) == set(DATASETS)


@pytest.mark.parametrize("name", TABLE)
def test_what_every_dataset_keeps(folder, name):
    train, val, classes, shape = TABLE[name]
    data = load(name, data_dir=folder)
    assert data.name == name
    assert (data.classes, data.input_shape, data.inputs) == (classes, shape, math.prod(shape))
    for x, y, count in ((data.x_train, data.y_train, train), (data.x_val, data.y_val, val)):
        assert (x.shape, x.dtype) == ((count, math.prod(shape)), torch.float32)
        assert (y.shape, y.dtype) == ((count,), torch.int64)
        assert x.is_contiguous()
        assert x.isfinite().all()
        assert 0 <= y.min() <= y.max() < classes
    assert data.x_train.square().mean().item() == pytest.approx(1, abs=0.01)
    provenance = json.loads(json.dumps(data.provenance, allow_nan=False))
    assert provenance == data.provenance
    assert (provenance["train_available"], provenance["val_available"]) == (train, val)
    assert provenance["name"] == name
    for key in ("source", "licence", "split", "read_from"):
        assert provenance[key]
    assert all(len(sha256) == 64 for sha256 in provenance["files"].values())


@pytest.mark.parametrize("name", TABLE)
def test_sizes_take_the_first_samples_and_change_no_number(folder, name):
    whole = load(name, data_dir=folder)
    part = load(name, data_dir=folder, train_size=7, val_size=3)
    assert torch.equal(part.x_train, whole.x_train[:7])
    assert torch.equal(part.y_train, whole.y_train[:7])
    assert torch.equal(part.x_val, whole.x_val[:3])
    assert torch.equal(part.y_val, whole.y_val[:3])
    assert part.provenance == whole.provenance | {"train_size": 7, "val_size": 3}


@pytest.mark.parametrize("name", TABLE)
def test_global_generators_are_neither_read_nor_set(folder, name):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = load(name, data_dir=folder)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(load(name, data_dir=folder).x_train, first.x_train)


def test_an_unknown_name():
    with pytest.raises(ConfigError, match=r"unknown dataset 'minst'; did you mean 'mnist'"):
        load("minst")


@pytest.mark.parametrize("size", [0, -1, 21, 1.5, True, "7"])
@pytest.mark.parametrize("setting", ["train_size", "val_size"])
def test_sizes_out_of_range(folder, setting, size):
    with pytest.raises(ConfigError, match=f"{setting} is {size!r}; expected a whole number of at"):
        load("mnist", data_dir=folder, **{setting: size})


def test_a_size_above_what_there_is_names_both(folder):
    with pytest.raises(ConfigError, match=r"train_size is 70000.* at most 20.* all mnist has"):
        load("mnist", data_dir=folder, train_size=70_000)


def test_a_size_below_one_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"val_size is 0"):
        load("mnist", data_dir=tmp_path / "missing", val_size=0)


class TestStandardising:
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
    def test_against_float64(self, folder, name):
        shape = TABLE[name][3]
        stored = write_idx_set(folder / name, (28, 28) if shape[0] == 1 else (32, 32, 3))
        images = [array for file, array in stored.items() if "images" in file]
        mean, std = images[0].mean(dtype=np.float64), images[0].std(dtype=np.float64)
        data = load(name, data_dir=folder)
        assert data.provenance["mean"] == pytest.approx(mean, rel=1e-14)
        assert data.provenance["std"] == pytest.approx(std, rel=1e-14)
        for x, pixels in zip((data.x_train, data.x_val), images, strict=True):
            channels_last = x.unflatten(1, data.input_shape).movedim(1, -1).squeeze(-1)
            np.testing.assert_allclose(channels_last, (pixels - mean) / std, atol=1e-6)

    def test_images_without_spread_are_refused(self, folder):
        file = folder / "mnist" / "train-images-idx3-ubyte.gz"
        file.write_bytes(gzip.compress(idx(np.full((20, 28, 28), 7))))
        with pytest.raises(DataError, match=r"every training pixel of mnist is 7.0"):
            load("mnist", data_dir=folder)

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
    def test_exact_statistics(self, values):
        mean, std = pixel_statistics(np.array(values, np.uint8))
        assert mean == pytest.approx(np.mean(values), rel=1e-14)
        assert std == pytest.approx(np.std(values), rel=1e-12, abs=1e-12)

    def test_one_float_copy_is_made(self, tmp_path):
        write_idx_set(tmp_path, train=10_000, val=10, compressed=False)
        floats = 10_000 * 784 * 4
        load("mnist", data_dir=tmp_path, train_size=1)  # imports are not what is measured
        tracemalloc.start()
        load("mnist", data_dir=tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # the floats, the bytes they are made from (a quarter), and the histogram's blocks
        assert floats <= peak < 1.6 * floats


class TestFolders:
    def test_the_folder_itself_will_do(self, tmp_path):
        write_idx_set(tmp_path)
        assert load("mnist", data_dir=tmp_path).provenance["read_from"] == str(tmp_path)

    def test_the_subfolder_comes_first(self, folder):
        write_idx_set(folder, train=11)
        assert len(load("mnist", data_dir=folder).x_train) == 20

    def test_a_string_will_do(self, folder):
        assert len(load("mnist", data_dir=str(folder)).x_train) == 20

    def test_names_with_a_dot_will_do(self, folder):
        for file in list((folder / "mnist").iterdir()):
            file.rename(file.with_name(file.name.replace("-idx", ".idx")))
        assert len(load("mnist", data_dir=folder).x_train) == 20

    def test_the_environment_names_a_folder(self, folder, monkeypatch):
        monkeypatch.setenv("ETASTAR_DATA_DIR", str(folder))
        assert len(load("mnist").x_train) == 20

    def test_the_argument_overrides_the_environment(self, folder, monkeypatch, tmp_path):
        monkeypatch.setenv("ETASTAR_DATA_DIR", str(tmp_path / "missing"))
        assert len(load("mnist", data_dir=folder).x_train) == 20

    @pytest.mark.parametrize("by", ["argument", "environment"])
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
    def test_an_empty_folder_is_never_filled(self, tmp_path, monkeypatch, server, by, name):
        mirrored = replace(PUBLISHED[name], mirrors=(server.url, server.url))
        monkeypatch.setitem(PUBLISHED, name, mirrored)
        empty = tmp_path / "empty"
        empty.mkdir()
        if by == "environment":
            monkeypatch.setenv("ETASTAR_DATA_DIR", str(empty))
        with pytest.raises(DataError) as caught:
            load(name, data_dir=empty if by == "argument" else None)
        message = str(caught.value)
        assert f"no files of {name} in {empty / name} or {empty}" in message
        assert next(iter(PUBLISHED[name].files)) in message
        assert server.asked == []
        assert not (tmp_path / "cache").exists()

    def test_a_missing_file_is_named(self, folder):
        (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
        write_idx_set(folder)  # a complete set elsewhere is not mixed in
        with pytest.raises(DataError, match=r"mnist is incomplete; missing: t10k-labels-idx1"):
            load("mnist", data_dir=folder)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match=r"missing does not exist"):
            load("mnist", data_dir=tmp_path / "missing")

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=r"file is not a folder"):
            load("mnist", data_dir=tmp_path / "file")

    @pytest.mark.parametrize("name", ["digits", "gaussians"])
    def test_datasets_without_files_ignore_the_folder(self, tmp_path, name):
        assert load(name, data_dir=tmp_path / "missing", train_size=5).inputs > 0

    def test_several_forms_of_cifar_in_one_folder(self, folder):
        (folder / "cifar10" / "cifar-10-python.tar.gz").write_bytes(
            cifar_archive(cifar_batches()[0])
        )
        assert "train-images-idx4-ubyte.gz" in load("cifar10", data_dir=folder).provenance["files"]
        (folder / "cifar10" / "train-labels-idx1-ubyte.gz").unlink()
        assert list(load("cifar10", data_dir=folder).provenance["files"]) == [
            "cifar-10-python.tar.gz"
        ]


def test_importing_the_registry_imports_nothing_heavy():
    heavy = "{'torch', 'scipy', 'pooch', 'rich'}"
    code = f"import sys, etastar.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_the_real_image_sets(name):
    train, val, mean, std = REAL[name]
    data = load(name)
    assert (len(data.x_train), len(data.x_val)) == (train, val)
    assert data.provenance["mean"] / 255 == pytest.approx(mean, abs=5e-5)
    assert data.provenance["std"] / 255 == pytest.approx(std, abs=5e-5)
    assert data.x_train.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert data.x_train.double().std().item() == pytest.approx(1, abs=1e-6)
    assert data.y_train.bincount().shape == (10,)
    assert data.provenance["read_from"].startswith(os.environ["ETASTAR_DATA_DIR"])


@pytest.mark.data
def test_real_colour_images():
    data = load("cifar10")
    assert data.input_shape == (3, 32, 32)
    assert data.y_train.bincount().shape == (10,)
    # neighbouring pixels of a photograph are alike, which holds only if the axes are in order
    images = data.x_train[:500].unflatten(1, data.input_shape)
    for axis in (2, 3):
        steps = images.diff(dim=axis).square().mean()
        assert steps < 0.2 * images.var()
    assert images.diff(dim=1).square().mean() < 0.3 * images.var()


@pytest.mark.parametrize("beside", [True, False])
def test_files_are_compared_with_a_list_of_checksums(folder, beside):
    import hashlib

    name = "train-labels-idx1-ubyte.gz"
    file = folder / "mnist" / name
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    sums = folder / "mnist" / "SHA256SUMS" if beside else folder / "SHA256SUMS"
    listed = f"*./{name}" if beside else f"mnist/{name}"
    sums.write_text(f"{'0' * 64}  other\n{right}  {listed}\n\n", encoding="utf-8")
    assert load("mnist", data_dir=folder).provenance["files"][name] == right
    file.write_bytes(gzip.compress(idx((np.arange(20) // 2).astype(np.uint8))))
    with pytest.raises(
        DataError, match=f"{name} is damaged or another file: expected SHA-256 {right}"
    ):
        load("mnist", data_dir=folder)
    sums.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read .*SHA256SUMS"):
        load("mnist", data_dir=folder)
