"""The largest eigenvalues of one symmetric operator, with what is and is not guaranteed of them.

A Ritz pair (θ, v), ‖v‖ = 1, with residual ρ = ‖A·v − θ·v‖ guarantees two things (Parlett, *The
Symmetric Eigenvalue Problem*, 1998, theorems 4.5.1 and 10.2.1): some eigenvalue of A lies within ρ
of θ, and the largest θ is a lower bound of λ1. No residual shows that a larger eigenvalue was not
missed; a second random start, orthogonal to what was found, makes that improbable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from etastar.checking import check_solver, is_whole
from etastar.curvature.lanczos import KrylovSpaces, lanczos, rounding_level
from etastar.errors import ConfigError, CurvatureError

DENSE_SIZE = 128
"""Up to this many parameters the matrix is written out: Lanczos would need as many products."""

BASIS_BYTES = 2**30
"""Memory for the basis; a larger space is restarted. A constant, so that results do not depend on
the machine's free memory."""

MOST_VECTORS, FEWEST_VECTORS, LEAST_BEYOND = 128, 24, 4
"""Vectors of the basis besides twice the number of values sought: at most, as reorthogonalisation
takes over beyond; at least, however little memory there is; and at least where the caller says."""

CLOSED = 0.2
"""A space is invariant if less than this part of the rounding level is left outside it."""

BOTTOM_KEPT = 3
"""Ritz vectors at the lower end that a restart keeps, for the smallest eigenvalue."""

MARGIN = 0.5
"""Lanczos's own estimates must meet this part of the tolerance: residuals are computed anew at the
end, and rounding adds."""


@dataclass(frozen=True, kw_only=True)
class Eigenpairs:
    """Largest eigenvalues of a symmetric operator and the smallest one beside them.

    Attributes:
        values: Ritz values, descending; the first is a lower bound of λ1.
        lambda_min: The smallest Ritz value, an upper bound of the smallest eigenvalue.
        residuals: ‖A·v − θ·v‖ of each value for its unit vector v, computed from one more product.
        lambda_min_residual: The residual of `lambda_min`.
        iterations: Products with the operator, the final check included.
        converged: Whether every residual is at most tol·|θ|, that of the smallest tol·max|θ|, and
            the second start ended within the budget. A value after the first may also be zero
            within the rounding of products of the size of the first.
        limit: What kept it from converging: the `"steps"`, or the `"precision"` of products; None
            if nothing did.
        vectors: Unit vectors `[k, P]`, in the order of `values`; None where they were not kept.
    """

    values: tuple[float, ...]
    lambda_min: float
    residuals: tuple[float, ...]
    lambda_min_residual: float
    iterations: int
    converged: bool
    limit: Literal["steps", "precision"] | None
    vectors: Tensor | None = field(default=None, repr=False, compare=False)


