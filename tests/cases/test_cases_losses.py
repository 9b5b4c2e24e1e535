"""Losses with a state of their own, with derivatives, of whole batches, and of the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from asking import problem_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import etastar
from etastar.engines.loop import run_trial
from etastar.errors import CurvatureError
from etastar.problem.losses import batch_weight
from etastar.problem.trial import Outcome, Trial

X = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] > 0).long()


def run(model: nn.Module, train: Any, lr: float = 0.5, **options: Any) -> Outcome:
    """Train at one rate to the end of the budget."""
    options = {"metric": "loss", "threshold": -1e9} | options
    return run_trial(problem_of(model, train, **options)[0], Trial.of(0, lr))


class Proxies(nn.Module):
    """A loss with a vector to learn for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z @ self.weight.T, y)


class Both(nn.Module):
    """A model that holds its loss."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, sgd])
def test_a_loss_trains_as_a_part_of_the_model_does(optimizer: Any) -> None:
    encoder, head = nn.Linear(8, 4), Proxies()
    before = head.weight.clone()
    inside = run(
        Both(encoder, head), (X, Y), step_fn=lambda m, b: m.head(m(b[0]), b[1]), optimizer=sgd
    )
    assert run(encoder, (X, Y), loss_fn=head, optimizer=optimizer) == inside
    assert torch.equal(head.weight, before)
    assert head.weight.grad is None
    problem, _ = problem_of(encoder, (X, Y), loss_fn=head, metric="loss", threshold=-1.0)
    assert problem.described(0)["parameters"] == 8 * 4 + 4 + 2 * 4


def test_a_loss_may_share_a_part_of_the_model() -> None:
    encoder, tied = nn.Linear(8, 4), Proxies()
    both = Both(encoder, tied)
    inside = run(both, (X, Y), step_fn=lambda m, b: m.head(m(b[0]), b[1]))
    assert run(both, (X, Y), loss_fn=tied) == inside


def test_what_would_not_train_is_refused() -> None:
    head, heat = Proxies(), torch.ones((), requires_grad=True)
    encoder = nn.Linear(8, 4)
    for loss_fn in (lambda z, y: head(z, y), lambda z, y: cross_entropy(z / heat, y)):
        with pytest.raises(etastar.ModelError, match="belong neither to the model nor to loss_fn"):
            problem_of(encoder, (X, Y), loss_fn=loss_fn, metric="loss")
    assert head.weight.grad is None
    assert heat.grad is None


class Centred(nn.Module):
    """Cross-entropy of logits minus their running mean, and a count in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(2))
        self.count = 0

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        loss = cross_entropy(z - self.centre, y)
        if self.training:
            self.count += 1
            self.centre = 0.9 * self.centre + 0.1 * z.detach().mean(0)
        return loss


def test_a_run_that_diverges_spoils_no_other() -> None:
    loss_fn = Centred()
    problem, _ = problem_of(nn.Linear(8, 2), (X, Y), loss_fn=loss_fn)
    alone = run_trial(problem, Trial.of(0, 0.01))
    assert run_trial(problem, Trial.of(0, 1e38)).kind == "diverged"
    assert run_trial(problem, Trial.of(0, 0.01)) == alone
    assert loss_fn.count == 0
    assert not bool(loss_fn.centre.any())


def residual(model: nn.Module, x: Tensor) -> Tensor:
    """u' = -u, u(0) = 1."""
    x = x.detach().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return (slope + u).square().mean() + (model(torch.zeros(1, 1)) - 1).square().mean()


def test_derivatives_in_the_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.rand(256, 1)
    options = {
        "step_fn": residual,
        "metric": "loss",
        "threshold": 0.1,
        "optimizer": torch.optim.Adam,
    }
    with pytest.raises(etastar.ModelError, match="pass `eval_grad=True`"):
        problem_of(model, x, **options)
    problem, _ = problem_of(model, x, eval_grad=True, **(options | {"epochs": 20}))
    assert problem.described(0)["eval_grad"] is True
    assert run_trial(problem, Trial.of(0, 0.01)).kind == "trained"


