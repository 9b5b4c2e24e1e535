"""Every engine gives the outcomes of the loop: a new engine is a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from etastar.engines import ENGINES, LoopEngine, train_all
from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Trial

PLAIN: dict[str, Any] = {
    "val_data": None,
    "loss_fn": nn.functional.cross_entropy,
    "optimizer": torch.optim.SGD,
    "metric": "accuracy",
    "threshold": 0.8,
    "epochs": 10,
    "batch_size": 16,
    "eval_every": 3,
    "seeds": 2,
    "start_lr": 1e-3,
    "end_lr": 1e3,
    "resolution": 0.1,
    "step_fn": None,
    "device": None,
    "progress": False,
    "higher_is_better": None,
    "engine": "auto",
    "from_checkpoint": None,
}
"""Arguments of `maximal_lr`."""


def made_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs `[96, 6]` in double precision, and which of three numbers is largest, `[96]`."""
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def relu_network(seed: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    ).double()


def for_the_stack() -> Problem:
    given = PLAIN | {"model": relu_network, "train_data": made_data()}
    return OwnModel(**given).problem()[0]


PROBLEMS: dict[str, tuple[Callable[[], Problem], tuple[float, ...]]] = {
    "stack": (for_the_stack, (0.001, 0.1, 1.0, 3.0, 30.0, 1e60)),
}
"""Engine → what it trains here in double precision, and the rates to train it at."""


def test_every_engine_has_its_row_here() -> None:
    assert set(PROBLEMS) == set(ENGINES) - {"loop"}


def told(outcome: Outcome) -> tuple[Any, ...]:
    """All of an outcome that rounding does not reach; that of a blown-up run is no more than so."""
    metric = outcome.metric if outcome.kind == "trained" else None
    return outcome.kind, outcome.step, outcome.slow, outcome.nans, pytest.approx(metric)


@pytest.mark.parametrize("name", PROBLEMS)
def test_outcomes_are_the_loops(name: str) -> None:
    make, rates = PROBLEMS[name]
    problem = make()
    engine = ENGINES[name]()
    assert engine.refusal(problem) is None
    trials = [Trial.of(seed, lr) for seed in (0, 1) for lr in rates]
    found = train_all(engine, problem, trials)
    expected = train_all(LoopEngine(), problem, trials)
    assert {o.kind for o in expected.values()} == {"trained", "diverged", "short"}
    for trial in trials:
        assert told(found[trial]) == told(expected[trial]), trial