def largest_eigenpairs(
    product: Callable[[Tensor], Tensor],
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
    """Find the k largest (algebraic) eigenvalues of a symmetric operator, and its smallest.

    Thick-restart Lanczos. There is no absolute floor in the stopping rule, so tiny spectra are
    resolved as well as large ones; only rounding, `ROUNDING · eps · max|θ|`, is allowed for.

    Args:
        product: Maps a vector `[P]` to A times it, `[P]`.
        size: P.
        k: Number of values, at most P.
        tol: Relative residual at which a pair is accepted.
        max_iter: Products that may be spent on Lanczos steps, both starts together.
        seed: Seed of the random starts.
        dtype: Type of the vectors.
        device: Where the vectors are.
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
    tol, max_iter, seed = check_solver(tol, max_iter, seed)
    k = int(k)
    affordable = BASIS_BYTES // (size * torch.finfo(dtype).bits // 8)
    chosen = basis_size or min(max(affordable, 2 * k + FEWEST_VECTORS), 2 * k + MOST_VECTORS)
    found = torch.empty(0, size, dtype=dtype, device=device)
    solver = _Solver(product, found, k, tol, max_iter, max(chosen, 2 * k + LEAST_BEYOND), seed)
    small = size <= (DENSE_SIZE if dense_size is None else dense_size)
    return solver.dense() if small else solver.lanczos()


@dataclass
class _Solver:
    """One call of `largest_eigenpairs`: its settings and what it has found so far."""

    product: Callable[[Tensor], Tensor]
    found: Tensor  # by all starts, `[l, P]`
    k: int
    tol: float
    max_iter: int
    capacity: int
    seed: int
    scale: float = 0.0  # largest |θ| seen: a lower bound of ‖A‖
    steps: int = 0
    products: int = 0

    def __post_init__(self) -> None:
        self.size = self.found.shape[1]
        self.generator = torch.Generator().manual_seed(self.seed)
        self.found_values = np.empty(0)
        self.smallest, self.bottom = np.inf, self.found  # Ritz value and vector

    def dense(self) -> Eigenpairs:
        """Solve for the whole spectrum, from the matrix."""
        identity = torch.eye(self.size, dtype=self.found.dtype, device=self.found.device)
        matrix = torch.stack([self._apply(row) for row in identity]).double().cpu()
        _, vectors = np.linalg.eigh(((matrix + matrix.T) / 2).numpy())
        chosen = torch.as_tensor(vectors.T[::-1].copy())
        rows = torch.cat([chosen[: self.k], chosen[-1:]])
        return self._pairs(rows, rows @ matrix, complete=True)

    def lanczos(self) -> Eigenpairs:
        """Run one start until k pairs converge, then starts orthogonal to all that was found."""
        complete = self._run(wanted=self.k, checking=False, least_steps=0)
        first_steps = self.steps
        while complete and len(self.found) < self.size:
            before = len(self.found)
            complete = self._run(wanted=1, checking=True, least_steps=first_steps)
            if len(self.found) == before:
                break
        rows = torch.cat([self._rotated(self.found)[: self.k], self.bottom])
        images = torch.stack([self._apply(row) for row in rows])
        return self._pairs(rows, images, complete)

    def _run(self, wanted: int, checking: bool, least_steps: int) -> bool:
        """Run one start in the complement of what was found; return whether the budget sufficed.

        A checking run ends after as many steps as the first start took, unless its largest Ritz
        value is above what was found: then it goes on until that pair has converged, and keeps it.
        """
        room = self.size - len(self.found)
        locked = self.found.unsqueeze(0) if len(self.found) else None
        space = KrylovSpaces(self._random(), min(self.capacity, room), locked)
        complete, budget = False, self.max_iter - self.steps

        def ended(step: int) -> bool:
            nonlocal complete
            self.steps += 1
            values, _, estimates = (array[0] for array in space.ritz())
            self.scale = max(self.scale, float(np.abs(values).max()))
            invariant = bool(space.beta[0] <= CLOSED * self._rounding())
            if checking and not self._is_missing(values[-1]):
                complete = step >= min(least_steps, room) or invariant
                return complete
            complete = step >= room or self._settled(values, estimates, wanted, not checking)
            if invariant and not complete:
                space.aim(self._random())
            return complete

        def kept(size: int) -> list[int]:  # the upper ones and a few at the bottom
            low = min(BOTTOM_KEPT, size // 4)
            return [*range(low), *range(size - max(wanted, size // 2 - low), size)]

        lanczos(space, lambda v: self._apply(v[0])[None], ended, steps=budget, kept=kept)
        if budget == 0:
            return False
        values, coordinates, _ = (array[0] for array in space.ritz())
        if not checking or self._is_missing(values[-1]):
            top = space.vectors(coordinates[None, :, ::-1][:, :, :wanted].copy())[0]
            self.found = torch.cat([self.found, top])
            self.found_values = np.append(self.found_values, values[::-1][:wanted])
        if values[0] < self.smallest:
            self.smallest, self.bottom = values[0], space.vectors(coordinates[None, :, :1])[0]
        return complete

    def _settled(
        self, values: np.ndarray, estimates: np.ndarray, wanted: int, bottom: bool
    ) -> bool:
        """Check that the `wanted` top pairs, and the bottom one if asked, have small residuals."""
        if len(values) < wanted:
            return False
        allowed = np.maximum(MARGIN * self.tol * np.abs(values), self._rounding())
        top = bool((estimates[-wanted:] <= allowed[-wanted:]).all())
        scale = max(MARGIN * self.tol * self.scale, self._rounding())
        return top and (not bottom or bool(estimates[0] <= scale))

    def _is_missing(self, value: float) -> bool:
        """Check whether `value` is above the k-th found by more than the tolerance."""
        kth = np.sort(self.found_values)[-self.k]
        return bool(value > kth + max(self.tol * abs(kth), self._rounding()))

    def _rotated(self, vectors: Tensor) -> Tensor:
        """Apply Rayleigh-Ritz to the found vectors: it removes what they have of each other."""
        basis: Tensor = torch.linalg.qr(vectors.double().T)[0].T.to(vectors)
        if len(basis) == 1:
            return basis
        images = torch.stack([self._apply(row) for row in basis]).double()
        projected = images @ basis.double().T
        _, mixing = torch.linalg.eigh((projected + projected.T) / 2)
        rotated: Tensor = mixing.flip(1).T.to(basis) @ basis
        return rotated

    def _pairs(self, rows: Tensor, images: Tensor, complete: bool) -> Eigenpairs:
        """Compute values and residuals of `rows` `[k + 1, P]`; the last is the smallest's."""
        rows64, images64 = rows.double(), images.double()
        squares = rows64.square().sum(1)
        values = (rows64 * images64).sum(1) / squares
        residuals = (images64 - values.unsqueeze(1) * rows64).norm(dim=1) / squares.sqrt()
        order = values[:-1].argsort(descending=True)
        self.scale = max(self.scale, float(values.abs().max()))
        allowed = self.tol * values.abs()
        allowed[-1] = max(self.tol * self.scale, self._rounding())
        zero = rounding_level(self.found.dtype, float(values[:-1].max().abs()))
        allowed[1:-1][values[1:-1].abs() <= zero] = zero
        precise = bool((residuals <= allowed).all())
        return Eigenpairs(
            values=tuple(values[:-1][order].tolist()),
            residuals=tuple(residuals[:-1][order].tolist()),
            lambda_min=float(values[-1]),
            lambda_min_residual=float(residuals[-1]),
            vectors=rows[:-1].to(self.found)[order.to(self.found.device)],
            iterations=self.products,
            converged=complete and precise,
            limit=None if complete and precise else "precision" if complete else "steps",
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
        """Draw a Gaussian vector `[1, P]` on the CPU, so that every device starts alike."""
        draw = torch.randn(1, self.size, generator=self.generator, dtype=self.found.dtype)
        return draw.to(self.found.device)

    def _rounding(self) -> float:
        return rounding_level(self.found.dtype, self.scale)
