"""How much each batch counts, found from the loss: means, sums, class weights, ignored labels.

Put into one batch with another, a batch's outputs have the gradient of its own loss times its share
of the two. For a mean over samples the share is that of its samples, for a sum it is 1, and where
labels are ignored or classes have weights it is that of what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from etastar.curvature.graphs import twice_differentiable, with_tensors
from etastar.curvature.products import LossCurvature
from etastar.curvature.reading import Batch, going_through
from etastar.errors import ConfigError
from etastar.problem.nested import copied, to_device

AGREES = 1e-3
"""Relative difference up to which shares are equal, where the weights are precise enough."""


def fit_shares(operator: LossCurvature) -> list[str]:
    """Let every batch count as it would in one batch with all others.

    Returns:
        A note, where that is not by its samples, or not to be seen.

    Raises:
        ConfigError: Samples do not count alike, and how much batches count is not to be seen.
    """
    counts, allowed = operator.counts, max(AGREES, operator.epsilon**0.5)
    first, found, expected, longer = _outputs(operator, 0), [], [], False
    for index, count in enumerate(counts[1:], start=1):
        expected.append(count / (counts[0] + count))
        part = _outputs(operator, index)
        share = _share(operator, first, part)
        if share is None and (half := _of_first_half(operator, part, int(count))) is not None:
            uneven = not math.isnan(half) and abs(half - count // 2 / count) > allowed
            share = None if uneven else expected[-1] if half == half else half
            longer = longer or _places(first[1]) != _places(part[1])
            if uneven:
                raise ConfigError(
                    f"samples of batch {index} do not count alike in the loss (a sum, class "
                    "weights or ignored labels), and the outputs of batches do not fit together "
                    "to see how much each counts. Pass `batch_size=lambda inputs, targets: ...`, "
                    "what a batch counts, e.g. (targets != -100).sum()."
                )
        found.append(share)
    if longer:
        return _by_places(operator, first)
    seen = [share for share in found if share is not None]
    if len(seen) < len(found):
        return [
            "how much each batch counts cannot be seen from the loss: they count by their samples. "
            "Pass `batch_size` if the loss is no mean over samples."
        ]
    if any(map(math.isnan, seen)):
        return [
            "the loss of two batches in one is no weighted mean of theirs (it compares samples "
            "with each other?): λ1 is that of the mean over these batches, by their samples."
        ]
    if all(abs(s - e) <= allowed for s, e in zip(seen, expected, strict=True)):
        return []
    if all(abs(s - 1) <= allowed for s in seen):
        operator.shares = [1.0] * len(counts)
        return ["loss_fn adds up over its batch, so λ1 is that of the sum over all batches."]
    weights = [1.0, *(s / max(1 - s, 1e-12) for s in seen)]
    operator.shares = [weight / sum(weights) for weight in weights]
    return [
        "samples do not count alike in the loss (class weights or ignored labels): batches count "
        "so that λ1 is that of all samples in one batch."
    ]


def _outputs(operator: LossCurvature, index: int) -> Batch:
    """What the model makes of a batch, without its graph where that can be, and the targets."""
    with twice_differentiable(), going_through(index, operator.batches[index]):
        inputs, targets = to_device(copied(operator.batches[index]), operator.device)
        outputs = operator.outputs(inputs)
        try:
            return with_tensors(torch.Tensor.detach, outputs), targets
        except ConfigError:
            return outputs, targets


def _places(targets: Any) -> int | None:
    """Count the places of every sample, as of a sequence."""
    several = isinstance(targets, Tensor) and targets.ndim > 1 and len(targets) > 0
    return targets[0].numel() if several else None


def _by_places(operator: LossCurvature, part: Batch) -> list[str]:
    """Let batches of sequences of several lengths count as the loss counts the places of one.

    Returns:
        A note.

    Raises:
        ConfigError: It counts them otherwise than a mean or a sum does, or that is not to be seen.
    """
    outputs, targets = part
    length, share = targets.shape[1], None
    axes = [i for i, n in enumerate(getattr(outputs, "shape", ())) if i and n == length]
    for axis in axes if length > 1 else ():
        one, other = zip(outputs.tensor_split(2, axis), targets.tensor_split(2, 1), strict=True)
        if share is None or math.isnan(share):
            share = _share(operator, one, other, (axis, 1))
    allowed = max(AGREES, operator.epsilon**0.5)
    if share is not None and abs(share - length // 2 / length) <= allowed:
        counts = [float(batch[1].numel()) for batch in operator.batches]
        operator.shares = [count / sum(counts) for count in counts]
        return [
            "the loss is a mean over the places of its sequences, whose lengths differ from batch "
            "to batch: batches count by their places, targets.numel(). Pass `batch_size` if "
            "sequences count alike, however long."
        ]
    if share is not None and abs(share - 1) <= allowed:
        return []
    raise ConfigError(
        "the samples of batches differ in length, and how much their places count in the loss is "
        "not to be seen. Pass `batch_size=lambda inputs, targets: ...`, what a batch counts, e.g. "
        "targets.numel() for a mean over places, len(targets) for one over samples."
    )


def _share(
    operator: LossCurvature, one: Batch, other: Batch, axes: Iterable[int] = repeat(0)
) -> float | None:
    """The share of `other` in a batch of both; NaN if it has none, None if they do not fit.

    Args:
        operator: Whose loss is asked.
        one: Outputs and targets.
        other: The same.
        axes: Along which each of the tensors is put together.
    """
    leaves: list[Tensor] = []

    def leaf(output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(output.is_floating_point()))
        return leaves[-1]

    try:
        with twice_differentiable():
            pair = with_tensors(leaf, other[0]), other[1]
            ahead: list[Tensor] = []
            with_tensors(ahead.append, one)
            before = iter(ahead)
            along = iter(axes)
            both = with_tensors(lambda z: torch.cat([next(before), z], next(along)), pair)
            alone = operator.loss(pair[0], with_tensors(torch.Tensor.clone, pair[1]))
            used = [part for part in leaves if part.requires_grad]
            own, together = (
                torch.cat(
                    [
                        part.flatten().double()
                        for part in torch.autograd.grad(
                            loss, used, allow_unused=True, materialize_grads=True
                        )
                    ]
                )
                for loss in (alone, operator.loss(*both))
            )
    except Exception:  # whatever a loss raises that was not made for this
        return None
    square = float(own @ own)
    if not math.isfinite(square) or square == 0:
        return None
    share = float(together @ own) / square
    rest = float((together - share * own).norm())
    allowed = max(AGREES, operator.epsilon**0.5)
    return share if rest <= allowed * float(together.norm()) else math.nan


def _of_first_half(operator: LossCurvature, part: Batch, count: int) -> float | None:
    """The share of the first half of a batch in the whole."""

    def cut(tensor: Tensor, rows: slice) -> Tensor:
        if len(tensor) != count:
            raise ConfigError("another first dimension")
        return tensor[rows]

    try:
        halves: list[Any] = [
            with_tensors(partial(cut, rows=rows), part)
            for rows in (slice(count // 2, None), slice(count // 2))
        ]
    except Exception:
        return None
    return _share(operator, *halves) if count > 1 else None
