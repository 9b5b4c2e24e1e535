"""The Lanczos iteration, for one symmetric operator or a stack of them.

`KrylovSpaces` holds the spaces with full reorthogonalisation, and `lanczos` grows and restarts
them. The callers say when to stop: `eigenpairs.py` (one operator, its results verified),
`batched.py` (a network per space) and `theory/softmax_law.py` (a draw per space).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDING = 50.0
"""Residuals below `ROUNDING · machine epsilon · max|θ|` are the rounding of the products."""

Ritz: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def rounding_level(dtype: torch.dtype, scale: float) -> float:
    """The residual that rounding alone leaves in an operator of norm `scale`."""
    return ROUNDING * torch.finfo(dtype).eps * scale


def upper_half(size: int) -> Sequence[int]:
    """The Ritz vectors that a restart keeps where only the largest eigenvalue counts."""
    return range(size - size // 2, size)


def lanczos(
    spaces: KrylovSpaces,
    product: Callable[[Tensor], Tensor],
    ended: Callable[[int], bool],
    *,
    steps: int,
    kept: Callable[[int], Sequence[int]] = upper_half,
) -> None:
    """Grow the spaces by one product per step until `ended` says so; restart them when full.

    Args:
        spaces: Aimed at their first directions.
        product: Maps directions `[r, P]` to the operators applied to them: new memory.
        ended: Called after each step with the number of steps taken. It may read the spaces, drop
            some, or aim them elsewhere.
        steps: Products per space at most.
        kept: Maps the number of Ritz vectors to the indices of those that a restart keeps.
    """
    for step in range(1, steps + 1):
        if spaces.size == spaces.capacity:
            chosen = kept(spaces.size)
            values, coordinates, _ = spaces.ritz()
            spaces.restart(values[:, chosen], coordinates[:, :, chosen])
        spaces.expand(product(spaces.direction))
        if ended(step):
            return


class KrylovSpaces:
    """R Krylov spaces, grown together by one vector each per step.

    The projection `T = QᵀAQ` is kept in full rather than as a tridiagonal matrix: after a thick
    restart (Wu & Simon 2000) it is an arrow, and the orthogonalisation yields its entries anyway.
    Orthogonalisation is classical Gram-Schmidt against every vector, applied twice ("twice is
    enough", Giraud et al. 2005): without it, copies of converged eigenvalues appear.

    Args:
        start: First directions, `[R, P]`, none zero.
        capacity: Vectors that a space can hold before it must be restarted.
        locked: Orthonormal vectors `[R, l, P]` to stay orthogonal to, or None.
    """

    def __init__(self, start: Tensor, capacity: int, locked: Tensor | None = None) -> None:
        replicas, size = start.shape
        self.capacity = capacity
        self._locked = locked
        self._basis = start.new_empty(replicas, capacity + 1, size)
        self._projected = np.zeros((replicas, capacity, capacity))
        self._beta = np.zeros(replicas)
        self.reset(start)

    def reset(self, start: Tensor) -> None:
        """Begin again from the directions `start`, `[r, P]` with r ≤ R, in the memory held."""
        self.active, self.size = start.shape[0], 0
        self._places = np.arange(self.active)
        self._projected[:] = 0.0
        self.aim(start)

    def aim(self, vectors: Tensor) -> None:
        """Make `vectors` `[r, P]` the next directions, orthogonalised against the spaces."""
        residue = vectors.clone()
        self._orthogonalise(residue)
        self._set_direction(residue)

    @property
    def direction(self) -> Tensor:
        """Unit vectors `[r, P]` to which the operators are to be applied next."""
        return self._basis[: self.active, self.size]

    @property
    def beta(self) -> NDArray[np.float64]:
        """Norm of what the last images had outside the spaces, `[r]`: 0 if they are invariant."""
        return self._beta[: self.active]

    @property
    def places(self) -> NDArray[np.int_]:
        """Rows of `start` that the spaces belong to, `[r]`."""
        return self._places[: self.active]

    def expand(self, images: Tensor) -> None:
        """Take in `images`, the operators applied to `direction`: `[r, P]`, overwritten."""
        j, r = self.size, self.active
        self.size += 1
        coefficients = self._orthogonalise(images)
        self._projected[:r, : j + 1, j] = coefficients
        self._projected[:r, j, : j + 1] = coefficients
        self._set_direction(images)

    def ritz(self) -> Ritz:
        """Ritz values, their coordinates in the basis, and their residual norms.

        Returns:
            Values `[r, j]`, ascending; coordinates `[r, j, j]`, one Ritz vector per column;
            residual norms `[r, j]`: β times the modulus of the last coordinate.
        """
        j, r = self.size, self.active
        values, coordinates = np.linalg.eigh(self._projected[:r, :j, :j])
        return values, coordinates, self.beta[:, None] * np.abs(coordinates[:, -1])

    def vectors(self, coordinates: NDArray[np.float64]) -> Tensor:
        """Vectors `[r, c, P]` with the `coordinates` `[r, j, c]` in the basis."""
        basis = self._basis[: self.active, : self.size]
        return torch.as_tensor(coordinates).to(basis).transpose(1, 2) @ basis

    def restart(self, values: NDArray[np.float64], coordinates: NDArray[np.float64]) -> None:
        """Shrink the spaces to c Ritz vectors: values `[r, c]`, coordinates `[r, j, c]`."""
        r, kept = self.active, values.shape[1]
        residue = self._basis[:r, self.size].clone()
        beta = self.beta.copy()
        self._basis[:r, :kept] = self.vectors(coordinates)
        self._projected[:] = 0.0
        self._projected[:r, range(kept), range(kept)] = values
        self.size = kept
        self.aim(residue)  # the rotation above has rounded
        self._beta[:r] = beta

    def drop(self, unwanted: NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Remove the unwanted spaces `[r]`; spaces from the end of the stack take their places.

        Returns:
            The moves `(to, from)`, for the caller to repeat on what it keeps per space.
        """
        moves = []
        for row in np.flatnonzero(unwanted)[::-1].tolist():
            self.active -= 1
            if row != self.active:
                moves.append((row, self.active))
                for array in (self._projected, self._beta, self._places):
                    array[row] = array[self.active]
                self._basis[row, : self.size + 1] = self._basis[self.active, : self.size + 1]
        return moves

    def _set_direction(self, residue: Tensor) -> None:
        """Normalise what orthogonalisation left; where that is zero, the direction is zero."""
        norms = residue.norm(dim=1)
        self._beta[: self.active] = norms.double().cpu().numpy()
        scale = norms.masked_fill(norms == 0, 1.0).unsqueeze(1)
        self._basis[: self.active, self.size] = residue.div_(scale)

    def _orthogonalise(self, vectors: Tensor) -> NDArray[np.float64]:
        """Remove in place the components of `[r, P]` along the spaces; return them, `[r, j]`."""
        r = self.active
        basis = self._basis[:r, : self.size]
        total = np.zeros((r, self.size))
        row = vectors.unsqueeze(1)  # (r, 1, P): a row on the left has ten times a column's speed
        for _ in range(2):
            if self._locked is not None:
                row.baddbmm_(row @ self._locked[:r].transpose(1, 2), self._locked[:r], alpha=-1)
            if self.size:
                parts = row @ basis.transpose(1, 2)  # (r, 1, j)
                row.baddbmm_(parts, basis, alpha=-1)
                total += parts.squeeze(1).double().cpu().numpy()
        return total
