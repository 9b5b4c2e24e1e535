"""The paper's networks: constant-width fully connected ReLU networks, He initialisation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from etastar.errors import ConfigError
from etastar.problem.networks.base import Network, Params
from etastar.problem.networks.parametrization import (
    BASE_WIDTH,
    SOURCES,
    Factors,
    Parametrization,
    factors,
)

if TYPE_CHECKING:
    import torch


class MLP(Network):
    """Constant-width ReLU MLP with `depth` hidden layers, hence `depth + 1` weight matrices.

    By default `W_l ~ N(0, 2/fan_in)` for the hidden layers (He et al. 2015), output
    layer `N(0, output_variance/fan_in)`, biases zero. A weight is stored `[R, fan_in, fan_out]`,
    the transpose of `torch.nn.Linear`, so that a layer is `h @ W + b`.

    Example:
        >>> net = MLP(width=16, depth=3, input_lr_ratio=0.1)
        >>> [tuple(p.shape) for p in net.init([0, 1], inputs=20, outputs=10)][:3]
        [(2, 20, 16), (2, 16), (2, 16, 16)]
    """

    architecture: str = "mlp"
    """The name in `etastar.problem.networks.ARCHITECTURES`."""
    width: int = Field(default=128, ge=1)
    """n: units per hidden layer."""
    depth: int = Field(default=4, ge=1)
    """L: number of hidden layers."""
    output_variance: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """v: the output weights are drawn from N(0, v/fan_in)."""
    biases: bool = True
    """Whether layers have trainable biases, initialised at zero."""
    parametrization: Parametrization = "standard"
    """How variances and rates go with the width: see `networks.parametrization`."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the standard parametrisation out: records of it are those of 0.1.0."""
        fields: dict[str, Any] = dump(self)
        if self.parametrization == "standard":
            fields.pop("parametrization", None)
        return fields

    def factors(self, inputs: int) -> list[Factors]:
        """Return what the parametrisation multiplies, by layer.

        Args:
            inputs: Input dimension d.
        """
        return factors(self.parametrization, self.layer_sizes(inputs, 1))

    def layer_sizes(self, inputs: int, outputs: int) -> list[tuple[int, int]]:
        """Return `(fan_in, fan_out)` of each of the `depth + 1` weight matrices.

        Args:
            inputs: Input dimension d.
            outputs: Number of outputs C.
        """
        widths = [inputs] + [self.width] * self.depth + [outputs]
        return list(itertools.pairwise(widths))

    def parameter_count(self, inputs: int, outputs: int) -> int:
        """Return the trainable scalars of one replica: see `Network.parameter_count`."""
        return sum(i * o + (o if self.biases else 0) for i, o in self.layer_sizes(inputs, outputs))

    def parameter_names(self) -> tuple[str, ...]:
        """Return `layers.0.weight`, `layers.0.bias`, ..., in the order of `init`."""
        kinds = ("weight", "bias") if self.biases else ("weight",)
        return tuple(f"layers.{layer}.{kind}" for layer in range(self.depth + 1) for kind in kinds)

    def layer_ratios(self) -> tuple[float, ...]:
        """Return the learning-rate ratio of each layer: κ, 1, ..., 1.

        Raises:
            ConfigError: The parametrisation is not standard: see `ratios`.
        """
        if self.parametrization != "standard":
            raise ConfigError(
                f"the ratios of parametrization {self.parametrization!r} depend on the data's "
                "dimension, and differ between weights and biases: use ratios(inputs)."
            )
        return (self.input_lr_ratio,) + (1.0,) * self.depth

    def lr_ratios(self) -> tuple[float, ...]:
        """Return the ratio of each tensor of `init`; weight and bias of a layer share one."""
        per_layer = 2 if self.biases else 1
        return tuple(ratio for ratio in self.layer_ratios() for _ in range(per_layer))

    def ratios(self, inputs: int) -> tuple[float, ...]:
        """Return the ratio of each tensor of `init`: see `Network.ratios`."""
        found = []
        for layer, (_, weight, bias) in enumerate(self.factors(inputs)):
            kappa = self.input_lr_ratio if layer == 0 else 1.0
            found += [kappa * weight] + [kappa * bias] * self.biases
        return tuple(found)

    def parametrization_record(self, inputs: int, outputs: int) -> dict[str, Any]:
        """Return what the parametrisation comes to: see `Network.parametrization_record`."""
        if self.parametrization == "standard":
            return {}
        names, ratios = self.parameter_names(), self.ratios(inputs)
        weights = names[:: 1 + self.biases]
        return {
            "name": self.parametrization,
            "source": SOURCES[self.parametrization],
            "base_width": BASE_WIDTH if self.parametrization == "mup" else None,
            "initial_variances": dict(zip(weights, self.variances(inputs), strict=True)),
            "lr_ratios": dict(zip(names, ratios, strict=True)),
        }

    def variances(self, inputs: int) -> list[float]:
        """Return the initial variance of the weights of each layer.

        Args:
            inputs: Input dimension d.
        """
        gains = [2.0] * self.depth + [self.output_variance]
        layers = zip(gains, self.factors(inputs), self.layer_sizes(inputs, 1), strict=True)
        return [gain * variance / fan_in for gain, (variance, *_), (fan_in, _) in layers]

    def init(
        self,
        seeds: Sequence[int],
        inputs: int,
        outputs: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Params:
        """Draw one replica per seed: see `Network.init`.

        The recipe, for whoever wants to repeat it without this package: `g =
        torch.Generator().manual_seed(2 * seed)`; for each layer in order `W = randn(fan_in,
        fan_out, generator=g, dtype=float64) * sqrt(variance / fan_in)`; then cast.
        """
        import torch

        dtype = dtype or torch.float32
        sizes = self.layer_sizes(inputs, outputs)
        weights = [torch.empty(len(seeds), i, o, dtype=dtype) for i, o in sizes]
        scales = [math.sqrt(variance) for variance in self.variances(inputs)]
        for row, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(2 * seed)
            for layer, (fan_in, fan_out) in enumerate(sizes):
                draw = torch.randn(fan_in, fan_out, generator=generator, dtype=torch.float64)
                weights[layer][row] = draw * scales[layer]
        params: Params = []
        for weight, (_, fan_out) in zip(weights, sizes, strict=True):
            params.append(weight.to(device))
            if self.biases:
                params.append(torch.zeros(len(seeds), fan_out, dtype=dtype, device=device))
        return params

    def split(self, params: Params) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """Return weights and biases by layer; the biases are None where the network has none.

        Args:
            params: As `init` returns them, or anything else in their order.
        """
        if self.biases:
            return params[0::2], list(params[1::2])
        return params, [None] * len(params)

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Return what the ReLU is applied to: here the pre-activations themselves.

        Args:
            z: Pre-activations, `[..., n]`.

        Returns:
            `[..., n]`.
        """
        return z

    def normalisation(self) -> torch.nn.Module | None:
        """Return `normalise` as a layer of `torch.nn`, from which the plain reference is built."""
        return None

    def apply(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        """Return outputs `[R, B, C]` for inputs `[B, d]` or `[R, B, d]`: see `Network.apply`."""
        weights, biases = self.split(params)
        h = x
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = self._layer(h, weight, bias)
            if layer < self.depth:
                h = self.normalise(h).relu()
        return h

    def active_layers(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        """Tell which hidden layers are non-zero on some input.

        A replica is dead when a layer is active on no training input: no gradient reaches the
        layers below it, and its output no longer depends on the input.

        Args:
            params: As `init` returns them, each `[R, ...]`.
            x: Inputs, `[B, d]` shared by all replicas or `[R, B, d]`.

        Returns:
            bool, `[R, L]`.
        """
        import torch

        weights, biases = self.split(params)
        active = []
        h = x
        for layer in range(self.depth):
            h = self._layer(h, weights[layer], biases[layer])
            h = self.normalise(h).relu_()
            active.append(h.amax((1, 2)) != 0)  # NaN counts as activity
        return torch.stack(active, 1)

    def _layer(
        self, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `h @ W + b` as one product: `h` `[B, i]` or `[R, B, i]`, `W` `[R, i, o]`."""
        import torch

        h = h.expand(weight.shape[0], -1, -1) if h.ndim == 2 else h
        if bias is None:
            return torch.bmm(h, weight)
        return torch.baddbmm(bias.unsqueeze(1), h, weight)
