"""The plain trainer: one network, `torch.nn`, autograd, `torch.optim`; slow and obvious.

The stack is tested against it, and so can be any result: it trains one trial from the same
initialisation and the same order of data, in float32 or float64, and shares no arithmetic with the
stack. It evaluates in full and looks for dead layers only at the end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from etastar.data import Dataset
from etastar.problem.losses import half_squared_distance
from etastar.problem.networks import MLP, Network
from etastar.problem.order import DataOrder
from etastar.problem.trial import CHECK_DEAD_AFTER, Outcome, OutcomeKind, Recipe, Trial


def build_module(
    network: Network, seed: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Build the network of `seed` from PyTorch's layers, with the very weights of `init`.

    Args:
        network: An `MLP`, or a variant of it with a normalisation.
        seed: Of the initialisation.
        inputs: Input dimension d.
        outputs: Number of outputs C.
        dtype: Of the parameters.

    Returns:
        `Linear`, (normalisation,) `ReLU`, ..., `Linear`.
    """
    assert isinstance(network, MLP)
    weights, biases = network.split(network.init([seed], inputs, outputs, dtype=dtype))
    layers: list[nn.Module] = []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        fan_in, fan_out = weight.shape[1:]
        linear = nn.Linear(fan_in, fan_out, bias=bias is not None, dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[0].T)
            if bias is not None:
                linear.bias.copy_(bias[0])
        layers.append(linear)
        if layer < network.depth:
            layers += [layer for layer in (network.normalisation(), nn.ReLU()) if layer is not None]
    return nn.Sequential(*layers)


def make_optimizer(
    module: nn.Sequential, network: Network, recipe: Recipe, lr: float
) -> torch.optim.SGD:
    """Return SGD with every tensor at its ratio of η: κ·η for the input layer, say."""
    first = next(layer for layer in module if isinstance(layer, nn.Linear))
    ratios = network.ratios(first.in_features)
    groups = [
        {"params": [parameter], "lr": ratio * lr}
        for parameter, ratio in zip(module.parameters(), ratios, strict=True)
    ]
    return torch.optim.SGD(groups, momentum=recipe.momentum)


def loss_function(recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of outputs `[B, C]` and labels `[B]`, from `torch.nn.functional`."""
    return nn.functional.cross_entropy if recipe.loss == "cross-entropy" else half_squared_distance


def batches(samples: int, recipe: Recipe, seed: int) -> Iterator[torch.Tensor]:
    """Yield the indices of one batch after another, without end, in the order of `seed`."""
    size = samples if recipe.batch_size == "full" else min(recipe.batch_size, samples)
    order = DataOrder(samples)
    for epoch in itertools.count():
        permutation = torch.arange(samples) if size == samples else order.permutation(seed, epoch)
        for start in range(0, samples - size + 1, size):
            yield permutation[start : start + size]
        order.keep_only({(seed, epoch)})


def train_one(
    network: Network,
    dataset: Dataset,
    recipe: Recipe,
    trial: Trial,
    *,
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[int, float, nn.Module], None] | None = None,
) -> Outcome:
    """Train one trial the plain way.

    Args:
        network: An `MLP`, or a variant of it with a normalisation.
        dataset: The data, on the CPU.
        recipe: How to train.
        trial: Seed and learning rate.
        dtype: Of parameters and data.
        on_step: Called with the step (from 1), the loss before its update, and the updated module.

    Returns:
        The outcome, as the stack should give it; of a dead network only when its run ends.
    """
    data, criterion = dataset.to(dtype=dtype), recipe.criterion
    module = build_module(network, trial.start.initialisation, data.inputs, data.classes, dtype)
    loss_of = loss_function(recipe)
    accuracy, silent = None, 0
    order = batches(len(data.y_train), recipe, trial.start.order)
    common = make_optimizer(module, network, recipe, recipe.from_lr or 0.0)
    for rows in itertools.islice(order, recipe.from_step):
        common.zero_grad()
        loss_of(module(data.x_train[rows]), data.y_train[rows]).backward()  # type: ignore[no-untyped-call]
        common.step()
    optimizer = make_optimizer(module, network, recipe, trial.lr)
    for step, rows in enumerate(itertools.islice(order, criterion.max_steps), start=1):
        optimizer.zero_grad()
        loss = loss_of(module(data.x_train[rows]), data.y_train[rows])
        if not math.isfinite(loss.item()):
            died = silent >= CHECK_DEAD_AFTER and is_dead(module, data.x_train)
            return Outcome("dead" if died else "diverged", step, accuracy)
        loss.backward()  # type: ignore[no-untyped-call]
        silent = 0 if module[0].weight.grad.any() else silent + 1  # type: ignore[union-attr,operator]
        optimizer.step()
        if on_step:
            on_step(step, loss.item(), module)
        last = step == criterion.max_steps
        if last or (criterion.kind == "reach" and step % criterion.eval_every == 0):
            if not all(p.isfinite().all() for p in module.parameters()):
                return Outcome("diverged", step, accuracy)
            accuracy = accuracy_of(module, data.x_val, data.y_val)
            if accuracy >= criterion.threshold:
                return Outcome("trained", step, accuracy)
    kind: OutcomeKind = "dead" if is_dead(module, data.x_train) else "short"
    return Outcome(kind, criterion.max_steps, accuracy)


@torch.no_grad()
def accuracy_of(module: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the fraction of `x` `[V, d]` that is classified as `labels` `[V]`."""
    return float((module(x).argmax(1) == labels).double().mean())


@torch.no_grad()
def is_dead(module: nn.Sequential, x: torch.Tensor) -> bool:
    """Tell whether some ReLU layer is zero on every row of `x` `[N, d]`."""
    for layer in module:
        x = layer(x)
        if isinstance(layer, nn.ReLU) and not (x != 0).any():
            return True
    return False
