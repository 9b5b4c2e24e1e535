"""Two tasks that no choice of the package has used, and the paper's network in plain PyTorch.

`curves-vehicles.toml` and `curves-teacher.toml` test on them what the package predicts.
"""

from itertools import pairwise

import torch
from torch import nn

VEHICLES = torch.tensor([0, 1, 8, 9])
"""CIFAR-10's aeroplanes, automobiles, ships and trucks; the other six classes are animals."""
INPUTS, CLASSES = 32, 5
"""Those of the teacher's task."""

Samples = tuple[torch.Tensor, torch.Tensor]


def build(seed: int, width: int, depth: int, inputs: int, classes: int) -> nn.Module:
    """Return `depth` weight matrices between ReLUs, no biases, κ = 1."""
    torch.manual_seed(seed)
    sizes = [inputs, *[width] * (depth - 1), classes]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after, bias=False)
        nn.init.kaiming_normal_(linear.weight)
        layers += [linear, nn.ReLU()]
    nn.init.normal_(linear.weight, std=before**-0.5)
    return nn.Sequential(*layers[:-1])


def vehicles() -> tuple[Samples, Samples]:
    """Return 5,000 + 2,000 images of 8×8 pixels, `[N, 192]`, standardised: animal or vehicle."""
    import etastar

    data = etastar.load("cifar10", train_size=5000, val_size=2000)
    images = data.x_train, data.x_val
    small = [nn.functional.avg_pool2d(x.reshape(-1, 3, 32, 32), 4).flatten(1) for x in images]
    train, val = ((x - x.mean()) / x.std() for x in small)
    return (
        (train, torch.isin(data.y_train, VEHICLES).long()),
        (val, torch.isin(data.y_val, VEHICLES).long()),
    )


def teacher() -> tuple[Samples, Samples]:
    """Return 8,000 + 2,000 normal inputs `[N, 32]` with the classes that a random network names."""
    draw = torch.Generator().manual_seed(2026)
    x = torch.randn(10_000, INPUTS, generator=draw)
    hidden = torch.randn(INPUTS, 16, generator=draw) / INPUTS**0.5
    scores = torch.tanh(2 * x @ hidden) @ torch.randn(16, CLASSES, generator=draw)
    labels = (scores - scores.mean(0)).argmax(1)
    return (x[:8_000], labels[:8_000]), (x[8_000:], labels[8_000:])
