"""Curvature-vector products of a stack of replicas whose weights stay fixed.

Two routes to the same product. `AutogradProducts` differentiates any `Network.apply`, reusing the
graph of the gradient. `MLPProducts` is written out for `MLP`: what depends on the weights alone is
computed once, and a product is one linearised forward and one linearised backward pass (Pearlmutter
1994; Schraudolph 2002 for Gauss-Newton) in batched matrix products on buffers that are kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from etastar.curvature.graphs import Kind, curvature_product, twice_differentiable
from etastar.problem.losses import Loss, stacked_loss
from etastar.problem.networks import MLP, Network
from etastar.problem.networks.base import Params


@dataclass
class StackProducts(ABC):
    """Maps vectors `[r, P]` to curvature matrices times them, one matrix per replica.

    Replicas can be dropped: `active` is the number r that is left, and the replica in each place is
    the one that `drop`'s moves have put there. P is the size of the parameters per replica.
    """

    network: Network
    params: Params
    """Each `[R, ...]`."""
    x: Tensor
    """Inputs `[m, ...]`, shared by all replicas."""
    labels: Tensor
    """`[m]`."""
    loss: Loss
    kind: Kind
    workspace: dict[Any, Tensor] = field(default_factory=dict)
    """Buffers, for one object after another: new memory costs a page fault for every 4 kB, which
    was half of the time to prepare a chunk of replicas."""
    block: int | None = None
    """Samples at once, for data whose activations do not fit: what a block needs is then computed
    anew for every product, which costs about one more pass. None for all samples."""

    def __post_init__(self) -> None:
        self.active = len(self.params[0])
        self.sizes = [p[0].numel() for p in self.params]
        self.held: list[Tensor]  # `[R, ...]`: rows move when replicas are dropped
        if self.block is None:
            self.losses = self._prepare()  # of each replica at these weights, `[R]`
            return
        self.held = self.params = [p.clone() for p in self.params]
        self.losses = self.params[0].new_zeros(self.active)
        for share, x, labels in self._blocks():
            with torch.no_grad():
                outputs = self.network.apply(self.params, x)
                self.losses += share * stacked_loss(self.loss, outputs, labels)

    def __call__(self, vectors: Tensor) -> Tensor:
        """The products, `[r, P]`, for vectors `[r, P]`. The next call may overwrite them."""
        if self.block is None:
            return self._product(vectors)
        total, params = torch.zeros_like(vectors), [p[: self.active] for p in self.params]
        for share, x, labels in self._blocks():
            part = replace(self, params=params, x=x, labels=labels, block=None)
            total.add_(part(vectors), alpha=share)
        return total

    @abstractmethod
    def _prepare(self) -> Tensor:
        """Compute what all products share, list it in `held`; return the losses, `[R]`."""

    @abstractmethod
    def _product(self, vectors: Tensor) -> Tensor:
        """The products over all samples."""

    def drop(self, moves: list[tuple[int, int]], active: int) -> None:
        """Keep `active` replicas, after moving replicas as `(to, from)`."""
        self.active = active
        for tensor in self.held:
            for to, source in moves:
                tensor[to] = tensor[source]

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Take the buffer of that name; its contents are arbitrary.

        Args:
            name: Name of the buffer; whoever held it before must be done with it.
            like: `[r, ...]`, of the wanted dtype and device.
            *shape: The result is `[r, *shape]`; like `like` if left out.
        """
        shape = (len(like), *(shape or like.shape[1:]))
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self.workspace or self.workspace[key].numel() < size:
            self.workspace[key] = like.new_empty(size)
        return self.workspace[key][:size].view(shape)

    def _blocks(self) -> Iterator[tuple[float, Tensor, Tensor]]:
        """The share of all samples, the inputs and the labels of each block."""
        for at in range(0, len(self.x), self.block or len(self.x)):
            labels = self.labels[at : at + (self.block or len(self.x))]
            yield len(labels) / len(self.x), self.x[at : at + len(labels)], labels


