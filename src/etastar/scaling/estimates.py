"""From seeds to one number per cell: the median, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, ndtri, polygamma

from etastar.scaling.cells import (
    ALL_TRAINED,
    BRACKETED,
    NONE_TRAINED,
    STATUSES,
    BoolArray,
    CellTable,
    FloatArray,
    IntArray,
    Response,
    SeedValues,
)
from etastar.search.estimate import middle

_VARIANCE_FLOOR = 1e-12
"""Least variance of a logarithm: keeps the weights finite when planted data have no noise."""


@dataclass(frozen=True, eq=False)
class CellEstimates:
    """One response of every cell, in natural logarithms; arrays are `[M]`.

    Attributes:
        width: n.
        depth: L.
        value: Median over the seeds; NaN where the cell is not used.
        variance: Sampling variance of `value`: seed spread and bracket width.
        seed_variance: Variance of one seed, shrunk towards the other cells' (`seed_variances`).
        informative: Seeds that the median is over: for η* all, else those with a known λ1.
        inefficiency: m times the variance of the median, in variances of one seed.
        bracketed: Seeds with both ends.
        all_trained: Right-censored seeds.
        none_trained: Seeds that trained nowhere in their range.
        used: Whether the cell enters a fit.
        bound: Lower bound of the median where it is right-censored (the top of the range), else
            NaN.
        ceiling: Upper bound of the median where it falls on a seed that trained nowhere: the lowest
            rate of those that trained. NaN where no seed trained, and elsewhere.
    """

    width: FloatArray
    depth: FloatArray
    value: FloatArray
    variance: FloatArray
    seed_variance: FloatArray
    informative: IntArray
    inefficiency: FloatArray
    bracketed: IntArray
    all_trained: IntArray
    none_trained: IntArray
    used: BoolArray
    bound: FloatArray
    ceiling: FloatArray

    @property
    def bounded(self) -> BoolArray:
        """Cells of which only a bound is known, `[M]`."""
        return np.isfinite(self.bound) | np.isfinite(self.ceiling)

    def noise(self, seed_variance: FloatArray | float) -> FloatArray:
        """Variances of the medians if every seed had this variance, `[M]`."""
        return np.asarray(self.inefficiency * seed_variance / np.maximum(self.informative, 1))


def estimate_cells(cells: CellTable, response: Response = "eta_star") -> CellEstimates:
    """The median of every cell, with its sampling variance.

    Every seed keeps its place in the order, as in `search.estimate`: one that trained nowhere is
    below all others, one that trained at the top of the range above them. The cell is used if the
    median is then finite. If not, η* is below the range or above it; such cells are counted by the
    fit, and enter it as bounds where there is one (`bound`, `ceiling`).

    The variance of the median of m seeds is `c_m r s²/m + w²/(12 k)`: s² the shrunk variance of one
    seed that trains, c_m the inefficiency of the median for a normal law, r what lost seeds add
    (`loss_inflation`), w the bracket's log width and k the number of distinct brackets in the cell.
    Seeds in one and the same bracket share its rounding error, so more of them do not reduce it;
    that is why k stands there and not m.

    Returns:
        Estimates of all cells, used or not.
    """
    seeds = cells.values(response)
    count = len(cells)
    tally = [
        np.bincount(cells.cell[cells.status == s], minlength=count) for s in range(len(STATUSES))
    ]
    cell, lo, hi = seeds
    m = np.bincount(cell, minlength=count)
    lost = np.bincount(cell[np.isneginf(lo)], minlength=count)
    middle = 0.5 * (lo + hi)
    value = medians(cell, middle, m)
    used = np.isfinite(value)
    # the median is at least the median of the seeds' own lower ends
    bound = np.where(np.isposinf(value), medians(cell, lo, m), np.nan)
    ceiling, trains = np.full(count, np.inf), np.isfinite(lo)
    np.minimum.at(ceiling, cell[trains], np.where(np.isfinite(hi), middle, lo)[trains])
    squared_width = _mean_squared_width(seeds, count)
    spread = seed_variances(seeds, count)
    distinct = np.maximum(_distinct_brackets(seeds, count), 1)
    # a cell whose median is lost has lost at least as many as one that just keeps it
    share = np.minimum(lost, np.maximum((m + 1) // 2 - 1, 0)) / np.maximum(m, 1)
    inefficiency = median_inefficiency(m) * loss_inflation(share)
    variance = inefficiency * spread / np.maximum(m, 1) + squared_width / 12 / distinct
    return CellEstimates(
        width=cells.width,
        depth=cells.depth,
        value=np.where(used, value, np.nan),
        variance=np.maximum(variance, _VARIANCE_FLOOR),
        seed_variance=spread,
        informative=m,
        inefficiency=inefficiency,
        bracketed=tally[BRACKETED],
        all_trained=tally[ALL_TRAINED],
        none_trained=tally[NONE_TRAINED],
        used=used,
        bound=bound,
        ceiling=np.where(np.isneginf(value) & np.isfinite(ceiling), ceiling, np.nan),
    )


def median_inefficiency(m: IntArray | int) -> FloatArray:
    """c_m = m · Var(median of m standard normals): 1, 1, 1.35, 1.19, 1.43, ... towards π/2.

    The form `(π/2) m / (m + b)` has the exact limit; b = 0.47 (odd m) and 1.30 (even m) were
    fitted to the exact order-statistic variances, which it matches within 2 %.
    """
    m = np.asarray(m)
    offset = np.where(m % 2 == 1, 0.47, 1.30)
    factor = 0.5 * np.pi * m / (m + offset)
    return np.where(m <= 2, 1.0, factor)


def loss_inflation(lost: FloatArray) -> FloatArray:
    """What the variance of a median is multiplied by if a share of the seeds trains nowhere.

    Let a share q of the seeds be lost, whatever their rate would have been, and the logarithms of
    the others be normal. The median of all is then the quantile (½ − q)/(1 − q) of those that
    train, where their density is (1 − q)·φ(z): the variance grows by `(φ(0)/((1 − q)·φ(z)))²`,
    z = Φ⁻¹((½ − q)/(1 − q)). That is 1.7 for a fifth, 3.5 for a third and 7.1 for two fifths, and
    ∞ from a half on, where no seed that trains is the median.

    Args:
        lost: The shares q, `[M]`.
    """
    trains = np.maximum(1 - lost, 0.5)
    quantile = np.maximum(1 - 0.5 / trains, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.where(lost > 0, np.exp(ndtri(quantile) ** 2) / trains**2, 1.0))


def seed_variances(seeds: SeedValues, count: int) -> FloatArray:
    """Variance of a single seed's logarithm in every cell, shrunk towards the cells' common one.

    With a handful of seeds a cell's own variance is nearly useless as a weight. The variances are
    therefore taken as draws from a scaled inverse χ² law, whose scale s₀² and degrees of freedom
    d₀ are found by matching the mean and variance of log s² (Smyth 2004, "Linear models and
    empirical Bayes methods", eq. 6.1); the result is `(d₀ s₀² + d s²)/(d₀ + d)`, d = m − 1.
    To s² is added the rounding variance w²/12 of a bracket of log width w, so that seeds that
    share one bracket do not claim to have no spread. Seeds without a bracket are left out.

    Args:
        seeds: Those of the response.
        count: Number of cells M.

    Returns:
        Variances `[M]`; zero everywhere if no cell has two seeds, since the spread is then unknown
        (and is found, with the lack of fit, from the residuals of the law).
    """
    cell, lo, hi = _finite(seeds)
    middle = 0.5 * (lo + hi)
    m = np.bincount(cell, minlength=count)
    mean = np.bincount(cell, middle, minlength=count) / np.maximum(m, 1)
    squares = np.bincount(cell, (middle - mean[cell]) ** 2, minlength=count)
    freedom = np.maximum(m - 1, 0)
    rounding = _mean_squared_width(seeds, count) / 12
    own = squares / np.maximum(freedom, 1) + rounding
    several = (freedom > 0) & (own > _VARIANCE_FLOOR)
    if not several.any():
        return np.zeros(count)
    common, prior = _common_variance(own[several], freedom[several])
    if np.isinf(prior):
        return np.full(count, common)
    return np.asarray((prior * common + freedom * own) / (prior + freedom))


def _common_variance(variance: FloatArray, freedom: IntArray) -> tuple[float, float]:
    """Scale s₀² and degrees of freedom d₀ of the law of the variances: see `seed_variances`."""
    half = freedom / 2
    e = np.log(variance) - digamma(half) + np.log(half)
    excess = -1.0
    if len(e) > 1:
        excess = float(np.var(e, ddof=1) - np.mean(polygamma(1, half)))
    if excess <= float(polygamma(1, 1e6)):
        # no more scatter than χ² gives: one variance for all, pooled with its exact weights
        return float(np.average(variance, weights=freedom)), np.inf
    prior = 2 * brentq(lambda h: float(polygamma(1, h)) - excess, 1e-6, 1e7)
    return float(np.exp(np.mean(e) + digamma(prior / 2) - np.log(prior / 2))), prior


def medians(cell: IntArray, values: FloatArray, m: IntArray) -> FloatArray:
    """Median of the values `[S]` of every cell, `[M]`; NaN for a cell without seeds.

    For an even number of seeds it is that of the middle two: see `search.estimate.middle`.
    """
    order = np.lexsort([values, cell])
    ranked = values[order]
    start = np.cumsum(m) - m
    out = np.full(len(m), np.nan)
    some = m > 0
    low, high = (ranked[place[some]] for place in (start + (m - 1) // 2, start + m // 2))
    out[some] = middle(low, high)
    return out


def _mean_squared_width(seeds: SeedValues, count: int) -> FloatArray:
    """Mean squared log width of the finite brackets of every cell, `[M]`."""
    cell, lo, hi = _finite(seeds)
    total = np.bincount(cell, (hi - lo) ** 2, minlength=count)
    return total / np.maximum(np.bincount(cell, minlength=count), 1)


def _finite(seeds: SeedValues) -> SeedValues:
    """The seeds that have both ends."""
    cell, lo, hi = seeds
    finite = np.isfinite(hi)
    return cell[finite], lo[finite], hi[finite]


def _distinct_brackets(seeds: SeedValues, count: int) -> IntArray:
    """Number of distinct lower ends among the seeds of every cell, `[M]`."""
    cell, lo, _ = seeds
    pairs = np.unique(np.stack([cell, lo], 1)[np.isfinite(lo)], axis=0)
    return np.bincount(pairs[:, 0].astype(np.int64), minlength=count)


@dataclass(frozen=True)
class Usage:
    """What entered the fit and what did not: nothing is dropped unseen.

    Attributes:
        cells: Cells given.
        used: Cells fitted.
        below_cutoff: Cells left out because n/L is below the cutoff.
        right_censored: Cells whose η* is above the range, since the median seed trained at the top
            of it: that is a lower bound, and enters the fit as one.
        untrained: Cells whose η* is below the range: the median seed trained nowhere, seeds that
            train nowhere being below all others. If some seed trained, its rate enters the fit as
            an upper bound; else the cell is left out, as it is where λ1 of no seed is known.
        bounds: Cells of both kinds that enter the fit of a law as bounds. A process leaves them
            out.
        contradicted: Right-censored cells that the law puts below the top of their range, outside
            its 95 % prediction interval: evidence that the law bends.
        seeds_bracketed: Seeds of all given cells that were bracketed.
        seeds_all_trained: Right-censored seeds.
        seeds_none_trained: Seeds that trained nowhere in their range; each keeps its place, the
            lowest, in the median of its cell.
    """

    cells: int
    used: int
    below_cutoff: int
    right_censored: int
    untrained: int
    bounds: int
    contradicted: int
    seeds_bracketed: int
    seeds_all_trained: int
    seeds_none_trained: int


def tally(cells: CellTable, estimates: CellEstimates, beyond: BoolArray) -> Usage:
    """Count the cells by what became of them; `contradicted`, which needs the law, is left at 0.

    Args:
        cells: All cells given.
        estimates: Their estimates.
        beyond: Cells below the cutoff on n/L, `[M]`.
    """
    censored = np.isfinite(estimates.bound)
    unused = ~estimates.used
    return Usage(
        cells=len(cells),
        used=int((estimates.used & ~beyond).sum()),
        below_cutoff=int(beyond.sum()),
        right_censored=int((unused & censored & ~beyond).sum()),
        untrained=int((unused & ~censored & ~beyond).sum()),
        bounds=int((estimates.bounded & ~beyond).sum()),
        contradicted=0,
        seeds_bracketed=int(estimates.bracketed.sum()),
        seeds_all_trained=int(estimates.all_trained.sum()),
        seeds_none_trained=int(estimates.none_trained.sum()),
    )
