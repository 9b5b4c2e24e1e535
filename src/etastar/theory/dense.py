"""Dense symmetric eigenproblems of the theory, on one thread.

They are small, and many. LAPACK's threads wait for one another by spinning: beside another busy
process, two of them took 40 ms to 2 s for a matrix of 250 rows that one does in 6 ms.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh

from etastar.machine import use_threads

Array: TypeAlias = NDArray[np.float64]


DENSE = 250
"""Rows up to which all eigenvalues are computed."""


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues `[..., m]`, ascending, and eigenvectors in columns, `[..., m, m]`."""
    with use_threads(1):
        values, vectors = torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(matrix)))
    return np.asarray(values.numpy()), np.asarray(vectors.numpy())


def largest(matrix: Array) -> float:
    """Largest eigenvalue of a symmetric matrix, by Lanczos if it has more than `DENSE` rows."""
    if len(matrix) <= DENSE:
        return float(eigh(matrix)[0][-1])
    start = np.ones(len(matrix))
    return float(eigsh(matrix, k=1, which="LA", v0=start, return_eigenvectors=False)[0])
