"""One SGD step of a whole stack: the written-out backward pass, and autograd for other networks.

Both steps have one contract (`Step`): they update the parameters in place and return, per replica,
the loss of the batch and whether no gradient reached the input layer.

The written-out pass needs no gradient tensor for plain SGD. Backpropagation is linear in the output
gradient, so each replica's η is multiplied into it once at the top, and a weight update
`W ← W − κ·hᵀg` is then a single in-place `baddbmm`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from etastar.networks import MLP, LayerNormMLP, Network
from etastar.networks.mlp_layernorm import EPSILON
from etastar.training.losses import output_gradient, stacked_loss

if TYPE_CHECKING:
    from etastar.networks.base import Params
    from etastar.training.losses import Loss


class Step(ABC):
    """In-place SGD on R replicas at once, with buffers that are kept between calls."""

    def __init__(self, network: Network, loss: Loss, momentum: float) -> None:
        self.network, self.loss, self.momentum = network, loss, momentum

    @abstractmethod
    def __call__(
        self,
        params: Params,
        velocity: Params,
        lr: torch.Tensor,
        x: torch.Tensor,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step.

        Args:
            params: Each `[R, ...]`; updated in place.
            velocity: Momentum buffers like `params`, updated in place; empty without momentum.
            lr: η of each replica, `[R]`.
            x: Batch, `[R, B, d]`.
            targets: One-hot, `[R, B, C]`.

        Returns:
            Losses before the update, `[R]`; and bool `[R]`, true where the gradient of the input
            layer is exactly zero (a layer may be dead: the caller checks on all training data).
        """


def make_step(network: Network, loss: Loss, momentum: float) -> Step:
    """The written-out step where the architecture has one, autograd otherwise."""
    kind = WRITTEN_OUT.get(type(network), AutogradStep)
    return kind(network, loss, momentum)


