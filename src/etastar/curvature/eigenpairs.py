"""The largest eigenvalues of one symmetric operator, with what is and is not guaranteed of them.

A Ritz pair (θ, v), ‖v‖ = 1, with residual ρ = ‖A·v − θ·v‖ guarantees two things (Parlett, *The
Symmetric Eigenvalue Problem*, 1998, theorems 4.5.1 and 10.2.1): some eigenvalue of A lies within ρ
of θ, and the largest θ is a lower bound of λ1. No residual shows that a larger eigenvalue was not
missed; a second random start, orthogonal to what was found, makes that improbable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from etastar.checking import check_solver, is_whole
from etastar.curvature.lanczos import KrylovSpaces, rounding_level
from etastar.errors import ConfigError, CurvatureError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Product: TypeAlias = Callable[[Tensor], Tensor]

DENSE_SIZE = 128
"""Up to this many parameters the matrix is written out: Lanczos would need as many products."""

BASIS_BYTES = 2**30
"""Memory for the basis; a larger space is restarted. A constant, so that results do not depend on
the machine's free memory."""

MOST_VECTORS, FEWEST_VECTORS, LEAST_BEYOND = 128, 24, 4
"""Vectors of the basis besides twice the number of values sought: at most, as reorthogonalisation
takes over beyond; at least, however little memory there is; and at least where the caller says."""

CLOSED = 0.2
"""Of the rounding level: less than that outside the space, and it is invariant."""

BOTTOM_KEPT = 3
"""Ritz vectors at the lower end that a restart keeps, for the smallest eigenvalue."""

MARGIN = 0.5
"""Of the tolerance that Lanczos's own estimates must meet: residuals are computed anew at the end,
and rounding adds."""


@dataclass(frozen=True)
class Eigenpairs:
    """Largest eigenvalues of a symmetric operator and the smallest one beside them."""

    values: tuple[float, ...]
    """Descending. Each is a Ritz value, the first a lower bound of λ1."""
    residuals: tuple[float, ...]
    """‖A·v − θ·v‖ of each value, computed from one more product: not the solver's estimate."""
    smallest: float
    """Smallest Ritz value: an upper bound of the smallest eigenvalue."""
    smallest_residual: float
    vectors: Tensor
    """Unit vectors, `[k, P]`, in the order of `values`."""
    products: int
    """Applications of the operator that were spent, the final check included."""
    converged: bool
    """Every residual is at most tol·|θ|, the smallest's tol·max|θ|, and the second start ended."""


def largest_eigenpairs(
    product: Product,
    size: int,
    *,
    k: int = 1,
    tol: float = 1e-4,
    max_iter: int = 1000,
    seed: int = 0,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    dense_size: int | None = None,
    basis_size: int | None = None,
) -> Eigenpairs:
    """The k largest (algebraic) eigenvalues of a symmetric operator, and its smallest.

    Thick-restart Lanczos. There is no absolute floor in the stopping rule, so tiny spectra are
    resolved as well as large ones; only rounding, `ROUNDING · eps · max|θ|`, is allowed for.

    Args:
        product: Maps a vector `[P]` to A times it, `[P]`.
        size: P.
        k: Number of values, at most P.
        tol: Relative residual at which a pair is accepted.
        max_iter: Products that may be spent on Lanczos steps, both starts together.
        seed: Of the random starts.
        dtype: Of the vectors.
        device: Of the vectors.
        dense_size: Largest P at which the matrix is written out instead; `DENSE_SIZE` if None.
        basis_size: Vectors held before a restart; from `BASIS_BYTES` if None.

    Returns:
        The pairs; `converged` is false if the budget ended first.

    Raises:
        ConfigError: A setting is out of range.
        CurvatureError: A product is not finite.
    """
    if not is_whole(k) or not 1 <= k <= size:
        raise ConfigError(
            f"k must lie between 1 and the number of parameters, {size}, and be whole; got {k!r}."
        )
    check_solver(tol, max_iter, seed)
    solver = _Solver(product, size, k, tol, max_iter, seed, dtype, device, basis_size)
    small = size <= (DENSE_SIZE if dense_size is None else dense_size)
    return solver.dense() if small else solver.lanczos()


