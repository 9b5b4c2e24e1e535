"""Mistakes of new users: stopped before the first trial, or said in the words of the entry."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import etastar
from etastar.cli import main

QUICK: dict[str, Any] = {
    "threshold": 0.65,
    "batch_size": 16,
    "epochs": 2,
    "start_lr": 0.05,
    "end_lr": 50.0,
    "resolution": 1.0,
    "seeds": 1,
    "progress": False,
}
X = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > 0).long()
IMAGES = torch.randn(96, 8, 8, 1, generator=torch.Generator().manual_seed(0))
CNN = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
HOLED = X.clone()
HOLED[17, 3] = float("nan")


def mlp(outputs: int = 2) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, outputs))


STOPPED: dict[str, tuple[dict[str, Any], str]] = {
    "an instance": (
        {"optimizer": torch.optim.Adam(mlp().parameters())},
        r"got an instance of Adam\. Pass the class, torch\.optim\.Adam; with options, functools",
    ),
    "a name": ({"optimizer": "sgd"}, r"got 'sgd'\. Pass the class, torch\.optim\.SGD;"),
    "an unknown name": ({"optimizer": "best"}, r"got 'best'\. Pass the class, torch\.optim\.SGD;"),
    "a class": (
        {"loss_fn": nn.CrossEntropyLoss},
        r"loss_fn .*got the class CrossEntropyLoss: pass an instance, CrossEntropyLoss\(\)",
    ),
    "the name of a loss": ({"loss_fn": "mse"}, "loss_fn must be a function, got 'mse'"),
    "percent": ({"threshold": 92.5}, r"at most 1, got 92\.5\. For 92\.5 % write 0\.925\."),
    "not percent": ({"threshold": 925.0}, r"at most 1, got 925\.$"),
    "float labels": ({"train_data": (X, Y.float())}, r"int64: y\.long\(\)"),
    "int32 labels": ({"train_data": (X, Y.int())}, r"int64: y\.long\(\)"),
    "float64 inputs": ({"train_data": (X.double(), Y)}, r"x\.float\(\) for float64"),
    "uint8 inputs": ({"train_data": (X.abs().byte(), Y)}, r"x\.float\(\) for float64 or integer"),
    "four tensors": (
        {"train_data": (X, Y, X, Y)},
        r"\(x, y, xv, yv\) is `train_data=\(x, y\)` and `val_data=\(xv, yv\)`\.",
    ),
    "four of two lengths": (
        {"train_data": (X, Y, X[:40].numpy(), Y[:40])},
        r"in one: four tensors.*pass `train_data=\.\.\.` and `val_data=",
    ),
    "a list of four": (
        {"train_data": [X, Y, X[:40], Y[:40]]},
        r"in one: four tensors.*pass `train_data=\.\.\.` and `val_data=",
    ),
    "labels from 1": ({"train_data": (X, Y + 1)}, "indices count from 0"),
    "channels last": (
        {"model": CNN, "train_data": (IMAGES, Y)},
        r"channels.*permute\(0, 3, 1, 2\)",
    ),
    "validation of another shape": ({"val_data": (X[:, :5], Y)}, r"first batch is .*32\[\d+, 5\]"),
    "a hole in the training data": ({"train_data": (HOLED, Y)}, "train_data: sample 17 holds NaN"),
    "a hole in the validation data": ({"val_data": (HOLED, Y)}, "val_data: sample 17 holds NaN"),
    "a hole in a loader": (
        {
            "train_data": [(HOLED[i : i + 16], Y[i : i + 16]) for i in (32, 0, 16)],
            "batch_size": None,
        },
        r"train_data: sample 33 holds NaN",
    ),
    "a hole in the targets": (
        {"train_data": (X, HOLED[:, 3]), "loss_fn": lambda z, y: (z[:, 0] - y).square().mean()},
        "train_data: sample 17 holds NaN",
    ),
    "the name of a data set": ({"train_data": "digits"}, r"pass etastar\.load\('digits'\)"),
    "a word for a flag": ({"slow_edge": "yes"}, "slow_edge must be True or False, got 'yes'"),
    "a misspelt option": ({"thresold": 0.9}, "unknown option 'thresold'; did you mean 'threshold'"),
}


@pytest.mark.parametrize("case", STOPPED)
def test_stopped_before_the_first_trial_with_the_remedy(case: str) -> None:
    given, message = STOPPED[case]
    arguments = {"model": mlp(), "train_data": (X, Y)} | QUICK | given
    if "hole in the targets" in case:
        arguments["metric"] = "loss"
    with pytest.raises(etastar.ConfigError, match=message) as caught:
        etastar.maximal_lr(**arguments)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_trained_already() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    with pytest.raises(etastar.ModelError, match="trained already needs a factory, or fresh weig"):
        etastar.maximal_lr(model, (X, Y), **QUICK)


def test_gaps_that_the_model_fills_are_no_mistake() -> None:
    class Filling(nn.Module):
        """Takes NaN for zero."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.nan_to_num())

    assert etastar.maximal_lr(Filling(), (HOLED, Y), **QUICK).history


