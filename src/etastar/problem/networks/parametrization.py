"""Parametrisations as initial variances and learning-rate ratios of a network in standard form.

A layer that computes `m·w h` with a trained `w` and a constant multiplier `m` is, under SGD with or
without momentum, the layer `W h` with `W = m·w` whose learning rate is `m²` times as large: both
have the same outputs after every step (Yang & Hu 2021, "abc-parametrisations"). So nothing of the
forward pass changes here, and the multipliers appear as ratios.

- `ntk` (Jacot et al. 2018): weights have `m = 1/√fan_in`, biases `m = 1`, and the variance that is
  drawn is that of the standard form without its `1/fan_in`. In standard form the initial weights
  are the same; every weight's rate is `η/fan_in`.
- `mup` (Yang & Hu 2021; Yang et al. 2022, Table 3, SGD) is relative to `BASE_WIDTH`, where it is
  the standard parametrisation. With `s = width/BASE_WIDTH`: input weights and hidden biases train
  at `s·η` (the table's fan_out), hidden weights at `η`, output weights at `η/s`; these are drawn
  with `1/s` of the standard variance, so that it falls as 1/width².

κ (`input_lr_ratio`) multiplies the rates of the input layer in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

Parametrization: TypeAlias = Literal["standard", "ntk", "mup"]

BASE_WIDTH = 128
"""The width at which `mup` is the standard parametrisation: the default width. Our choice."""

SOURCES: dict[str, str] = {
    "standard": "He et al. 2015",
    "ntk": "Jacot et al. 2018",
    "mup": "Yang & Hu 2021; Yang et al. 2022, Table 3 (SGD)",
}


Factors: TypeAlias = tuple[float, float, float]
"""What a parametrisation multiplies, of one layer in standard form: the initial variance of its
weights, the learning rate of its weights, and that of its biases."""


def factors(name: str, sizes: list[tuple[int, int]]) -> list[Factors]:
    """Return the factors of every layer.

    Args:
        name: The parametrisation.
        sizes: `(fan_in, fan_out)` of every layer, the output layer last.
    """
    if name == "ntk":
        return [(1.0, 1 / fan_in, 1.0) for fan_in, _ in sizes]
    if name == "mup":
        s = sizes[0][1] / BASE_WIDTH
        hidden = [(1.0, 1.0, s)] * (len(sizes) - 2)
        return [(1.0, s, s), *hidden, (1 / s, 1 / s, 1.0)]
    return [(1.0, 1.0, 1.0)] * len(sizes)


def scheme_notes(record: Mapping[str, Any]) -> list[str]:
    """Say in one line what a network's parametrisation comes to; nothing if it is standard.

    Args:
        record: See `Network.parametrization_record`.
    """
    if not record:
        return []
    base = f", base width {record['base_width']}" if record["base_width"] else ""
    ratios, variances = (
        ", ".join(f"{name.removeprefix('layers.')} {value:.4g}" for name, value in found.items())
        for found in (record["lr_ratios"], record["initial_variances"])
    )
    return [
        f"parametrization {record['name']} ({record['source']}){base}: learning rates over η: "
        f"{ratios}; initial variances: {variances}."
    ]
