"""λ1 at initialisation of an architecture: the networks that a measurement of η* would train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from etastar.curvature.batched import VECTORS, StackSharpness, stack_sharpness
from etastar.curvature.graphs import Kind
from etastar.data import Dataset
from etastar.machine import SHARE, check_fits, free_bytes
from etastar.problem.losses import Loss
from etastar.problem.networks import Network

if TYPE_CHECKING:
    from etastar.problem.networks.base import Params

DRAWS = 10_000
"""Bootstrap resamples of the median."""
LEVEL = 0.95
"""Confidence level of its interval."""


@dataclass(frozen=True)
class SeedSharpness:
    """λ1 of one initialisation; None where the loss or a product was not finite.

    Attributes:
        lambda1: Of the curvature matrix itself.
        preconditioned: Of `D^½ H D^½`, D the layers' learning-rate ratios: κ on the input layer.
        residual: Of `lambda1`: some eigenvalue lies within it, and `lambda1` is a lower bound.
        preconditioned_residual: Of `preconditioned`, likewise.
        converged: Whether both met their tolerance.
        products: Curvature-vector products with all samples that they took together.
    """

    lambda1: float | None
    preconditioned: float | None
    residual: float | None
    preconditioned_residual: float | None
    converged: bool
    products: int


def initial_sharpness(
    network: Network,
    data: Dataset,
    seeds: Sequence[int],
    *,
    loss: Loss,
    kind: Kind = "hessian",
    samples: int | None = None,
    tol: float = 1e-3,
    max_iter: int = 200,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Mapping[int, SeedSharpness]:
    """λ1 of the training loss at the initialisations of these seeds.

    Args:
        network: The architecture.
        data: λ1 is of the mean loss over its training samples.
        seeds: As in `etastar.measure`: the same seed is the same network.
        loss: `"mse"` or `"cross-entropy"`.
        kind: `"hessian"` or `"gauss-newton"`.
        samples: Use the first so many training samples; all if None.
        tol: Relative residual at which the iteration stops.
        max_iter: Products before a replica is given up.
        dtype: float32 if None.
        device: Where to compute.
        on_progress: Called after every product with the matrix, the seeds that are done, and the
            products that the present ones have taken.

    Returns:
        By seed.

    Raises:
        ConfigError: A setting is out of range.
    """
    dtype = dtype or torch.float32
    x = data.x_train[:samples].to(device, dtype)
    labels = data.y_train[:samples].to(device)
    ratios = network.lr_ratios()
    scaled_kind = f"{kind}, preconditioned"
    found: dict[int, SeedSharpness] = {}

    def solve(params: Params, ratios: Sequence[float] | None) -> StackSharpness:
        name, before = kind if ratios is None else scaled_kind, len(found)
        return stack_sharpness(
            *(network, params, x, labels),
            loss=loss,
            kind=kind,
            lr_ratios=ratios,
            tol=tol,
            max_iter=max_iter,
            on_progress=on_progress
            and (lambda done, products: on_progress(name, before + done, products)),
        )

    for group in _groups(network, data, seeds, dtype, x.device):
        params = network.init(group, data.inputs, data.classes, dtype=dtype, device=device)
        plain = scaled = solve(params, None)
        products = plain.iterations
        if any(ratio != 1 for ratio in ratios):
            scaled = solve(params, ratios)
            products = tuple(np.add(plain.iterations, scaled.iterations).tolist())
        found |= {
            seed: SeedSharpness(
                lambda1=_finite(plain.values[row]),
                preconditioned=_finite(scaled.values[row]),
                residual=_finite(plain.residuals[row]),
                preconditioned_residual=_finite(scaled.residuals[row]),
                converged=plain.converged[row] and scaled.converged[row],
                products=products[row],
            )
            for row, seed in enumerate(group)
        }
    return found


def _groups(
    network: Network,
    data: Dataset,
    seeds: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Sequence[int]]:
    """The seeds in groups whose weights fit in memory together.

    Raises:
        ConfigError: Those of one network do not.
    """
    needed = network.parameter_count(data.inputs, data.classes) * dtype.itemsize
    # beside the weights, the Lanczos basis of one replica is the least that is held
    check_fits((1 + VECTORS) * needed, device, "λ1 of one network")
    size = max(1, int(SHARE / 2 * free_bytes(device)) // needed)
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def median_interval(
    values: Sequence[float | None],
) -> tuple[float | None, float | None, float | None]:
    """Median over seeds with its 95 % percentile bootstrap interval; None where it is undefined.

    A missing value makes the median undefined; a single one has no interval.
    """
    if not values or any(value is None for value in values):
        return None, None, None
    array = np.array(values, dtype=float)
    if len(array) == 1:
        return float(array[0]), None, None
    rng = np.random.default_rng(0)
    medians = np.median(array[rng.integers(len(array), size=(DRAWS, len(array)))], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.median(array)), float(low), float(high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
