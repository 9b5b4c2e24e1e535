"""Warm-up: closed forms where curvature falls in training, plans on planted ladders, the check."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from module_zoo import QUICK, data, drawn, mlp
from torch import nn

import etastar
from etastar.schedule import LadderStep, Warmup
from etastar.search.base import SeedResult
from etastar.warm_up import _why_none, plan


class Quartic(nn.Module):
    """`w⁴/4`: descent at rate η from w shrinks w if and only if η < 2/w²."""

    def __init__(self, w: float = 2.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w**4 / 4 * x.mean()


ONES = torch.ones(2, dtype=torch.float64)
OPTIONS: dict[str, Any] = {
    "ladder": (0, 5, 10, 20, 40),
    "pace": 0.1,
    "loss_fn": lambda outputs, targets: outputs,
    "metric": "loss",
    "threshold": 0.1,
    "epochs": 100,
    "eval_every": 100,
    "seeds": 1,
    "start_lr": 0.05,
    "end_lr": 20.0,
    "progress": False,
}


@pytest.mark.parametrize("shape", ["linear", "piecewise"])
def test_the_ladder_is_the_closed_form_and_the_warmup_trains(shape: Any) -> None:
    model = Quartic()
    found = etastar.warmup(model, (ONES, ONES), target_lr=2.0, shape=shape, **OPTIONS)
    assert model.w.item() == 2.0
    assert found.pace_lr is not None
    w, steps = 2.0, 0
    for rung in found.ladder:
        while steps < rung.step:
            w, steps = w - found.pace_lr * w**3, steps + 1
        lo, hi = rung.seeds[0].lo, rung.seeds[0].hi
        assert lo is not None
        assert hi is not None
        assert lo <= 2 / w**2 * 1.01  # exactly at 2/w² the first step ends at −w
        assert hi >= 2 / w**2 * 0.99
    assert found.status == "found"
    assert found.length is not None
    rates = [found.lr_at(step) for step in range(100)]
    assert rates == sorted(rates)
    assert rates[found.length - 1] < 2.0 == rates[found.length]
    assert all(rate <= found.bound(step) for step, rate in enumerate(rates))
    assert found.verified
    assert (found.stretch, found.notes) == (1, ())
    assert [run.kind for run in found.with_warmup.values()] == ["trained"]
    assert [run.kind for run in found.without.values()] == ["diverged"]
    w = 2.0
    for rate in rates:
        w -= rate * w**3
    assert found.with_warmup[0].metric == pytest.approx(w**4 / 4)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["verified"] is True
    assert found.plot().get_yscale() == "log"


def test_a_dip_at_the_end_of_the_ladder_is_told_as_that() -> None:
    dipping = planted((0, 0.1), (5, 2.0), (20, 0.4))
    draft = Warmup(1.0, "linear", "unreachable", None, 1, tuple(dipping), None, {}, {}, ())
    problem: Any = SimpleNamespace(max_steps=350)
    told = _why_none(draft, problem)
    assert told.startswith("η* is 2 at step 5, but below the target 1 again at step 20, 0.4, the")


def test_steps_beyond_the_budget_are_told() -> None:
    options = OPTIONS | {"ladder": (0, 5, 300), "epochs": 60, "eval_every": 60}
    found = etastar.warmup(Quartic(), (ONES, ONES), target_lr=0.4, **options)
    assert "`ladder`: steps from 300 on are beyond the budget, left out." in found.notes


def test_piecewise_is_no_longer_than_linear() -> None:
    lengths = [
        etastar.warmup(Quartic(), (ONES, ONES), target_lr=2.0, shape=shape, **OPTIONS).length or 0
        for shape in ("piecewise", "linear")
    ]
    assert 0 < lengths[0] <= lengths[1]


def test_not_needed_unreachable_and_untrainable() -> None:
    run: Any = lambda target, **more: etastar.warmup(  # noqa: E731
        Quartic(), (ONES, ONES), target_lr=target, **(OPTIONS | more)
    )
    easy = run(0.4)
    assert (easy.status, easy.length, easy.total) == ("not-needed", 0, 0)
    assert easy.verified
    assert easy.lr_at(0) == 0.4
    with pytest.warns(etastar.NotBracketedWarning, match="η\\* stays below the target 15"):
        far = run(15.0, ladder=(0, 5))
    assert (far.status, far.length, far.verified) == ("unreachable", None, False)
    with pytest.warns(etastar.NotBracketedWarning, match="no rate trains from the start"):
        assert run(2.0, threshold=1e-30).status == "none-trained"


def planted(*rungs: tuple[int, float | None]) -> list[LadderStep]:
    return [LadderStep(s, {0: SeedResult("bracketed", lo, None, None, ())}) for s, lo in rungs]


def shortest(steps: list[LadderStep], target: float, shape: Any) -> int | None:
    """By definition: the first length whose every rate is at most η* of its step."""
    last = steps[-1].step
    for length in range(350):
        trial = Warmup(target, shape, "found", length, 1, tuple(steps), None, {}, {}, ())
        if all(trial.lr_at(s) <= trial.bound(s) for s in range(max(last, length) + 1)):
            return length
    return None


@pytest.mark.parametrize("shape", ["linear", "piecewise"])
def test_plans_on_planted_ladders(shape: Any) -> None:
    rising = planted((0, 0.1), (10, 0.5), (60, 1.0), (200, 1.5))
    for target in (0.3, 0.5, 1.5):
        assert plan(rising, target, shape, 350)[1] == shortest(rising, target, shape)
    assert plan(rising, 1.6, shape, 350) == ("unreachable", None)
    dipping = planted((0, 0.1), (10, 2.0), (60, 0.4), (200, 2.0))
    assert plan(dipping, 1.0, shape, 350)[1] == shortest(dipping, 1.0, shape)
    assert plan(planted((0, None)), 1.0, shape, 350) == ("none-trained", None)
    assert plan(rising, 0.1, shape, 350) == ("not-needed", 0)


@pytest.mark.parametrize("shape", ["linear", "piecewise"])
@pytest.mark.parametrize("target", [0.25, 0.6, 1.0, 1.9])
@pytest.mark.parametrize("stretch", [1, 2, 4, 8])
def test_no_rate_exceeds_eta_star_of_its_step_however_it_is_stretched(
    shape: Any, target: float, stretch: int
) -> None:
    ladders = [
        planted((0, 0.1), (10, 2.0), (60, 0.4), (200, 2.0)),
        planted((0, 0.2), (5, 0.05), (6, 1.0), (20, 0.3), (30, 0.9), (31, 0.2), (90, 2.0)),
        planted((0, 0.2), (3, 1.5), (20, 0.1), (60, 1.9)),
    ]
    for steps in ladders:
        status, length = plan(steps, target, shape, 2000)
        assert status == "found"
        assert length is not None
        found = Warmup(target, shape, status, length, stretch, tuple(steps), None, {}, {}, ())
        rates = [found.lr_at(step) for step in range(length * stretch + 301)]
        assert all(0 < rate <= found.bound(step) for step, rate in enumerate(rates))
        assert set(rates[length * stretch :]) == {target}


def test_the_scheduler_gives_the_rates_in_every_group() -> None:
    steps = tuple(planted((0, 0.1), (4, 1.0), (8, 1.0)))
    found = Warmup(1.0, "linear", "found", 7, 1, steps, None, {}, {}, ())
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = found.scheduler(optimizer)
    for step in range(10):
        assert optimizer.param_groups[1]["lr"] == pytest.approx(found.lr_at(step))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * found.lr_at(step))
        optimizer.step()
        scheduler.step()


def test_a_network_and_its_random_numbers_are_left_alone() -> None:
    model = drawn(mlp)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    options = QUICK | {"seeds": 1, "ladder": (0, 8)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", etastar.NotBracketedWarning)  # either way is fine here
        found = etastar.warmup(model, data(), data(192, 1), target_lr=3.0, **options)
    assert [rung.step for rung in found.ladder] == [0, 8]
    assert found.ladder[0].lowest is not None
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_lr": 0.01}, "target_lr must be a number above `start_lr=0.05`"),
        ({"target_lr": 50.0}, "Raise `end_lr`"),
        ({"ladder": (0,)}, "at least two whole numbers"),
        ({"shape": "liner"}, "did you mean 'linear'"),
        ({"pace": 2.0}, "pace must be above 0"),
        ({"treshold": 0.5}, "did you mean 'threshold'"),
        ({"from_checkpoint": {}}, "begins at initialisation: leave out `from_checkpoint`"),
        ({"precision": 0.1}, "`precision` has no effect on a warm-up, which brackets every"),
        ({"scheduler": len}, "`scheduler` has no effect on a warm-up, which sets the rate itself"),
    ],
)
def test_bad_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(etastar.ConfigError, match=message):
        etastar.warmup(Quartic(), (ONES, ONES), **({"target_lr": 2.0} | OPTIONS | given))
