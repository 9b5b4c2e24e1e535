"""Small models of every kind, data they learn from in a few steps, and optimizers to do it with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

DTYPE = torch.float64
"""In double precision the engines' different orders of summation do not reach the outcomes."""

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "nesterov": functools.partial(torch.optim.SGD, momentum=0.8, nesterov=True, weight_decay=1e-3),
    # The gradient of an attention's key bias is zero but for rounding, and Adam divides it by its
    # own size: only eps keeps that noise, which no two kernels share, out of the weights.
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.1, eps=1e-6),
}


class Residual(nn.Module):
    """A convolutional block with a skip connection, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x.view(-1, 1, 4, 4))
        return self.head((h + self.second(h.relu())).relu().flatten(1))


class Sequence(nn.Module):
    """The input as four tokens of four numbers, through a layer over sequences, then a head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x.view(-1, 4, 4))
        h = h[0] if isinstance(h, tuple) else h
        return self.head(h.flatten(1))


def mlp() -> nn.Module:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(16, 3))


def normed_mlp() -> nn.Module:
    """Layer normalisation without gain before each ReLU, as in `LayerNormMLP`."""
    layers: list[nn.Module] = []
    for inputs in (16, 12):
        layers += [nn.Linear(inputs, 12), nn.LayerNorm(12, elementwise_affine=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(12, 3))


def cnn(norm: type[nn.Module] = nn.Identity) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 4, 3),
        norm(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def transformer() -> nn.Module:
    return Sequence(
        nn.TransformerEncoderLayer(4, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    )


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mlp": (mlp, "stack"),
    "normed mlp": (normed_mlp, "stack"),
    "cnn": (cnn, "loop"),
    "cnn with batch norm": (functools.partial(cnn, nn.BatchNorm2d), "loop"),
    "residual block": (Residual, "loop"),
    "layer norm": (layer_norm, "loop"),
    "transformer": (transformer, "loop"),
    "rnn": (lambda: Sequence(nn.RNN(4, 4, batch_first=True)), "loop"),
    "dropout": (dropout, "loop"),
}
"""Name → a maker, and the engine that `auto` takes with plain SGD."""


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model drawn from a seed, the global stream left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().to(DTYPE)


def data(samples: int = 96, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of three sums of inputs is largest: inputs `[samples, 16]`, labels `[samples]`.

    One sum holds a product too, so that no linear map gets all right.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 16, generator=g, dtype=DTYPE)
    sums = [x[:, :4].sum(1) + x[:, 4] * x[:, 5], x[:, 4:8].sum(1), x[:, 8:12].sum(1)]
    return x + 1, torch.stack(sums, 1).argmax(1)


QUICK: dict[str, Any] = {
    "threshold": 0.55,
    "batch_size": 16,
    "epochs": 6,
    "eval_every": 6,
    "start_lr": 1e-2,
    "end_lr": 100.0,
    "resolution": 1.0,
    "seeds": 1,
    "progress": False,
}
"""A search of a few dozen steps."""