def notes_of(**given: Any) -> str:
    arguments = {"model": mlp(), "train_data": (X, Y)} | QUICK | given
    return "\n".join(etastar.maximal_lr(**arguments).notes)


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
def test_what_is_said_in_notes() -> None:
    total = functools.partial(nn.functional.cross_entropy, reduction="sum")
    assert "`batch_size` grows, and is 16 times higher for the mean" in notes_of(loss_fn=total)
    assert "sum over the samples" not in notes_of()
    assert "`batch_size` = 500 is more than the 96 training samples" in notes_of(
        batch_size=500, epochs=12
    )
    fraction = {"metric": lambda z, y: (z.argmax(1) == y).float().mean(), "epochs": 1}
    assert "write 0.925 for 92.5 %" in notes_of(**fraction, threshold=92.5)
    assert "write 0." not in notes_of(**fraction)
    one = mlp()
    assert "draws the same weights for every seed" in notes_of(model=lambda seed: one)


def test_a_factory_without_arguments() -> None:
    """Its draws follow the seed all the same."""

    def build(width: int = 12) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

    found = etastar.maximal_lr(build, (X, Y), (X, Y), **(QUICK | {"seeds": 2}))
    assert found.varies.startswith("initialisation")
    assert (
        found.history
        == etastar.maximal_lr(
            lambda seed: build(), (X, Y), (X, Y), **(QUICK | {"seeds": 2})
        ).history
    )


def test_a_data_set_of_ours_for_a_convolutional_network() -> None:
    digits = etastar.load("digits", train_size=64, val_size=32)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    with pytest.warns(etastar.NotBracketedWarning):
        found = etastar.maximal_lr(model, digits, **(QUICK | {"epochs": 1, "threshold": 0.99}))
    assert any("digits are given as images, [N, 1, 8, 8]" in note for note in found.notes)


@pytest.mark.parametrize("strategy", ["section", "curve"])
def test_rates_that_all_diverge_ask_for_lower_ones(strategy: str) -> None:
    options = QUICK | {"start_lr": 50.0, "end_lr": 500.0, "strategy": strategy}
    if strategy == "curve":
        options |= {"seeds": None, "resolution": None, "trials": 24}
    with pytest.warns(etastar.NotBracketedWarning) as caught:
        found = etastar.maximal_lr(
            mlp(), (X, Y), loss_fn=lambda z, y: nn.functional.cross_entropy(z**3, y), **options
        )
    (text,) = [str(w.message) for w in caught if w.category is etastar.NotBracketedWarning]
    assert "ower `start_lr`" in text, text
    assert "budget" not in text
    assert found.lr is None
    assert caught[0].filename == __file__


FILE = """
import torch
import numpy as np

X = np.random.default_rng(0).normal(size=(96, 8)).astype(np.float32)


def build():
    return torch.nn.Linear(8, 2)


def arrays():
    return X, (X[:, :3].sum(1) > 0).astype(np.int64)


def tensors():
    return tuple(map(torch.as_tensor, arrays()))


def images():
    import etastar
    return etastar.load("digits")


def cnn(seed):
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    return torch.nn.Sequential(*layers)
"""


def test_files_as_people_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mistaken.py").write_text(FILE, encoding="utf-8")
    options = "--seeds 1 --resolution 1 --epochs 2 --batch-size 32 --threshold 0.7 --start-lr 0.1"
    told = []
    for name in ("arrays", "tensors"):
        place = ["model", "mistaken.py:build", "--data", f"mistaken.py:{name}", *options.split()]
        assert main(place) == 0
        told.append(capsys.readouterr().out.replace(name, "").partition("cost:")[0])
    assert told[0] == told[1]
    assert "training accuracy" in told[0]
    few = ["--epochs", "0.2", "--threshold", "0.2", "--end-lr", "1"]
    assert (
        main(
            ["model", "mistaken.py:cnn", "--data", "mistaken.py:images", *options.split()[:4], *few]
        )
        == 0
    )
    assert "given as images" in capsys.readouterr().out


def test_names_are_known_in_any_case() -> None:
    with pytest.raises(etastar.ConfigError, match="did you mean 'mnist'"):
        etastar.load("MNIST")


def test_numbers_of_numpy_are_numbers() -> None:
    options = QUICK | {"start_lr": np.float32(0.05), "threshold": np.float64(0.65)}
    options |= {"batch_size": np.int64(16), "epochs": np.int32(2)}
    assert etastar.maximal_lr(mlp(), (X, Y), **options).history
