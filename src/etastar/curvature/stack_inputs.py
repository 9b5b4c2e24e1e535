"""What goes into a stack: refused where it does not fit, reduced where that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etastar.checking import is_ratio
from etastar.curvature.graphs import KINDS, Kind
from etastar.errors import ConfigError, unknown_name
from etastar.problem.losses import LOSSES, Loss
from etastar.problem.networks import MLP, LayerNormMLP, Network

if TYPE_CHECKING:
    from etastar.problem.networks.base import Params

WORTHWHILE = 0.95
"""Share of the input dimensions that may be left for a reduction to be made."""


def fewer_inputs(network: Network, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same data in fewer input dimensions, where that changes no curvature.

    A network whose first act is `x @ W` sees of W only its part in the row space of `x`; along the
    rest the loss is constant. Columns of `x` that are equal are merged (the constant borders of
    images), and fewer samples than columns are expressed in a basis of their span.

    Args:
        network: The architecture.
        x: Inputs, `[m, d]`.

    Returns:
        Inputs `[m, r]` and an orthonormal basis `[d, r]` with `x = reduced @ basis.T`; or `x` and
        None, where little is gained or the architecture is not known to begin with a product.
    """
    if type(network) not in (MLP, LayerNormMLP) or not bool(x.isfinite().all()):
        return x, None
    columns, group, counts = torch.unique(x, dim=1, return_inverse=True, return_counts=True)
    samples, inputs = x.shape
    if min(samples, columns.shape[1]) > WORTHWHILE * inputs:
        return x, None
    roots = counts.double().sqrt()
    basis = torch.zeros(inputs, columns.shape[1], dtype=torch.float64, device=x.device)
    basis[torch.arange(inputs, device=x.device), group] = 1 / roots[group]
    reduced = columns.double() * roots
    if samples < columns.shape[1]:
        span = torch.linalg.qr(reduced.T)[0]  # (columns, m)
        reduced, basis = reduced @ span, basis @ span
    return reduced.to(x.dtype), basis.to(x.dtype)


def check_stack(
    network: Network,
    params: Params,
    x: Tensor,
    labels: Tensor,
    loss: Loss,
    kind: Kind,
    lr_ratios: Sequence[float] | None,
) -> None:
    """Raise if arguments of `stack_sharpness` do not fit each other.

    Raises:
        ConfigError: They do not, or one is out of range.
    """
    if kind not in KINDS:
        raise unknown_name("kind of curvature", str(kind), KINDS)
    if loss not in LOSSES:
        raise unknown_name("loss", str(loss), LOSSES)
    names = network.parameter_names()
    if len(params) != len(names) or len({len(p) for p in params}) != 1 or not len(params[0]):
        raise ConfigError(
            f"params must be the {len(names)} tensors of network.init, with one row per replica; "
            f"got shapes {[tuple(p.shape) for p in params]}."
        )
    if len(x) != len(labels) or not len(x):
        raise ConfigError(
            f"x and labels must hold the same samples, at least one; got {len(x)} and "
            f"{len(labels)}."
        )
    try:
        row = [p[:1].detach() for p in params]
        outputs = network.apply(row, x[:1].to(params[0].dtype)).shape[-1]
    except RuntimeError as error:
        raise ConfigError(
            f"the network cannot be applied to x of shape {tuple(x.shape)}: {error}. Expected the "
            "inputs that params were drawn for."
        ) from error
    if not 0 <= int(labels.min()) <= int(labels.max()) < outputs:
        raise ConfigError(
            f"labels must be class indices from 0 to {outputs - 1}, as the network has {outputs} "
            f"outputs; got {int(labels.min())} to {int(labels.max())}."
        )
    if lr_ratios is None:
        return
    if len(lr_ratios) != len(names) or not all(map(is_ratio, lr_ratios)):
        raise ConfigError(
            f"lr_ratios must hold one finite ratio ≥ 0 for each of {', '.join(names)}; got "
            f"{list(lr_ratios)}."
        )