class AutogradProducts(StackProducts):
    """Any `Network`. Replicas do not interact: the summed loss holds the Hessian of each."""

    def _prepare(self) -> Tensor:
        self.places = torch.arange(self.active, device=self.x.device)  # of replicas in the graph
        self.held = [self.places]
        self.leaves = [p.detach().requires_grad_() for p in self.params]
        with twice_differentiable():
            outputs = self.network.apply(self.leaves, self.x)
            losses = stacked_loss(self.loss, outputs, self.labels)
            self.of_pieces = curvature_product(
                *(self.kind, outputs),
                lambda z: stacked_loss(self.loss, z, self.labels).sum(),
                self.leaves,
            )
        return losses.detach()

    def _product(self, vectors: Tensor) -> Tensor:
        """See `StackProducts`. The graph is built anew when half of it serves nobody."""
        if self.active <= len(self.places) // 2:
            self.params = [p[self.places[: self.active]] for p in self.leaves]
            self._prepare()
        places = self.places[: self.active]
        padded = vectors.new_zeros(len(self.places), vectors.shape[1])
        padded[places] = vectors
        pieces = [
            piece.reshape(p.shape)
            for piece, p in zip(torch.split(padded, self.sizes, 1), self.leaves, strict=True)
        ]
        with twice_differentiable():
            images = self.of_pieces(pieces)
        return torch.cat([image.detach().flatten(1) for image in images], 1)[places]


