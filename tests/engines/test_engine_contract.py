"""Every engine gives the outcomes of the loop: a new engine is a row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

import etastar
from etastar.engines import ENGINES, LoopEngine, train_all
from etastar.maximal import PLACES
from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial

ARGUMENTS = inspect.signature(etastar.maximal_lr).parameters
PLAIN = {name: a.default for name, a in ARGUMENTS.items() if name not in PLACES}


def made_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs `[96, 6]` in double precision, and which of three numbers is largest, `[96]`."""
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def problem_of(**arguments: Any) -> Problem:
    return OwnModel(**(PLAIN | {"eval_every": 3} | arguments)).problem()[0]


def for_the_stack() -> Problem:
    def relu_network(seed: int) -> nn.Module:
        hidden = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(16, 3)).double()

    return problem_of(
        model=relu_network, train_data=made_data(), threshold=0.8, epochs=5, batch_size=16
    )


PROBLEMS: dict[str, tuple[Callable[[], Problem], tuple[float, ...]]] = {
    "stack": (for_the_stack, (0.001, 0.1, 1.0, 3.0, 30.0, 1e60)),
}
"""Engine → what it trains here in double precision, and the rates to train it at."""


def test_every_engine_has_its_row_here() -> None:
    assert set(PROBLEMS) == set(ENGINES) - {"loop"}


def told(outcome: Outcome) -> dict[str, Any]:
    """Return what engines must agree on.

    A run that is given up has the metric and the loss of when that was seen; where a run blows up,
    numbers are rounding.
    """
    fields = asdict(outcome)
    calm = outcome.kind in ("trained", "partial") or outcome.cause == "slow"
    exact = ("kind", "step", "slow", "nans", "cause", "held", "first_loss")
    names = [*exact, *(("metric", "score", "last_loss") if calm else ())]
    return {name: fields[name] for name in names}


@pytest.mark.parametrize("how", [{}, {"steps": 25}, {"to_end": True}], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_outcomes_are_the_loops(name: str, how: dict[str, Any]) -> None:
    make, rates = PROBLEMS[name]
    problem, engine = make(), ENGINES[name]()
    assert engine.refusal(problem) is None
    trials = [Trial(Start(seed, seed), lr, **how) for seed in (0, 1) for lr in rates]
    found = train_all(engine, problem, trials)
    expected = train_all(LoopEngine(), problem, trials)
    kinds = {"partial", "diverged"} if "steps" in how else {"trained", "diverged", "short"}
    assert {outcome.kind for outcome in expected.values()} == kinds
    for trial in trials:
        mine, its = told(found[trial]), told(expected[trial])
        assert mine.keys() == its.keys(), trial
        for field, value in its.items():
            assert mine[field] == pytest.approx(value), (trial, field)
