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

EASY = QUICK | {"threshold": 0.45, "seeds": 1}


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
            "identity": [id(p) for p in model.parameters()],
            "optimizers": [copy.deepcopy(o.state_dict()) for o in self.optimizers],
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "directory": os.getcwd(),
            "grad mode": torch.is_grad_enabled(),
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
        with pytest.raises(type(end)):
            etastar.maximal_lr(model, data(), data(192, 1), **EASY)
    before.check()


@pytest.mark.parametrize("engine", ["stack", "vmap"])
def test_everything_is_as_before_after_ctrl_c_in_the_threads(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etastar.search import SearchQueue

    model = drawn(mlp)
    before = Snapshot(model)
    put, calls = SearchQueue.put, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        put(*args)

    monkeypatch.setattr(SearchQueue, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        etastar.maximal_lr(model, data(), data(192, 1), engine=engine, **QUICK)
    assert len(calls) >= 5
    before.check()


def test_a_loader_keeps_its_generators_and_the_data_their_bits() -> None:
    x, y = data()
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=generator)
    next(iter(loader))
    state, kept = generator.get_state(), (x.clone(), y.clone())
    etastar.maximal_lr(drawn(mlp), loader, **QUICK)
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
