"""One SGD step of a whole stack: through autograd, or the written-out backward pass of an MLP.

Both update the parameters in place and return, per replica, the loss of the batch and whether no
gradient reached the input layer.

The written-out pass needs no gradient tensor for plain SGD. Backpropagation is linear in the output
gradient, so each replica's η is multiplied into it once at the top, and a weight update
`W ← W − κ·hᵀg` is then a single in-place `baddbmm`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from etastar.problem.losses import Loss, output_gradient, stacked_loss
from etastar.problem.networks import MLP, LayerNormMLP, Network
from etastar.problem.networks.base import Params
from etastar.problem.networks.mlp_layernorm import EPSILON


class AutogradStep:
    """In-place SGD on R replicas of any `Network` at once, through autograd on its stacked `apply`.

    Replicas do not interact, so the gradient of the summed loss holds each replica's own.

    Args:
        network: The architecture.
        loss: Its name.
        momentum: μ; 0 for plain SGD.
    """

    def __init__(self, network: Network, loss: Loss, momentum: float) -> None:
        self.network, self.loss, self.momentum = network, loss, momentum

    def __call__(
        self,
        params: Params,
        velocity: Params,
        lr: torch.Tensor,
        x: torch.Tensor,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step.

        Args:
            params: Each `[R, ...]`; updated in place. Passing the same list (and the same `x`)
                again is quicker than an equal one: what can be prepared is kept for it.
            velocity: Momentum buffers like `params`, updated in place; empty without momentum.
            lr: η of each replica, `[R]`.
            x: Batch, `[R, B, d]`.
            labels: Class indices, `[R, B]`.

        Returns:
            Losses before the update, `[R]`; and bool `[R]`, true where the gradient of the input
            layer is exactly zero (a layer may be dead: the caller checks on all training data).
        """
        leaves = [p.detach().requires_grad_() for p in params]
        losses = stacked_loss(self.loss, self.network.apply(leaves, x), labels)
        gradients = torch.autograd.grad(losses.sum(), leaves)
        ratios = self.network.ratios(x.shape[-1])
        with torch.no_grad():
            for i, (p, g, ratio) in enumerate(zip(params, gradients, ratios, strict=True)):
                if self.momentum:
                    g = velocity[i].mul_(self.momentum).add_(g)
                p.sub_(g * (lr * ratio).view(-1, *[1] * (p.ndim - 1)))
        silent = (gradients[0] == 0).flatten(1).all(1)
        return losses.detach(), silent


@dataclass(slots=True)
class _Layer:
    """Views and buffers of one layer, prepared once for many steps; `h` is the layer's input."""

    h: torch.Tensor  # (R, B, fan_in)
    below: torch.Tensor  # (R, B, fan_in), gradient in h
    weight: torch.Tensor  # (R, fan_in, fan_out)
    bias: torch.Tensor | None  # (R, fan_out)
    velocity: torch.Tensor | None
    bias_velocity: torch.Tensor | None
    ratio: float
    bias_ratio: float
    scale: torch.Tensor | None = None  # (R, B, 1), of the normalisation
    weight_t: torch.Tensor = field(init=False)
    bias_row: torch.Tensor | None = field(init=False)  # (R, 1, fan_out)
    h_t: torch.Tensor = field(init=False)
    z: torch.Tensor = field(init=False)  # (R, B, fan_out), overwritten by the activation

    def __post_init__(self) -> None:
        self.weight_t, self.h_t = self.weight.transpose(1, 2), self.h.transpose(1, 2)
        self.bias_row = None if self.bias is None else self.bias.unsqueeze(1)
        self.z = self.weight.new_empty(*self.h.shape[:2], self.weight.shape[2])


