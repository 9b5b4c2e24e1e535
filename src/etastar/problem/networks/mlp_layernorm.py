"""The same MLP with layer normalisation before each ReLU: a second architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etastar.problem.networks.mlp import MLP

if TYPE_CHECKING:
    import torch

EPSILON = 1e-5
"""Added to the variance, as `torch.nn.LayerNorm` does by default."""


class LayerNormMLP(MLP):
    """ReLU MLP whose hidden pre-activations are layer-normalised (Ba et al. 2016), without gain.

    The normalisation has no trainable gain or offset: with the layer's own bias and the next
    layer's weights they would add no function at initialisation, and the learning-rate ratios of
    the layers stay what they are in `MLP`.
    """

    architecture: str = "mlp-layernorm"
    """The name in `etastar.problem.networks.ARCHITECTURES`."""

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Return `(z - mean) / sqrt(var + ε)` over the units of the layer: see `MLP.normalise`."""
        centred = z - z.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()

    def normalisation(self) -> torch.nn.Module:
        """Return `torch.nn.LayerNorm` without gain and offset."""
        import torch

        return torch.nn.LayerNorm(self.width, EPSILON, elementwise_affine=False)
