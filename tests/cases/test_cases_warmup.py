"""`warmup` where there is none to be had, on other optimizers than it checked, with any numbers."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import etastar
from etastar import ConfigError
from etastar.schedule import LadderStep, Shape, Warmup, WarmupStatus
from etastar.search.base import SeedResult

SLOPE = torch.ones(2, dtype=torch.float64)
OPTIONS: dict[str, Any] = {
    "ladder": (0, 5, 20),
    "pace": 0.1,
    "loss_fn": lambda outputs, targets: outputs,
    "metric": "loss",
    "threshold": 0.1,
    "epochs": 60,
    "eval_every": 60,
    "seeds": 1,
    "start_lr": 0.05,
    "end_lr": 20.0,
}


class Quartic(nn.Module):
    """`w⁴/4`: its curvature falls in training."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w**4 / 4 * x.mean()


def planted(
    status: WarmupStatus = "found",
    length: int | None = 7,
    target: float = 1.0,
    ratios: tuple[float, ...] = (1.0,),
    shape: Shape = "linear",
) -> Warmup:
    rungs = tuple(
        LadderStep(step, {0: SeedResult("bracketed", lo, None, None, ())})
        for step, lo in ((0, 0.1), (4, 1.0))
    )
    return Warmup(target, shape, status, length, 1, rungs, None, {}, {}, ("the reason.",), ratios)


def optimizer(*rates: float, lr: float = 1.0) -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (lr,)]
    return torch.optim.SGD(groups, lr=lr)


@pytest.mark.parametrize("shape", ["linear", "piecewise"])
@pytest.mark.parametrize("status", ["unreachable", "none-trained"])
def test_a_warmup_that_was_not_found_has_no_schedule(status: Any, shape: Any) -> None:
    found = planted(status, None, shape=shape)
    for use in (lambda: found.lr_at(0), lambda: found.lr_at(10**6)):
        with pytest.raises(ConfigError, match=rf"no warm-up to 1 \({status}\).*the reason"):
            use()
    free = optimizer()
    with pytest.raises(ConfigError, match="there is no warm-up"):
        found.scheduler(free)
    assert free.param_groups[0]["lr"] == 1.0
    assert json.dumps(found.to_dict(), allow_nan=False)
    assert found.plot()


def test_what_warmup_returns_where_there_is_none_raises_too() -> None:
    with pytest.warns(etastar.NotBracketedWarning):
        found = etastar.warmup(Quartic(), (SLOPE, SLOPE), target_lr=15.0, **OPTIONS)
    with pytest.raises(ConfigError, match=r"unreachable.*Lower `target_lr`"):
        found.scheduler(torch.optim.SGD(Quartic().parameters(), lr=15.0))


@pytest.mark.parametrize("rate", [0.001, 0.999, 2.0])
def test_an_optimizer_with_another_rate_is_refused(rate: float) -> None:
    for found in (planted(), planted("not-needed", 0)):
        with pytest.raises(ConfigError, match=r"checked at 1: make the optimizer with lr=1"):
            found.scheduler(optimizer(lr=rate))


def test_a_rate_that_was_lowered_since_is_refused() -> None:
    by_hand = optimizer()
    by_hand.param_groups[0]["lr"] = 0.3
    stepped = optimizer()
    other = StepLR(stepped, 1, 0.5)
    stepped.step()
    other.step()
    started = optimizer(lr=0.2)
    StepLR(started, 1)
    started.param_groups[0]["lr"] = 1.0  # `initial_lr`, which a scheduler starts from, is 0.2
    for changed in (by_hand, stepped, started):
        with pytest.raises(ConfigError, match="before any other scheduler"):
            planted().scheduler(changed)


def test_groups_are_those_that_were_checked() -> None:
    planted().scheduler(optimizer(1.0, 0.1))  # multiples of the rate, which one group has
    planted().scheduler(optimizer(1.0, 1.0))
    planted(ratios=(1.0, 0.1)).scheduler(optimizer(1.0, 0.1))
    for rates in ((0.1, 1.0), (1.0, 0.5), (0.5, 0.05)):
        with pytest.raises(ConfigError, match=r"checked at 1, 0\.1"):
            planted(ratios=(1.0, 0.1)).scheduler(optimizer(*rates))
    rounded = planted(target=float(np.float32(0.05)))
    rounded.scheduler(optimizer(lr=0.05))


def test_numbers_of_numpy_and_how_it_prints() -> None:
    given = {
        "target_lr": np.float32(2.0),
        "ladder": np.array([0, 5, 20]),
        "pace": np.float32(0.1),
        "threshold": np.float32(0.1),
        "epochs": np.int64(60),
        "eval_every": np.int16(60),
        "seeds": np.uint8(1),
        "batch_size": np.int32(2),
        "start_lr": np.float32(0.05),
        "end_lr": np.float64(20),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", etastar.NotBracketedWarning)
        found = etastar.warmup(Quartic(), (SLOPE, SLOPE), **(OPTIONS | given))
        plain = etastar.warmup(Quartic(), (SLOPE, SLOPE), **(OPTIONS | {"target_lr": 2.0}))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["target_lr"] == 2.0
    assert [type(rung.step) for rung in found.ladder] == [int] * 3
    assert found.total == plain.total
    lines = str(plain).splitlines()
    assert lines[0].startswith("Quartic; ")
    assert "training loss at most 0.1 within 60 steps" in lines[1]
    assert lines[2] == f"warm-up to 2: {plain.total} steps, linear (found)"


@pytest.mark.parametrize(
    "ladder", [None, 5, (0,), (0, 1.5), (0, -1), np.array([0.0, 5.0]), "ab", (0, True)]
)
def test_a_ladder_is_whole_numbers(ladder: Any) -> None:
    with pytest.raises(ConfigError, match="ladder must be at least two whole numbers of steps"):
        etastar.warmup(Quartic(), (SLOPE, SLOPE), target_lr=2.0, **(OPTIONS | {"ladder": ladder}))
