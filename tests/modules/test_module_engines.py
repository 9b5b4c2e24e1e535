"""Three engines, one answer."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
from etastar.modules.engine_vmap import VmapStack, batchable_attention
from module_zoo import MODELS, OPTIMIZERS, QUICK, data, drawn, mlp
from torch import nn

import etastar
from etastar.modules.arguments import Arguments
from etastar.modules.choice import choose
from etastar.modules.origin import Start
from etastar.modules.task import Session, Task
from etastar.problem.trial import Trial


def measured(model: Any, optimizer: Any, engine: str, **options: Any) -> etastar.MaximalLR:
    return etastar.maximal_lr(
        model, data(), data(192, 1), optimizer=optimizer, engine=engine, **(QUICK | options)
    )


def arguments(model: Any, **options: Any) -> Arguments:
    """All the arguments of `maximal_lr`, with defaults of a quick search."""
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
    return Arguments(**(given | QUICK | options))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_engine_that_applies_gives_the_same_trials(name: str, optimizer: str) -> None:
    make, auto = MODELS[name]
    model = drawn(make)
    wide: dict[str, Any] = {}
    if "batch norm" in name:
        wide["end_lr"] = 1e5  # it trains at nearly any rate of Adam
    chosen = measured(model, OPTIMIZERS[optimizer], "auto", **wide)
    if optimizer in ("nesterov", "adamw") and auto == "stack":
        auto = "vmap"
    assert chosen.engine == auto, chosen.engine_reason
    assert chosen.lr is not None
    others = {"stack": ("vmap", "loop"), "vmap": ("loop",), "loop": ()}[auto]
    for engine in others:
        other = measured(model, OPTIMIZERS[optimizer], engine, **wide)
        assert other.engine_reason == "asked for"
        assert other.seeds == chosen.seeds
        for mine, its in zip(chosen.history, other.history, strict=True):
            assert (mine.lr, mine.outcome, mine.step) == (its.lr, its.outcome, its.step)
            if mine.outcome == "trained":  # far above η* a metric is chaotic
                assert mine.metric == pytest.approx(its.metric)


@pytest.mark.parametrize("engine", ["stack", "vmap", "loop"])
def test_the_same_twice_and_alone(engine: str) -> None:
    model = drawn(mlp)
    once, again = (measured(model, torch.optim.SGD, engine, seeds=3) for _ in range(2))
    alone = measured(model, torch.optim.SGD, engine, seeds=[2])
    assert once.to_dict() | {"cost": 0} == again.to_dict() | {"cost": 0}
    assert once.seeds[2] == alone.seeds[2]
    assert [t for t in once.history if t.order == 2] == list(alone.history)


@pytest.mark.parametrize("engine", ["stack", "vmap"])
def test_the_number_of_threads_changes_nothing(engine: str) -> None:
    """In float32, where one differently rounded sum would show in the metrics."""
    (x, y), (x_val, y_val) = data(), data(192, 1)
    model = drawn(mlp if engine == "stack" else MODELS["cnn"][0]).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            options = QUICK | {"seeds": 3, "engine": engine}
            found.append(
                etastar.maximal_lr(model, (x.float(), y), (x_val.float(), y_val), **options)
            )
    finally:
        torch.set_num_threads(before)
    assert [result.environment["threads"] for result in found] == [1, 2]
    assert found[0].seeds == found[1].seeds
    assert found[0].history == found[1].history


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"optimizer": torch.optim.RMSprop}, "RMSprop has no rule"),
        ({"optimizer": functools.partial(torch.optim.Adam, amsgrad=True)}, "Adam with amsgrad"),
        ({"optimizer": functools.partial(torch.optim.LBFGS, max_iter=2)}, "takes a closure"),
        ({"model": drawn(MODELS["dropout"][0])}, "Dropout .* draws random numbers"),
        ({"model": drawn(MODELS["cnn with batch norm"][0])}, "BatchNorm2d .* keeps statistics"),
    ],
)
def test_what_vmap_cannot_do_goes_to_the_loop_and_says_why(options: Any, reason: str) -> None:
    model = options.pop("model", drawn(mlp))
    task, _, _ = arguments(model, **options).task()
    choice = choose(task, [Start(0, 0)], "auto")
    assert choice.name == "loop"
    assert re.search(reason, choice.reason)
    with pytest.raises(etastar.ModelError, match=f"engine='vmap' cannot train this: .*{reason}"):
        choose(task, [Start(0, 0)], "vmap")
    with pytest.raises(etastar.ModelError, match="engine='stack' cannot train this"):
        choose(task, [Start(0, 0)], "stack")


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        return z if z.mean() > 0 else 2 * z


class Counting(nn.Module):
    """A buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layer(x)


class Noisy(nn.Module):
    """Random numbers that no layer announces."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (1 + 0.1 * torch.rand(()))


@pytest.mark.parametrize(
    ("model", "reason"),
    [(Branching, "vmap cannot go"), (Counting, "buffer calls"), (Noisy, "not always the same")],
)
def test_what_no_layer_announces_is_found_by_trying(model: Any, reason: str) -> None:
    task, _, _ = arguments(drawn(model)).task()
    choice = choose(task, [Start(0, 0)], "auto")
    assert choice.name == "loop"
    assert reason in choice.reason


def test_rules_repeat_torch_optim_to_rounding() -> None:
    """Ten steps of one copy in the stack against the optimizer itself, parameter by parameter."""
    variants = dict(OPTIMIZERS)
    variants["adam"] = functools.partial(torch.optim.Adam, weight_decay=0.1, betas=(0.8, 0.9))
    variants["uphill"] = functools.partial(torch.optim.SGD, maximize=True, momentum=0.5)
    for name, optimizer in variants.items():
        task, _, _ = arguments(drawn(mlp), optimizer=optimizer).task()
        rates = [0.01, 0.003]
        stack = VmapStack(task, [Start(0, 0)], 1)
        stack.admit([Trial(0, lr) for lr in rates])
        for _ in range(10):
            stack._step()
        assert stack.tensors is not None
        for row, lr in enumerate(rates):
            session = Session(task, Start(0, 0), lr)
            for _ in range(10):
                session.step()
            for mine, its in zip(stack.tensors.params, session.model.parameters(), strict=True):
                torch.testing.assert_close(mine[row], its.detach(), rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", [name for name, (_, engine) in MODELS.items() if engine != "loop"])
def test_rows_of_a_stack_do_not_see_each_other(name: str) -> None:
    """In float32, admitted late, beside a diverging row, or alone: the same bits."""
    (x, y), (x_val, y_val) = data(), data(192, 1)
    single = {"train_data": (x.float(), y), "val_data": (x_val.float(), y_val)}
    task, _, _ = arguments(drawn(MODELS[name][0]).float(), **single).task()
    with batchable_attention():
        check_rows(task)


def check_rows(task: Task) -> None:
    alone = VmapStack(task, [Start(0, 0)], 4)
    alone.admit([Trial(0, 0.05)])
    shared = VmapStack(task, [Start(0, 0), Start(0, 1)], 4)
    shared.admit([Trial(1, 1e30)])
    shared._step()
    shared.admit([Trial(0, 0.05), Trial(1, 0.2)])
    for step in range(6):
        alone._step()
        shared._step()
        if step == 3:
            shared.drop([0])
    assert alone.tensors is not None
    assert shared.tensors is not None
    for mine, its in zip(alone.tensors.params, shared.tensors.params, strict=True):
        assert torch.equal(mine[0], its[0])
