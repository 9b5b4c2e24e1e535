"""The training step as people have it: what fits in, and what is refused with the remedy."""

from __future__ import annotations

import functools
import random
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

import etastar

cross_entropy = nn.functional.cross_entropy
QUICK: dict[str, Any] = {
    "threshold": 0.65,
    "batch_size": 16,
    "epochs": 3,
    "eval_every": 6,
    "start_lr": 0.05,
    "end_lr": 50.0,
    "resolution": 1.0,
    "seeds": 1,
    "progress": False,
    "engine": "loop",
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :3].sum(1) > 0).long()


def mlp(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))


def measured(model: Any = None, **options: Any) -> etastar.Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", etastar.NotBracketedWarning)
        return etastar.maximal_lr(model or mlp(), data(), **(QUICK | options))


def runs(found: etastar.Result) -> list[Any]:
    return [(t.lr, t.outcome, t.step, t.metric) for t in found.history]


def plain_step(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
    optimizer.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def clipped(model: nn.Module, batch: Any, optimizer: Any) -> float:
    optimizer.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return loss.item()


def test_a_whole_step_that_does_what_ours_does_gives_the_same() -> None:
    plain = measured()
    assert runs(measured(step_fn=plain_step)) == runs(plain)
    by_loss = measured(step_fn=plain_step, metric="loss")
    assert runs(by_loss) == runs(measured(metric="loss"))
    high = measured(step_fn=clipped)
    assert any(t.outcome == "trained" and t.lr > (plain.lr or 0) for t in high.history)
    assert high.settings["loss"] == "clipped"


def mixed_precision(scaler: Any) -> Callable[..., torch.Tensor]:
    def step(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if not loss.isfinite():
            raise FloatingPointError("loss is nan")
        return loss

    return step


def test_a_gradient_scaler_is_new_for_every_trial() -> None:
    """One that grows every step, so that a shared one would overflow in later trials."""
    scaler = torch.amp.GradScaler("cpu", growth_interval=1, growth_factor=1e4)
    found = measured(step_fn=mixed_precision(scaler))
    assert scaler.state_dict()["_growth_tracker"] == 0
    assert scaler._scale is None
    alone = [
        measured(
            step_fn=mixed_precision(
                torch.amp.GradScaler("cpu", growth_interval=1, growth_factor=1e4)
            ),
            start_lr=run.lr,
            end_lr=1.01 * run.lr,
        ).history[0]
        for run in found.history[-1:]
    ]
    assert [(t.outcome, t.step) for t in alone] == [(t.outcome, t.step) for t in found.history[-1:]]


def accumulating(count: list[int]) -> Callable[..., torch.Tensor]:
    def step(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
        loss = cross_entropy(model(batch[0]), batch[1])
        (loss / 5).backward()
        count[0] += 1
        if count[0] % 5 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


def by_attribute(model: Any, batch: Any, optimizer: Any) -> torch.Tensor:
    model.count = getattr(model, "count", [0])
    return accumulating(model.count)(model, batch, optimizer)


def test_accumulation_begins_anew_in_every_trial() -> None:
    count = [0]
    found = measured(step_fn=accumulating(count))
    assert count == [0]
    assert runs(found) == runs(measured(step_fn=by_attribute))


class Annealed:
    """A step that counts its calls in an attribute: its first seven are of another scale."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.calls += 1
        return cross_entropy(model(batch[0]) * (8 if self.calls < 8 else 1), batch[1])

    step = __call__


class AnnealedModel(nn.Module):
    """The same in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = mlp(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.inner(x) * (8 if self.calls < 8 and self.training else 1)


def test_counters_in_attributes_begin_anew_in_every_trial() -> None:
    of_model = measured(
        AnnealedModel(), metric=right, step_fn=lambda m, b: cross_entropy(m(b[0]), b[1])
    )
    counting = Annealed()
    for step in (counting, counting.step):
        assert runs(measured(step_fn=step, metric=right)) == runs(of_model)
    assert counting.calls == 0


def right(model: nn.Module, batch: Any) -> torch.Tensor:
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


def test_generators_that_a_step_holds_are_new_for_every_trial() -> None:
    generators = [np.random.default_rng(1), random.Random(1), torch.Generator().manual_seed(1)]
    states = [repr(generators[0].bit_generator.state), generators[1].getstate()]
    numpys, pythons, torchs = generators

    def noisy(model: nn.Module, batch: Any) -> torch.Tensor:
        noise = numpys.normal() + pythons.random() + torch.randn((), generator=torchs).item()
        return cross_entropy(model(batch[0] + 0.1 * noise), batch[1])

    first = measured(step_fn=noisy, metric=right)
    assert runs(first) == runs(measured(step_fn=noisy, metric=right))
    assert [repr(numpys.bit_generator.state), pythons.getstate()] == states


class Counted(nn.Module):
    """A model whose class counts."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        return self.inner(x) / self.calls


def test_a_class_that_counts_begins_anew_in_every_trial() -> None:
    assert runs(measured(Counted())) == runs(measured(Counted()))
    assert Counted.calls == 0


def test_a_step_that_cannot_be_repeated_is_refused() -> None:
    numbers = (i for i in range(1, 10**6))  # which cannot be copied
    with pytest.raises(etastar.ModelError, match=r"cannot be repeated.*iterators"):
        measured(step_fn=lambda m, b: cross_entropy(m(b[0]) / next(numbers), b[1]))


class Averages:
    """A class that holds a moving average of the weights."""

    ema: AveragedModel


hidden = ModuleType("hidden")


def places(ema: AveragedModel) -> dict[str, tuple[Callable[..., Any], Callable[[], Any]]]:
    """Steps `(ema, ...)` that reach one object in several ways, and how a metric reaches it."""

    def whole(ema: AveragedModel, model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        return loss

    Averages.ema = ema
    vars(hidden)["ema"] = ema

    def by_default(m: nn.Module, b: Any, opt: Any, held: AveragedModel = ema) -> torch.Tensor:
        return whole(held, m, b, opt)

    return {
        "closure": (lambda m, b, opt: whole(ema, m, b, opt), lambda: ema),
        "default": (by_default, lambda: ema),
        "partial": (functools.partial(whole, ema), lambda: ema),
        "class": (lambda m, b, opt: whole(Averages.ema, m, b, opt), lambda: Averages.ema),
        "module": (lambda m, b, opt: whole(hidden.ema, m, b, opt), lambda: hidden.ema),
    }


def test_a_moving_average_is_new_for_every_trial_wherever_it_hides() -> None:
    model = mlp()
    found = {}
    for place in places(AveragedModel(model)):
        ema = AveragedModel(model)
        step, reach = places(ema)[place]

        def averaged(m: nn.Module, b: Any, reach: Any = reach) -> torch.Tensor:
            return (reach()(b[0]).argmax(1) == b[1]).float().mean()

        found[place] = runs(measured(model, step_fn=step, metric=averaged))
        assert ema.n_averaged == 0, place
    assert len({repr(each) for each in found.values()}) == 1
    assert any("trained" in repr(run) for run in found["closure"])


def test_what_cannot_be_copied_is_refused() -> None:
    teacher = mlp()
    teacher.register_buffer("kept", teacher(data()[0]))
    with pytest.raises(etastar.ModelError, match=r"type Sequential, which cannot be copied"):
        measured(step_fn=lambda m, b: cross_entropy(m(b[0]) + 0 * teacher(b[0]), b[1]))


@pytest.mark.parametrize("library", ["numpy", "random"])
def test_random_numbers_of_any_library_make_trials_vary(library: str) -> None:
    """So that there is a p(η), although model and order of the data are given."""

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        number = np.random.rand() if library == "numpy" else random.random()  # noqa: NPY002
        return cross_entropy(model(batch[0]) * (1 + number), batch[1])

    options = QUICK | {"batch_size": 96, "resolution": None, "seeds": None, "epochs": 8}
    found = etastar.maximal_lr(
        mlp(), data(), step_fn=step, metric=right, **options, trials=6, confirm=0, precision=3.0
    )
    assert found.search["strategy"] == "curve"


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation; its closure has a default, and is needed."""

    looks_before = False

    def __init__(self, params: Any, lr: float, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})
        self.base, self.rho = SGD(self.param_groups, lr=lr), rho

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "SAM needs a closure"
        closure = torch.enable_grad()(closure)
        if not self.looks_before:
            closure()
        ps = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in ps]).norm() + 1e-12
        up = [self.rho * p.grad / norm for p in ps]
        for p, way in zip(ps, up, strict=True):
            p.add_(way)
        closure()
        for p, way in zip(ps, up, strict=True):
            p.sub_(way)
        self.base.step()


class LookingSAM(SAM):
    """It looks at the gradient that was there before."""

    looks_before = True


class StrictSAM(SAM):
    """Its closure has no default."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        super().step(closure)


def test_closures_of_any_kind() -> None:
    by_hand = measured(optimizer=StrictSAM)
    assert by_hand.lr is not None
    assert runs(measured(optimizer=SAM)) == runs(by_hand)
    assert runs(measured(optimizer=LookingSAM)) == runs(by_hand)
    assert runs(by_hand) != runs(measured())
    assert measured(optimizer=torch.optim.LBFGS, epochs=1).history


class Both:
    """Two optimizers behind one object, as people write them."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[Any]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()


def two(model: Any, lr: float) -> list[Any]:
    return [SGD(model[0].parameters(), lr), SGD(model[2].parameters(), lr / 2)]


def by_turns(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
    first, second = optimizer
    first.zero_grad()
    second.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    first.step()
    optimizer[1].step()
    return loss


def test_several_optimizers() -> None:
    def groups(model: Any, lr: float) -> Any:
        halves = {"params": model[2].parameters(), "lr": lr / 2}
        return SGD([{"params": model[0].parameters()}, halves], lr)

    one = runs(measured(optimizer=groups))
    found = measured(optimizer=two)
    assert runs(found) == one
    assert found.settings["optimizer"] == "SGD + SGD"
    assert runs(measured(optimizer=lambda model, lr: Both(*two(model, lr)))) == one
    assert runs(measured(optimizer=two, step_fn=by_turns)) == one
    with pytest.raises(etastar.ModelError, match=r"leaves out 2 of 4 .* 2.weight, 2.bias"):
        measured(optimizer=lambda model, lr: two(model, lr)[:1])


def test_a_scheduler_around_the_rate() -> None:
    constant = measured(scheduler=lambda o: LambdaLR(o, lambda step: 1.0))
    assert runs(constant) == runs(measured())
    assert any("the peak of the schedule, reached at step 0" in note for note in constant.notes)
    half = measured(scheduler=lambda o: LambdaLR(o, lambda step: 0.5))
    lower = measured(start_lr=QUICK["start_lr"] / 2, end_lr=QUICK["end_lr"] / 2)
    assert [(a.outcome, a.metric) for a in half.history] == [
        (b.outcome, b.metric) for b in lower.history
    ]
    assert any("the peak is 0.5·η" in note for note in half.notes)
    rising = measured(scheduler=lambda o: LambdaLR(o, lambda s: min(1, (s + 1) / 6)), optimizer=two)
    assert any("reached at step 5" in note for note in rising.notes)


def one_cycle(optimizer: Any, **options: Any) -> Any:
    return OneCycleLR(optimizer, **({"max_lr": optimizer.param_groups[0]["lr"]} | options))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (lambda o: one_cycle(o, max_lr=0.1, total_steps=20), r"does not follow .*Write every rate"),
        (lambda o: one_cycle(o, total_steps=9), r"scheduler at step \d+ of 18 raised ValueError"),
        (lambda o: ReduceLROnPlateau(o), "ReduceLROnPlateau, which follows a metric.*Leave it out"),
        (lambda o: 0.1, "must map an optimizer to an LRScheduler, got a float"),
        (0.1, "scheduler must be a function, got 0.1"),
    ],
)
def test_schedulers_that_are_refused(scheduler: Any, message: str) -> None:
    with pytest.raises(etastar.ConfigError, match=message):
        measured(scheduler=scheduler)


