"""λ1 of a whole stack of networks at once: batched Lanczos, each replica until its own residual.

Every replica starts from the same vector and is solved by itself, so its result does not depend on
what ran beside it, beyond the rounding of batched products. On a CPU every thread solves its own
replicas (docs/decisions/0002): parallel operations would wait for one another at each of hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from etastar.checking import check_whole
from etastar.curvature.graphs import Kind
from etastar.curvature.stack_inputs import check_stack, fewer_inputs
from etastar.curvature.stack_result import CHECKED, PartialResult, StackSharpness

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from etastar.curvature.lanczos import KrylovSpaces
    from etastar.curvature.stack_products import StackProducts
    from etastar.problem.losses import Loss
    from etastar.problem.networks import Network
    from etastar.problem.networks.base import Params

CAPACITY = 40
"""Vectors of a Krylov space before it is restarted; at tolerance 1e-3 about 10 are needed."""
VECTORS = CAPACITY + 8
"""Vectors of the size of the weights that one replica needs at most: those of its space, and the
start, the image and what a product works on."""

WORKING_SET = 2**26
"""Bytes of activations that a chunk should have on a CPU: more falls out of the cache."""

MAX_CHUNK = 4096
"""Replicas per chunk beyond which nothing is gained."""

START_SAMPLES = 64
"""The start comes from so many samples, drawn at random, where three times as many are given: with
four times as many for the start, the full data took half a product less, and all of it longer."""
START_TOL = 0.1
"""Relative residual of the start on the subsample."""
START_NOISE = 0.5
"""Norm of the random part of the start, so that no direction is excluded from it: a twentieth of a
product dearer than 0.1, and fewer eigenvalues missed."""


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
    """λ1 of the training loss of every replica of a stack.

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
        seed: Of the start.
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
    check_stack(network, params, x, labels, loss, kind, lr_ratios, tol, max_iter, chunk)
    check_whole("seed", seed, least=0)
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from etastar.machine import use_threads

    replicas = len(params[0])
    count = min(torch.get_num_threads(), replicas) if params[0].device.type == "cpu" else 1
    parts = [slice(i * replicas // count, (i + 1) * replicas // count) for i in range(count)]
    report = _Reports(on_progress)
    solvers = [
        _StackSolver(
            *(network, [p[part] for p in params], x, labels, loss, kind, lr_ratios),
            *(tol, max_iter, seed, report.of(i)),
        )
        for i, part in enumerate(parts)
    ]
    if count == 1:
        return solvers[0].solve(chunk)
    chunk = chunk or max(1, solvers[0].chunk() // count)
    with use_threads(1), ThreadPoolExecutor(count) as pool:
        try:
            found = list(pool.map(lambda solver: solver.solve(chunk), solvers))
        except BaseException:  # Ctrl-C too: the pool waits for its threads before it passes it on
            report.stopped = True
            raise
    return StackSharpness(
        values=tuple(v for part in found for v in part.values),
        residuals=tuple(v for part in found for v in part.residuals),
        iterations=tuple(v for part in found for v in part.iterations),
        converged=tuple(v for part in found for v in part.converged),
        losses=tuple(v for part in found for v in part.losses),
        kind=kind,
    )


class _Stopped(Exception):
    """Raised in the threads of a computation that another of them, or Ctrl-C, has ended."""


class _Reports:
    """The progress of several threads as one, and their end."""

    def __init__(self, tell: Callable[[int, int], None] | None) -> None:
        self.stopped = False
        self._tell, self._lock = tell, Lock()
        self._done: dict[int, int] = {}

    def of(self, part: int) -> Callable[[int, int], None]:
        """What the solver of that part is to call after every product."""

        def report(done: int, products: int) -> None:
            if self.stopped:
                raise _Stopped
            with self._lock:
                self._done[part] = done
                if self._tell is not None:
                    self._tell(sum(self._done.values()), products)

        return report


class _StackSolver:
    """What one thread does of `stack_sharpness`: chunks of replicas, one after another."""

    def __init__(
        self,
        network: Network,
        params: Params,
        x: Tensor,
        labels: Tensor,
        loss: Loss,
        kind: Kind,
        lr_ratios: Sequence[float] | None,
        tol: float,
        max_iter: int,
        seed: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        import torch

        from etastar.curvature.stack_products import Workspace

        self.workspace = Workspace()
        self.network, self.labels, self.loss, self.kind = network, labels, loss, kind
        self.tol, self.max_iter = tol, max_iter
        self.params = [p.detach() for p in params]
        self.given_x = x.to(params[0].dtype)
        self.x, self.basis = fewer_inputs(network, self.given_x)
        self.exact: tuple[Tensor, Tensor | None] | None = None  # the same in float64
        sizes = [p[0].numel() for p in params]
        if self.basis is not None:
            sizes[0] = self.basis.shape[1] * params[0].shape[2]
        self.size = sum(sizes)
        self.roots: Tensor | None = None
        if lr_ratios is not None:
            roots = [
                params[0].new_full((n,), r**0.5) for n, r in zip(sizes, lr_ratios, strict=True)
            ]
            self.roots = torch.cat(roots)
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(1, self.size, generator=generator, dtype=torch.float64)
        self.random = (start / start.norm()).to(params[0])
        self.start_samples: Tensor | None = None
        if len(x) >= 3 * START_SAMPLES:
            drawn = torch.randperm(len(x), generator=generator)[:START_SAMPLES]
            self.start_samples = drawn.to(x.device)
        self.found_so_far = PartialResult(len(params[0]))
        self.on_progress = on_progress
        self.done = 0
        self.rough = False  # whether the start is being sought

    def solve(self, chunk: int | None) -> StackSharpness:
        """All replicas, chunk by chunk."""
        from etastar.curvature.lanczos import KrylovSpaces

        replicas = len(self.params[0])
        chunk = min(chunk or self.chunk(), replicas)
        capacity = max(2, min(CAPACITY, self.max_iter, self.size))
        spaces = KrylovSpaces(self.random.expand(chunk, -1), capacity)
        for first in range(0, replicas, chunk):
            rows = slice(first, min(first + chunk, replicas))
            params = [p[rows] for p in self.params]
            if self.basis is not None:
                params[0] = self.basis.T @ params[0]
            self._solve_rows(np.arange(rows.start, rows.stop), params, spaces)
        found = self.found_so_far
        if self.basis is not None:  # directions that no input sees have curvature zero
            beneath = found.values < 0
            found.residuals[beneath] = np.maximum(0, (found.values + found.residuals)[beneath])
            found.values[beneath] = 0.0
        return found.result(self.kind)

    def _solve_rows(self, rows: NDArray[np.int_], params: Params, spaces: KrylovSpaces) -> None:
        """One chunk: the start from a subsample, then the full data."""
        start = self.random.repeat(len(rows), 1)
        if (part := self.start_samples) is not None:
            products = self._products(params, self.x[part], self.labels[part])
            rough = start.clone()
            limit = min(self.max_iter, CAPACITY)
            self.rough = True
            self._lanczos(
                products, spaces, rough, START_TOL, limit, PartialResult(len(rows)), rough
            )
            self.rough = False
            start = rough + START_NOISE * start
        products = self._products(params, self.x, self.labels)
        found = PartialResult(len(rows))
        vectors = start if start.dtype.itemsize < 8 else None
        self._lanczos(products, spaces, start, self.tol, self.max_iter, found, vectors)
        self._add_rounding(rows, found, start)
        self.found_so_far.put(rows, found)
        self.done += len(rows)

    def _lanczos(
        self,
        products: StackProducts,
        spaces: KrylovSpaces,
        start: Tensor,
        tol: float,
        max_iter: int,
        found: PartialResult,
        vectors: Tensor | None = None,
    ) -> None:
        """Iterate until every replica of `start` `[r, P]` is done; results go into `found`.

        `vectors` `[r, P]` takes the eigenvectors of those that converge.
        """
        from etastar.curvature.lanczos import rounding_level

        spaces.reset(start)
        found.losses[:] = products.losses.double().cpu().numpy()
        places = np.arange(len(start))  # which replica of `start` each space belongs to
        places = _drop(products, spaces, places, ~np.isfinite(found.losses))
        step = 0
        while spaces.active and step < max_iter:
            if spaces.size == spaces.capacity:
                values, coordinates, _ = spaces.ritz()
                kept = spaces.capacity // 2
                spaces.restart(values[:, -kept:], coordinates[:, :, -kept:])
            spaces.expand(self._product(products, spaces.direction))
            step += 1
            found.iterations[places] = step
            overflown = ~np.isfinite(spaces.beta)
            if overflown.any():
                found.values[places[overflown]] = found.residuals[places[overflown]] = np.nan
                places = _drop(products, spaces, places, overflown)
                continue
            values, coordinates, estimates = spaces.ritz()
            scale = np.abs(values).max(1)
            floor = np.array([rounding_level(start.dtype, s) for s in scale])
            done = estimates[:, -1] <= np.maximum(tol * np.abs(values[:, -1]), floor)
            found.values[places], found.residuals[places] = values[:, -1], estimates[:, -1]
            found.scales[places], found.converged[places] = scale, done
            if done.any():
                if vectors is not None:
                    top = spaces.vectors(coordinates[:, :, -1:])[:, 0]
                    vectors[places[done]] = top[np.flatnonzero(done)]
                places = _drop(products, spaces, places, done)
            ended = 0 if self.rough else len(start) - spaces.active
            self.on_progress(self.done + ended, step)

    def _add_rounding(self, rows: NDArray[np.int_], found: PartialResult, vectors: Tensor) -> None:
        """To each residual what rounding can add, or both anew in float64 from `vectors` `[r, P]`.

        See `CHECKED`. The product in float64 takes the samples' activations twice the memory, so
        half of the replicas have it at once.
        """
        import torch

        from etastar.curvature.lanczos import ROUNDING

        double = torch.finfo(torch.float64).eps
        epsilon = torch.finfo(vectors.dtype).eps
        small = found.converged & (found.residuals <= CHECKED * epsilon * found.scales)
        if epsilon == double:
            found.residuals += CHECKED * double * found.scales
            return
        found.residuals[~small] += ROUNDING * epsilon * found.scales[~small]
        chosen = np.flatnonzero(small & (found.scales > 0))
        for part in np.array_split(chosen, -(-2 * len(chosen) // len(rows)) or 1):
            if len(part):
                values, residuals = self._in_float64(rows[part], vectors[part].double())
                found.values[part] = values
                found.residuals[part] = residuals + CHECKED * double * found.scales[part]

    def _in_float64(
        self, rows: NDArray[np.int_], vectors: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rayleigh quotients and residuals of some replicas with `vectors` `[r, P]`."""
        if self.exact is None:
            self.exact = fewer_inputs(self.network, self.given_x.double())
        x, basis = self.exact
        params = [p[rows].double() for p in self.params]
        if basis is not None:
            params[0] = basis.T @ params[0]
        roots = 1.0 if self.roots is None else self.roots.double()
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        images = self._products(params, x, self.labels)(vectors * roots) * roots
        values = (images * vectors).sum(1)
        residuals = (images - values.unsqueeze(1) * vectors).norm(dim=1)
        return values.cpu().numpy(), residuals.cpu().numpy()

    def _product(self, products: StackProducts, vectors: Tensor) -> Tensor:
        """`D^½ H D^½` times vectors `[r, P]`."""
        if self.roots is None:
            return products(vectors.contiguous())
        return products(vectors * self.roots).mul_(self.roots)

    def _products(self, params: Params, x: Tensor, labels: Tensor) -> StackProducts:
        """Products on these samples, in blocks if their activations do not fit in memory."""
        from etastar.curvature.stack_products import SampleBlocks, make_products
        from etastar.machine import SHARE, free_bytes

        budget = int(free_bytes(x.device) * SHARE)
        per_sample = self._bytes_per_sample() * len(params[0])
        if per_sample * len(x) <= budget:
            return make_products(
                self.network, params, x, labels, self.loss, self.kind, self.workspace
            )
        block = max(1, budget // per_sample)
        return SampleBlocks(
            self.network, params, x, labels, self.loss, self.kind, block, self.workspace
        )

    def chunk(self) -> int:
        """Replicas at once: as many as fit in memory, and on a CPU in its cache."""
        from etastar.machine import SHARE, free_bytes

        device = self.x.device
        activations: int = self._bytes_per_sample() * len(self.x)
        vectors = VECTORS * self.size * self.random.element_size()
        fitting = int(free_bytes(device) * SHARE) // (activations + vectors)
        if device.type == "cpu":
            fitting = min(fitting, WORKING_SET // activations)
        return int(max(1, min(fitting, MAX_CHUNK)))

    def _bytes_per_sample(self) -> int:
        """Activations of one replica per sample that a product keeps: estimated from the widths."""
        from etastar.curvature.stack_products import WRITTEN_OUT

        units: int = sum(p.shape[-1] for p in self.params if p.ndim > 2) or self.size
        # written out: activation, gradient and both derivatives; autograd keeps a graph of graphs
        copies = 4 if type(self.network) in WRITTEN_OUT else 16
        return int(copies * units * self.random.element_size())


def _drop(
    products: StackProducts,
    spaces: KrylovSpaces,
    places: NDArray[np.int_],
    unwanted: NDArray[np.bool_],
) -> NDArray[np.int_]:
    """Take replicas out of the stack; the places of those that are left."""
    moves = spaces.drop(np.flatnonzero(unwanted).tolist())
    places = places.copy()
    for to, source in moves:
        places[to] = places[source]
    products.drop(moves, spaces.active)
    return places[: spaces.active]