class MLPProducts(StackProducts):
    """`MLP`, written out.

    With `h_l` the input of layer l, `δ_l` the gradient of the loss in its output, and `R·` the
    derivative along the vector `(V, c)`:

        R z_l = h_l V_l + (R h_l) W_l + c_l,   R h_{l+1} = 1[h_{l+1} > 0] · R z_l
        R δ_L = ∇²ℓ · R z_L,   R δ_{l-1} = 1[h_l > 0] · ((R δ_l) W_lᵀ + δ_l V_lᵀ)
        product = h_lᵀ (R δ_l) + (R h_l)ᵀ δ_l   and, for the bias, the sum of R δ_l over samples

    Gauss-Newton drops the two terms with `δ_l`.

    What has C columns is kept transposed: with C = 10 adjacent numbers in a row, matrix products
    took four times as long.
    """

    network: MLP

    def _prepare(self) -> Tensor:
        net, hidden, samples = self.network, self.network.depth, len(self.x)
        weights, biases = net.split(self.params)
        take = self.take
        # copies, as rows move when replicas are dropped
        self.weights = [take(f"W{i}", w).copy_(w) for i, w in enumerate(weights)]
        self.inputs = [self.x.expand(self.active, *self.x.shape)]
        with torch.no_grad():
            for layer, (weight, bias) in enumerate(zip(self.weights, biases, strict=True)):
                width = weight.shape[2]
                shape = (width, samples) if layer == hidden else (samples, width)
                z = take(f"h{layer + 1}", weight, *shape)
                _affine(z, self.inputs[-1], weight, bias, turned=layer == hidden)
                if layer < hidden:
                    self.inputs.append(z.relu_())
            losses = stacked_loss(self.loss, z.transpose(1, 2), self.labels)
            self.softmax = z.softmax(1) if self.loss == "cross-entropy" else None
            self._prepare_gradients(z if self.softmax is None else self.softmax)
        h = self.inputs[1]
        self._linear_inputs = [take(f"Rh{i}", h, *h.shape[1:]) for i in range(hidden)]  # R h
        self._linear_outputs = take("Rz", z, *z.shape[1:])
        # R δ of layer l is read while that of layer l − 1 is written: two buffers take turns
        self._linear_gradients = [take(f"Rδ{i}", h, *h.shape[1:]) for i in range(2)]
        self._images = [take(f"dW{i}", w, *w.shape[1:]) for i, w in enumerate(self.weights)]
        self._images[-1] = self._images[-1].view(self.active, z.shape[1], -1)
        self._result = take("result", z, sum(self.sizes))
        self.held = [*self.inputs[1:], *self.weights, *self.gradients]
        self.held += [] if self.softmax is None else [self.softmax]
        return losses

    def _prepare_gradients(self, predictions: Tensor) -> None:
        """`δ_l` of every layer, `[R, m, fan_out]` and `[R, C, m]` of the last.

        None for Gauss-Newton. The predictions are `[R, C, m]`.
        """
        self.gradients: list[Tensor] = []
        if self.kind == "gauss-newton":
            return
        labels = self.labels.expand(predictions.shape[0], 1, -1)
        g = predictions.scatter_add(1, labels, predictions.new_tensor(-1.0).expand(labels.shape))
        g /= len(self.x)
        self.gradients.append(g)
        for layer in range(self.network.depth, 0, -1):
            g = g.transpose(1, 2) if layer == self.network.depth else g
            below = self.take(f"δ{layer}", g, *self.inputs[layer].shape[1:])
            torch.bmm(g, self.weights[layer].transpose(1, 2), out=below)
            g = _masked(below, self.inputs[layer])
            self.gradients.insert(0, g)

    @torch.no_grad()
    def _product(self, vectors: Tensor) -> Tensor:
        pieces = list(torch.split(vectors, self.sizes, 1))
        weight_pieces, bias_pieces = self.network.split(pieces)
        directions = [
            piece.view(self.active, *w.shape[1:])
            for piece, w in zip(weight_pieces, self.weights, strict=True)
        ]
        g = self._bend(self._forward(directions, bias_pieces))
        result = self._result[: self.active]
        images, bias_images = self.network.split(list(torch.split(result, self.sizes, 1)))
        for layer in range(self.network.depth, -1, -1):
            g = self._backward(layer, g, directions[layer], images[layer], bias_images[layer])
        return result

    def _forward(self, directions: list[Tensor], biases: list[Tensor | None]) -> Tensor:
        """`R z` of the last layer, `[r, C, m]`; leaves the `R h` of the others behind."""
        r = self.active
        for layer, (direction, bias) in enumerate(zip(directions, biases, strict=True)):
            last = layer == self.network.depth
            out = (self._linear_outputs if last else self._linear_inputs[layer])[:r]
            _affine(out, self.inputs[layer][:r], direction, bias, turned=last)
            if layer > 0:
                factors = self._linear_inputs[layer - 1][:r], self.weights[layer][:r]
                out.baddbmm_(*_turned(*factors) if last else factors)
            if not last:
                _masked(out, self.inputs[layer + 1][:r])
        return out

    def _bend(self, z: Tensor) -> Tensor:
        """The Hessian of the loss in the outputs, times `z` `[r, C, m]`, which is overwritten."""
        if self.softmax is not None:  # diag(p) − ppᵀ
            p = self.softmax[: self.active]
            z.mul_(p)
            z.addcmul_(p, z.sum(1, keepdim=True), value=-1)
        return z.div_(len(self.x))

    def _backward(
        self, layer: int, g: Tensor, direction: Tensor, image: Tensor, bias_image: Tensor | None
    ) -> Tensor:
        """Write the images of one layer's weight and bias; return `R δ` of the layer below.

        `g` and what is kept of the last layer have their samples last.
        """
        r, hessian = self.active, self.kind == "hessian"
        last = layer == self.network.depth
        held, h = self._images[layer][:r], self.inputs[layer][:r]
        torch.bmm(*(g, h) if last else (h.transpose(1, 2), g), out=held)
        if layer > 0 and hessian:
            linear, gradient = self._linear_inputs[layer - 1][:r], self.gradients[layer][:r]
            held.baddbmm_(*(gradient, linear) if last else (linear.transpose(1, 2), gradient))
        image.copy_((held.transpose(1, 2) if last else held).flatten(1))
        if bias_image is not None:
            torch.sum(g, 2 if last else 1, out=bias_image)
        if layer == 0:
            return g
        below = self._linear_gradients[layer % 2][:r]
        torch.bmm(
            g.transpose(1, 2) if last else g, self.weights[layer][:r].transpose(1, 2), out=below
        )
        if hessian:
            gradient = gradient.transpose(1, 2) if last else gradient
            below.baddbmm_(gradient, direction.transpose(1, 2))
        return _masked(below, h)


def _turned(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of `(h w)ᵀ`."""
    return w.transpose(1, 2), h.transpose(1, 2)


def _affine(out: Tensor, h: Tensor, w: Tensor, bias: Tensor | None, turned: bool) -> None:
    """`h w + bias` into `out` `[r, m, fan_out]`; or, turned, into `[r, fan_out, m]`."""
    factors = _turned(h, w) if turned else (h, w)
    if bias is None:
        torch.bmm(*factors, out=out)
    else:
        torch.baddbmm(bias.unsqueeze(2 if turned else 1), *factors, out=out)


def _masked(g: Tensor, h: Tensor) -> Tensor:
    """`g` where the ReLU output `h` is positive, else 0; in place."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
    return masked


WRITTEN_OUT: dict[type[Network], type[StackProducts]] = {MLP: MLPProducts}
"""Architectures whose products are written out; those of others are autograd's."""