def test_compiled_models_train_as_what_was_compiled() -> None:
    compiled = torch.compile(mlp(), backend="eager")
    plain = runs(measured())
    assert runs(measured(compiled)) == plain
    assert runs(measured(lambda seed: torch.compile(mlp(), backend="eager"))) == plain


def normed(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model: Any = mlp()
    how(model[0])
    model(data()[0])
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_old_and_new() -> None:
    old, new = normed(weight_norm), normed(parametrizations.weight_norm)
    found = measured(old)
    assert {run.outcome for run in found.history} == {"trained"}
    assert runs(found) == runs(measured(lambda: normed(weight_norm))) == runs(measured(new))
    assert measured(normed(parametrizations.spectral_norm)).history


def locked() -> nn.Module:
    model = mlp()
    model.lock = threading.Lock()  # type: ignore[assignment]
    return model


def test_what_cannot_be_copied_comes_from_the_factory_every_time() -> None:
    with pytest.raises(etastar.ModelError, match=r"cannot be copied .*Pass a factory"):
        measured(locked())
    assert runs(measured(lambda seed: locked())) == runs(measured())
    one = locked()
    with pytest.raises(etastar.ModelError, match=r"the same module every time.*build it anew"):
        measured(lambda seed: one)


def test_modes_around_the_call() -> None:
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(etastar.ConfigError, match=r"autocast is active.*enter it in step_fn"),
    ):
        measured()
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        assert runs(measured()) == runs(measured(start_lr=0.05))
        assert torch.is_anomaly_enabled()
    assert not torch.is_anomaly_enabled()


def test_steps_that_do_not_do_what_they_promise() -> None:
    with pytest.raises(etastar.ModelError, match=r"no parameter changed in \d+ steps: call backw"):
        measured(step_fn=lambda m, b, o: cross_entropy(m(b[0]), b[1]))

    def backward_too(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    with pytest.raises(
        etastar.ModelError, match=r"called backward\(\) itself.*take \(model, batch"
    ):
        measured(step_fn=backward_too, metric=right)
    with pytest.raises(etastar.ModelError, match=r"must return one number, got NoneType"):
        measured(step_fn=lambda m, b, o: (plain_step(m, b, o), None)[1])


def test_a_step_may_take_more_arguments_with_defaults() -> None:
    def step(model: nn.Module, batch: Any, scale: float = 1.0) -> torch.Tensor:
        return scale * cross_entropy(model(batch[0]), batch[1])

    assert runs(measured(step_fn=step, metric="loss")) == runs(measured(metric="loss"))


def test_adam_of_a_list_keeps_its_state() -> None:
    parts = measured(optimizer=lambda m, lr: [Adam(m.parameters(), 0.01 * lr)])
    assert runs(parts) == runs(measured(optimizer=lambda m, lr: Adam(m.parameters(), 0.01 * lr)))
