"""Closed forms of gradient descent on quadratics, through `maximal_lr`."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

import etastar

CURVATURES = (4.0, 1.0, 0.5)


class Quadratic(nn.Module):
    """`½ wᵀ H w` as the model's output, in two parameter groups."""

    def __init__(self, h: torch.Tensor, split: int = 1) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        w = torch.randn(len(h), generator=g, dtype=torch.float64)
        self.head, self.tail = nn.Parameter(w[:split]), nn.Parameter(w[split:])
        self.register_buffer("h", h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = torch.cat([self.head, self.tail])
        return 0.5 * (w @ self.h @ w) * x.mean()


def matrix(seed: int = 0) -> torch.Tensor:
    """A positive definite matrix with eigenvalues `CURVATURES`."""
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(CURVATURES, dtype=torch.float64)) @ q.T


def eta_max(optimizer: Any, engine: str, steps: int = 100, **options: Any) -> etastar.Result:
    """Rates at which a hundredth of the loss is left after so many steps of full-batch descent."""
    model = Quadratic(matrix())
    ones = torch.ones(4, dtype=torch.float64)
    start = float(model(ones).detach())
    return etastar.maximal_lr(
        model,
        (ones, ones),
        loss_fn=lambda outputs, targets: outputs,
        optimizer=optimizer,
        metric="loss",
        threshold=start / 100,
        epochs=steps,
        eval_every=steps,
        seeds=1,
        start_lr=0.05,
        end_lr=5.0,
        resolution=0.03,
        engine=engine,
        progress=False,
        **options,
    )


def check(found: etastar.Result, expected: float) -> None:
    """The bracket holds the closed form, up to what 100 steps cannot tell apart."""
    lo, hi = found.bracket
    assert lo is not None
    assert hi is not None
    assert lo <= expected * 1.001
    assert hi >= expected * 0.98
    assert hi / lo <= 1.0301
    assert found.lr == pytest.approx((lo * hi) ** 0.5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_descent_and_heavy_ball_on_a_quadratic(beta: float) -> None:
    found = eta_max(functools.partial(torch.optim.SGD, momentum=beta), "loop")
    check(found, 2 * (1 + beta) / CURVATURES[0])
    assert found.group_lrs == (found.lr,)


@pytest.mark.parametrize("ratio", [0.1, 3.0])
def test_group_ratios_are_exact_and_precondition_the_hessian(ratio: float) -> None:
    def grouped(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        head, tail = model.head, model.tail
        return torch.optim.SGD([{"params": [head], "lr": ratio * lr}, {"params": [tail]}], lr=lr)

    found = eta_max(grouped, "loop")
    root = torch.tensor([ratio, 1.0, 1.0], dtype=torch.float64).sqrt()
    check(found, 2 / float(torch.linalg.eigvalsh(root[:, None] * matrix() * root).max()))
    assert found.lr is not None
    assert found.group_lrs == pytest.approx((ratio * found.lr, found.lr), rel=1e-12)
    assert found.groups == (("head",), ("tail",))


def test_the_checkpoint_may_hold_the_optimizer() -> None:
    """What a velocity adds is there at every trial."""
    model = Quadratic(matrix())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    model(torch.ones(1, dtype=torch.float64)).backward()
    optimizer.step()
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"].fill_(-1e3)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    momentum = functools.partial(torch.optim.SGD, momentum=0.5)
    pushed = eta_max(momentum, "loop", 200, from_checkpoint=state).history
    rested = eta_max(momentum, "loop", 200, from_checkpoint=model.state_dict())
    check(rested, 2 * 1.5 / CURVATURES[0])
    last = {t.lr: t.step for t in rested.history if t.outcome == "diverged"}
    later = [last[t.lr] - t.step for t in pushed if t.lr in last]
    assert min(later) > 0  # from far away, the loss overflows sooner
