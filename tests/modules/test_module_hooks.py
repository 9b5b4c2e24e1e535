"""What hangs on an optimizer or a model, or follows the rate: no engine may train without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from module_zoo import QUICK, data, drawn, mlp
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import etastar

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
Factory = Callable[[nn.Module, float], torch.optim.Optimizer]


def measured(model: Any, engine: Any = "auto", **options: Any) -> etastar.MaximalLR:
    return etastar.maximal_lr(model, data(), data(192, 1), engine=engine, **(QUICK | options))


def clip(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 0.01)


def decay_per_step(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return AdamW(model.parameters(), lr=lr, weight_decay=0.1 / lr)


def slow_momentum(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return SGD(model.parameters(), lr=lr, momentum=0.9 if lr < 5 else 0.0)


def two_kinds(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return (SGD if lr < 5 else AdamW)(model.parameters(), lr=lr)


def clipping_before(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    optimizer = SGD(model.parameters(), lr=lr)
    optimizer.register_step_pre_hook(clip)
    return optimizer


def shrinking_after(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    def shrink(*_: Any) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.9)

    optimizer = SGD(model.parameters(), lr=lr)
    optimizer.register_step_post_hook(shrink)
    return optimizer


def own_step(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    optimizer = SGD(model.parameters(), lr=lr)
    step = optimizer.step

    def clipped(*arguments: Any) -> Any:
        clip(optimizer)
        return step(*arguments)

    optimizer.step = clipped  # type: ignore[method-assign]
    return optimizer


def hooks_the_parameters(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    return SGD(model.parameters(), lr=lr)


def shrinks_the_model(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 / (1 + lr))
    return SGD(model.parameters(), lr=lr)


OPTIMIZERS: dict[str, tuple[Factory, str]] = {
    "decay by rate": (decay_per_step, "the weight_decay of AdamW depends on lr"),
    "momentum by rate": (slow_momentum, "the momentum of SGD depends on lr"),
    "kind by rate": (two_kinds, "the optimizer's class depends on lr"),
    "hook before a step": (clipping_before, "SGD has step hooks"),
    "hook after a step": (shrinking_after, "SGD has step hooks"),
    "step overridden": (own_step, "SGD has a step of its own"),
    "hooks on parameters": (hooks_the_parameters, "0.weight has a gradient hook"),
    "weights by rate": (shrinks_the_model, "the optimizer factory changes the model"),
}


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers_that_only_the_loop_repeats(case: str) -> None:
    factory, reason = OPTIMIZERS[case]
    found = measured(drawn(mlp), optimizer=factory)
    assert found.engine == "loop"
    assert re.search(reason, found.engine_reason)
    looped = measured(drawn(mlp), "loop", optimizer=factory)
    assert found.history == looped.history
    for engine in ("stack", "vmap"):
        with pytest.raises(etastar.ModelError, match=f"engine='{engine}' cannot train.*{reason}"):
            measured(drawn(mlp), engine, optimizer=factory)


@pytest.fixture
def global_clipping() -> Iterator[None]:
    handle = register_optimizer_step_pre_hook(clip)
    yield
    handle.remove()


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
@pytest.mark.usefixtures("global_clipping")
def test_hooks_on_every_optimizer() -> None:
    found = measured(drawn(mlp))
    assert (found.engine, found.engine_reason) == ("loop", "every optimizer has step hooks")


def grouped_by_rate(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    groups = [[first], rest] if lr < 5 else [[first, *rest]]
    return SGD([{"params": group} for group in groups], lr=lr)


def capped(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return SGD(model.parameters(), lr=min(lr, 5.0))


@pytest.mark.parametrize(
    ("factory", "message"),
    [(grouped_by_rate, "same parameter groups at every lr"), (capped, "0 does not follow lr")],
)
def test_groups_must_follow_the_rate_in_all_of_the_range(factory: Factory, message: str) -> None:
    with pytest.raises(etastar.ModelError, match=message):
        measured(drawn(mlp), optimizer=factory)
