"""What a search says when nothing trained, or a metric was not a number: the remedy that fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from module_zoo import QUICK, data, drawn, mlp
from torch import nn

import etastar

X, Y = data()


def measured(**options: Any) -> etastar.Result:
    return etastar.maximal_lr(drawn(mlp), (X, Y), data(48, 1), **(QUICK | {"seeds": 1} | options))


def nan_once_trained(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """A metric that is a number at initialisation only."""
    right = float((outputs.argmax(1) == targets).double().mean())
    return right if torch.equal(outputs, FIRST) else float("nan")


FIRST = drawn(mlp)(data(48, 1)[0]).detach()


def test_a_metric_that_turns_nan_is_named_with_its_remedy() -> None:
    with pytest.warns(etastar.NotBracketedWarning, match="mend the metric"):
        found = measured(metric=nan_once_trained)
    short = [trial for trial in found.history if trial.outcome == "short"]
    assert short
    assert all(trial.metric is None for trial in short)
    assert "every run diverged" not in found.notes[0]
    assert "Lengthen" not in found.notes[0]
    evaluations = 6 * len(short)  # once per epoch of every run that was not cut off
    assert f"not a number at {evaluations} evaluations of {len(short)} runs" in found.notes[0]
    assert "nan_once_trained" in found.notes[0]


def test_a_metric_that_is_nan_below_the_bracket_is_noted() -> None:
    """It can only have lowered the bracket."""

    def often(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        right = float((outputs.argmax(1) == targets).double().mean())
        return float("nan") if 0.4 < right < 0.55 else right

    found = measured(metric=often, threshold=0.6)
    assert found.lr is not None
    assert any("often was not a number at" in note for note in found.notes)
    assert not any("not a number" in note for note in measured().notes)


def test_one_nan_sample_outside_the_first_batch_is_looked_for_in_the_data() -> None:
    bad = X.clone()
    bad[DATA_ORDER_LAST, 0] = float("nan")
    with pytest.raises(etastar.ModelError, match=f"sample {DATA_ORDER_LAST} holds NaN"):
        etastar.maximal_lr(drawn(mlp), (bad, Y), data(48, 1), **QUICK)


def first_epoch() -> torch.Tensor:
    from etastar.problem.order import DataOrder

    return DataOrder(len(Y)).permutation(0, 0)


DATA_ORDER_LAST = int(first_epoch()[-1])


def test_a_range_above_the_boundary_says_lower_start_lr() -> None:
    with pytest.warns(etastar.NotBracketedWarning, match="lower `start_lr`"):
        found = etastar.maximal_lr(
            drawn(lambda: nn.Linear(16, 3)),
            (X, nn.functional.one_hot(Y).double()),
            loss_fn=nn.functional.mse_loss,
            **(QUICK | {"metric": "loss", "threshold": 0.01, "start_lr": 1e9, "end_lr": 1e11}),
        )
    assert found.status == "none-trained"


def test_seeds_without_a_bracket_are_named() -> None:
    def sometimes_dead(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        if seed == 1:
            nn.init.constant_(model[0].bias, -1e6)
        return model

    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=g)
    found = etastar.maximal_lr(
        sometimes_dead, (x, (x[:, 0] > 0).long()), threshold=0.9, epochs=20, batch_size=16,
        seeds=3, resolution=0.5, start_lr=0.01, end_lr=1e4, progress=False,
    )  # fmt: skip
    assert [r.status for r in found.seeds.values()] == ["bracketed", "none-trained", "bracketed"]
    assert any(note.startswith("1 of 3 seeds (1) trained at no rate") for note in found.notes)
