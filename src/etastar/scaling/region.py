"""Where does the law hold? How exponents and R² move with a cutoff on n/L, and with κ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import BoolArray, CellTable, FloatArray, Response
from etastar.scaling.comparison import HeldOut, cross_validate
from etastar.scaling.domain import Domain
from etastar.scaling.forms import get_form
from etastar.scaling.least_squares import solve
from etastar.scaling.power_law import PowerLawFit, fit_power_law
from etastar.scaling.prediction import check_level

_MOST_CUTOFFS = 30
_NULL_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class CutoffRow:
    """The law fitted to the cells with n/L at least a cutoff.

    Attributes:
        cutoff: On n/L.
        fit: To those cells.
        cross_validated: Its held-out error.
        movement: Largest change of an exponent at any stricter cutoff, in standard deviations of
            that change; NaN at the strictest.
        p_value: Chance of such a movement if the law held from this cutoff on; NaN at the
            strictest.
    """

    cutoff: float
    fit: PowerLawFit
    cross_validated: HeldOut
    movement: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Region:
    """The region of validity of one group's law, as the data show it.

    Attributes:
        labels: The group: loss, κ, dataset, ....
        rows: One per cutoff, loosest first.
        cutoff: The chosen one.
        tested: Whether stricter cutoffs confirmed it. False if it is the strictest one that the
            cells allow: the exponents moved until there was nothing left to compare with, and no
            region was found.
        domain: Of the cells from the cutoff on.
        fit: To those cells.
    """

    labels: Mapping[str, str | float]
    rows: tuple[CutoffRow, ...]
    cutoff: float
    tested: bool
    domain: Domain
    fit: PowerLawFit


def find_region(
    cells: CellTable,
    *,
    form: str = "separate",
    response: Response = "eta_star",
    level: float = 0.95,
    n_boot: int = 500,
    seed: int = 0,
) -> Region:
    """The smallest cutoff on n/L from which the exponents no longer move, for one group.

    Every cutoff is tested against all stricter ones. Were the law true from the cutoff c on, the
    exponents fitted from c' > c on would differ from those fitted from c on by
    `N(0, V(c') − V(c))` (Hausman 1978: the fit to all cells is efficient, so the difference is
    independent of it). The largest standardised difference over all c' and all exponents is
    compared with its distribution over draws from the law fitted from c on, which accounts for
    the many comparisons. Going from the strictest cutoff to looser ones, the last one before the
    first rejection (p < 1 − level) is chosen. Its lack of fit τ² is part of the draws, so a
    movement within what the law misses anyway is not called one.

    Args:
        cells: Of one group.
        form: A law with at least one exponent.
        response: What is fitted.
        level: 1 − the chance of a false rejection at each cutoff.
        n_boot: Bootstrap replicates of each fit.
        seed: Of the bootstraps and of the draws.

    Raises:
        ConfigError: The cells mix groups, the form has no exponent, or the law is not defined.
    """
    check_level(level)
    if not get_form(form).exponents:
        raise ConfigError(f"the form {form!r} has no exponent that could move with the cutoff.")
    whole = fit_power_law(cells, form=form, response=response, n_boot=n_boot, seed=seed)
    rows: list[CutoffRow] = []
    for cutoff in _cutoffs(whole):
        fit = fit_power_law(
            cells, form=form, response=response, cutoff=cutoff, n_boot=n_boot, seed=seed
        )
        movement, p_value = _movement(fit, np.random.default_rng([seed, len(rows)]))
        rows.append(CutoffRow(cutoff, fit, cross_validate(fit, seed=seed), movement, p_value))
    chosen = len(rows) - 1
    while chosen > 0 and rows[chosen - 1].p_value >= 1 - level:
        chosen -= 1
    row = rows[chosen]
    return Region(
        labels=whole.labels,
        rows=tuple(rows),
        cutoff=row.cutoff,
        tested=chosen < len(rows) - 1,
        domain=row.fit.domain,
        fit=row.fit,
    )


def _cutoffs(fit: PowerLawFit) -> list[float]:
    """Values of n/L that leave the law defined with at least two degrees of freedom; sorted."""
    form = get_form(fit.form)
    aspect = fit.width / fit.depth
    distinct = np.unique(aspect)  # ratios of whole numbers: equal ones are equal to the bit
    cutoffs = []
    for cutoff in distinct:
        kept = aspect >= cutoff * (1 - 1e-9)
        if kept.sum() >= len(form.exponents) + 3 and form.is_defined(
            fit.width[kept], fit.depth[kept]
        ):
            cutoffs.append(float(cutoff))
    if not cutoffs:
        return [float(distinct[0])]
    if len(cutoffs) > _MOST_CUTOFFS:
        picks = np.linspace(0, len(cutoffs) - 1, _MOST_CUTOFFS).round().astype(int)
        return [cutoffs[i] for i in picks]
    return cutoffs


def _movement(fit: PowerLawFit, rng: np.random.Generator) -> tuple[float, float]:
    """Largest standardised change of an exponent at stricter cutoffs, and its p-value."""
    form = get_form(fit.form)
    x = form.design(fit.width, fit.depth)
    y = fit.log_value - form.fixed(fit.width, fit.depth)
    aspect = fit.width / fit.depth
    stricter = [c for c in _cutoffs(fit) if c > aspect.min() * (1 + 1e-9)]
    if not stricter:
        return math.nan, math.nan
    scale = np.sqrt(fit.variance + fit.tau2)
    masks = np.stack([aspect >= c * (1 - 1e-9) for c in stricter])
    draws = x @ fit.beta + scale * rng.standard_normal((_NULL_DRAWS, len(y)))
    data = np.concatenate([y[None], draws])  # (1 + draws, M), the measured ones first
    weight = 1 / scale**2
    all_beta, all_cov = solve(x, data, weight[None])
    largest = np.zeros(len(data))
    for mask in masks:
        beta, cov = solve(x, data, (mask * weight)[None])
        spread = np.diagonal(cov[0] - all_cov[0])[1:]
        # a cutoff that drops only cells without leverage on an exponent cannot move it
        moves = spread > 1e-9 * np.diagonal(cov[0])[1:]
        change = _standardised(beta - all_beta, spread, moves)
        largest = np.maximum(largest, change)
    exceed = 1 + int((largest[1:] >= largest[0]).sum())
    return float(largest[0]), exceed / (1 + _NULL_DRAWS)


def _standardised(change: FloatArray, spread: FloatArray, moves: BoolArray) -> FloatArray:
    """Largest |change|/sd over the exponents that can move, `[K]`, for `change` of `[K, p]`."""
    if not moves.any():
        return np.zeros(len(change))
    return np.asarray(np.max(np.abs(change[:, 1:][:, moves]) / np.sqrt(spread[moves]), 1))


def find_regions(
    cells: CellTable,
    *,
    form: str = "separate",
    response: Response = "eta_star",
    level: float = 0.95,
    n_boot: int = 500,
    seed: int = 0,
) -> tuple[tuple[Region, ...], tuple[tuple[dict[str, str | float], str], ...]]:
    """`find_region` for every group, so that regions can be laid side by side over κ.

    Returns:
        The regions, and the groups that have none with the reason.
    """
    regions, skipped = [], []
    for labels, group in cells.groups():
        try:
            regions.append(
                find_region(
                    group, form=form, response=response, level=level, n_boot=n_boot, seed=seed
                )
            )
        except ConfigError as error:
            skipped.append((labels, str(error)))
    return tuple(regions), tuple(skipped)
