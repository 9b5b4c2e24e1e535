"""One step: the written-out pass against autograd, both against torch.optim; the losses."""

from __future__ import annotations

import pytest
import torch
from made_data import clouds

from etastar.engines.backprop import WRITTEN_OUT, AutogradStep, make_step
from etastar.engines.reference import train_one
from etastar.engines.replicas import Stack
from etastar.engines.stackable import Stackable, stackable
from etastar.problem.losses import LOSSES, output_gradient, stacked_loss
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.problem.problem import of_network
from etastar.problem.trial import Criterion, Recipe, Trial

KINDS = [MLP, LayerNormMLP]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_their_gradients_against_torch(loss: str) -> None:
    g = torch.Generator().manual_seed(0)
    f = torch.randn(3, 5, 4, dtype=torch.float64, generator=g, requires_grad=True)
    y = torch.randint(4, (3, 5), generator=g)
    losses = stacked_loss(loss, f, y)
    if loss == "cross-entropy":
        plain = [torch.nn.functional.cross_entropy(a, b) for a, b in zip(f, y, strict=True)]
    else:
        one_hot = torch.nn.functional.one_hot(y, 4)
        plain = list(0.5 * (f - one_hot).square().sum(-1).mean(-1))
    torch.testing.assert_close(losses, torch.stack(plain))
    (exact,) = torch.autograd.grad(losses.sum(), f)
    again, gradient = output_gradient(loss, f.detach().clone(), y)
    torch.testing.assert_close(again, losses.detach())
    torch.testing.assert_close(gradient / 5, exact)


def test_losses_by_closed_form() -> None:
    f, y = torch.zeros(1, 2, 5), torch.tensor([[0, 3]])
    assert stacked_loss("cross-entropy", f, y).item() == pytest.approx(torch.tensor(5.0).log())
    assert stacked_loss("mse", f, y).item() == 0.5
    assert output_gradient("mse", f.clone(), y)[0].item() == 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_written_out_step_equals_autograd(
    kind: type[MLP], loss: str, momentum: float, biases: bool, ratio: float
) -> None:
    network = kind(width=7, depth=3, biases=biases, input_lr_ratio=ratio)
    ours = network.init([0, 1, 2], 5, 4, dtype=torch.float64)
    theirs = [p.clone() for p in ours]
    velocity = [[torch.zeros_like(p) for p in ours] for _ in range(2)]
    lr = torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64)
    step, plain = make_step(network, loss, momentum), AutogradStep(network, loss, momentum)
    assert type(step) is WRITTEN_OUT[kind]
    g = torch.Generator().manual_seed(1)
    batch = torch.empty(3, 6, 5, dtype=torch.float64)
    for _ in range(6):
        batch.normal_(generator=g)  # the step may keep views of the batch tensor between calls
        y = torch.randint(4, (3, 6), generator=g)
        found = step(ours, velocity[0], lr, batch, y)
        expected = plain(theirs, velocity[1], lr, batch, y)
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)
    first = network.init([0, 1, 2], 5, 4, dtype=torch.float64)[0]
    assert torch.equal(ours[0], first) == (ratio == 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch", [32, "full"])
def test_trajectory_equals_the_plain_trainer(
    kind: type[MLP], loss: str, momentum: float, batch: int | str
) -> None:
    """Losses and weights of 20 steps, two epochs crossed, to float64 rounding."""
    data = clouds().to(dtype=torch.float64)
    network = kind(width=10, depth=2, input_lr_ratio=0.3)
    criterion = Criterion(threshold=1.0, max_steps=20, eval_every=7)
    recipe = Recipe(loss=loss, momentum=momentum, batch_size=batch, criterion=criterion)
    form = stackable(of_network(network, data, recipe, dtype=data.x_train.dtype))
    assert isinstance(form, Stackable)
    stack = Stack(form, check_every=8)
    trials = [Trial.of(4, 0.02), Trial.of(5, 0.05), Trial.of(4, 0.05)]
    stack.admit(trials)
    losses: list[list[float]] = [[] for _ in trials]
    settle = stack._settle

    def recording(values: torch.Tensor, silent: torch.Tensor) -> object:
        for row, column in enumerate(values.T.tolist()):
            losses[row] += column
        return settle(values, silent)

    stack._settle = recording  # type: ignore[method-assign,assignment]
    while stack.runs[0].steps < 20:
        stack.advance()
    for row, trial in enumerate(trials):
        seen: list[tuple[float, torch.nn.Sequential]] = []
        train_one(
            network,
            data,
            recipe,
            trial,
            dtype=torch.float64,
            on_step=lambda step, value, module, seen=seen: seen.append((value, module)),
        )
        assert losses[row] == pytest.approx([value for value, _ in seen], rel=1e-9)
        weights = [layer.weight for layer in seen[-1][1] if isinstance(layer, torch.nn.Linear)]
        for ours, theirs in zip(stack.params[0::2], weights, strict=True):
            torch.testing.assert_close(ours[row], theirs.detach().T, rtol=1e-7, atol=1e-9)


def test_silence_is_seen() -> None:
    network = MLP(width=4, depth=2)
    params = network.init([0, 1], 5, 3)
    params[3][1] = -100.0  # the second hidden layer of replica 1 is off everywhere
    x = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(2, 8, dtype=torch.int64)
    for step in (make_step(network, "mse", 0.0), AutogradStep(network, "mse", 0.0)):
        _, silent = step([p.clone() for p in params], [], torch.ones(2) * 0.1, x, y)
        assert silent.tolist() == [False, True]


def test_first_layer_at_zero_rate_and_others_alone() -> None:
    """κ scales the input layer's weight and bias, and nothing else: linear in κ for one step."""
    x = torch.randn(1, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8)[None] % 3
    lr = torch.tensor([0.1], dtype=torch.float64)
    moved = {}
    for ratio in (0.0, 0.5, 1.0):
        network = MLP(width=4, depth=2, input_lr_ratio=ratio)
        params = network.init([0], 5, 3, dtype=torch.float64)
        before = [p.clone() for p in params]
        make_step(network, "cross-entropy", 0.0)(params, [], lr, x, y)
        moved[ratio] = [p - q for p, q in zip(params, before, strict=True)]
    for i, (none, half, whole) in enumerate(zip(*moved.values(), strict=True)):
        if i < 2:
            assert not none.any()
            torch.testing.assert_close(2 * half, whole)
        else:
            torch.testing.assert_close(none, whole)
            torch.testing.assert_close(half, whole)
