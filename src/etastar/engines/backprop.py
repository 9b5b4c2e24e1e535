"""One SGD step of a whole stack: the written-out backward pass, and autograd for other networks.

Both steps have one contract (`Step`): they update the parameters in place and return, per replica,
the loss of the batch and whether no gradient reached the input layer.

The written-out pass needs no gradient tensor for plain SGD. Backpropagation is linear in the output
gradient, so each replica's η is multiplied into it once at the top, and a weight update
`W ← W − κ·hᵀg` is then a single in-place `baddbmm`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from etastar.problem.losses import output_gradient, stacked_loss
from etastar.problem.networks import MLP, LayerNormMLP, Network
from etastar.problem.networks.mlp_layernorm import EPSILON

if TYPE_CHECKING:
    from etastar.problem.losses import Loss
    from etastar.problem.networks.base import Params


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
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Step`."""
        leaves = [p.detach().requires_grad_() for p in params]
        losses = stacked_loss(self.loss, self.network.apply(leaves, x), labels)
        gradients = torch.autograd.grad(losses.sum(), leaves)
        ratios = self.network.lr_ratios()
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

    weight: torch.Tensor  # (R, fan_in, fan_out)
    weight_t: torch.Tensor
    bias: torch.Tensor | None  # (R, fan_out)
    bias_row: torch.Tensor | None  # (R, 1, fan_out)
    velocity: torch.Tensor | None
    bias_velocity: torch.Tensor | None
    ratio: float
    h: torch.Tensor  # (R, B, fan_in)
    h_t: torch.Tensor
    z: torch.Tensor  # (R, B, fan_out), overwritten by the activation unless normalised
    below: torch.Tensor  # (R, B, fan_in), gradient in h
    scale: torch.Tensor | None = None  # (R, B, 1), of the normalisation


class MLPStep(Step):
    """The written-out forward and backward pass of `MLP`."""

    separate_activations = False
    """Whether the post-activations need a buffer besides the pre-activations'."""

    def __init__(self, network: Network, loss: Loss, momentum: float) -> None:
        super().__init__(network, loss, momentum)
        assert isinstance(network, MLP)
        self.net: MLP = network
        self._layers: list[_Layer] = []
        self._prepared_for: tuple[Params, torch.Tensor] | None = None

    @torch.no_grad()
    def __call__(
        self,
        params: Params,
        velocity: Params,
        lr: torch.Tensor,
        x: torch.Tensor,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Step`."""
        held = self._prepared_for
        if held is None or held[0] is not params or held[1] is not x:
            self._prepare(params, velocity, x)
        losses, g = output_gradient(self.loss, self._forward(), labels)
        g.mul_(1 / x.shape[1] if self.momentum else (lr / x.shape[1]).view(-1, 1, 1))
        for index in range(self.net.depth, -1, -1):
            layer = self._layers[index]
            if index > 0:  # before the update: the gradient belongs to the weights as they were
                torch.bmm(g, layer.weight_t, out=layer.below)
            sums = g.sum(1) if layer.bias is not None or index == 0 else None
            if self.momentum:
                self._update_with_momentum(layer, lr, g, sums)
            else:
                layer.weight.baddbmm_(layer.h_t, g, alpha=-layer.ratio)
                if layer.bias is not None and sums is not None:
                    layer.bias.sub_(sums, alpha=layer.ratio)
            if index > 0:
                g = self._activate_backward(layer, self._layers[index - 1])
        assert sums is not None
        return losses, (sums == 0).all(1)

    def _prepare(self, params: Params, velocity: Params, x: torch.Tensor) -> None:
        """Lay out the views and buffers for these parameters and this batch tensor."""
        weights, biases = self.net.split(params)
        nothing: list[torch.Tensor | None] = [None] * len(weights)
        momenta, bias_momenta = self.net.split(velocity) if velocity else (nothing, nothing)
        self._layers = []
        h = x
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = weight.new_empty(*x.shape[:2], weight.shape[2])
            layer = _Layer(
                weight=weight,
                weight_t=weight.transpose(1, 2),
                bias=bias,
                bias_row=None if bias is None else bias.unsqueeze(1),
                velocity=momenta[index],
                bias_velocity=bias_momenta[index],
                ratio=self.net.layer_ratios()[index],
                h=h,
                h_t=h.transpose(1, 2),
                z=z,
                below=torch.empty_like(h) if index else h,
            )
            self._layers.append(layer)
            h = torch.empty_like(z) if self.separate_activations else z
        self._prepared_for = (params, x)

    def _forward(self) -> torch.Tensor:
        """Outputs `[R, B, C]`; leaves the input of every layer in its `h`."""
        for index, layer in enumerate(self._layers):
            if layer.bias_row is None:
                torch.bmm(layer.h, layer.weight, out=layer.z)
            else:
                torch.baddbmm(layer.bias_row, layer.h, layer.weight, out=layer.z)
            if index < self.net.depth:
                self._activate(layer, self._layers[index + 1].h)
        return layer.z

    def _activate(self, layer: _Layer, h: torch.Tensor) -> None:
        """From the pre-activation `layer.z` to the post-activation `h`, here the same tensor."""
        h.clamp_(min=0)

    def _activate_backward(self, above: _Layer, layer: _Layer) -> torch.Tensor:
        """Gradient in `layer.z` from the gradient `above.below` in its post-activation."""
        g = above.below
        torch.ops.aten.threshold_backward.grad_input(g, above.h, 0, grad_input=g)
        return g

    def _update_with_momentum(
        self, layer: _Layer, lr: torch.Tensor, g: torch.Tensor, sums: torch.Tensor | None
    ) -> None:
        """`v ← μ·v + gradient`, `w ← w − κ·η·v` for one layer."""
        assert layer.velocity is not None
        rate = lr * layer.ratio
        layer.velocity.baddbmm_(layer.h_t, g, beta=self.momentum)
        layer.weight.addcmul_(layer.velocity, rate.view(-1, 1, 1), value=-1)
        if layer.bias is not None and layer.bias_velocity is not None and sums is not None:
            layer.bias_velocity.mul_(self.momentum).add_(sums)
            layer.bias.addcmul_(layer.bias_velocity, rate.view(-1, 1), value=-1)


class LayerNormMLPStep(MLPStep):
    """The same with layer normalisation before each ReLU: `layer.z` holds the normalised values."""

    separate_activations = True

    def _activate(self, layer: _Layer, h: torch.Tensor) -> None:
        z = layer.z
        z -= z.mean(-1, keepdim=True)
        layer.scale = (z.square().mean(-1, keepdim=True) + EPSILON).rsqrt_()
        z *= layer.scale
        torch.clamp(z, min=0, out=h)

    def _activate_backward(self, above: _Layer, layer: _Layer) -> torch.Tensor:
        g = super()._activate_backward(above, layer)
        along = (g * layer.z).mean(-1, keepdim=True)
        g -= g.mean(-1, keepdim=True)
        g.addcmul_(layer.z, along, value=-1)
        assert layer.scale is not None
        return g.mul_(layer.scale)


WRITTEN_OUT: dict[type[Network], type[Step]] = {MLP: MLPStep, LayerNormMLP: LayerNormMLPStep}
