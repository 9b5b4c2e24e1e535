"""Validation accuracy and dead layers of a stack, reading no more data than the answer needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from etastar.problem.networks import MLP, Network
from etastar.problem.networks.base import Params

CHUNK = 500
"""Samples per forward pass: bounds the activations, and how much is read beyond a decision."""

ROWS_ON_GPU = 1 << 16
"""Samples per forward pass of all replicas together that a GPU takes at once: few waits for it."""


def chunk(replicas: int, device: torch.device) -> int:
    """Return the samples of a forward pass of so many replicas."""
    return CHUNK if device.type == "cpu" else max(CHUNK, ROWS_ON_GPU // replicas)


class LazyAccuracy:
    """Validation accuracy that stops reading as soon as a replica is sure to be below a threshold.

    A replica is given up when it has made so many mistakes that even with no further one it cannot
    reach the threshold. That loses nothing: the verdict is the full evaluation's. Samples that were
    often wrong are asked first, which changes the cost and never the answer.

    Args:
        network: The architecture.
        x: Validation inputs, `[V, d]`.
        labels: `[V]`.
    """

    def __init__(self, network: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.network, self.samples = network, len(labels)
        self._x, self._labels = x, labels
        self._mistakes = torch.zeros(len(labels), device=x.device)
        self._asked = 0

    @torch.no_grad()
    def __call__(
        self, params: Params, threshold: float, *, in_full: Sequence[bool] | bool = True
    ) -> list[float | None]:
        """Return the fraction of samples that each replica classifies correctly.

        Args:
            params: Each `[R, ...]`.
            threshold: Fraction that must be right.
            in_full: Whether each replica's accuracy is wanted even when it is below the threshold.

        Returns:
            R accuracies; None for a replica that was given up. A non-finite output is a mistake.
        """
        replicas = params[0].shape[0]
        wanted = [in_full] * replicas if isinstance(in_full, bool) else list(in_full)
        right = [0] * replicas
        alive = list(range(replicas))
        seen = 0
        for x, labels, mistakes in zip(*self._chunks(replicas), strict=True):
            part = params if len(alive) == replicas else [p[alive] for p in params]
            outputs = self.network.apply(part, x)
            wrong = (outputs.argmax(-1) != labels) | ~outputs.isfinite().all(-1)
            mistakes += wrong.sum(0)
            seen += len(labels)
            for row, count in zip(alive, wrong.sum(1).tolist(), strict=True):
                right[row] += len(labels) - count
            alive = [
                row
                for row in alive
                if wanted[row] or (right[row] + self.samples - seen) / self.samples >= threshold
            ]
            if not alive:
                break
        return [right[row] / self.samples if row in set(alive) else None for row in range(replicas)]

    def _chunks(self, replicas: int) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Cut inputs, labels and mistake counts so that a verdict reads little beyond its need.

        They are sorted anew, hardest first, at calls 1, 2, 4, 8, ...: often enough to follow the
        networks, rarely enough to cost nothing.
        """
        if self._asked & (self._asked - 1) == 0 and self._asked:
            hardest = self._mistakes.argsort(descending=True, stable=True)
            self._x, self._labels = self._x[hardest], self._labels[hardest]
            self._mistakes = self._mistakes[hardest]
        self._asked += 1
        size = chunk(replicas, self._x.device)
        return tuple(torch.split(t, size) for t in (self._x, self._labels, self._mistakes))


@torch.no_grad()
def silent_everywhere(network: Network, params: Params, x: torch.Tensor) -> list[bool]:
    """Tell whether a hidden ReLU layer of each replica is zero on every sample of `x` `[N, d]`.

    Only for networks whose hidden layers are known (`MLP`); False for any other.
    """
    replicas = params[0].shape[0]
    if not isinstance(network, MLP):
        return [False] * replicas
    silent = [True] * replicas
    active = torch.zeros(replicas, network.depth, dtype=torch.bool, device=x.device)
    for part in torch.split(x, chunk(replicas, x.device)):
        active |= network.active_layers(params, part)
        silent = (~active.all(1)).tolist()
        if not any(silent):
            break
    return silent


@torch.no_grad()
def one_class(network: Network, params: Params, x: torch.Tensor) -> list[bool]:
    """Tell whether each replica predicts one class for all inputs.

    Args:
        network: The architecture.
        params: Each `[R, ...]`.
        x: Inputs `[N, d]`.
    """
    first: torch.Tensor | None = None
    replicas = params[0].shape[0]
    same = torch.ones(replicas, dtype=torch.bool, device=x.device)
    for part in torch.split(x, chunk(replicas, x.device)):
        predicted = network.apply(params, part).argmax(-1)  # (R, N)
        first = predicted[:, :1] if first is None else first
        same &= (predicted == first).all(1)
    found: list[bool] = same.tolist()
    return found
