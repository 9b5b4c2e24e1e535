"""A small CNN for `cnn_study.toml`: any architecture, built by a function of its seed and size."""

from itertools import pairwise

import torch
from torch import nn


def build(seed: int, width: int, depth: int) -> nn.Module:
    """Return `depth` 3×3 convolutions of `width` channels, average pooling, a linear head."""
    torch.manual_seed(seed)
    channels = [1] + [width] * depth
    layers = []
    for before, after in pairwise(channels):
        conv = nn.Conv2d(before, after, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.ReLU()]
    head = nn.Linear(width, 10)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def load():
    """Return 160 training and 100 validation images of 8×8 digits."""
    import etastar

    data = etastar.load("digits", train_size=160, val_size=100)
    return (
        (data.x_train.reshape(-1, 1, 8, 8), data.y_train),
        (data.x_val.reshape(-1, 1, 8, 8), data.y_val),
    )