class Forces(nn.Module):
    """A model that takes a derivative of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return force


def test_a_model_that_takes_derivatives() -> None:
    options = {"loss_fn": mse_loss, "metric": lambda z, y: -l1_loss(z, y), "threshold": -0.6}
    with pytest.raises(etastar.ModelError, match="pass `eval_grad=True`"):
        problem_of(Forces(), (X, X), **options)
    problem, _ = problem_of(Forces(), (X, X), eval_grad=True, **options)
    assert run_trial(problem, Trial.of(0, 0.01)).kind in ("trained", "short")


def in_batch(model: nn.Module, batch: Any) -> Tensor:
    z = nn.functional.normalize(model(batch[0]))
    return cross_entropy(z @ z.T / 0.1, torch.arange(len(z)))


def test_losses_of_whole_batches_are_evaluated_at_the_size_of_training() -> None:
    model = nn.Linear(8, 4)
    options = {"step_fn": in_batch, "metric": "loss", "threshold": -1.0, "batch_size": 32}
    val = X[:100], Y[:100]
    values = {
        name: problem.evaluate(problem.origin.copy(0))
        for name, problem in {
            "tensors": problem_of(model, (X, Y), val, **options)[0],
            "loader": problem_of(model, (X, Y), DataLoader(TensorDataset(*val), 32), **options)[0],
            "data set": problem_of(model, (X, Y), TensorDataset(*val), **options)[0],
            "by a loader": problem_of(
                model, DataLoader(TensorDataset(X, Y), 32), val, **(options | {"batch_size": None})
            )[0],
            "larger": problem_of(model, (X, Y), val, eval_batch_size=100, **options)[0],
        }.items()
    }
    whole = float(in_batch(model, val).detach())
    assert values.pop("larger") == pytest.approx(whole)
    assert len(set(values.values())) == 1
    assert values["tensors"] < whole - 0.3


class Detector(nn.Module):
    """Losses in train mode, predictions in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 2), nn.BatchNorm1d(8)

    def forward(self, x: Tensor, boxes: Tensor | None = None) -> Any:
        found = self.layer(self.norm(x))
        if self.training:
            assert boxes is not None
            return {"box": l1_loss(found, boxes), "size": 0.001 * found.square().mean()}
        return [{"boxes": box} for box in found]


def test_losses_in_train_mode_only() -> None:
    torch.manual_seed(0)
    data = X, X[:, :2]
    options = {"step_fn": lambda m, b: sum(m(*b).values()), "metric": "loss", "threshold": 0.4}
    problem, notes = problem_of(Detector(), data, **options)
    assert any("in train mode" in note for note in notes)
    assert problem.objective.name == "loss (in train mode)"
    model = problem.origin.copy(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = problem.evaluate(model)
    assert first == problem.evaluate(model) > 0.4
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    with pytest.raises(etastar.ModelError, match=r"sum\(losses.values\(\)\)"):
        problem_of(Detector(), data, **(options | {"step_fn": lambda m, b: m(*b)}))


@dataclass
class Output:
    """What a model of a library returns."""

    logits: Tensor
    loss: Tensor | None = None


class Named(nn.Module):
    """A model with named inputs, and a loss of its own if it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, inputs: Tensor, scale: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.layer(inputs) * scale[:, None]
        loss = None if labels is None else cross_entropy(logits, labels, label_smoothing=0.1)
        return Output(logits, loss)


def test_the_loss_of_the_model_itself() -> None:
    batch = {"inputs": X, "scale": torch.ones(320), "labels": Y}
    problem, _ = problem_of(Named(), batch)
    assert problem.described(0)["loss"] == "the model's own (.loss)"
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    torch.manual_seed(0)
    model = Named()
    expected = run(model, batch, loss_fn=lambda z, y: smoothed(z.logits, y))
    assert run(model, batch) == expected
    assert run(model, batch, step_fn=lambda m, b: m(**b)) == expected
    assert run(model, batch, loss_fn=smoothed) == expected


@pytest.mark.parametrize("size", [320, 100, 32])
def test_the_mean_over_batches_is_that_of_all_samples(size: int) -> None:
    y = Y.clone()
    y[:50] = -100
    z = torch.randn(320, 2, generator=torch.Generator().manual_seed(3))
    weights = torch.tensor([1.0, 9.0])
    losses: list[Any] = [cross_entropy, nn.CrossEntropyLoss(weight=weights)]
    losses += [nn.CrossEntropyLoss(weight=weights, ignore_index=1)]
    for loss_fn in losses:
        targets = y if loss_fn is not losses[2] else Y
        total = counted = 0.0
        for start in range(0, 320, size):
            rows = slice(start, start + size)
            factor, weight = batch_weight(loss_fn, targets[rows], len(targets[rows]))
            total += factor * float(loss_fn(z[rows], targets[rows])) if weight else 0.0
            counted += weight
        assert total / counted == pytest.approx(float(loss_fn(z, targets)), rel=1e-5)


def test_a_batch_without_a_label_trains_as_in_a_plain_loop() -> None:
    batches = [(X[i : i + 32], Y[i : i + 32].clone()) for i in range(0, 320, 32)]
    batches[5][1][:] = -100
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    given = {"epochs": 1, "batch_size": None, "val_data": (X, Y)}
    found = run(model, batches, **given)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert found.metric == pytest.approx(cross_entropy(model(X), Y).item(), rel=1e-5)
    with pytest.raises(etastar.ModelError, match="All of its targets are -100: leave it out"):
        run(model, batches[5:], **given)
    with pytest.raises(CurvatureError, match=r"nan in batch 5.*are -100: leave it out"):
        etastar.sharpness(model, cross_entropy, batches)
