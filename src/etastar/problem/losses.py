"""The two losses, with the normalisation that λ1 and η* are quoted in.

`mse`: ½ · sum over outputs · mean over samples, targets one-hot.
`cross-entropy`: mean over samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

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
