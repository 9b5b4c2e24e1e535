"""Runs given up early are those that end short anyway, in all engines; no other is given up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from module_zoo import DTYPE, MODELS, OPTIMIZERS, data, drawn, mlp
from test_module_engines import problem_of
from torch import nn

import etastar
from etastar.engines.collapse import blocked, ceiling_of, constant_accuracy
from etastar.engines.loop import run_trial
from etastar.problem.trial import Start, Trial

RATES = [0.3, 0.9, 1.5, 3.0, 6.0, 20.0]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_given_up_or_not_the_outcome_is_the_same(name: str, optimizer: str) -> None:
    problem = problem_of(
        drawn(MODELS[name][0]), optimizer=OPTIMIZERS[optimizer], epochs=20, eval_every=30
    )
    constant = constant_accuracy(problem)
    assert ceiling_of(problem, Start(0, 0)) == (constant, True)
    given_up = 0
    first = (name, optimizer) == ("mlp", "sgd")  # elsewhere the velocity, or nothing, stands still
    for order in (0, 1) if first else (0,):
        for lr in RATES:
            watched = run_trial(problem, Trial(Start(0, order), lr))
            full = run_trial(problem, Trial(Start(0, order), lr), ceiling=(constant, False))
            assert (watched.kind, watched.step) == (full.kind, full.step)
            assert full.given_up is None
            given_up += watched.given_up is not None
            if watched.given_up is None:
                assert watched == full
            else:
                assert full.metric is not None
                assert constant is not None
                assert full.metric <= constant
    if first:
        assert given_up >= 3


@pytest.mark.parametrize("engine", ["stack", "loop"])
def test_engines_agree_with_watching(engine: Any) -> None:
    import etastar

    options: dict[str, Any] = {
        "threshold": 0.6,
        "batch_size": 16,
        "epochs": 20,
        "start_lr": 0.1,
        "end_lr": 30.0,
        "resolution": 0.2,
        "seeds": 1,
        "progress": False,
    }
    found = etastar.maximal_lr(drawn(mlp), data(), data(192, 1), engine=engine, **options)
    expected = etastar.maximal_lr(drawn(mlp), data(), data(192, 1), engine="loop", **options)
    assert found.seeds == expected.seeds
    assert [(t.lr, t.outcome) for t in found.history] == [
        (t.lr, t.outcome) for t in expected.history
    ]
    assert any(t.given_up for t in found.history)
    assert found.cost["steps"] < sum(t.step for t in found.history)


def watched(model: nn.Module, **options: Any) -> bool:
    return ceiling_of(problem_of(model, **options), Start(0, 0))[1]


def test_who_is_watched() -> None:
    assert watched(drawn(mlp))
    for name in ("dropout", "cnn with batch norm"):
        assert not watched(drawn(MODELS[name][0]))
    assert not watched(drawn(mlp), metric="loss", threshold=0.5)
    augmented = [(data()[0], data()[1])]
    assert watched(drawn(mlp), train_data=augmented)
    assert not watched(drawn(mlp), train_data=Reader(augmented))


class Reader:
    """Batches that nobody vouches for."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_blocked_sees_through_what_only_looks_collapsed() -> None:
    """A zero head predicts one class and hides nothing; a silent layer hides everything."""
    problem = problem_of(drawn(mlp))
    zero, silent, skip = drawn(mlp), drawn(mlp), WithSkip()
    with torch.no_grad():
        zero[4].weight.zero_()
        for model in (silent, skip.inner):
            model[0].bias.fill_(-1e3)
    head = [name.startswith("4") for name, _ in zero.named_parameters()]
    assert not blocked(problem, zero, [not own for own in head])
    below = [name.startswith("0") for name, _ in silent.named_parameters()]
    assert blocked(problem, silent, below)
    assert not blocked(problem, silent, [False] * len(below))
    beside = ["inner.0" in name for name, _ in skip.named_parameters()]
    assert not blocked(problem, skip, beside)


class WithSkip(nn.Module):
    """A path around the silent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.around = drawn(mlp), nn.Linear(16, 3, dtype=DTYPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.around(x)


class Amax(nn.Module):
    """Convolutions and a maximum over places: at high rates it dies calmly, one class for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 12, 3)
        self.last = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x.view(-1, 1, 8, 8)).relu()).relu()
        return self.last(x.amax((2, 3)))


def test_calm_collapse_is_not_taken_for_a_rate_too_slow() -> None:
    """The scan from above gave up among collapsed runs, and called the seed `none-trained`."""
    torch.manual_seed(1)
    data = etastar.load("digits")
    result = etastar.maximal_lr(
        Amax(),
        (data.x_train, data.y_train),
        (data.x_val, data.y_val),
        threshold=0.9,
        epochs=5,
        batch_size=32,
        eval_batch_size=400,
        seeds=1,
        resolution=0.3,
        start_lr=0.01,
        progress=False,
    )
    assert result.status == "bracketed"
    assert result.lr is not None
    assert 0.1 < result.lr < 2
    assert min(trial.lr for trial in result.history) < 1
