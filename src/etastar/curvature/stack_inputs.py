"""Inputs of a stack of networks in fewer dimensions, where that changes no curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from etastar.problem.networks import MLP, LayerNormMLP, Network

WORTHWHILE = 0.95
"""Share of the input dimensions that may be left for a reduction to be made."""


def fewer_inputs(network: Network, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Express the data in fewer input dimensions, where that changes no curvature.

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
