"""The pooled model of the success curve p(η) and its posterior on a grid.

The model of the fast edge, with x = log η, m = log η_50 and F the logistic function, is

    p(x) = (1 − λ) · [ (1 − w)·F(z(a − x)) + w·F(z(a − d·σ − x)) ],   a such that p(m) = 1/2,

with z(u) = u/σ above the edge and u/(r·σ) below it. Seeds share an edge at `a` of width σ, which
may be r times as wide on its lower side; a part w of them has an edge of its own, d widths lower;
a part λ trains nowhere. r, w and λ are three reasons why the lower tail is heavier than logistic,
as it was measured to be. The posterior of (m, σ, w, d, r, λ) is kept on a grid. m runs over half
steps of the lattice of rates, so that the likelihood of a trial depends on the distance of two
integers and is read from a table (`_tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

WIDTHS = np.exp(np.linspace(np.log(0.012), np.log(0.9), 15))
"""Grid of σ: from a third of a lattice step to an edge that takes two decades."""
WIDTH_PRIOR = (float(np.log(0.12)), 1.0)
"""Centre and spread of the normal prior of log σ (design §3: it covers σ = 0.05 to 0.3)."""
LAPSES = {0.0: 0.62, 0.01: 0.12, 0.03: 0.12, 0.08: 0.06, 0.16: 0.04, 0.28: 0.025, 0.42: 0.015}
"""Prior of λ: most networks train almost always somewhere, and any λ below 1/2 is possible."""
TAILS = {(0.0, 0.0, 1.0): 0.4, (0.0, 0.0, 1.8): 0.16, (0.0, 0.0, 3.0): 0.12}
TAILS.update({(w, d, 1.0): 0.04 for w in (0.1, 0.22) for d in (2.5, 5.0, 10.0, 20.0)})
"""Prior of (w, d, r): a logistic edge, one that is wider below, or two edges."""
FLOOR, CEILING = 0.004, 0.9995
"""Bounds of p: a single trial never costs more than log(250), whatever the model thinks of it."""
NEGLIGIBLE = 1e-7
"""Mass below which a point or a shape of the grid is dropped."""
OUTSIDE, ROOM, COARSE = 1e-5, 0.3, 4
"""m is looked for where its coarse posterior exceeds the first, with room of the second in log η
around, further where the ends hold mass; coarse is every so many points."""
BEYOND = 1.0
"""How far beyond the range, in log η, η_50 may lie."""
SPAN = 4.0
"""Distance in log η beyond which the table is constant."""
EVERY = slice(None)
"""All shapes."""


@dataclass(frozen=True)
class Shapes:
    """The grid of shapes S = (σ, w, d, r, λ), flattened.

    Attributes:
        width: σ, [S].
        tail: w, [S].
        gap: d·σ, [S].
        skew: r, [S].
        lapse: λ, [S].
        log_prior: [S], normalised.
        edge: a − m, [S].
    """

    width: Array
    tail: Array
    gap: Array
    skew: Array
    lapse: Array
    log_prior: Array
    edge: Array

    def success(self, offset: Array) -> Array:
        """P at a distance x − m from η_50.

        Args:
            offset: [..., 1] or broadcastable against [S].
        """
        main, low = self.edge - offset, self.edge - self.gap - offset
        above = logistic(np.where(main > 0, main / self.skew, main) / self.width)
        both = (1 - self.tail) * above + self.tail * logistic(low / self.width)
        return np.asarray((1 - self.lapse) * both)

    def drop(self, level: float) -> Array:
        """M − log η at which p is `level` above 1/2, [S]; ∞ where p never is."""
        high = _bisected(lambda drop: self.success(-drop) < level, self.width, -1e-9)[1]
        return np.where(1 - self.lapse > level, high, np.inf)

    def rise(self, level: float) -> Array:
        """Log η − m at which p has fallen to `level` below 1/2, [S]."""
        return _bisected(lambda rise: self.success(rise) > level, self.width)[1]


@lru_cache
def shapes() -> Shapes:
    """The grid of shapes with its prior."""
    rows = []
    for s, ((w, d, r), weight), (lost, mass) in product(WIDTHS, TAILS.items(), LAPSES.items()):
        distance = (np.log(s) - WIDTH_PRIOR[0]) / WIDTH_PRIOR[1]
        rows.append((s, w, d * s, r, lost, np.log(weight * mass) - distance**2 / 2))
    width, tail, gap, skew, lapse, log_prior = map(np.array, zip(*rows, strict=True))
    log_prior -= np.logaddexp.reduce(log_prior)
    grid = Shapes(width, tail, gap, skew, lapse, log_prior, np.zeros_like(width))
    low, high = _bisected(lambda rise: grid.success(rise) > 0.5, width, -60.0, halvings=60)
    return replace(grid, edge=-(low + high) / 2)


@lru_cache(maxsize=8)
def _tables(half: float) -> tuple[Array, Array, int]:
    """Log p and log(1 − p), [offsets, S], at x − m = (row − centre)·half, and the centre row.

    In single precision: its error in the log likelihood of hundreds of trials is below 1e-4.
    """
    centre = int(np.ceil(SPAN / half))
    offset = np.arange(-centre, centre + 1)[:, None] * half
    p = np.clip(shapes().success(offset), FLOOR, CEILING)
    return np.log(p).astype(np.float32), np.log1p(-p).astype(np.float32), centre


@lru_cache(maxsize=64)
def _drops(half: float, level: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """M − log η_level in half steps, rounded, [S], and whether η_level exists, [S]."""
    drop = shapes().drop(level) if level > 0.5 else -shapes().rise(level)
    exists = np.isfinite(drop)
    return np.where(exists, np.round(np.where(exists, drop, 0.0) / half), 0).astype(int), exists


def _bisected(
    holds: Callable[[Array], Array], like: Array, least: float = 0.0, halvings: int = 50
) -> tuple[Array, Array]:
    """Ends of a bracket, [S] each, of the first number from `least` to 60 that does not hold."""
    low, high = np.full_like(like, least), np.full_like(like, 60.0)
    for _ in range(halvings):
        middle = (low + high) / 2
        above = holds(middle)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low, high


def logistic(z: Array) -> Array:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def _normalised(log_weight: Array) -> Array:
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())


class Posterior:
    """The posterior of the curve, from counts of trained and failed runs on a lattice of rates.

    Args:
        step: Distance of neighbouring rates in log η.
        cells: Number of lattice cells; rates are 0 … cells.
        trained: Runs that trained, [cells + 1].
        failed: Runs that failed, [cells + 1].
    """

    def __init__(self, step: float, cells: int, trained: Array, failed: Array) -> None:
        self.half = step / 2
        self.cells = cells
        self.trained, self.failed = trained, failed
        margin = int(round(BEYOND / self.half))
        ends = -margin, 2 * cells + margin
        low, high = self._region(*ends)
        room = int(round(ROOM / self.half))
        low, high = max(low - room, ends[0]), min(high + room, ends[1])
        log_weight = self._log_weight(np.arange(low, high + 1))
        while True:
            weight = _normalised(log_weight)
            mass = weight.sum(axis=1)
            left = max(low - room, ends[0]) if mass[:3].sum() >= OUTSIDE else low
            right = min(high + room, ends[1]) if mass[-3:].sum() >= OUTSIDE else high
            if (left, right) == (low, high):
                break
            more = [np.arange(left, low), np.arange(high + 1, right + 1)]
            below, above = map(self._log_weight, more)
            log_weight = np.concatenate([below, log_weight, above])
            low, high = left, right
        self.points: NDArray[np.int64] = np.arange(low, high + 1)
        self._trim(weight)
        self._distributions: dict[float, tuple[Array, Array, float]] = {}

    def _region(self, low: int, high: int) -> tuple[int, int]:
        """Where m lies, from every `COARSE`-th point of the whole range and the simplest shapes."""
        grid = shapes()
        simple = np.flatnonzero((grid.tail == 0) & (grid.skew == 1))
        points = np.arange(low, high + COARSE, COARSE)
        mass = _normalised(self._log_weight(points, simple)).sum(axis=1)
        held = points[mass > OUTSIDE]
        return int(held[0]), int(held[-1])

    def _log_weight(
        self, points: NDArray[np.int64], columns: NDArray[np.int64] | slice = EVERY
    ) -> Array:
        """Log posterior, not normalised, [M, S'], of some points and shapes.

        The log likelihood of point m is Σ_i n_i · table[2i − m], a product of two matrices.
        """
        yes, no, centre = _tables(self.half)
        prior = shapes().log_prior[columns].astype(np.float32)
        tried = np.flatnonzero(self.trained + self.failed)
        if not len(tried) or not len(points):
            return np.tile(prior, (len(points), 1))
        rows = np.clip(2 * tried[None, :] - points[:, None] + centre, 0, len(yes) - 1)
        first, last = int(rows.min()), int(rows.max()) + 1
        number = np.zeros((2, len(points), last - first), dtype=np.float32)
        where = np.repeat(np.arange(len(points)), len(tried)), rows.ravel() - first
        for k, runs in enumerate((self.trained[tried], self.failed[tried])):
            np.add.at(number[k], where, np.tile(runs, len(points)).astype(np.float32))
        yes, no = (table[first:last][:, columns] for table in (yes, no))
        return np.asarray(number[0] @ yes + number[1] @ no + prior)

    def _trim(self, weight: Array) -> None:
        """Keep what holds more than next to no mass, which makes the rest much faster."""
        held = np.flatnonzero(weight.sum(axis=1) > NEGLIGIBLE)
        rows = slice(held[0], held[-1] + 1)
        self.kept: NDArray[np.int64] = np.flatnonzero(weight.sum(axis=0) > NEGLIGIBLE)
        self.points = self.points[rows]
        kept = weight[rows, self.kept].astype(float)
        self.weight: Array = kept / kept.sum()
        self.mass: Array = self.weight.sum(axis=1)
        self.shape_mass: Array = self.weight.sum(axis=0)

    def distribution(self, level: float) -> tuple[Array, Array, float]:
        """The posterior of the rate at which p is `level`.

        Args:
            level: Between 0 and 1.

        Returns:
            Lattice points in half steps [N], their masses [N], and the mass of "p is nowhere
            `level`"; all masses sum to 1.
        """
        if level not in self._distributions:
            self._distributions[level] = self._distribution(level)
        return self._distributions[level]

    def _distribution(self, level: float) -> tuple[Array, Array, float]:
        if level == 0.5:
            return self.points.astype(float), self.mass, 0.0
        drop, exists = (column[self.kept] for column in _drops(self.half, level))
        if not exists.any():
            return self.points.astype(float), np.zeros(len(self.points)), 1.0
        shift = np.negative(drop[exists])
        first = self.points[0] + shift.min()
        index = self.points[:, None] + shift[None, :] - first
        total = np.bincount(index.ravel(), weights=self.weight[:, exists].ravel())
        nowhere = max(0.0, 1 - float(total.sum())) if not exists.all() else 0.0
        return np.arange(first, first + len(total)).astype(float), total, nowhere

    def quantile(self, level: float, part: float | Array) -> Array:
        """Quantiles of the posterior of the rate at which p is `level`, as lattice points.

        Args:
            level: Of p.
            part: Probabilities; the mass of "nowhere" lies below all rates.

        Returns:
            Lattice points (not whole), −∞ where the quantile falls on "nowhere".
        """
        at, mass, nowhere = self.distribution(level)
        ends = np.concatenate([[nowhere], nowhere + np.cumsum(mass)])
        edges = np.concatenate([at - 0.5, [at[-1] + 0.5]])
        part = np.asarray(part, dtype=float)
        found = np.interp(part, ends, edges) / 2
        return np.asarray(np.where(part < nowhere, -np.inf, found))

    def band(self, points: Array, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Posterior mean of p and its pointwise interval.

        Args:
            points: Lattice points [N].
            level: Of the interval.

        Returns:
            Mean, lower and upper end, each [N].
        """
        low, high = self.spread(points, np.array([(1 - level) / 2, (1 + level) / 2]))
        return self.mean(points), low, high

    def spread(self, points: Array, parts: Array) -> Array:
        """Quantiles of the posterior of p, [Q, N].

        Args:
            points: Lattice points, [N].
            parts: Probabilities, [Q].
        """
        bins, weight = np.linspace(0, 1, 401), self.weight.ravel()
        out = np.empty((len(parts), len(points)))
        for n, p in enumerate(self._at(points)):
            cell = (p * 400).astype(np.int64).ravel()
            ends = np.concatenate([[0.0], np.cumsum(np.bincount(cell, weight, 400))])
            out[:, n] = np.interp(parts, ends / ends[-1], bins)
        return out

    def mean(self, points: Array) -> Array:
        """Posterior mean of p at lattice points [N]."""
        return np.array([(self.weight * p).sum() for p in self._at(points)])

    def _at(self, points: Array) -> Iterator[Array]:
        """P [M, S] at each of the lattice points [N]."""
        yes, _, centre = _tables(self.half)
        table = np.exp(yes[:, self.kept])
        for x in points:
            row = np.round(2 * x - self.points).astype(int) + centre
            yield table[np.clip(row, 0, len(table) - 1)]
