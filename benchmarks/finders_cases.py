"""Models, data, optimizers and a plain training loop for `finders.py`.

Nothing here is etastar's but the files of the data sets: models are drawn with `torch.manual_seed`,
batches come in the order that `etastar.problem.order` documents, written out again.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import etastar

BATCH = 32
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "AdamW": torch.optim.AdamW,
}


@dataclass(frozen=True)
class Problem:
    """A data set with its threshold and budget, the same for all models and optimizers.

    Attributes:
        name: Of the data set.
        threshold: Validation accuracy at which a model counts as trained.
        epochs: The budget.
        train_size: So many training samples; all if None.
        val_size: So many validation samples; all if None.
    """

    name: str
    threshold: float
    epochs: int
    train_size: int | None = None
    val_size: int | None = None

    def load(self) -> Any:
        """The data, in memory."""
        return etastar.load(self.name, train_size=self.train_size, val_size=self.val_size)


PROBLEMS = {
    "digits": Problem("digits", 0.7, 4),
    "mnist": Problem("mnist", 0.7, 2, 3200, 1000),
    "fashion-mnist": Problem("fashion-mnist", 0.7, 2, 3200, 1000),
}
TIGHT = {"digits": 0.9, "mnist": 0.85, "fashion-mnist": 0.75}
"""Thresholds near what the budget allows (`--tight`): trainable rates are then few, and which of
them trains is largely chance."""


def mlp(side: int, depth: int) -> nn.Module:
    """ReLU layers of 64 units with He's initialisation; PyTorch's own lets depth 6 learn late."""
    sizes = [side * side] + [64] * depth
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def cnn(side: int, norm: bool) -> nn.Module:
    """Two convolutions, with or without batch normalisation; larger images are halved first."""
    stride, channels = (1, 16) if side <= 8 else (2, 8)
    left = side // stride // 4

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, stride, padding=1)]
        return [*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        *block(1, channels, stride),
        *block(channels, 2 * channels, 1),
        nn.Flatten(),
        nn.Linear(2 * channels * left * left, 10),
    )


class Residual(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside a 1×1 one, at half the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.skip = nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, after, H/2, W/2]`."""
        return torch.relu(self.body(x) + self.skip(x))


def resnet(side: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 8, 3, 1 if side <= 8 else 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class Transformer(nn.Module):
    """One pre-norm encoder layer over the rows of an image; layer normalisation, no dropout."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.embed = nn.Linear(side, 32)
        self.position = nn.Parameter(0.02 * torch.randn(side, 32))
        self.encoder = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, 10]` of flat images."""
        rows = self.embed(x.view(-1, self.side, self.side)) + self.position  # [B, side, 32]
        return self.head(self.norm(self.encoder(rows)).mean(1))


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "MLP 2": functools.partial(mlp, depth=2),
    "MLP 6": functools.partial(mlp, depth=6),
    "CNN": functools.partial(cnn, norm=False),
    "CNN, batch norm": functools.partial(cnn, norm=True),
    "ResNet": resnet,
    "Transformer": Transformer,
}
MODELS_OF = {
    "digits": tuple(MODELS),
    "mnist": ("MLP 2", "CNN"),
    "fashion-mnist": ("MLP 6", "CNN, batch norm"),
}
"""Which models are trained on which data if nothing else is asked for."""


@dataclass(frozen=True)
class Cell:
    """One model on one data set with one optimizer."""

    problem: Problem
    model: str
    optimizer: str
    data: Any

    @property
    def steps_per_epoch(self) -> int:
        """A last batch that is not full is dropped."""
        return len(self.data.y_train) // BATCH

    def build(self, seed: int) -> nn.Module:
        """The model with the initial weights of a seed; global random streams stay as they are."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MODELS[self.model](math.isqrt(self.data.inputs))

    def optimize(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        """A new optimizer."""
        return OPTIMIZERS[self.optimizer](model.parameters(), lr=lr)

    def loader(self, seed: int) -> Any:
        """The training data in the order of a seed, as a `DataLoader`."""
        pairs = torch.utils.data.TensorDataset(self.data.x_train, self.data.y_train)
        sampler = EpochBatches(len(pairs), seed)
        return torch.utils.data.DataLoader(pairs, batch_sampler=sampler)


class EpochBatches(torch.utils.data.Sampler[list[int]]):
    """Batch sampler whose n-th pass is the n-th epoch of a seed, as `DataOrder` documents it."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self.generator = torch.Generator().manual_seed(2 * seed + 1)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.samples, generator=self.generator)
        return iter(order[: len(self) * BATCH].view(-1, BATCH).tolist())

    def __len__(self) -> int:
        return self.samples // BATCH


def train(cell: Cell, seed: int, lr: float, budgets: int = 1) -> dict[str, Any]:
    """Train at a constant rate from initialisation.

    Args:
        cell: What.
        seed: Of the initial weights and of the order of the data.
        lr: The rate.
        budgets: How many budgets to spend if need be.

    Returns:
        `step` at which the validation accuracy, seen after every epoch, first met the threshold
        (None: never); `outcome` within one budget: `trained`, `diverged` or `short`.
    """
    model, data, step = cell.build(seed), cell.data, 0
    optimizer, sampler = cell.optimize(model, lr), EpochBatches(len(cell.data.y_train), seed)
    for _ in range(budgets * cell.problem.epochs):
        for rows in sampler:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows])
            loss.backward()
            optimizer.step()
            step += 1
            if not math.isfinite(loss.item()):
                return {"outcome": "diverged", "step": None}
        model.eval()
        with torch.no_grad():
            right = int((model(data.x_val).argmax(1) == data.y_val).sum())
        model.train()
        if right / len(data.y_val) >= cell.problem.threshold:
            in_time = step <= cell.problem.epochs * cell.steps_per_epoch
            return {"outcome": "trained" if in_time else "short", "step": step}
    return {"outcome": "short", "step": None}
