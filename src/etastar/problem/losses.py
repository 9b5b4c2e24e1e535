"""The two losses, with the normalisation that λ1 and η* are quoted in.

`mse`: ½ · sum over outputs · mean over samples, targets one-hot.
`cross-entropy`: mean over samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch

Loss: TypeAlias = Literal["cross-entropy", "mse"]
LOSSES: tuple[Loss, ...] = ("cross-entropy", "mse")


def stacked_loss(loss: Loss, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of every replica, differentiable.

    Args:
        loss: `"cross-entropy"` or `"mse"`.
        outputs: `[R, B, C]`.
        labels: Class indices, `[B]` shared by all replicas or `[R, B]`.

    Returns:
        `[R]`, each in nats (cross-entropy) or squared output units (mse).
    """
    labels = labels.expand(outputs.shape[:-1]).unsqueeze(-1)  # (R, B, 1)
    if loss == "cross-entropy":
        return -outputs.log_softmax(-1).gather(-1, labels).squeeze(-1).mean(-1)
    # ½|f − e_y|² = ½(|f|² − 2 f_y + 1), written so that no one-hot tensor is made
    return (0.5 * (outputs.square().sum(-1) + 1) - outputs.gather(-1, labels).squeeze(-1)).mean(-1)


def output_gradient(
    loss: Loss, outputs: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every replica and B times its output gradient, without autograd.

    Works on outputs laid out `[R, C, B]`: with the few classes innermost, PyTorch's softmax cannot
    use the vector units of a CPU and takes about twenty times as long.

    Args:
        loss: `"cross-entropy"` or `"mse"`.
        outputs: `[R, B, C]`.
        labels: Class indices, `[R, B]`.

    Returns:
        Losses `[R]`, and `B · ∂loss/∂outputs`, `[R, B, C]`: softmax (mse: outputs) − one-hot.
    """
    samples = outputs.shape[1]
    labels = labels.unsqueeze(1)  # (R, 1, B)
    minus_one = outputs.new_full((), -1.0).expand(labels.shape)
    by_class = outputs.transpose(1, 2).contiguous()  # (R, C, B)
    if loss == "cross-entropy":
        by_class = by_class.log_softmax(1)
        losses = by_class.gather(1, labels).flatten(1).sum(1).div_(-samples)
        gradient = by_class.exp_().scatter_add_(1, labels, minus_one)
    else:
        gradient = by_class.scatter_add_(1, labels, minus_one)
        losses = gradient.square().flatten(1).sum(1).div_(2 * samples)
    return losses, gradient.transpose(1, 2)


def half_squared_distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the `mse` of one network: ½ · sum over outputs · mean over samples.

    Args:
        outputs: `[B, C]`, or of any shape that begins with the samples.
        targets: Class indices `[B]`, taken as one-hot vectors, or numbers shaped like the outputs.

    Returns:
        The loss, a scalar.
    """
    from torch.nn import functional

    if not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    return functional.mse_loss(outputs, targets, reduction="sum") / (2 * len(outputs))


def loss_function(loss: Loss) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of one network's outputs `[B, C]` and labels `[B]`.

    Args:
        loss: `"cross-entropy"` or `"mse"`.
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy if loss == "cross-entropy" else half_squared_distance


def options_of(loss_fn: Callable[..., Any]) -> dict[str, Any]:
    """Return `reduction`, `weight` and `ignore_index` of a loss, and what a partial binds.

    Args:
        loss_fn: Any loss; a function of one's own has none that could be seen.
    """
    if isinstance(loss_fn, functools.partial):
        return options_of(loss_fn.func) | loss_fn.keywords
    names = ("reduction", "weight", "ignore_index")
    return {name: getattr(loss_fn, name) for name in names if hasattr(loss_fn, name)}


def batch_weight(loss_fn: Callable[..., Any], targets: Any, samples: int) -> tuple[float, float]:
    """Return how a batch's loss enters the loss of all samples taken at once.

    With `(factor, weight)` of every batch, that is `Σ factor · loss ÷ Σ weight`; a sum over samples
    is divided by their number. PyTorch's cross-entropies divide by the weights of the labels that
    they do not ignore, so a batch counts as much.

    Args:
        loss_fn: The loss; one of the user's own is taken for a mean over samples.
        targets: Of the batch.
        samples: In the batch.
    """
    import torch
    from torch import nn

    options = options_of(loss_fn)
    if options.get("reduction") == "sum":
        return 1.0, float(samples)
    inner = loss_fn.func if isinstance(loss_fn, functools.partial) else loss_fn
    known = (nn.functional.cross_entropy, nn.functional.nll_loss)
    of_classes = inner in known or type(inner) in (nn.CrossEntropyLoss, nn.NLLLoss)
    if not of_classes or not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        return float(samples), float(samples)
    kept = targets[targets != options.get("ignore_index", -100)]
    weights = options.get("weight")
    counted = float(kept.numel() if weights is None else weights[kept].sum())
    return counted, counted
