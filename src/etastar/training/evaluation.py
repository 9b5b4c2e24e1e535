"""Validation accuracy and dead layers of a stack, reading no more data than the answer needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from etastar.networks import MLP

if TYPE_CHECKING:
    from etastar.networks import Network
    from etastar.networks.base import Params

CHUNK = 1000
"""Samples per forward pass: bounds the activations, and how much is read beyond a decision."""


@torch.no_grad()
def accuracies(
    network: Network,
    params: Params,
    x: torch.Tensor,
    labels: torch.Tensor,
    threshold: float,
    *,
    in_full: Sequence[bool] | bool = True,
) -> list[float | None]:
    """Fraction of samples that each replica classifies correctly.

    A replica is given up as soon as it has made so many mistakes that it cannot reach the threshold
    on the rest; this loses nothing, and saves most of every evaluation early in training.

    Args:
        network: The architecture.
        params: Each `[R, ...]`.
        x: `[V, d]`.
        labels: `[V]`.
        threshold: Fraction that must be right.
        in_full: Whether each replica's accuracy is wanted even when it is below the threshold.

    Returns:
        R accuracies; None for a replica that was given up. A non-finite output counts as wrong.
    """
    replicas, samples = params[0].shape[0], len(labels)
    wanted = [in_full] * replicas if isinstance(in_full, bool) else list(in_full)
    right = [0] * replicas
    alive = list(range(replicas))
    for start in range(0, samples, CHUNK):
        part = slice(start, start + CHUNK)
        outputs = network.apply([p[alive] for p in params] if len(alive) < replicas else params, x[part])
        hits = (outputs.argmax(-1) == labels[part]) & outputs.isfinite().all(-1)
        for row, count in zip(alive, hits.sum(1).tolist(), strict=True):
            right[row] += count
        seen = min(start + CHUNK, samples)
        alive = [r for r in alive if wanted[r] or (right[r] + samples - seen) / samples >= threshold]
        if not alive:
            break
    return [right[r] / samples if r in set(alive) else None for r in range(replicas)]


@torch.no_grad()
def silent_everywhere(network: Network, params: Params, x: torch.Tensor) -> list[bool]:
    """Whether some hidden ReLU layer of each replica is zero on every sample of `x` `[N, d]`.

    Only for networks whose hidden layers are known (`MLP`); False for any other.
    """
    replicas = params[0].shape[0]
    if not isinstance(network, MLP):
        return [False] * replicas
    silent = [True] * replicas
    active = torch.zeros(replicas, network.depth, dtype=torch.bool, device=x.device)
    for part in x.split(CHUNK):
        active |= network.active_layers(params, part)
        silent = (~active.all(1)).tolist()
        if not any(silent):
            break
    return silent
