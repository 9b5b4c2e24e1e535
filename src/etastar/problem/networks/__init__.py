"""Room 2: architectures. A new one is a file here and a line in `ARCHITECTURES`."""

from __future__ import annotations

from typing import Any

from etastar.errors import unknown_name
from etastar.problem.networks.base import Network
from etastar.problem.networks.mlp import MLP
from etastar.problem.networks.mlp_layernorm import LayerNormMLP

ARCHITECTURES: dict[str, type[Network]] = {
    "mlp": MLP,
    "mlp-layernorm": LayerNormMLP,
}

NORMS: dict[str, str] = {
    "none": "mlp",
    "layer": "mlp-layernorm",
}
"""What the option `norm` of the command and of study files stands for."""


def build(architecture: str, **settings: Any) -> Network:
    """Return the architecture of that name with these hyperparameters.

    Raises:
        ConfigError: The name is not in `ARCHITECTURES`, or a hyperparameter is unknown or out of
            range.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    return ARCHITECTURES[architecture](**settings)


__all__ = ["ARCHITECTURES", "MLP", "NORMS", "LayerNormMLP", "Network", "build"]
