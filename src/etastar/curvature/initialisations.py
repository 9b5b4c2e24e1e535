"""λ1 at initialisation of an architecture: the networks that a measurement of η* would train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy.special import bdtr

from etastar.curvature.batched import StackSharpness, stack_sharpness
from etastar.curvature.graphs import Kind
from etastar.curvature.stack_solver import VECTORS
from etastar.data import Dataset
from etastar.machine import SHARE, check_fits, free_bytes
from etastar.problem.networks import Network
from etastar.problem.networks.base import Params

LEVEL = 0.95
"""Confidence level that the interval of a median should have."""


@dataclass(frozen=True)
class SeedSharpness:
    """λ1 of one initialisation; None where the loss or a product was not finite.

    Attributes:
        lambda1_plain: λ1 of the curvature matrix itself.
        lambda1_preconditioned: λ1 of `D^½ H D^½`, where D holds the layers' learning-rate ratios: κ
            for the input layer.
        residual: Some eigenvalue lies within it of `lambda1_plain`, which is a lower bound.
        preconditioned_residual: The same for `lambda1_preconditioned`.
        converged: Whether both met their tolerance.
        products: Curvature-vector products with all samples that they took together.
    """

    lambda1_plain: float | None
    lambda1_preconditioned: float | None
    residual: float | None
    preconditioned_residual: float | None
    converged: bool
    products: int

    @property
    def lambda1(self) -> float | None:
        """`lambda1_plain` by its old name."""
        return self.lambda1_plain

    @property
    def preconditioned(self) -> float | None:
        """`lambda1_preconditioned` by its old name."""
        return self.lambda1_preconditioned


def initial_sharpness(
    network: Network,
    data: Dataset,
    seeds: Sequence[int],
    *,
    kind: Kind = "hessian",
    samples: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[str, int, int], None] | None = None,
    **solver: Any,
) -> dict[int, SeedSharpness]:
    """λ1 of the training loss at the initialisations of these seeds.

    Args:
        network: The architecture.
        data: λ1 is of the mean loss over its training samples.
        seeds: As in `etastar.measure`: the same seed is the same network.
        kind: `"hessian"` or `"gauss-newton"`.
        samples: Use the first so many training samples; all if None.
        dtype: float32 if None.
        device: Where to compute.
        on_progress: Called after every product with the matrix, the seeds that are done, and the
            products that the present ones have taken.
        **solver: `loss`, `tol`, `max_iter`, ... of `stack_sharpness`.

    Returns:
        By seed.

    Raises:
        ConfigError: A setting is out of range.
    """
    dtype = dtype or torch.float32
    x = data.x_train[:samples].to(device, dtype)
    labels = data.y_train[:samples].to(device)
    ratios = network.ratios(data.inputs)
    found: dict[int, SeedSharpness] = {}

    def solve(params: Params, ratios: Sequence[float] | None) -> StackSharpness:
        name, before = f"{kind}, preconditioned" if ratios else kind, len(found)
        return stack_sharpness(
            *(network, params, x, labels),
            kind=kind,
            lr_ratios=ratios,
            on_progress=on_progress
            and (lambda done, products: on_progress(name, before + done, products)),
            **solver,
        )

    for group in _groups(network, data, seeds, dtype, x.device):
        params = network.init(group, data.inputs, data.classes, dtype=dtype, device=device)
        solved = [solve(params, None)]
        if any(ratio != 1 for ratio in ratios):
            solved.append(solve(params, ratios))
        plain, scaled = solved[0], solved[-1]
        for row, seed in enumerate(group):
            found[seed] = SeedSharpness(
                lambda1_plain=_finite(plain.values[row]),
                lambda1_preconditioned=_finite(scaled.values[row]),
                residual=_finite(plain.residuals[row]),
                preconditioned_residual=_finite(scaled.residuals[row]),
                converged=plain.converged[row] and scaled.converged[row],
                products=sum(result.iterations[row] for result in solved),
            )
    return found


def _groups(
    network: Network,
    data: Dataset,
    seeds: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Sequence[int]]:
    """Cut the seeds into groups whose weights fit in memory together.

    Raises:
        ConfigError: Those of one network do not.
    """
    needed = network.parameter_count(data.inputs, data.classes) * dtype.itemsize
    # beside the weights, the Lanczos basis of one replica is the least that is held
    check_fits((1 + VECTORS) * needed, device, "λ1 of one network")
    size = max(1, int(SHARE / 2 * free_bytes(device)) // needed)
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def interval_of_median(count: int) -> tuple[int, float]:
    """Return which of so many sorted values bound their median, and the exact level of that.

    The bounds are the value of the rank from either end; the level is the least above 95 %, or
    below it that of the whole range, `1 − 2^(1−m)` for m values.

    Args:
        count: m, at least 2.
    """
    below = bdtr(np.arange(count), count, 0.5)  # of scipy.special: scipy.stats is slow to import
    rank = max(1, int(np.searchsorted(below, (1 - LEVEL) / 2)))
    return rank, 1 - 2 * float(below[rank - 1])


def over_seeds(values: Sequence[float | None]) -> dict[str, float | None]:
    """Summarise a number over seeds; None where it is undefined, as all are if a value is missing.

    Returns:
        The median; its interval `ci_low` to `ci_high` between two of the values, of the exact level
        `ci_level`, see `interval_of_median`; the mean and its standard error
        `mean_standard_error`.
    """
    summary: dict[str, float | None] = dict.fromkeys(
        ("median", "ci_low", "ci_high", "ci_level", "mean", "mean_standard_error")
    )
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return summary
    summary |= {"median": float(np.median(known)), "mean": fmean(known)}
    if len(known) > 1:
        count, ordered = len(known), sorted(known)
        rank, level = interval_of_median(count)
        summary |= {
            "ci_low": ordered[rank - 1],
            "ci_high": ordered[-rank],
            "ci_level": level,
            "mean_standard_error": stdev(known) / math.sqrt(count),
        }
    return summary


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
