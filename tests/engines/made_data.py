"""Small data sets on which every outcome can be had within a second."""

from __future__ import annotations

import torch

from etastar.data import Dataset


def clouds(samples: int = 400, inputs: int = 6, classes: int = 3, seed: int = 0) -> Dataset:
    """Normal clouds around the first unit vectors; the last quarter is for validation."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (samples,), generator=g)
    centres = 2.5 * torch.nn.functional.one_hot(y, inputs)
    x = torch.randn(samples, inputs, generator=g) + centres
    cut = samples * 3 // 4
    return Dataset.from_tensors(x[:cut], y[:cut], x[cut:], y[cut:], name="clouds", classes=classes)
