"""The predicted law of λ1(G) under cross-entropy, on every eigenvector of the kernel.

With `S_i = diag(p_i) − p_i p_iᵀ` the non-zero spectrum of G is at large width that of
`A = Bᵀ (K ⊗ 1) B / m`, where `B_i = diag(√p_i) − p_i √p_iᵀ` is a root of `S_i` and the logits
behind p are a Gaussian process: no network is drawn. A has C·m rows and is never written out.
Derivation: `docs/theory.md`, §8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from etastar.curvature.lanczos import KrylovSpaces, lanczos
from etastar.problem.networks import MLP
from etastar.theory.dense import Array, eigh
from etastar.theory.fluctuations import Fluctuations, chains, fewer
from etastar.theory.kernel import layer_kernels
from etastar.theory.mse_law import Law, split

LOGIT_DRAWS = 256
"""Draws, each with logits on all samples of a block: the median has a standard error of 3 %."""
BLOCK = 1000
"""Samples of a block: a draw's products cost `C·BLOCK²`, and its λ1 takes about ten of them."""
NOTHING = 1e-9
"""Share of the kernel beyond `MODES` that is rounding: then the layers' traces are their shares."""
MODES = 8
"""First eigenvectors, on which each layer has its own C × C matrix; on the rest there is one."""
CAPACITY = 32
"""Vectors of a Krylov space before it is restarted."""
STEPS = 96
"""Products that a draw may take: about ten are needed."""
BASIS_BYTES = 2**28
"""Memory of the Krylov spaces; draws beyond it wait."""
TOL = 1e-2
"""Relative residual: the error of λ1 is of the order of its square."""


