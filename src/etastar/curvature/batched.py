"""λ1 of a whole stack of networks at once: batched Lanczos, each replica until its own residual.

Every replica starts from the same vector and is solved by itself, so its result does not depend on
what ran beside it, beyond the rounding of batched products. On a CPU every thread solves its own
replicas (docs/decisions/0002): parallel operations would wait for one another at each of hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etastar.checking import check_solver, check_whole
from etastar.curvature.graphs import Kind
from etastar.curvature.lanczos import ROUNDING, KrylovSpaces, lanczos
from etastar.curvature.stack_inputs import check_stack, fewer_inputs
from etastar.curvature.stack_products import WRITTEN_OUT, StackProducts, Workspace, make_products
from etastar.machine import SHARE, free_bytes, use_threads
from etastar.problem.losses import Loss
from etastar.problem.networks import Network

if TYPE_CHECKING:
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

CHECKED = 1000.0
"""Residuals below `CHECKED · machine epsilon · max|θ|` of float32 are computed anew in float64.

Rounding of the products is of that order: for MLPs the error of a converged λ1 was at most 22 such
epsilons (MNIST, 64×4), for layer-normalised networks of 4 to 8 units, whose division amplifies it,
up to 700. A constant would not do: where rounding moves a pre-activation across zero, the network
in float32 lies on another side of a kink than the exact one."""

FOUND = np.dtype(
    [(name, float) for name in ("values", "residuals", "losses", "scales")]
    + [("iterations", int), ("converged", bool)]
)
"""What is kept of each replica: the fields of `StackSharpness`, and the largest |θ| as `scales`."""

Report = Callable[[int, int], None]


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
    check_stack(network, params, x, labels, loss, kind, lr_ratios)
    check_solver(tol, max_iter, seed)
    if chunk is not None:
        check_whole("chunk", chunk)
    stack = _Stack(network, params, x, labels, loss, kind, lr_ratios, tol, max_iter, seed)
    replicas = len(params[0])
    count = min(torch.get_num_threads(), replicas) if x.device.type == "cpu" else 1
    ends = [part * replicas // count for part in range(count + 1)]
    size = chunk or max(1, stack.chunk() // count)
    done, lock, stopped = [0] * count, Lock(), Event()

    def solve(part: int) -> None:
        def report(reached: int, products: int) -> None:
            if stopped.is_set():
                raise CancelledError
            with lock:
                done[part] = reached - ends[part]
                if on_progress is not None:
                    on_progress(sum(done), products)

        stack.solve(ends[part], ends[part + 1], size, report)

    with use_threads(1 if count > 1 else None), ThreadPoolExecutor(count) as pool:
        try:
            list(pool.map(solve, range(count)))
        except BaseException:  # Ctrl-C too: the pool waits for its threads before it passes it on
            stopped.set()
            raise
    return stack.result()


class _Stack:
    """What the threads of one `stack_sharpness` share; each fills its rows of `found`."""

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
    ) -> None:
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
            ratios = torch.tensor([r**0.5 for r in lr_ratios], dtype=torch.float64)
            self.roots = ratios.repeat_interleave(torch.tensor(sizes)).to(params[0])
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(1, self.size, generator=generator, dtype=torch.float64)
        self.random = (start / start.norm()).to(params[0])
        self.start_samples: Tensor | None = None
        if len(x) >= 3 * START_SAMPLES:
            drawn = torch.randperm(len(x), generator=generator)[:START_SAMPLES]
            self.start_samples = drawn.to(x.device)
        self.found = np.zeros(len(params[0]), FOUND)
        for name in ("values", "residuals", "losses", "scales"):
            self.found[name] = np.nan

    def result(self) -> StackSharpness:
        """What was found, as it is given to the caller."""
        found = self.found
        if self.basis is not None:  # directions that no input sees have curvature zero
            beneath = found["values"] < 0
            upper = (found["values"] + found["residuals"])[beneath]
            found["residuals"][beneath] = np.maximum(0, upper)
            found["values"][beneath] = 0.0
        names = ("values", "residuals", "iterations", "converged", "losses")
        return StackSharpness(
            **{name: tuple(found[name].tolist()) for name in names}, kind=self.kind
        )

    def solve(self, first: int, last: int, chunk: int, report: Report) -> None:
        """Solve some replicas, chunk by chunk, in memory that serves one chunk after another.

        Args:
            first: The first of them.
            last: The one after the last.
            chunk: Replicas at once.
            report: Called after every product with the replica before which all are done, and the
                products that the present ones have taken.
        """
        chunk = min(chunk, last - first)
        capacity = max(2, min(CAPACITY, self.max_iter, self.size))
        spaces = KrylovSpaces(self.random.expand(chunk, -1), capacity)
        workspace = Workspace()
        for at in range(first, last, chunk):
            self._solve_rows(slice(at, min(at + chunk, last)), spaces, workspace, report)

    def _solve_rows(
        self, rows: slice, spaces: KrylovSpaces, workspace: Workspace, report: Report
    ) -> None:
        """Solve one chunk: find the start from a subsample, then use the full data."""
        given, found = [p[rows] for p in self.params], self.found[rows]
        params = _projected(given, self.basis)
        random = start = self.random.repeat(len(found), 1)
        if (part := self.start_samples) is not None:
            products = self._products(params, self.x[part], self.labels[part], workspace)
            limit, start = min(self.max_iter, CAPACITY), random.clone()
            self._lanczos(
                *(products, spaces, start, found.copy(), START_TOL, limit),
                lambda _, step: report(rows.start, step),
            )
            start += START_NOISE * random
        products = self._products(params, self.x, self.labels, workspace)
        self._lanczos(
            *(products, spaces, start, found, self.tol, self.max_iter),
            lambda ended, step: report(rows.start + ended, step),
        )
        self._add_rounding(given, found, start, workspace)

    def _lanczos(
        self,
        products: StackProducts,
        spaces: KrylovSpaces,
        vectors: Tensor,
        found: NDArray[np.void],
        tol: float,
        max_iter: int,
        report: Report,
    ) -> None:
        """Iterate from `vectors` `[r, P]` until every replica is done; results go into `found`.

        The eigenvectors of those that converge go into `vectors`.
        """

        def drop(unwanted: NDArray[np.bool_]) -> None:
            products.drop(spaces.drop(unwanted), spaces.active)

        def ended(step: int) -> bool:
            found["iterations"][spaces.places] = step
            overflown = ~np.isfinite(spaces.beta)
            if overflown.any():
                for name in ("values", "residuals"):
                    found[name][spaces.places[overflown]] = np.nan
                drop(overflown)
            if spaces.active:
                places = spaces.places.copy()
                values, coordinates, estimates = spaces.ritz()
                scale = np.abs(values).max(1)
                floor = ROUNDING * torch.finfo(vectors.dtype).eps * scale
                done = estimates[:, -1] <= np.maximum(tol * np.abs(values[:, -1]), floor)
                for name, array in zip(
                    ("values", "residuals", "scales", "converged"),
                    (values[:, -1], estimates[:, -1], scale, done),
                    strict=True,
                ):
                    found[name][places] = array
                if done.any():
                    vectors[places[done]] = spaces.vectors(coordinates[:, :, -1:])[:, 0][done]
                    drop(done)
            report(len(vectors) - spaces.active, step)
            return not spaces.active

        found["losses"] = products.losses.double().cpu().numpy()
        spaces.reset(vectors)
        drop(~np.isfinite(found["losses"]))
        if spaces.active:
            lanczos(spaces, lambda v: self._product(products, v), ended, steps=max_iter)

    def _add_rounding(
        self, params: Params, found: NDArray[np.void], vectors: Tensor, workspace: Workspace
    ) -> None:
        """To each residual what rounding can add, or both anew in float64 from `vectors` `[r, P]`.

        See `CHECKED`. The product in float64 takes the samples' activations twice the memory, so
        half of the replicas have it at once.
        """
        double = torch.finfo(torch.float64).eps
        epsilon = torch.finfo(vectors.dtype).eps
        residuals, scales = found["residuals"], found["scales"]
        small = found["converged"] & (residuals <= CHECKED * epsilon * scales)
        if epsilon == double:
            residuals += CHECKED * double * scales
            return
        residuals[~small] += ROUNDING * epsilon * scales[~small]
        chosen = np.flatnonzero(small & (scales > 0))
        for part in np.array_split(chosen, -(-2 * len(chosen) // len(found)) or 1):
            if len(part):
                exact = [p[part].double() for p in params]
                found["values"][part], error = self._in_float64(exact, vectors[part], workspace)
                residuals[part] = error + CHECKED * double * scales[part]

    def _in_float64(
        self, params: Params, vectors: Tensor, workspace: Workspace
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rayleigh quotients and residuals of some replicas with `vectors` `[r, P]`."""
        if self.exact is None:
            self.exact = fewer_inputs(self.network, self.given_x.double())
        x, basis = self.exact
        products = self._products(_projected(params, basis), x, self.labels, workspace)
        vectors = vectors.double()
        vectors /= vectors.norm(dim=1, keepdim=True)
        images = self._product(products, vectors)
        values = (images * vectors).sum(1)
        residuals = (images - values.unsqueeze(1) * vectors).norm(dim=1)
        return values.cpu().numpy(), residuals.cpu().numpy()

    def _product(self, products: StackProducts, vectors: Tensor) -> Tensor:
        """`D^½ H D^½` times vectors `[r, P]`."""
        if self.roots is None:
            return products(vectors.contiguous())
        roots = self.roots.to(vectors)
        return products(vectors * roots).mul_(roots)

    def _products(
        self, params: Params, x: Tensor, labels: Tensor, workspace: Workspace
    ) -> StackProducts:
        """Products on these samples, in blocks if their activations do not fit in memory."""
        fitting = int(free_bytes(x.device) * SHARE) // (self._bytes_per_sample() * len(params[0]))
        block = None if fitting >= len(x) else max(1, fitting)
        return make_products(
            self.network, params, x, labels, self.loss, self.kind, workspace, block
        )

    def chunk(self) -> int:
        """Replicas at once: as many as fit in memory, and on a CPU in its cache."""
        device = self.x.device
        activations: int = self._bytes_per_sample() * len(self.x)
        vectors = VECTORS * self.size * self.random.element_size()
        fitting = int(free_bytes(device) * SHARE) // (activations + vectors)
        if device.type == "cpu":
            fitting = min(fitting, WORKING_SET // activations)
        return int(max(1, min(fitting, MAX_CHUNK)))

    def _bytes_per_sample(self) -> int:
        """Activations of one replica per sample that a product keeps: estimated from the widths."""
        units: int = sum(p.shape[-1] for p in self.params if p.ndim > 2) or self.size
        # written out: activation, gradient and both derivatives; autograd keeps a graph of graphs
        copies = 4 if type(self.network) in WRITTEN_OUT else 16
        return int(copies * units * self.random.element_size())


def _projected(params: Params, basis: Tensor | None) -> Params:
    """The parameters with the first weight's input side expressed in `basis` `[d, r]`."""
    return params if basis is None else [basis.T @ params[0], *params[1:]]
