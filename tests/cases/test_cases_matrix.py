"""One small case of every kind of the matrix: what is trained is the loop that its owner writes.

The promise itself, on 20 fresh seeds of every kind, takes minutes: `make matrix`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from asking import problem_of
from torch.utils.data import DataLoader, TensorDataset

from etastar.problem.session import Session
from etastar.problem.streams import Stream
from etastar.problem.trial import Start

SEED, STEPS = 5, 7
"""Of a start, and so many that an accumulation ends between two of its own."""


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULT = BENCHMARKS / "results" / "matrix.json"


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("matrix", BENCHMARKS / "matrix.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


matrix = program()


@pytest.mark.parametrize("kind", matrix.KINDS)
def test_a_trial_is_the_loop_that_its_owner_writes(kind: str) -> None:
    """Step by step, to the last bit, with the same weights, batches and random numbers."""
    name, step = kind.split(", ")
    model, way = matrix.MODELS[name], matrix.WAYS[step]
    lr = 0.01 if way.optimizer is matrix.adamw else 0.1
    x, y = (part[:96] for part in matrix.data())
    train: Any = (x, y)
    if loader := matrix.KINDS.index(kind) % 2 == 1:
        train = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    problem, _ = problem_of(
        lambda seed: model(),
        train,
        (x, y),
        optimizer=way.optimizer,
        step_fn=way.step() if way.step else None,
        scheduler=way.scheduler,
        batch_size=None if loader else 32,
    )
    session = Session(problem, Start(SEED, SEED), lr)
    with session.active():
        found = [session.step() for _ in range(STEPS)]
    net = problem.origin.copy(SEED)
    with Stream("training", SEED).active():
        losses = matrix.steps_of(net, way, lr, problem.train.stream(SEED))
        expected = list(itertools.islice(losses, STEPS))
    assert found == expected
    assert len(set(found)) == STEPS
    for mine, other in zip(session.model.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_committed_result_is_of_these_kinds_and_sums_up_what_it_holds() -> None:
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    kinds = [row["kind"] for row in record["rows"]]
    assert kinds == matrix.KINDS
    assert record["summary"] == matrix.summary(record["rows"])
    assert record["summary"]["recommended"]["worst of 20"] >= 17