class MLPStep(AutogradStep):
    """The written-out forward and backward pass of `MLP` and `LayerNormMLP`."""

    network: MLP
    _layers: list[_Layer]
    _prepared_for: tuple[Params | None, torch.Tensor | None] = (None, None)

    @torch.no_grad()
    def __call__(
        self,
        params: Params,
        velocity: Params,
        lr: torch.Tensor,
        x: torch.Tensor,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AutogradStep`."""
        if self._prepared_for[0] is not params or self._prepared_for[1] is not x:
            self._prepare(params, velocity, x)
        losses, g = output_gradient(self.loss, self._forward(), labels)
        g.mul_(1 / x.shape[1] if self.momentum else (lr / x.shape[1]).view(-1, 1, 1))
        for index in range(self.network.depth, -1, -1):
            layer = self._layers[index]
            if index > 0:  # before the update: the gradient belongs to the weights as they were
                torch.bmm(g, layer.weight_t, out=layer.below)
            sums: Any = g.sum(1) if layer.bias is not None or index == 0 else None
            if self.momentum and layer.velocity is not None:  # v ← μ·v + gradient, w ← w − κ·η·v
                rate = lr * layer.ratio
                layer.velocity.baddbmm_(layer.h_t, g, beta=self.momentum)
                layer.weight.addcmul_(layer.velocity, rate.view(-1, 1, 1), value=-1)
                if layer.bias is not None and layer.bias_velocity is not None:
                    layer.bias_velocity.mul_(self.momentum).add_(sums)
                    bias_rate = lr * layer.bias_ratio
                    layer.bias.addcmul_(layer.bias_velocity, bias_rate.view(-1, 1), value=-1)
            else:
                layer.weight.baddbmm_(layer.h_t, g, alpha=-layer.ratio)
                if layer.bias is not None:
                    layer.bias.sub_(sums, alpha=layer.bias_ratio)
            if index > 0:
                g = self._activate_backward(layer, self._layers[index - 1])
        silent: torch.Tensor = sums == 0
        return losses, silent.all(1)

    def _prepare(self, params: Params, velocity: Params, x: torch.Tensor) -> None:
        """Lay out the views and buffers for these parameters and this batch tensor."""
        split = self.network.split
        momenta = split(velocity) if velocity else ([None] * len(params), [None] * len(params))
        ratios, per_layer = self.network.ratios(x.shape[-1]), 1 + self.network.biases
        rates = ratios[::per_layer], ratios[per_layer - 1 :: per_layer]
        columns = zip(*split(params), *momenta, *rates, strict=False)
        self._layers, h = [], x
        for column in columns:
            layer = _Layer(h, torch.empty_like(h) if self._layers else h, *column)
            self._layers.append(layer)
            normalised = isinstance(self.network, LayerNormMLP)
            h = torch.empty_like(layer.z) if normalised else layer.z
        self._prepared_for = (params, x)

    def _forward(self) -> torch.Tensor:
        """Return outputs `[R, B, C]`; leave the input of every layer in its `h`."""
        for index, layer in enumerate(self._layers):
            if layer.bias_row is None:
                torch.bmm(layer.h, layer.weight, out=layer.z)
            else:
                torch.baddbmm(layer.bias_row, layer.h, layer.weight, out=layer.z)
            if index == self.network.depth:
                break
            z, h = layer.z, self._layers[index + 1].h
            if z is not h:  # normalised: the post-activations have a buffer of their own
                z -= z.mean(-1, keepdim=True)
                layer.scale = (z.square().mean(-1, keepdim=True) + EPSILON).rsqrt_()
                z *= layer.scale
            torch.clamp(z, min=0, out=h)
        return layer.z

    def _activate_backward(self, above: _Layer, layer: _Layer) -> torch.Tensor:
        """Return the gradient in `layer.z` from that in its post-activation, `above.below`."""
        g = above.below
        torch.ops.aten.threshold_backward.grad_input(g, above.h, 0, grad_input=g)
        if layer.scale is not None:
            along = (g * layer.z).mean(-1, keepdim=True)
            g -= g.mean(-1, keepdim=True)
            g.addcmul_(layer.z, along, value=-1)
            g.mul_(layer.scale)
        return g


WRITTEN_OUT: dict[type[Network], type[AutogradStep]] = {MLP: MLPStep, LayerNormMLP: MLPStep}


def make_step(network: Network, loss: Loss, momentum: float) -> AutogradStep:
    """Return the written-out step where the architecture has one, autograd otherwise."""
    return WRITTEN_OUT.get(type(network), AutogradStep)(network, loss, momentum)
