"""What hangs on an optimizer or a model, or follows the rate: no engine may train without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from module_zoo import QUICK, data, drawn, mlp
from test_module_engines import problem_of
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import etastar
from etastar.problem.session import Session
from etastar.problem.trial import Start
from etastar.warm_up import _from

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
Factory = Callable[[nn.Module, float], torch.optim.Optimizer]


def measured(model: Any, engine: Any = "auto", **options: Any) -> etastar.Result:
    options = QUICK | {"eval_batch_size": 192} | options
    return etastar.maximal_lr(model, data(), data(192, 1), engine=engine, **options)


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
    with pytest.raises(etastar.ModelError, match=f"engine='stack'` cannot train.*{reason}"):
        measured(drawn(mlp), "stack", optimizer=factory)


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


def half(gradient: torch.Tensor) -> torch.Tensor:
    return gradient / 2


def halve(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad /= 2


def hooked(kind: str) -> nn.Module:
    """A model whose every gradient is halved by hooks on the parameters."""
    model = drawn(mlp)
    for p in model.parameters():
        p.register_hook(half) if kind == "hook" else p.register_post_accumulate_grad_hook(halve)
    return model


def gated(seed: int = 0) -> nn.Module:
    """A model whose outputs are scaled by a parameter that only a closure's hook knows."""
    model = drawn(mlp)
    model.gate = nn.Parameter(torch.ones((), dtype=torch.float64))
    model.register_forward_hook(lambda module, inputs, outputs: outputs * model.gate)
    return model


@pytest.mark.parametrize("kind", ["hook", "post-accumulate hook"])
def test_hooks_on_parameters_of_a_factory_act_in_every_trial(kind: str) -> None:
    """Half the gradient at twice the rate is the same step, bit for bit."""
    options: dict[str, Any] = {"seeds": 1, "start_lr": 0.25, "end_lr": 16.0, "resolution": 1.0}
    twice = options | {"start_lr": 0.5, "end_lr": 32.0}
    plain = measured(lambda seed: drawn(mlp), "loop", **options)
    found = measured(lambda seed: hooked(kind), **twice)
    assert found.engine == "loop"
    assert found.engine_reason == "the parameter 0.weight has a gradient hook"
    assert [t.lr for t in found.history] == [2 * t.lr for t in plain.history]
    assert [(t.step, t.metric) for t in found.history] == [
        (t.step, t.metric) for t in plain.history
    ]
    with pytest.raises(etastar.ModelError, match=r"0.weight has a gradient hook"):
        measured(lambda seed: hooked(kind), "stack")


@pytest.mark.parametrize("kind", ["hook", "post-accumulate hook"])
def test_hooks_on_parameters_of_a_module_are_refused(kind: str) -> None:
    with pytest.raises(etastar.ModelError, match=r"0\.weight.*Pass a factory seed -> Module"):
        measured(hooked(kind))
    model = drawn(mlp)
    handle = next(model.parameters()).register_hook(half)
    handle.remove()
    assert measured(model).engine == "stack"


def test_hooks_that_read_the_model_through_a_closure() -> None:
    with pytest.raises(etastar.ModelError, match=r"forward hook of Sequential.*Pass a factory"):
        measured(gated())
    found, looped = measured(gated), measured(gated, "loop")
    assert found.engine == "loop"
    assert found.seeds == looped.seeds
    start = Start(0, 0)
    task = problem_of(gated)
    one, other = (Session(task, start, 0.1) for _ in range(2))
    one.step()
    assert float(one.model.gate.detach()) != 1
    assert float(other.model.gate.detach()) == 1


def test_a_factory_with_hooks_must_build_the_same_anew() -> None:
    model = hooked("hook")
    with pytest.raises(etastar.ModelError, match=r"the same module every time.*build it anew"):
        measured(lambda seed: model)
    draws = iter(range(10))
    with pytest.raises(etastar.ModelError, match=r"other weights .* same seed"):
        measured(lambda seed: _scaled(hooked("hook"), next(draws)))


def _scaled(model: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        next(model.parameters()).mul_(1 + by)
    return model


def test_forward_hooks_act_in_the_loop() -> None:
    model = drawn(mlp)
    model.register_forward_hook(lambda module, inputs, outputs: 3 * outputs.tanh())
    model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] / 2,))
    found, looped = measured(model), measured(model, "loop")
    assert (found.engine, found.seeds) == ("loop", looped.seeds)


def test_backward_hooks_act_in_the_loop() -> None:
    """This one changes nothing before the first large gradient."""
    model = drawn(mlp)

    def limited(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return tuple(None if g is None else g.clamp(-10, 10) for g in inputs)

    model[2].register_full_backward_hook(limited)
    found = measured(model)
    assert (found.engine, found.engine_reason) == ("loop", "Linear (2) has a backward hook")


class Limited(nn.Module):
    """Hooks a gradient in its forward pass; it acts on large ones only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = drawn(mlp)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.inner(x)
        if z.requires_grad:
            z.register_hook(lambda g: g.clamp(-10, 10))
        return z


def test_hooks_of_the_forward_pass_act_in_the_loop() -> None:
    assert measured(Limited()).engine == "loop"


def test_attributes_of_parameters_survive() -> None:
    model = drawn(mlp)
    model[4].weight.faster = 10.0

    def by_attribute(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = [{"params": [p], "lr": lr * getattr(p, "faster", 1.0)} for p in model.parameters()]
        return SGD(groups, lr=lr)

    found = measured(model, optimizer=by_attribute)
    assert found.lr is not None
    assert found.group_lrs == (found.lr,) * 4 + (10 * found.lr, found.lr)


def test_hooks_act_along_a_warm_up_too() -> None:
    task = problem_of(lambda seed: hooked("hook"))
    session = Session(task, Start(0, 0), 0.5)
    session.step()
    reached = _from(session, task)
    plain = problem_of(lambda seed: drawn(mlp))
    same = Session(plain, Start(0, 0), 0.25)
    same.step()
    again, once_more = Session(reached, Start(0, 0), 0.5), _from(same, plain)
    other = Session(once_more, Start(0, 0), 0.25)
    for _ in range(3):
        again.step()
        other.step()
    for mine, its in zip(again.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, its)
