"""Two engines, one answer."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
from module_zoo import MODELS, OPTIMIZERS, QUICK, data, drawn, mlp, normed_mlp
from torch import nn

import etastar
from etastar.engines import choose
from etastar.problem.losses import half_squared_distance
from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem


def measured(model: Any, optimizer: Any, engine: str, **options: Any) -> etastar.Result:
    return etastar.maximal_lr(
        *(model, data(), data(192, 1)),
        optimizer=optimizer,
        engine=engine,
        **(QUICK | {"eval_batch_size": 192, "epochs": 4} | options),
    )


def problem_of(model: Any, **options: Any) -> Problem:
    """The problem of `maximal_lr`, with defaults of a quick search."""
    given: dict[str, Any] = {
        "model": model,
        "train_data": data(),
        "val_data": data(192, 1),
        "loss_fn": nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD,
        "metric": "accuracy",
        "step_fn": None,
        "device": None,
        "higher_is_better": None,
        "engine": "auto",
        "from_checkpoint": None,
    }
    return OwnModel(**(given | QUICK | options)).problem()[0]


def same(mine: etastar.Result, its: etastar.Result) -> None:
    assert mine.seeds == its.seeds
    for one, other in zip(mine.history, its.history, strict=True):
        assert (one.lr, one.outcome, one.step) == (other.lr, other.outcome, other.step)
        if one.outcome == "trained":  # far above η* a metric is chaotic
            assert one.metric == pytest.approx(other.metric)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_engine_that_applies_gives_the_same_trials(name: str, optimizer: str) -> None:
    make, auto = MODELS[name]
    model = drawn(make)
    wide: dict[str, Any] = {}
    if "batch norm" in name:
        wide["end_lr"] = 1e5  # it trains at nearly any rate of Adam
    chosen = measured(model, OPTIMIZERS[optimizer], "auto", **wide)
    if optimizer in ("nesterov", "adamw"):
        auto = "loop"
    assert chosen.engine == auto, chosen.engine_reason
    assert chosen.lr is not None
    if auto == "stack":
        other = measured(model, OPTIMIZERS[optimizer], "loop", **wide)
        assert other.engine_reason == "asked for"
        same(chosen, other)


def slow_input(model: nn.Module, lr: float, momentum: float = 0.0) -> torch.optim.Optimizer:
    first, *rest = (layer for layer in model if isinstance(layer, nn.Linear))
    groups = [
        {"params": [p for layer in rest for p in layer.parameters()]},
        {"params": list(first.parameters()), "lr": 0.1 * lr},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("make", [mlp, normed_mlp])
def test_a_slower_input_layer_reaches_the_stack(make: Any, momentum: float) -> None:
    factory = functools.partial(slow_input, momentum=momentum)
    wide: dict[str, Any] = {"epochs": 6} | ({"end_lr": 1e5} if make is normed_mlp else {})
    found = measured(drawn(make), lambda model, lr: factory(model, lr), "auto", **wide)
    assert found.engine == "stack", found.engine_reason
    assert found.lr is not None
    assert found.group_lrs == pytest.approx((found.lr, 0.1 * found.lr))
    same(found, measured(drawn(make), lambda model, lr: factory(model, lr), "loop", **wide))


def test_our_mse_reaches_the_stack() -> None:
    options = {"loss_fn": half_squared_distance, "threshold": 0.5, "epochs": 10}
    found = measured(drawn(mlp), torch.optim.SGD, "auto", **options)
    assert found.engine == "stack", found.engine_reason
    same(found, measured(drawn(mlp), torch.optim.SGD, "loop", **options))


def test_vmap_warns_and_loops() -> None:
    with pytest.warns(FutureWarning, match="`engine='vmap'` is gone"):
        found = measured(drawn(mlp), torch.optim.SGD, "vmap")
    assert found.engine == "loop"


@pytest.mark.parametrize("engine", ["stack", "loop"])
def test_the_same_twice_and_alone(engine: str) -> None:
    model = drawn(mlp)
    once, again = (measured(model, torch.optim.SGD, engine, seeds=3) for _ in range(2))
    alone = measured(model, torch.optim.SGD, engine, seeds=[2])
    assert once.to_dict() | {"cost": 0} == again.to_dict() | {"cost": 0}
    assert once.seeds[2] == alone.seeds[2]
    assert [t for t in once.history if t.order == 2] == list(alone.history)


def test_the_number_of_threads_changes_nothing() -> None:
    """In float32, where one differently rounded sum would show in the metrics."""
    (x, y), (x_val, y_val) = data(), data(192, 1)
    model = drawn(mlp).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            options = QUICK | {"seeds": 3, "engine": "stack"}
            found.append(
                etastar.maximal_lr(model, (x.float(), y), (x_val.float(), y_val), **options)
            )
    finally:
        torch.set_num_threads(before)
    assert [result.environment["threads"] for result in found] == [1, 2]
    assert found[0].seeds == found[1].seeds
    assert found[0].history == found[1].history


def unequal_rates(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    groups = [{"params": [p], "lr": lr * (1 + i)} for i, p in enumerate(model.parameters())]
    return torch.optim.SGD(groups, lr=lr)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"optimizer": torch.optim.RMSprop}, r"torch\.optim\.SGD only"),
        ({"optimizer": functools.partial(torch.optim.SGD, nesterov=True, momentum=0.5)}, "plain"),
        ({"optimizer": unequal_rates}, "the input layer at κ times lr"),
        ({"model": drawn(MODELS["dropout"][0])}, "constant width"),
        ({"model": drawn(MODELS["layer norm"][0])}, "constant width"),
        ({"loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1)}, "plain cross_entropy"),
        ({"metric": "loss", "threshold": 0.5}, "evaluates accuracy only"),
        ({"train_data": [data()]}, "tensors"),
    ],
)
def test_what_the_stack_cannot_do_goes_to_the_loop_and_says_why(options: Any, reason: str) -> None:
    options = dict(options)
    model = options.pop("model", drawn(mlp))
    if "train_data" in options:
        options["batch_size"] = None
    problem = problem_of(model, **options)
    engine, why = choose(problem)
    assert engine.name == "loop"
    assert re.search(reason, why)
    with pytest.raises(etastar.ModelError, match=f"engine='stack'` cannot train this: .*{reason}"):
        choose(problem, "stack")
