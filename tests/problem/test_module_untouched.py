"""Nothing of the user's changes, bit for bit: after success, an exception and Ctrl-C."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from module_zoo import MODELS, QUICK, data, drawn, mlp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import etastar

EASY = QUICK | {"threshold": 0.45, "resolution": 0.5, "epochs": 4}


class Snapshot:
    """Clones of everything that belongs to the user."""

    def __init__(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        self.model, self.optimizers = model, optimizers
        self.before = self._state()

    def _state(self) -> dict[str, Any]:
        model = self.model
        return {
            "tensors": {name: t.clone() for name, t in model.state_dict().items()},
            "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "versions": [p._version for p in model.parameters()],
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "training": [m.training for m in model.modules()],
            "hooks": [[*m._forward_hooks, *m._backward_hooks] for m in model.modules()],
            "identity": [id(p) for p in model.parameters()],
            "optimizers": [copy.deepcopy(o.state_dict()) for o in self.optimizers],
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "directory": os.getcwd(),
            "grad mode": torch.is_grad_enabled(),
            "anomalies": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
        }

    def check(self) -> None:
        assert_same(self.before, self._state())


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def used_model(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model in the middle of its owner's work: gradients, a frozen part, a mixed mode."""
    model = drawn(MODELS[name][0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = data()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    next(model.parameters()).requires_grad_(False)
    model.eval()
    list(model.modules())[-1].train()
    return model, optimizer


class Disturbing(nn.Module):
    """Changes what is global in every forward pass, and ends as it is told."""

    def __init__(self, inner: nn.Module, fails: BaseException | None, after: int) -> None:
        super().__init__()
        self.inner, self.fails, self.left = inner, fails, [after]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(())
        os.chdir("/")
        self.left[0] -= 1
        if self.fails and self.left[0] < 0:
            raise self.fails
        return self.inner(x)


@pytest.mark.parametrize("end", [None, OSError("no more"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["mlp", "cnn with batch norm", "dropout"])
def test_everything_is_as_before(
    name: str, end: BaseException | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    inner, optimizer = used_model(name)
    model = Disturbing(inner, end, after=30)
    before = Snapshot(inner, optimizer)
    if end is None:
        etastar.maximal_lr(model, data(), data(192, 1), **EASY)
    else:
        kind = etastar.ModelError if isinstance(end, OSError) else type(end)
        with pytest.raises(kind):
            etastar.maximal_lr(model, data(), data(192, 1), **EASY)
    before.check()


@pytest.mark.parametrize("engine", ["stack", "loop"])
def test_everything_is_as_before_after_ctrl_c_in_the_threads(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etastar.search.queue import SearchQueue

    model = drawn(mlp)
    before = Snapshot(model)
    put, calls = SearchQueue.put, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        put(*args)

    monkeypatch.setattr(SearchQueue, "put", interrupted)
    with pytest.warns(etastar.NotBracketedWarning, match="interrupted by Ctrl-C"):
        found = etastar.maximal_lr(model, data(), data(192, 1), engine=engine, **QUICK)
    assert found.interrupted  # four trials had ended: they are what is known
    assert len(calls) >= 5
    before.check()


def whole_step(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def halves(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    first, *rest = [p for p in model.parameters() if p.requires_grad]
    return [torch.optim.SGD([first], lr), torch.optim.SGD(rest, lr)]


OPTIONS: dict[str, dict[str, Any]] = {
    "whole step": {"step_fn": whole_step},
    "scheduler": {"scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.99)},
    "several optimizers": {"optimizer": halves},
    "closure": {"optimizer": torch.optim.LBFGS, "epochs": 1, "end_lr": 0.1},
    "curve": {"seeds": None, "resolution": None, "trials": 4, "confirm": 0, "precision": 9.0},
}


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
@pytest.mark.parametrize("way", [*OPTIONS, "warmup", "sharpness"])
def test_everything_is_as_before_in_every_way_in(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    inner, optimizer = used_model("cnn with batch norm" if way == "sharpness" else "mlp")
    inner.train(way == "sharpness")
    next(inner.children()).train()
    model, given = Disturbing(inner, None, after=0), data()
    kept, before = [part.clone() for part in given], Snapshot(inner, optimizer)
    if way == "sharpness":
        loader = DataLoader(TensorDataset(*given), 32, shuffle=True)
        found = etastar.sharpness(model, nn.functional.cross_entropy, loader, tol=0.1)
        assert found.value > 0
    elif way == "warmup":
        etastar.warmup(model, given, target_lr=50.0, ladder=(0, 2), **(EASY | {"epochs": 1}))
    else:
        etastar.maximal_lr(model, given, **(EASY | {"epochs": 3} | OPTIONS[way]))
    before.check()
    assert all(map(torch.equal, given, kept))


def test_a_loader_keeps_its_generators_and_the_data_their_bits() -> None:
    x, y = data()
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=generator)
    next(iter(loader))
    state, kept = generator.get_state(), (x.clone(), y.clone())
    etastar.maximal_lr(drawn(mlp), loader, **(QUICK | {"batch_size": None}))
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


def test_a_loss_module_and_a_checkpoint_are_copied() -> None:
    class Running(nn.Module):
        """A loss that remembers."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            loss = nn.functional.cross_entropy(outputs, targets)
            self.mean.lerp_(loss.detach().float(), 0.1)
            return loss

    loss_fn, model = Running(), drawn(mlp)
    state = drawn(mlp, seed=1).state_dict()
    kept = {name: t.clone() for name, t in state.items()}
    etastar.maximal_lr(
        model, data(), data(192, 1), loss_fn, from_checkpoint=state, engine="loop", **QUICK
    )
    assert float(loss_fn.mean) == 0
    assert_same(kept, dict(state))


def test_inside_no_grad_and_inference_mode() -> None:
    model = drawn(mlp)
    plain = etastar.maximal_lr(model, data(), data(192, 1), **EASY)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert etastar.maximal_lr(model, data(), data(192, 1), **EASY).seeds == plain.seeds


class InPlace(nn.Module):
    """Scales the input it is handed, and asks for its gradient, as some models do."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner, self.way = drawn(mlp), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "past autograd":
            x.data.mul_(0.5)
        elif self.way == "in eval mode":
            x = x if self.training else x.mul_(0.5)
        elif self.way == "late":
            x = x.mul_(0.5) if float(self.inner[0].weight.detach().abs().max()) > 0.3 else x
        elif self.way == "requires grad":
            x.requires_grad_()
        else:
            x.mul_(0.5)
        return self.inner(x)


def spoiling(model: nn.Module, batch: Any) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1].clone())
    batch[1].zero_()
    return loss


SOURCES: dict[str, Any] = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "full batch": lambda x, y: (x, y),
    "list of batches": lambda x, y: [(x[i : i + 16], y[i : i + 16]) for i in range(0, 96, 16)],
    "list of dictionaries": lambda x, y: [
        Record(inputs=x[i : i + 16], labels=y[i : i + 16]) for i in range(0, 96, 16)
    ],
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), 16),
}


class Record(dict[str, Any]):
    """A batch of a class of one's own."""


def of_record(model: nn.Module, batch: Record) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"].clone())
    batch["labels"].zero_()
    batch.clear()
    return loss


WAYS = ("past autograd", "in eval mode", "late")


@pytest.mark.parametrize(
    ("way", "source"),
    [*((way, "tensors") for way in WAYS), *(("always", source) for source in SOURCES)],
)
def test_data_stand_whatever_the_model_does_to_its_inputs(way: str, source: str) -> None:
    """Every trial sees the same data, and the user's are as before."""
    x, y = data()
    kept = (x.clone(), y.clone())
    given = SOURCES[source](x, y)
    options: dict[str, Any] = EASY | {"metric": "loss", "threshold": 1.05, "resolution": 1.0}
    if source == "full batch":
        options["batch_size"] = 96
    if source.startswith("l"):  # in batches already
        options["batch_size"] = None
    records = source == "list of dictionaries"
    options["step_fn"] = of_record if records else spoiling
    found = etastar.maximal_lr(InPlace(way), given, given, **options)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    if records:
        assert all(set(record) == {"inputs", "labels"} for record in given)
    again = etastar.maximal_lr(InPlace(way), given, given, **options)
    assert outcomes(found) == outcomes(again)
    if way == "always":
        halved = SOURCES[source](x / 2, y)
        pure = etastar.maximal_lr(drawn(mlp), halved, halved, engine="loop", **options)
        assert outcomes(found) == outcomes(pure)


def outcomes(found: etastar.Result) -> list[tuple[float, str, int]]:
    return [(t.lr, t.outcome, t.step) for t in found.history]


def test_no_gradient_reaches_the_data() -> None:
    """Neither a flag nor a gradient, where the model or the data ask for one."""
    x, y = data()
    options = EASY | {"batch_size": None}
    plain = [(x[i : i + 16].clone(), y[i : i + 16]) for i in range(0, 96, 16)]
    etastar.maximal_lr(InPlace("requires grad"), plain, engine="loop", **options)
    assert not any(batch[0].requires_grad for batch in plain)
    asking = [(batch[0].clone().requires_grad_(), batch[1]) for batch in plain]
    etastar.maximal_lr(drawn(mlp), asking, engine="loop", **options)
    assert all(batch[0].grad is None and batch[0].requires_grad for batch in asking)


def test_an_in_place_activation_first() -> None:
    """`nn.ReLU(inplace=True)` first, on the user's own tensors."""
    x, y = data()
    kept = x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), drawn(mlp))
    found = etastar.maximal_lr(model, (x, y), (x, y), **EASY)
    assert torch.equal(x, kept)
    plain = nn.Sequential(nn.ReLU(), drawn(mlp))
    assert found.engine == "loop"
    assert etastar.maximal_lr(plain, (x, y), (x, y), **EASY).history == found.history