class AutogradStep(Step):
    """Any `Network`, through autograd on its stacked `apply`.

    Replicas do not interact, so the gradient of the summed loss holds each replica's own.
    """

    def __call__(
        self,
        params: Params,
        velocity: Params,
        lr: torch.Tensor,
        x: torch.Tensor,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Step`."""
        leaves = [p.detach().requires_grad_() for p in params]
        losses = stacked_loss(self.loss, self.network.apply(leaves, x), targets.argmax(-1))
        gradients = torch.autograd.grad(losses.sum(), leaves)
        ratios = self.network.lr_ratios()
        with torch.no_grad():
            for i, (p, g, ratio) in enumerate(zip(params, gradients, ratios, strict=True)):
                if self.momentum:
                    g = velocity[i].mul_(self.momentum).add_(g)
                p.sub_(g * (lr * ratio).view(-1, *[1] * (p.ndim - 1)))
        silent = (gradients[0] == 0).flatten(1).all(1)
        return losses.detach(), silent


class MLPStep(Step):
    """The written-out forward and backward pass of `MLP`."""

    def __init__(self, network: Network, loss: Loss, momentum: float) -> None:
        super().__init__(network, loss, momentum)
        assert isinstance(network, MLP)
        self.net: MLP = network
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def _buffer(
        self, name: str, layer: int, shape: tuple[int, ...], like: torch.Tensor
    ) -> torch.Tensor:
        """A scratch tensor `shape`, reused while the stack does not grow."""
        held = self._buffers.get((name, layer))
        if held is None or held.shape[0] < shape[0] or held.shape[1:] != shape[1:]:
            held = self._buffers[(name, layer)] = like.new_empty(shape)
        return held[: shape[0]]

    def _activate(self, z: torch.Tensor, layer: int) -> torch.Tensor:
        """Post-activation `[R, B, n]` of the pre-activation `z`, which may be overwritten."""
        return z.clamp_(min=0)

    def _activate_backward(self, g: torch.Tensor, h: torch.Tensor, layer: int) -> torch.Tensor:
        """Gradient in the pre-activation from the gradient `g` in the post-activation `h`."""
        torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
        return g

    def outputs(self, params: Params, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs `[R, B, C]` and the input of every layer, `[R, B, fan_in]` each."""
        weights, biases = self.net.split(params)
        inputs = [x]
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = inputs[-1]
            z = self._buffer("z", layer, (h.shape[0], h.shape[1], weight.shape[2]), weight)
            if bias is None:
                torch.bmm(h, weight, out=z)
            else:
                torch.baddbmm(bias.unsqueeze(1), h, weight, out=z)
            if layer < self.net.depth:
                inputs.append(self._activate(z, layer))
        return z, inputs

    @torch.no_grad()
    def __call__(
        self,
        params: Params,
        velocity: Params,
        lr: torch.Tensor,
        x: torch.Tensor,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Step`."""
        out, inputs = self.outputs(params, x)
        losses, g = output_gradient(self.loss, out, targets)
        g = g.mul_(1 / x.shape[1] if self.momentum else (lr / x.shape[1]).view(-1, 1, 1))
        weights, biases = self.net.split(params)
        ratios = self.net.layer_ratios()
        for layer in range(self.net.depth, -1, -1):
            h, weight, bias = inputs[layer], weights[layer], biases[layer]
            below = None
            if layer > 0:  # before the update: the gradient belongs to the weights as they were
                below = self._buffer("g", layer, tuple(h.shape), h)
                torch.bmm(g, weight.transpose(1, 2), out=below)
            sums = g.sum(1) if bias is not None or layer == 0 else None
            if self.momentum:
                self._with_momentum(velocity, layer, lr * ratios[layer], h, g, sums, params)
            else:
                weight.baddbmm_(h.transpose(1, 2), g, alpha=-ratios[layer])
                if bias is not None and sums is not None:
                    bias.sub_(sums, alpha=ratios[layer])
            if below is not None:
                g = self._activate_backward(below, h, layer - 1)
        assert sums is not None
        return losses, (sums == 0).all(1)

    def _with_momentum(
        self,
        velocity: Params,
        layer: int,
        lr: torch.Tensor,
        h: torch.Tensor,
        g: torch.Tensor,
        sums: torch.Tensor | None,
        params: Params,
    ) -> None:
        """`v ← μ·v + gradient`, `w ← w − η·v` for one layer; `lr` holds the layer's η."""
        weights, biases = self.net.split(params)
        momenta, bias_momenta = self.net.split(velocity)
        momenta[layer].baddbmm_(h.transpose(1, 2), g, beta=self.momentum)
        weights[layer].addcmul_(momenta[layer], lr.view(-1, 1, 1), value=-1)
        bias, bias_momentum = biases[layer], bias_momenta[layer]
        if bias is not None and bias_momentum is not None and sums is not None:
            bias_momentum.mul_(self.momentum).add_(sums)
            bias.addcmul_(bias_momentum, lr.view(-1, 1), value=-1)


class LayerNormMLPStep(MLPStep):
    """The same with layer normalisation before each ReLU."""

    def _activate(self, z: torch.Tensor, layer: int) -> torch.Tensor:
        z -= z.mean(-1, keepdim=True)
        scale = (z.square().mean(-1, keepdim=True) + EPSILON).rsqrt_()
        z *= scale
        self._buffers[("scale", layer)] = scale
        h = self._buffer("h", layer, tuple(z.shape), z)
        return torch.clamp(z, min=0, out=h)

    def _activate_backward(self, g: torch.Tensor, h: torch.Tensor, layer: int) -> torch.Tensor:
        g = super()._activate_backward(g, h, layer)
        normalised = self._buffers[("z", layer)][: g.shape[0]]
        along = (g * normalised).mean(-1, keepdim=True)
        g -= g.mean(-1, keepdim=True)
        g.addcmul_(normalised, along, value=-1)
        return g.mul_(self._buffers[("scale", layer)])


WRITTEN_OUT: dict[type[Network], type[Step]] = {MLP: MLPStep, LayerNormMLP: LayerNormMLPStep}
