"""The solver behind `stack_sharpness`: it checks what goes in, and solves chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etastar.checking import check_choice, is_ratio
from etastar.curvature.graphs import KINDS, Kind
from etastar.curvature.lanczos import ROUNDING, KrylovSpaces, lanczos
from etastar.curvature.stack_inputs import fewer_inputs
from etastar.curvature.stack_products import WRITTEN_OUT, AutogradProducts, StackProducts
from etastar.errors import ConfigError
from etastar.machine import SHARE, free_bytes
from etastar.problem.losses import LOSSES, Loss
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
"""The numbers of each replica: the fields of `StackSharpness`, and the largest |θ| as `scales`."""


@dataclass
class StackSolver:
    """One call of `stack_sharpness`. Each thread has a copy, and fills its rows of `found`.

    Raises:
        ConfigError: The arguments do not fit each other.
    """

    network: Network
    params: Params
    x: Tensor
    labels: Tensor
    loss: Loss
    kind: Kind
    lr_ratios: Sequence[float] | None
    tol: float
    max_iter: int
    seed: int

    def __post_init__(self) -> None:
        self._check()
        first = self.params[0]
        self.given_x = self.x.to(first.dtype)
        self.x, self.basis = fewer_inputs(self.network, self.given_x)
        self.exact: tuple[Tensor, Tensor | None] | None = None  # the same in float64
        sizes = [p[0].numel() for p in self.params]
        if self.basis is not None:
            sizes[0] = self.basis.shape[1] * first.shape[2]
        self.size = sum(sizes)
        self.roots: Tensor | None = None
        if self.lr_ratios is not None:
            roots = torch.tensor([r**0.5 for r in self.lr_ratios], dtype=torch.float64)
            self.roots = roots.repeat_interleave(torch.tensor(sizes)).to(first)
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randn(1, self.size, generator=generator, dtype=torch.float64)
        self.random = (start / start.norm()).to(first)
        self.start_samples: Tensor | None = None
        if len(self.x) >= 3 * START_SAMPLES:
            drawn = torch.randperm(len(self.x), generator=generator)[:START_SAMPLES]
            self.start_samples = drawn.to(self.x.device)
        self.found = np.zeros(len(first), FOUND)
        for name in ("values", "residuals", "losses", "scales"):
            self.found[name] = np.nan

    def _check(self) -> None:
        check_choice("kind of curvature", self.kind, KINDS)
        check_choice("loss", self.loss, LOSSES)
        names, params, x, labels = self.network.parameter_names(), self.params, self.x, self.labels
        if len(params) != len(names) or len({len(p) for p in params}) != 1 or not len(params[0]):
            raise ConfigError(
                f"params must be the {len(names)} tensors of network.init, with one row per "
                f"replica; got shapes {[tuple(p.shape) for p in params]}."
            )
        if len(x) != len(labels) or not len(x):
            raise ConfigError(
                f"x and labels must hold the same samples, at least one; got {len(x)} and "
                f"{len(labels)}."
            )
        self.params = [p.detach() for p in params]
        try:
            row = [p[:1] for p in self.params]
            outputs = self.network.apply(row, x[:1].to(row[0].dtype)).shape[-1]
        except RuntimeError as error:
            raise ConfigError(
                f"the network cannot be applied to x of shape {tuple(x.shape)}: {error}. Expected "
                "the inputs that params were drawn for."
            ) from error
        if not 0 <= int(labels.min()) <= int(labels.max()) < outputs:
            raise ConfigError(
                f"labels must be class indices from 0 to {outputs - 1}, as the network has "
                f"{outputs} outputs; got {int(labels.min())} to {int(labels.max())}."
            )
        ratios = self.lr_ratios
        if ratios is not None and (len(ratios) != len(names) or not all(map(is_ratio, ratios))):
            raise ConfigError(
                f"lr_ratios must hold one finite ratio ≥ 0 for each of {', '.join(names)}; got "
                f"{list(ratios)}."
            )

    def result(self) -> dict[str, Any]:
        """Return what was found: the fields of `StackSharpness`, without the kind."""
        found = self.found
        if self.basis is not None:  # directions that no input sees have curvature zero
            beneath = found["values"] < 0
            upper = (found["values"] + found["residuals"])[beneath]
            found["residuals"][beneath] = np.maximum(0, upper)
            found["values"][beneath] = 0.0
        return {name: tuple(found[name].tolist()) for name in FOUND.names or () if name != "scales"}

    def solve(self, first: int, last: int, chunk: int, report: Callable[[int, int], None]) -> None:
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
        self.spaces = KrylovSpaces(self.random.expand(chunk, -1), capacity)
        self.workspace: dict[Any, Tensor] = {}
        for at in range(first, last, chunk):
            self._solve_rows(slice(at, min(at + chunk, last)), report)

    def _solve_rows(self, rows: slice, report: Callable[[int, int], None]) -> None:
        """Solve one chunk: find the start from a subsample, then use the full data."""
        given, found = [p[rows] for p in self.params], self.found[rows]
        params = _projected(given, self.basis)
        random = start = self.random.repeat(len(found), 1)
        if (part := self.start_samples) is not None:
            products = self._products(params, self.x[part], self.labels[part])
            start, limit = random.clone(), min(self.max_iter, CAPACITY)
            self._lanczos(
                *(products, start, found.copy(), START_TOL, limit),
                lambda _, step: report(rows.start, step),
            )
            start += START_NOISE * random
        products = self._products(params, self.x, self.labels)
        self._lanczos(
            *(products, start, found, self.tol, self.max_iter),
            lambda ended, step: report(rows.start + ended, step),
        )
        self._add_rounding(given, found, start)

    def _lanczos(
        self,
        products: StackProducts,
        vectors: Tensor,
        found: NDArray[np.void],
        tol: float,
        max_iter: int,
        report: Callable[[int, int], None],
    ) -> None:
        """Iterate from `vectors` `[r, P]` until every replica is done; results go into `found`.

        The eigenvectors of those that converge go into `vectors`.
        """
        spaces = self.spaces

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
            lanczos(spaces, partial(self._product, products), ended, steps=max_iter)

    def _add_rounding(self, params: Params, found: NDArray[np.void], vectors: Tensor) -> None:
        """Add to each residual what rounding can add; or compute it, and the value, in float64.

        See `CHECKED`. The product in float64 takes the samples' activations twice the memory, so
        half of the replicas have it at once.

        Args:
            params: The parameters of the replicas of `found`, as they were given.
            found: What Lanczos found.
            vectors: The eigenvectors, `[r, P]`.
        """
        double = torch.finfo(torch.float64).eps
        epsilon = torch.finfo(vectors.dtype).eps
        residuals, scales = found["residuals"], found["scales"]
        if epsilon == double:
            residuals += CHECKED * double * scales
            return
        small = found["converged"] & (residuals <= CHECKED * epsilon * scales)
        residuals[~small] += ROUNDING * epsilon * scales[~small]
        chosen = np.flatnonzero(small & (scales > 0))
        for part in np.array_split(chosen, -(-2 * len(chosen) // len(found)) or 1):
            if len(part):
                exact = [p[part].double() for p in params]
                found["values"][part], error = self._in_float64(exact, vectors[part].double())
                residuals[part] = error + CHECKED * double * scales[part]

    def _in_float64(
        self, params: Params, vectors: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute Rayleigh quotients and residuals of some replicas with `vectors` `[r, P]`."""
        if self.exact is None:
            self.exact = fewer_inputs(self.network, self.given_x.double())
        x, basis = self.exact
        products = self._products(_projected(params, basis), x, self.labels)
        vectors /= vectors.norm(dim=1, keepdim=True)
        images = self._product(products, vectors)
        values = (images * vectors).sum(1)
        residuals = (images - values.unsqueeze(1) * vectors).norm(dim=1)
        return values.cpu().numpy(), residuals.cpu().numpy()

    def _product(self, products: StackProducts, vectors: Tensor) -> Tensor:
        """Multiply vectors `[r, P]` by `D^½ H D^½`."""
        if self.roots is None:
            return products(vectors.contiguous())
        roots = self.roots.to(vectors)
        return products(vectors * roots).mul_(roots)

    def _products(self, params: Params, x: Tensor, labels: Tensor) -> StackProducts:
        """Make products on these samples, in blocks if activations do not fit in memory."""
        fitting = int(free_bytes(x.device) * SHARE) // (self._bytes_per_sample() * len(params[0]))
        block = None if fitting >= len(x) else max(1, fitting)
        route = WRITTEN_OUT.get(type(self.network), AutogradProducts)
        return route(self.network, params, x, labels, self.loss, self.kind, self.workspace, block)

    def chunk(self) -> int:
        """Count the replicas to solve at once: those that fit in memory, on a CPU in its cache."""
        device = self.x.device
        activations: int = self._bytes_per_sample() * len(self.x)
        vectors = VECTORS * self.size * self.random.element_size()
        fitting = int(free_bytes(device) * SHARE) // (activations + vectors)
        if device.type == "cpu":
            fitting = min(fitting, WORKING_SET // activations)
        return int(max(1, min(fitting, MAX_CHUNK)))

    def _bytes_per_sample(self) -> int:
        """Estimate from the widths the memory for one replica and sample that a product keeps."""
        units: int = sum(p.shape[-1] for p in self.params if p.ndim > 2) or self.size
        # written out: activation, gradient and both derivatives; autograd keeps a graph of graphs
        copies = 4 if type(self.network) in WRITTEN_OUT else 16
        return int(copies * units * self.random.element_size())


def _projected(params: Params, basis: Tensor | None) -> Params:
    """Express the first weight's input side in `basis` `[d, r]`."""
    return params if basis is None else [basis.T @ params[0], *params[1:]]
