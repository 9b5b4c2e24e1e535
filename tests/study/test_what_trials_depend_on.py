"""A store goes on with the same training, and keeps any other apart, wherever the change stands."""

from __future__ import annotations

import argparse
import functools
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import etastar
from etastar.errors import StoreError

pytestmark = pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
DIGITS = etastar.load("digits")
TRAIN, VAL = (DIGITS.x_train[:200], DIGITS.y_train[:200]), (DIGITS.x_val[:50], DIGITS.y_val[:50])


def specifications(store: Path, **options: Any) -> int:
    """Measure; return how many trainings the store tells apart by then."""
    model = options.pop("model", None) or net()
    etastar.maximal_lr(
        *(model, TRAIN, VAL),
        **{"threshold": 0.5, "batch_size": 100, "trials": 1, "confirm": 0, "progress": False},
        **{"store": store, **options},
    )
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT count(*) FROM specification").fetchone()[0])


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))


class Own(nn.Module):
    scales: tuple[float, ...] = (1.0,)

    def __init__(self) -> None:
        super().__init__()
        self.net, self._scale = net(), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self._scale * self.scales[0] * self.net(x)


class Slots:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


HELD: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "argparse": (argparse.Namespace(scale=1.0), lambda held: held.scale),
    "namespace": (SimpleNamespace(scale=1.0), lambda held: held.scale),
    "slots": (Slots(), lambda held: held.scale),
    "cached": (
        SimpleNamespace(scale=1.0),
        lambda held: functools.lru_cache(lambda: held.scale)(),
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_step_holds(name: str, tmp_path: Path) -> None:
    held, read = HELD[name]
    lock = threading.Lock()

    @torch.enable_grad()  # a wrapper of a library around code of the user's
    def step(model: nn.Module, batch: Any) -> Tensor:
        with lock:
            return read(held) * cross_entropy(model(batch[0]), batch[1])

    store = tmp_path / "trials.sqlite"
    held.scale = 1.0
    assert specifications(store, step_fn=step) == 1
    assert specifications(store, step_fn=step) == 1
    held.scale = 20.0
    assert specifications(store, step_fn=step) == 2


def scaled(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
    return 20 * outputs


@pytest.mark.parametrize(
    "change",
    [
        lambda model, patch: setattr(model, "_scale", 20.0),
        lambda model, patch: patch.setattr(Own, "scales", (20.0,)),
        lambda model, patch: model.net[0].register_forward_hook(scaled),
        lambda model, patch: setattr(model.net[2].bias, "scale", 20.0),
        lambda model, patch: setattr(
            model.net[2], "bias", nn.Parameter(model.net[2].bias.data, False)
        ),
    ],
    ids=["private", "class", "hook", "of a parameter", "frozen"],
)
def test_what_a_model_holds(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, store = Own(), tmp_path / "trials.sqlite"
    assert specifications(store, model=model) == specifications(store, model=model) == 1
    change(model, monkeypatch)
    assert specifications(store, model=model) == 2


def test_a_module_of_the_users_that_code_refers_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, store = ModuleType("helper_of_a_step"), tmp_path / "trials.sqlite"
    helper.__file__ = str(tmp_path / "helper_of_a_step.py")
    monkeypatch.setitem(sys.modules, helper.__name__, helper)

    def write(text: str) -> None:
        exec(compile(text, str(helper.__file__), "exec"), vars(helper))

    def step(model: nn.Module, batch: Any) -> Tensor:
        import helper_of_a_step as own

        return own.SCALE * own.loss(model(batch[0]), batch[1])

    loss = "def loss(x, y): return {} * F.cross_entropy(x, y)"
    write("import torch.nn.functional as F\nSCALE, OTHER = 1.0, 1.0\n" + loss.format(1))
    assert specifications(store, step_fn=step) == specifications(store, step_fn=step) == 1
    write("OTHER = 20.0")  # to which the step does not refer
    assert specifications(store, step_fn=step) == 1
    write("SCALE = 20.0")
    assert specifications(store, step_fn=step) == 2
    write(loss.format(20))
    with pytest.raises(StoreError, match=r"helper_of_a_step\.loss was changed since"):
        specifications(store, step_fn=step)


def test_what_cannot_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "trials.sqlite"
    with (tmp_path / "log.txt").open("w") as file:

        def step(model: nn.Module, batch: Any) -> Tensor:
            file.write("a step\n")
            return cross_entropy(model(batch[0]), batch[1])

        assert specifications(store, step_fn=step) == specifications(store, step_fn=step) == 1
    assert "cannot read the content of _io.TextIOWrapper" in capsys.readouterr().err
