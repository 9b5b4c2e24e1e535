"""λ1 of a whole stack of networks at once: batched Lanczos, each replica until its own residual.

Every replica starts from the same vector and is solved by itself, so its result does not depend on
what ran beside it, beyond the rounding of batched products. On a CPU every thread solves its own
replicas (docs/decisions/0002): parallel operations would wait for one another at each of hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from threading import Event, Lock

import torch
from torch import Tensor

from etastar.checking import check_solver, check_whole
from etastar.curvature.graphs import Kind
from etastar.curvature.stack_solver import StackSolver
from etastar.machine import use_threads
from etastar.problem.losses import Loss
from etastar.problem.networks import Network
from etastar.problem.networks.base import Params


@dataclass(frozen=True)
class StackSharpness:
    """λ1 of each of R replicas, in their order.

    Some eigenvalue of the matrix at these weights in exact arithmetic lies within `residuals[r]` of
    `values[r]`, and `values[r]` is a lower bound of λ1 up to that. Missed larger eigenvalues are
    not searched for, as `etastar.sharpness` does: at tolerance 1e-3, 2 of 7,168 initialisations of
    MLPs of width 16 and 32 ended at another eigenvalue, up to 2 % below λ1.

    A residual is Lanczos's estimate plus `ROUNDING · machine epsilon · max|θ|`. Where float32's
    estimate is so small that rounding counts (`CHECKED`), value and residual are those of one
    product in float64 with the eigenvector found, and the epsilon is float64's, times `CHECKED`.
    """

    values: tuple[float, ...]
    """NaN where the loss or a product was not finite."""
    residuals: tuple[float, ...]
    """May exceed the tolerance where that is below the rounding of the dtype."""
    iterations: tuple[int, ...]
    """Products with the full data."""
    converged: tuple[bool, ...]
    losses: tuple[float, ...]
    """Training loss at these weights."""
    kind: Kind


def stack_sharpness(
    network: Network,
    params: Params,
    x: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    kind: Kind = "hessian",
    lr_ratios: Sequence[float] | None = None,
    tol: float = 1e-3,
    max_iter: int = 200,
    seed: int = 0,
    chunk: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> StackSharpness:
    """Compute λ1 of the training loss of every replica of a stack.

    Lanczos finds the largest *algebraic* eigenvalue and stops when the residual is at most
    `tol·|θ|`; the error of θ is then of the order of `tol²·θ²/gap`. The starting vector is the
    dominant direction of a small subsample plus a random part.

    The Hessian of a ReLU network does not see its kinks (`etastar.curvature.graphs`): print the
    Gauss-Newton value beside it.

    Args:
        network: The architecture.
        params: As `network.init` returns them, each `[R, ...]`, float32 or float64.
        x: Inputs `[m, ...]`, shared by all replicas.
        labels: Class indices, `[m]`.
        loss: `"mse"` or `"cross-entropy"`, normalised as in `etastar.problem.losses`.
        kind: `"hessian"` or `"gauss-newton"`.
        lr_ratios: Learning-rate ratio of each tensor of `params`, e.g. `network.lr_ratios()`: the
            result is then λ1 of `D^½ H D^½`. None for H itself.
        tol: Relative residual at which a replica is done.
        max_iter: Products on the full data before a replica is given up, `converged=False`.
        seed: Seed of the random start.
        chunk: Replicas at once; from the free memory if None.
        on_progress: Called after every product with the replicas that are done and the products
            that the present ones have taken.

    Returns:
        Values, residuals and the rest, one entry per replica.

    Raises:
        ConfigError: A setting is out of range, or sizes do not fit each other.

    Example:
        >>> from etastar.problem.networks import MLP
        >>> import torch
        >>> network = MLP(width=8, depth=2)
        >>> params = network.init([0, 1, 2], inputs=4, outputs=2)
        >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> found = stack_sharpness(network, params, x, torch.arange(20) % 2, loss="mse")
        >>> len(found.values), all(found.converged), min(found.values) > 0
        (3, True, True)
    """
    tol, max_iter, seed = check_solver(tol, max_iter, seed)
    if chunk is not None:
        check_whole("chunk", chunk)
    solver = StackSolver(network, params, x, labels, loss, kind, lr_ratios, tol, max_iter, seed)
    replicas = len(params[0])
    count = min(torch.get_num_threads(), replicas) if x.device.type == "cpu" else 1
    ends = [part * replicas // count for part in range(count + 1)]
    size = chunk or max(1, solver.chunk() // count)
    done, lock, stopped = [0] * count, Lock(), Event()

    def solve(part: int) -> None:
        def report(reached: int, products: int) -> None:
            if stopped.is_set():
                raise CancelledError
            with lock:
                done[part] = reached - ends[part]
                if on_progress is not None:
                    on_progress(sum(done), products)

        copy(solver).solve(ends[part], ends[part + 1], size, report)

    with use_threads(1 if count > 1 else None), ThreadPoolExecutor(count) as pool:
        try:
            list(pool.map(solve, range(count)))
        except BaseException:  # Ctrl-C too: the pool waits for its threads before it passes it on
            stopped.set()
            raise
    return StackSharpness(**solver.result(), kind=kind)
