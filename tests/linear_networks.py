"""Networks without ReLU, whose largest learning rates are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from etastar.problem.networks.base import Network

Params: TypeAlias = list[torch.Tensor]


class LinearModel(Network):
    """x W + b: with MSE its loss is a quadratic. The weights train at κ·η, the biases at η."""

    architecture: str = "linear-model"

    def parameter_names(self) -> tuple[str, ...]:
        return ("weight", "bias")

    def lr_ratios(self) -> tuple[float, ...]:
        return (self.input_lr_ratio, 1.0)

    def init(
        self,
        seeds: Sequence[int],
        inputs: int,
        outputs: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Params:
        drawn = [
            torch.randn(
                inputs, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            for seed in seeds
        ]
        weight = torch.stack(drawn).to(device, dtype or torch.float32)
        return [weight, torch.zeros_like(weight[:, 0])]

    def apply(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        weight, bias = params
        return x @ weight + bias[:, None]


class LinearNetwork(Network):
    """x U V / √n, the model of Lewkowycz et al. 2020: trains up to twice the rate of a quadratic.

    Weights are standard normal (neural-tangent parametrisation), as in the source.
    """

    architecture: str = "linear-network"
    width: int = 512

    def parameter_names(self) -> tuple[str, ...]:
        return ("u", "v")

    def lr_ratios(self) -> tuple[float, ...]:
        return (self.input_lr_ratio, 1.0)

    def init(
        self,
        seeds: Sequence[int],
        inputs: int,
        outputs: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Params:
        us, vs = [], []
        for seed in seeds:
            g = torch.Generator().manual_seed(seed)
            us.append(torch.randn(inputs, self.width, generator=g, dtype=torch.float64))
            vs.append(torch.randn(self.width, outputs, generator=g, dtype=torch.float64))
        return [torch.stack(w).to(device, dtype or torch.float32) for w in (us, vs)]

    def apply(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        u, v = params
        return x @ u @ v / self.width**0.5
