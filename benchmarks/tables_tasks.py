"""The tasks whose tables of outcomes `tables.py` makes: networks of the stack, and small models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import etastar
from etastar.api import network_problem
from etastar.maximal import MODEL_DEFAULTS
from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem
from etastar.settings import Settings

SAMPLES = 700
"""Training samples of digits that the models train on."""
DOUBLED = 200
"""Seeds of our networks at twice the budget."""


@dataclass(frozen=True)
class Task:
    """What a table is made of.

    Attributes:
        make: Builds the problem, given a folder of data sets and a multiple of the budget.
        seeds: How many.
        fine: Lattice steps between rows over the fast edge; three times as many over the slow one.
        doubled: How many of them at twice the budget.
        options: `CurveOptions` of a measurement beside the budget.
    """

    make: Callable[[str | None, int], Problem]
    seeds: int = 400
    fine: int = 1
    doubled: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def network(doubled: int = 0, fine: int = 2, **options: Any) -> Task:
    """Return the task of a network of ours, from the options of `etastar.measure`.

    Args:
        doubled: See `Task`.
        fine: See `Task`.
        **options: Fields of `Settings`; `max_steps` is the budget.
    """

    def make(data_dir: str | None, budgets: int) -> Problem:
        asked = {**options, "max_steps": budgets * options["max_steps"]}
        settings = Settings.checked(
            **asked, data_dir=data_dir if options["dataset"] in ("mnist", "fashion-mnist") else None
        )
        return network_problem(settings.network(), settings.data(), settings)

    ends = {"start_lr": 1e-3, "end_lr": 10.0}  # those of `etastar.measure`
    return Task(make, fine=fine, doubled=doubled, options=ends)


def model(
    factory: Callable[[], nn.Module],
    shape: tuple[int, ...],
    optimizer: Callable[..., Any],
    *,
    max_steps: int,
    threshold: float,
    ends: tuple[float, float] = (1e-5, 10.0),
    doubled: int = 0,
) -> Task:
    """Return the task of a user's model on the first digits, trained by the loop.

    Args:
        factory: Builds the model from PyTorch's random numbers.
        shape: Of an input.
        optimizer: As `maximal_lr` takes it.
        max_steps: The budget.
        threshold: Validation accuracy.
        ends: Of the range; those of `maximal_lr` by default.
        doubled: See `Task`.
    """

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return factory()

    def make(data_dir: str | None, budgets: int) -> Problem:
        data, batch = etastar.load("digits"), 32
        train = (data.x_train[:SAMPLES].view(-1, *shape), data.y_train[:SAMPLES])
        val = (data.x_val[:200].view(-1, *shape), data.y_val[:200])
        own = OwnModel(
            model=build,
            train_data=train,
            val_data=val,
            loss_fn=nn.functional.cross_entropy,
            optimizer=optimizer,
            metric="accuracy",
            threshold=threshold,
            epochs=budgets * max_steps / (SAMPLES // batch),
            batch_size=batch,
            eval_every=max_steps // 10,
            seeds=1,
            start_lr=ends[0],
            end_lr=ends[1],
            resolution=None,
            step_fn=None,
            device=None,
            progress=False,
            higher_is_better=None,
            engine="auto",
            from_checkpoint=None,
        )
        return own.problem()[0]

    options = {**MODEL_DEFAULTS, "start_lr": ends[0], "end_lr": ends[1]}
    return Task(make, seeds=150, fine=4, doubled=doubled, options=options)


class Residual(nn.Module):
    """A residual block: two convolutions with batch normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch."""
        return torch.relu(x + self.body(x))


class Transformer(nn.Module):
    """One encoder layer over the eight rows of an image."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch."""
        return self.head(self.layer(self.embed(x) + self.place).mean(1))


class Recurrent(nn.Module):
    """An LSTM over the eight rows of an image."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch."""
        return self.head(self.lstm(x)[0][:, -1])


def cnn(norm: bool = False) -> nn.Module:
    """A convolutional network of two layers."""
    norms = [[nn.BatchNorm2d(c)] if norm else [] for c in (4, 8)]
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        *norms[0],
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        *norms[1],
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def normed() -> nn.Module:
    """One hidden layer with layer normalisation."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10)
    )


def resnet() -> nn.Module:
    """A convolution, a residual block, and the mean."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        Residual(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


SGD = torch.optim.SGD
MOMENTUM = functools.partial(torch.optim.SGD, momentum=0.9)
ADAMW = functools.partial(torch.optim.AdamW, weight_decay=0.01)
DIGITS = {"dataset": "digits", "batch_size": 32, "threshold": 0.85, "width": 32}
DEEPER = {**DIGITS, "threshold": 0.72}
GAUSSIANS = {
    "dataset": "gaussians",
    "train_size": 4000,
    "val_size": 500,
    "width": 32,
    "batch_size": 32,
    "threshold": 0.9,
}
IMAGES = {"width": 32, "batch_size": 32, "train_size": 2000, "val_size": 250}
ROWS, IMAGE = (8, 8), (1, 8, 8)

TASKS: dict[str, Task] = {
    "digits-32x2": network(DOUBLED, 1, **DIGITS, depth=2, max_steps=64, eval_every=8),
    "digits-32x4-momentum": network(
        DOUBLED, **DIGITS, depth=4, momentum=0.9, max_steps=80, eval_every=8
    ),
    "digits-32x4-kappa": network(
        DOUBLED, **DEEPER, depth=4, input_lr_ratio=0.1, max_steps=80, eval_every=8
    ),
    "digits-32x6": network(**DEEPER, depth=6, max_steps=100, eval_every=10),
    "digits-32x4-mse": network(
        **{**DIGITS, "threshold": 0.6}, depth=4, loss="mse", max_steps=160, eval_every=16
    ),
    "gaussians-32x4": network(DOUBLED, **GAUSSIANS, depth=4, max_steps=100, eval_every=10),
    "gaussians-32x2-mse": network(
        DOUBLED,
        **{**GAUSSIANS, "threshold": 0.8},
        depth=2,
        loss="mse",
        max_steps=80,
        eval_every=8,
    ),
    "mnist-32x2": network(
        dataset="mnist", **IMAGES, depth=2, threshold=0.7, max_steps=60, eval_every=6
    ),
    "fashion-32x3-kappa": network(
        dataset="fashion-mnist",
        **IMAGES,
        depth=3,
        input_lr_ratio=0.1,
        threshold=0.6,
        max_steps=60,
        eval_every=6,
    ),
    "mlp-norm-sgd": model(normed, ROWS, SGD, max_steps=40, threshold=0.8, doubled=50),
    "cnn-sgd": model(cnn, IMAGE, SGD, max_steps=40, threshold=0.5, doubled=50),
    "cnn-norm-momentum": model(
        functools.partial(cnn, norm=True), IMAGE, MOMENTUM, max_steps=30, threshold=0.7
    ),
    "lstm-adamw": model(Recurrent, ROWS, ADAMW, max_steps=40, threshold=0.5),
    "transformer-adamw": model(Transformer, ROWS, ADAMW, max_steps=40, threshold=0.4),
    "resnet-momentum": model(resnet, IMAGE, MOMENTUM, max_steps=40, threshold=0.4),
}
"""Every task by name, in the order in which their tables are made."""
