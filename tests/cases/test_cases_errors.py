"""What a user's code raises in the middle of a run: one error, with where, what and the remedy."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

import etastar
from etastar.cli import main

cross_entropy = nn.functional.cross_entropy
QUICK: dict[str, Any] = {
    "threshold": 0.95,
    "batch_size": 16,
    "epochs": 2,
    "eval_every": 6,
    "start_lr": 0.01,
    "end_lr": 1.0,
    "resolution": 1.0,
    "seeds": 1,
    "progress": False,
}
X = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > 0).long()


def mlp() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))


class Failing:
    """Does what it is told to when the first weights have moved far: at the highest rate only."""

    def __init__(self, how: Callable[[], Any], far: float = 0.3) -> None:
        self.how, self.far = how, far
        self.begun = mlp()[0].weight.detach()  # type: ignore[index]

    def look(self, model: Any) -> None:
        moved = (model[0].weight.detach() - self.begun).abs().max()
        if float(moved) > self.far:
            self.how()


def raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> None:
        raise error

    return raise_it


WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "an error of ours to see": (
        raising(KeyError("no such token")),
        r"raised KeyError: 'no such to",
    ),
    "an index": (raising(IndexError("7")), "raised IndexError: 7"),
    "an error without text": (raising(RuntimeError()), r"raised RuntimeError \(in"),
    "several lines": (raising(ValueError("one\ntwo")), "raised ValueError: one two"),
    "exit": (lambda: sys.exit(1), r"called sys.exit\(1\) .*Return the loss instead"),
    "a generator's end": (raising(GeneratorExit()), r"raised GeneratorExit \(in"),
    "exit with words": (lambda: sys.exit("stop"), r"called sys.exit\('stop'\)"),
    "one sample": (
        lambda: nn.BatchNorm1d(8)(X[:1]),
        r"raised ValueError: Expected more than 1 value per channel .*drop_last=True",
    ),
    "memory": (raising(torch.OutOfMemoryError("CUDA out of memory")), "Lower the batch size"),
}


def step(model: nn.Module, batch: Any, *, failing: Failing) -> torch.Tensor:
    failing.look(model)
    return cross_entropy(model(batch[0]), batch[1])


def whole(model: nn.Module, batch: Any, optimizer: Any, *, failing: Failing) -> torch.Tensor:
    optimizer.zero_grad()
    loss = step(model, batch, failing=failing)
    loss.backward()
    optimizer.step()
    return loss


def named(function: Any, failing: Failing) -> Any:
    made = functools.partial(function, failing=failing)
    made.__name__ = "train_step"  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["loss", "whole"])
def test_an_error_in_a_step(way: str, kind: str) -> None:
    how, message = WAYS[way]
    given = named(step if kind == "loss" else whole, Failing(how))
    with pytest.raises(etastar.ModelError) as caught:
        etastar.maximal_lr(mlp(), (X, Y), step_fn=given, **QUICK)
    text = str(caught.value)
    assert "step_fn (train_step) at rate" in text
    assert ", step " in text
    assert "float32[16, 8], int64[16]" in text
    assert "test_cases_errors.py, line" in text or way == "one sample"
    assert re.search(message, text)
    assert isinstance(caught.value.__cause__, BaseException)


@pytest.mark.parametrize("way", ["exit", "an index"])
def test_an_error_anywhere_else(way: str) -> None:
    how, message = WAYS[way]
    message = message.partition(" .*")[0]
    failing = Failing(how)

    def metric(model: nn.Module, batch: Any) -> float:
        failing.look(model)
        return 0.0

    plain = functools.partial(step, failing=Failing(how, far=1e9))
    places: dict[str, dict[str, Any]] = {
        r"the metric metric at rate \S+, after step \d+,": {"metric": metric, "step_fn": plain},
        r"the optimizer cannot be built: at lr = 1 it": {"optimizer": lambda model, lr: how()},
        r"scheduler at step 4 of 12": {
            "scheduler": lambda o: LambdaLR(o, lambda s: how() if s > 3 else 1.0)
        },
        "the factory that was given as the model, called with the seed 0,": {
            "model": lambda seed: how()
        },
        r"train_data: reading batch 0 from generator": {"train_data": (how() for _ in "a")},
        r"the first training batch .* and it": {"loss_fn": lambda outputs, targets: how()},
        r"the metric '<lambda>' cannot be evaluated .* it": {
            "metric": lambda outputs, targets: how()
        },
    }
    for place, given in places.items():
        arguments = {"model": mlp(), "train_data": (X, Y)} | QUICK | given
        if "generator" in place:
            arguments["batch_size"] = None
        with pytest.raises(etastar.ModelError, match=rf"{place} {message}"):
            etastar.maximal_lr(**arguments)


def test_ctrl_c_in_the_users_code_stays_ctrl_c() -> None:
    for place in ("step_fn", "optimizer", "metric"):
        failing = Failing(raising(KeyboardInterrupt()))
        given: dict[str, Any] = {"step_fn": named(step, failing)}
        if place == "optimizer":
            given = {"optimizer": lambda model, lr, failing=failing: failing.how()}
        if place == "metric":
            given = {"metric": lambda outputs, targets, failing=failing: failing.how()}
        with pytest.raises(KeyboardInterrupt):
            etastar.maximal_lr(mlp(), (X, Y), **(QUICK | given))


class Strict(nn.Module):
    """Refuses a loss that is not finite, as training scripts do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.inner, self.error = mlp(), error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.inner(x) ** 5
        if float(outputs.detach().abs().max()) > 1e6:
            raise self.error
        return outputs


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
@pytest.mark.parametrize("text", ["Loss is nan, stopping training", "found inf", "not finite"])
def test_an_error_that_tells_of_nan_is_a_diverged_run(text: str) -> None:
    found = etastar.maximal_lr(
        Strict(ValueError(text)), (X, Y), **(QUICK | {"end_lr": 1e3, "threshold": 0.6})
    )
    assert "diverged" in {trial.outcome for trial in found.history}
    with pytest.raises(etastar.ModelError, match="raised ValueError: too large"):
        etastar.maximal_lr(Strict(ValueError("too large")), (X, Y), **(QUICK | {"end_lr": 1e3}))