class _Solver:
    """One call of `largest_eigenpairs`: its settings and what it has found so far."""

    def __init__(
        self,
        product: Product,
        size: int,
        k: int,
        tol: float,
        max_iter: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
        basis_size: int | None,
    ) -> None:
        import torch

        self.product, self.size, self.k, self.tol, self.max_iter = product, size, k, tol, max_iter
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)
        affordable = BASIS_BYTES // (size * torch.finfo(dtype).bits // 8)
        most, fewest = 2 * k + MOST_VECTORS, 2 * k + FEWEST_VECTORS
        chosen = basis_size or min(max(affordable, fewest), most)
        self.basis_size = max(chosen, 2 * k + LEAST_BEYOND)
        self.steps = self.products = 0
        self.scale = 0.0  # largest |θ| seen: a lower bound of ‖A‖
        self.found = torch.empty(0, size, dtype=dtype, device=device)
        self.found_values: list[float] = []
        self.bottom: tuple[float, Tensor] | None = None

    def dense(self) -> Eigenpairs:
        """All of the spectrum, from the matrix."""
        import torch

        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        matrix = torch.stack([self._apply(row) for row in identity]).double().cpu()
        _, vectors = np.linalg.eigh(((matrix + matrix.T) / 2).numpy())
        chosen = torch.as_tensor(vectors.T[::-1].copy())
        rows = torch.cat([chosen[: self.k], chosen[-1:]])
        return self._pairs(rows, rows @ matrix, complete=True)

    def lanczos(self) -> Eigenpairs:
        """First start until k pairs converge, then starts orthogonal to all that was found."""
        import torch

        complete = self._run(wanted=self.k, checking=False, least_steps=0)
        first_steps = self.steps
        while complete and len(self.found) < self.size:
            before = len(self.found)
            complete = self._run(wanted=1, checking=True, least_steps=first_steps)
            if len(self.found) == before:
                break
        assert self.bottom is not None
        rows = self._rotated(self.found)[: self.k]
        rows = torch.cat([rows, self.bottom[1].unsqueeze(0)])
        images = torch.stack([self._apply(row) for row in rows])
        return self._pairs(rows, images, complete)

    def _run(self, wanted: int, checking: bool, least_steps: int) -> bool:
        """One start, in the complement of what was found; true if it ended within the budget.

        A checking run ends after as many steps as the first start took, unless its largest Ritz
        value is above what was found: then it goes on until that pair has converged, and keeps it.
        """
        room = self.size - len(self.found)
        locked = self.found.unsqueeze(0) if len(self.found) else None
        space = KrylovSpaces(self._random(), min(self.basis_size, room), locked)
        ended, steps = False, 0
        while not ended and self.steps < self.max_iter:
            if space.size == space.capacity:
                self._restart(space, wanted)
            space.expand(self._apply(space.direction[0]).unsqueeze(0))
            self.steps, steps = self.steps + 1, steps + 1
            values, coordinates, estimates = (array[0] for array in space.ritz())
            self.scale = max(self.scale, float(np.abs(values).max()))
            exhausted = steps >= room
            if checking and not self._is_missing(values[-1]):
                ended = steps >= least_steps or exhausted or self._invariant(space)
                continue
            ended = exhausted or self._settled(values, estimates, wanted, bottom=not checking)
            if not ended and self._invariant(space):
                space.aim(self._random())
        if not checking or self._is_missing(values[-1]):
            top = space.vectors(coordinates[None, :, ::-1][:, :, :wanted].copy())[0]
            self._keep(values[::-1][:wanted].tolist(), top)
        if self.bottom is None or values[0] < self.bottom[0]:
            self.bottom = float(values[0]), space.vectors(coordinates[None, :, :1])[0, 0]
        return ended

    def _settled(
        self, values: np.ndarray, estimates: np.ndarray, wanted: int, bottom: bool
    ) -> bool:
        """Whether the `wanted` top pairs, and the bottom one if asked, have small residuals."""
        if len(values) < wanted:
            return False
        allowed = np.maximum(MARGIN * self.tol * np.abs(values), self._rounding())
        top = bool((estimates[-wanted:] <= allowed[-wanted:]).all())
        scale = max(MARGIN * self.tol * self.scale, self._rounding())
        return top and (not bottom or bool(estimates[0] <= scale))

    def _is_missing(self, value: float) -> bool:
        """Whether `value` is above the k-th found by more than the tolerance."""
        kth = sorted(self.found_values, reverse=True)[self.k - 1]
        return value > kth + max(self.tol * abs(kth), self._rounding())

    def _invariant(self, space: KrylovSpaces) -> bool:
        """Whether the space is closed under the operator, to rounding."""
        return bool(space.beta[0] <= CLOSED * self._rounding())

    def _restart(self, space: KrylovSpaces, wanted: int) -> None:
        """Keep the upper Ritz vectors and a few at the bottom, half the capacity in all."""
        values, coordinates, _ = space.ritz()
        low = min(BOTTOM_KEPT, space.capacity // 4)
        high = max(wanted, space.capacity // 2 - low)
        chosen = [*range(low), *range(space.size - high, space.size)]
        space.restart(values[:, chosen], coordinates[:, :, chosen])

    def _keep(self, values: list[float], vectors: Tensor) -> None:
        import torch

        self.found = torch.cat([self.found, vectors])
        self.found_values += values

    def _rotated(self, vectors: Tensor) -> Tensor:
        """Rayleigh-Ritz among the found vectors: removes what they still have of each other."""
        import torch

        basis: Tensor = torch.linalg.qr(vectors.double().T)[0].T.to(vectors)
        if len(basis) == 1:
            return basis
        images = torch.stack([self._apply(row) for row in basis]).double()
        projected = images @ basis.double().T
        _, mixing = torch.linalg.eigh((projected + projected.T) / 2)
        rotated: Tensor = mixing.flip(1).T.to(basis) @ basis
        return rotated

    def _pairs(self, rows: Tensor, images: Tensor, complete: bool) -> Eigenpairs:
        """Rayleigh quotients and residuals of `rows` `[k + 1, P]`, the last being the smallest."""
        rows64, images64 = rows.double(), images.double()
        squares = rows64.square().sum(1)
        values = (rows64 * images64).sum(1) / squares
        residuals = (images64 - values.unsqueeze(1) * rows64).norm(dim=1) / squares.sqrt()
        order = values[:-1].argsort(descending=True)
        self.scale = max(self.scale, float(values.abs().max()))
        floor = self._rounding()
        allowed = (self.tol * values.abs()).clamp(min=floor)
        allowed[-1] = max(self.tol * self.scale, floor)
        return Eigenpairs(
            values=tuple(values[:-1][order].tolist()),
            residuals=tuple(residuals[:-1][order].tolist()),
            smallest=float(values[-1]),
            smallest_residual=float(residuals[-1]),
            vectors=rows[:-1].to(device=self.device, dtype=self.dtype)[order.to(self.device)],
            products=self.products,
            converged=complete and bool((residuals <= allowed).all()),
        )

    def _apply(self, vector: Tensor) -> Tensor:
        self.products += 1
        image = self.product(vector)
        if not bool(image.isfinite().all()):
            raise CurvatureError(
                "a product with the curvature matrix is not finite. Expected finite second "
                "derivatives at these weights; look for sqrt or norm at 0, or an overflow."
            )
        return image

    def _random(self) -> Tensor:
        """A Gaussian vector `[1, P]`, drawn on the CPU so that every device starts alike."""
        import torch

        draw = torch.randn(1, self.size, generator=self.generator, dtype=self.dtype)
        return draw.to(self.device)

    def _rounding(self) -> float:
        return rounding_level(self.dtype, self.scale)
