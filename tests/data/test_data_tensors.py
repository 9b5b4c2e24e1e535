"""`Dataset.from_tensors` and `Dataset.to`: one's own data, checked and left as it was."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from etastar.data import Dataset
from etastar.errors import DataError

X = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def build(**changes) -> Dataset:
    parts = {"x_train": X, "y_train": Y, "x_val": X[:4], "y_val": Y[:4]}
    return Dataset.from_tensors(**(parts | changes))


def test_tensors_come_back_flattened():
    data = build(name="mine")
    assert torch.equal(data.x_train, X.flatten(1))
    assert torch.equal(data.x_val, X[:4].flatten(1))
    assert torch.equal(data.y_train, Y)
    assert (data.name, data.classes, data.inputs, data.input_shape) == ("mine", 3, 6, (2, 3))
    assert torch.equal(data.x_train.unflatten(1, data.input_shape), X)


def test_provenance():
    provenance = build().provenance
    assert json.loads(json.dumps(provenance, allow_nan=False)) == provenance
    assert provenance["files"]["x_train"] == hashlib.sha256(X.numpy().tobytes()).hexdigest()
    assert provenance["files"]["y_val"] == hashlib.sha256(Y[:4].numpy().tobytes()).hexdigest()
    assert (provenance["train_size"], provenance["val_size"]) == (6, 4)
    assert (provenance["standardised"], provenance["mean"], provenance["std"]) == (
        False,
        None,
        None,
    )


def test_it_has_the_keys_of_the_provenance_of_a_loaded_dataset():
    from etastar.data import load

    assert set(build().provenance) == set(load("digits").provenance)


def test_standardise_uses_the_training_set_only():
    data = build(standardise=True, x_val=X[:4] + 100)
    mean, std = X.double().mean().item(), X.double().std(correction=0).item()
    assert data.provenance["mean"] == pytest.approx(mean)
    assert data.provenance["std"] == pytest.approx(std)
    torch.testing.assert_close(data.x_train.double(), (X.double().flatten(1) - mean) / std,
                               atol=1e-6, rtol=0)  # fmt: skip
    torch.testing.assert_close(data.x_val, data.x_train[:4] + 100 / std)


@pytest.mark.parametrize("standardise", [False, True])
def test_what_was_given_is_not_written(standardise):
    before = X.clone(), Y.clone()
    x = X.clone().requires_grad_()
    data = build(x_train=x, standardise=standardise)
    assert not data.x_train.requires_grad
    assert x.requires_grad
    assert torch.equal(x, before[0])
    assert torch.equal(X, before[0])
    assert torch.equal(Y, before[1])


@pytest.mark.parametrize(
    "convert",
    [
        lambda t: t.numpy(),
        lambda t: t.tolist(),
        lambda t: np.asfortranarray(t.numpy()),
        lambda t: t.double() if t.is_floating_point() else t.int(),
    ],
)
def test_arrays_lists_and_other_precisions_will_do(convert):
    data = build(x_train=convert(X), y_train=convert(Y), x_val=convert(X[:4]), y_val=convert(Y[:4]))
    assert torch.equal(data.x_train, X.flatten(1))
    assert torch.equal(data.y_train, Y)
    assert (data.x_train.dtype, data.y_train.dtype) == (torch.float32, torch.int64)


def test_a_read_only_array_will_do():
    x = X.numpy().copy()
    x.flags.writeable = False
    assert torch.equal(build(x_train=x).x_train, X.flatten(1))


def test_integer_images_will_do():
    pixels = torch.arange(24, dtype=torch.uint8).reshape(6, 4)
    assert torch.equal(build(x_train=pixels, x_val=pixels[:4]).x_train, pixels.float())


def test_more_classes_than_the_labels_show():
    assert build(classes=10).classes == 10


NAN = X.clone()
NAN[4, 1, 2] = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": X[:0], "y_train": Y[:0]},
            r"x_train has shape \(0, 2, 3\); expected \[samples",
        ),
        ({"x_val": X[:0], "y_val": Y[:0]}, r"x_val has shape \(0, 2, 3\)"),
        ({"x_train": X[:, :, :0]}, r"x_train has shape \(6, 2, 0\)"),
        ({"x_train": X[:, 0, 0]}, r"x_train has shape \(6,\).*single feature is \[samples, 1\]"),
        ({"x_val": X[:4, :1]}, r"samples of shape \(2, 3\) but x_val of \(1, 3\)"),
        ({"y_train": Y[:5]}, "y_train holds 5 labels for 6 samples"),
        ({"y_val": Y}, "y_val holds 6 labels for 4 samples"),
        ({"y_train": Y - 1}, r"y_train holds the label -1 at position 0 .*counted from 0"),
        (
            {"y_train": Y, "classes": 2},
            r"y_train holds the label 2 at position 2 .*0\.\.1, counted",
        ),
        ({"y_val": Y[:4] + 8, "classes": 9}, r"y_val holds the label 9 at position 1 .*0\.\.8"),
        ({"y_train": Y * 0, "y_val": Y[:4] * 0}, "name 1 class; expected at least 2"),
        ({"y_train": Y.float()}, r"y_train is of torch.float32.*y_train.long\(\)"),
        ({"y_train": torch.eye(6)}, r"y_train has shape \(6, 6\).*y_train.argmax\(1\)"),
        ({"y_train": Y[:, None]}, r"y_train has shape \(6, 1\).*y_train.flatten\(\)"),
        ({"x_train": NAN}, r"not finite in float32, first in sample 4 \(1 of 6"),
        ({"x_val": X[:4].double() * 1e300}, "x_val holds a number that is not finite in float32"),
        ({"x_train": X.to(torch.complex64)}, "x_train is a .*complex64; expected a dense tensor"),
        ({"x_train": X.to_sparse()}, "x_train is a torch.sparse_coo tensor"),
        ({"x_train": [[1.0], [1.0, 2.0]]}, "x_train is not an array of numbers"),
        ({"x_train": "pixels"}, "x_train is not an array of numbers"),
        ({"x_train": np.array([["a"] * 2] * 6)}, "x_train is not an array of numbers"),
        ({"x_train": X * 0 + 3, "standardise": True}, "every number of x_train is 3.0"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(DataError, match=message):
        build(**changes)


def test_to_converts_inputs_and_keeps_labels():
    data = build()
    double = data.to("cpu", torch.float64)
    assert (double.x_train.dtype, double.x_val.dtype) == (torch.float64, torch.float64)
    assert (double.y_train.dtype, double.y_val.dtype) == (torch.int64, torch.int64)
    assert double.provenance == data.provenance
    assert data.x_train.dtype == torch.float32
    assert data.to("meta").y_val.device.type == "meta"
    assert data.to().x_train is data.x_train


def test_a_dataset_cannot_be_changed_by_assignment():
    with pytest.raises(AttributeError):
        build().classes = 4