def test_an_error_along_a_warm_up() -> None:
    failing = Failing(raising(LookupError("gone")), far=0.05)
    with pytest.raises(etastar.ModelError, match=r"at rate .*, step \d+, on .*raised LookupError"):
        etastar.warmup(mlp(), (X, Y), target_lr=0.5, step_fn=named(step, failing), **QUICK)
    with pytest.raises(etastar.ConfigError, match="`scheduler` has no effect on a warm-up"):
        etastar.warmup(mlp(), (X, Y), target_lr=0.5, scheduler=lambda o: None, **QUICK)


def no_state(model: nn.Module, lr: float) -> Any:
    class Bare:
        """An optimizer that does not tell its state."""

        def __init__(self) -> None:
            self.inner = SGD(model.parameters(), lr)
            self.param_groups = self.inner.param_groups
            self.step, self.zero_grad = self.inner.step, self.inner.zero_grad

    return Bare()


def test_a_warm_up_needs_the_state_of_the_optimizer() -> None:
    easy = QUICK | {"threshold": 0.6, "end_lr": 100.0, "ladder": (0, 2)}
    with pytest.raises(etastar.ModelError, match=r"Bare.* state_dict"):
        etastar.warmup(mlp(), (X, Y), target_lr=90.0, optimizer=no_state, **easy)


SCRIPTS = {
    "import": ("import sys\nsys.exit(0)", r"importing it called sys.exit\(0\) \(in own.py, line 2"),
    "build": (
        "import sys\ndef build(seed): sys.exit(0)\n",
        r"build\(0\), and called sys.exit\(0\)",
    ),
    "load": (
        "import sys, torch\ndef build(): return torch.nn.Linear(2, 2)\ndef load(): sys.exit(0)\n",
        r"--data own.py:load called sys.exit\(0\)",
    ),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_file_that_exits_is_no_success(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = SCRIPTS[kind]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    loads = (
        "def load():\n    import torch\n    return torch.ones(4, 2), torch.tensor([0, 1, 0, 1])\n"
    )
    Path("own.py").write_text(text if kind == "load" else f"{text}\n{loads}", encoding="utf-8")
    assert main(["model", "own.py:build", "--data", "own.py:load"]) == 2
    monkeypatch.delitem(sys.modules, "own", raising=False)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