def softmax_law(net: MLP, x: Array, fluctuations: Fluctuations, top: float, seed: int) -> Law:
    """Cross-entropy: logits are a Gaussian process at initialisation, and bend the kernel.

    More than `BLOCK` samples are dealt into blocks, and the draws among these. G is the mean of the
    blocks' matrices, and λ1 is subadditive: the mean over blocks stays above E λ1(G). Medians are
    taken in units of each block's own λ1(K/m).

    Args:
        net: A plain MLP.
        x: `[m, d]`.
        fluctuations: At this width, of some of the samples.
        top: λ1(K/m) of all samples.
        seed: Of the draws.

    Returns:
        In units of `top`. The norm is the mean of `(λ1·‖A‖_F²)^⅓`, which is above the Schatten
        3-norm, which is above λ1, with ‖A‖_F/λ1 taken at infinite width.
    """
    if top <= 0:
        return 0.0, 0.0, 0.0
    draws, classes = fewer(LOGIT_DRAWS, net.depth, 64), fluctuations.classes
    drawn = chains(fluctuations, draws, seed)
    psi, signal = (torch.as_tensor(a).float() for a in (drawn.psi, drawn.signal[:, -1]))
    rng = np.random.default_rng([seed, 1])
    count = min(draws, -(-len(x) // fewer(BLOCK, net.depth, 50)))
    limits, medians, above = (torch.empty(draws) for _ in range(3))
    for first in range(count):
        block = _Block(net, x[first::count])
        together = max(1, BASIS_BYTES // (4 * CAPACITY * classes * block.samples))
        mine = np.arange(first, draws, count)
        for rows in np.split(mine, range(together, len(mine), together)):
            bend = _Bend(block.logits(len(rows), classes, rng))
            limit, vectors = _top(partial(bend, middle=block.limit), bend.start(rng))
            limits[rows] = limit
            spectrum = (bend.squares(block.kernel) / limit**2).clamp(min=1)
            bend = _Bend(bend.logits * signal[rows].sqrt()[:, None, None])
            values, _ = _top(partial(bend, middle=block.matrices(psi[rows])), vectors)
            _, shift = split(fluctuations, drawn.bent(rows, bend.mean()))
            medians[rows] = values + torch.as_tensor(shift).float()
            above[rows] = medians[rows] * spectrum ** (1 / 3) * (block.top / top)
    return float(limits.quantile(0.5)), float(medians.quantile(0.5)), float(above.mean())


class _Block:
    """The kernel of one block of samples, divided by its own m·λ1(K/m)."""

    def __init__(self, net: MLP, x: Array) -> None:
        self.samples = len(x)
        kernels = layer_kernels(net, x)
        total = kernels.total
        values, vectors = eigh(total)
        self.top = float(values[-1]) / self.samples
        unit = float(values[-1]) or 1.0
        modes = vectors[:, -MODES:]
        rest = total - (modes * values[-MODES:]) @ modes.T
        terms = np.array([modes.T @ term @ modes for term in kernels.terms])
        mean = np.array([np.trace(term) for term in kernels.terms])
        shares = mean - np.trace(terms, axis1=1, axis2=2)
        shares = shares if shares.sum() > NOTHING * unit else mean
        variance, roots = eigh(net.output_variance * kernels.forward[-1])
        root, arrays = roots * np.sqrt(variance.clip(0)), (total / unit, rest / unit, terms / unit)
        self.kernel, self._rest, self._terms, self._modes, self._shares, self._root = (
            torch.as_tensor(a).float() for a in (*arrays, modes, shares / shares.sum(), root)
        )

    def logits(self, draws: int, classes: int, rng: np.random.Generator) -> Tensor:
        """Draws of the limiting network's outputs on the samples, `[r, C, m]`."""
        normal = torch.as_tensor(rng.normal(size=(draws, classes, self.samples)))
        return normal.float() @ self._root.T

    def limit(self, v: Tensor) -> Tensor:
        """`(K ⊗ 1) v`, for v `[r, C, m]`."""
        return (v.flatten(0, 1) @ self.kernel).view_as(v)

    def matrices(self, psi: Tensor) -> Callable[[Tensor], Tensor]:
        """The same at finite width: `Σ_l K_l ⊗ Ψ_l`, psi `[r, L + 1, C, C]`, on the first modes.

        On the rest of the kernel the layers share one matrix, weighted as they are in its trace.
        """
        shared = torch.einsum("l,rlij->rij", self._shares, psi)

        def product(v: Tensor) -> Tensor:
            mixed = torch.einsum("rlij,rjp,lpq->riq", psi, v @ self._modes, self._terms)
            rest = (v.flatten(0, 1) @ self._rest).view_as(v)
            return mixed @ self._modes.T + shared @ rest

        return product


class _Bend:
    """The softmax of drawn logits `[r, C, m]`, and products with `A` between its roots."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.p = logits.softmax(1)
        self.roots = self.p.sqrt()

    def __call__(self, vectors: Tensor, middle: Callable[[Tensor], Tensor]) -> Tensor:
        """`Bᵀ middle(B v)` for vectors `[r, C·m]`."""
        p, root = self.p, self.roots
        v = root * vectors.view_as(p)
        v = middle(v - p * v.sum(1, keepdim=True))
        return (root * (v - (p * v).sum(1, keepdim=True))).flatten(1)

    def start(self, rng: np.random.Generator) -> Tensor:
        """Random vectors `[r, C·m]`, in half constant over samples, as K's first mode nearly is."""
        r, classes, m = self.p.shape
        normal = rng.normal(size=(r, classes, m)) + m**0.5 * rng.normal(size=(r, classes, 1))
        return torch.as_tensor(normal).float().flatten(1)

    def squares(self, kernel: Tensor) -> Tensor:
        """`‖A‖_F² = Σ_ij K_ij² tr(S_i S_j)` of each draw, `[r]`."""
        pairs = ((p.T @ p, p.square().T @ p) for p in self.p)
        traces = (dot - square - square.T + dot.square() for dot, square in pairs)
        return torch.stack([(kernel.square() * trace).sum() for trace in traces])

    def mean(self) -> Array:
        """`diag(p) − ppᵀ`, the mean over samples, `[r, C, C]`."""
        mean = torch.diag_embed(self.p.mean(2)) - self.p @ self.p.transpose(1, 2) / self.p.shape[2]
        return np.asarray(mean.double().numpy())


def _top(product: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of each operator `[r]` and its vector `[r, P]`: batched Lanczos."""
    size = start.shape[1]
    spaces = KrylovSpaces(start, min(CAPACITY, size))

    def ended(step: int) -> bool:
        if step % 2 and step < size:
            return False
        values, _, estimates = spaces.ritz()
        return bool((estimates[:, -1] <= TOL * values[:, -1]).all())

    lanczos(spaces, product, ended, steps=min(STEPS, size))
    values, coordinates, _ = spaces.ritz()
    top = torch.as_tensor(values[:, -1]).float().clamp(min=0)
    return top, spaces.vectors(coordinates[:, :, -1:])[:, 0]
