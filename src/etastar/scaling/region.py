"""Where does the law hold? How exponents and R² move with a cutoff on n/L, and with κ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from etastar.errors import ConfigError
from etastar.scaling.cells import BoolArray, CellTable, FloatArray, Response
from etastar.scaling.comparison import HeldOut, cross_validate
from etastar.scaling.forms import get_form, is_defined
from etastar.scaling.laws import Skipped, fit_each
from etastar.scaling.least_squares import linear_map
from etastar.scaling.power_law import PowerLawFit, fit_power_law
from etastar.scaling.prediction import check_level

_MOST_CUTOFFS = 30
"""Cutoffs tried; more values of n/L are thinned out evenly, as each costs a fit."""
_NULL_DRAWS = 2000
"""Draws of the movement if the law holds: a p-value of 0.05 then has a standard error of 0.005."""


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

    def to_dict(self) -> dict[str, Any]:
        """The row as one flat record; None where a number is not defined."""
        held = self.cross_validated
        return {
            "cutoff": self.cutoff,
            "cells": self.fit.usage.used,
            "exponents": self.fit.exponents(),
            "r2": self.fit.r2,
            "r2_weighted": self.fit.r2_weighted,
            "tau": math.sqrt(self.fit.tau2),
            "cv_median_error": held.median_error if held.test else None,
            "cv_coverage": held.coverage if held.test else None,
            "movement": None if math.isnan(self.movement) else self.movement,
            "p_value": None if math.isnan(self.p_value) else self.p_value,
        }


@dataclass(frozen=True, eq=False)
class Region:
    """The region of validity of one group's law, as the data show it.

    Attributes:
        rows: One per cutoff, loosest first.
        cutoff: The chosen one.
        tested: Whether stricter cutoffs confirmed it. False if it is the strictest one that the
            cells allow: the exponents moved until there was nothing left to compare with, and no
            region was found.
        fit: The law of the cells from the cutoff on, with its labels and its domain.
    """

    rows: tuple[CutoffRow, ...]
    cutoff: float
    tested: bool
    fit: PowerLawFit

    def doubts(self, width: float, depth: float) -> tuple[str, ...]:
        """Why not to trust the law for a network of this shape; empty inside the region."""
        if width / depth < self.cutoff:
            return (
                f"n/L = {width / depth:.3g} is below {self.cutoff:.3g}, from where on the law was "
                "seen to hold",
            )
        if len(self.rows) == 1:
            return ("too few networks to see from which n/L on the law holds",)
        if not self.tested:
            return (
                "no region was found in which the law holds: its exponents move with the smallest "
                "n/L up to the last that could be tried",
            )
        return ()

    def to_dict(self) -> dict[str, Any]:
        """The region and its scan, for JSON."""
        return {
            "labels": dict(self.fit.labels),
            "cutoff": self.cutoff,
            "tested": self.tested,
            "domain": asdict(self.fit.domain),
            "rows": [row.to_dict() for row in self.rows],
        }


def find_region(
    cells: CellTable,
    *,
    form: str = "separate",
    response: Response = "eta_star",
    level: float = 0.95,
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
        cells: The cells of one group.
        form: A law with at least one exponent.
        response: What is fitted.
        level: 1 − the chance of a false rejection at each cutoff. The tests are nested, so the
            chance of any is more: 11 % of 300 planted studies with 12 cutoffs, at 0.95. Such a
            region is too small, not wrong.
        seed: Seed of the draws.

    Returns:
        The region, with the law at every cutoff.

    Raises:
        ConfigError: The cells mix groups, the form has no exponent, or the law is not defined.
    """
    check_level(level)
    if not get_form(form).exponents:
        raise ConfigError(f"the form {form!r} has no exponent that could move with the cutoff.")
    whole = fit_power_law(cells, form=form, response=response)
    rows: list[CutoffRow] = []
    for cutoff in _cutoffs(whole):
        fit = fit_power_law(cells, form=form, response=response, cutoff=cutoff)
        movement, p_value = _movement(fit, np.random.default_rng([seed, len(rows)]))
        rows.append(CutoffRow(cutoff, fit, cross_validate(fit, seed=seed), movement, p_value))
    chosen = len(rows) - 1
    while chosen > 0 and rows[chosen - 1].p_value >= 1 - level:
        chosen -= 1
    fit = rows[chosen].fit
    return Region(tuple(rows), rows[chosen].cutoff, chosen < len(rows) - 1, fit)


def _cutoffs(fit: PowerLawFit) -> list[float]:
    """Values of n/L that leave the law defined with at least two degrees of freedom; sorted."""
    aspect, x = fit.width / fit.depth, fit.design(fit.width, fit.depth)
    cutoffs = [aspect.min()]
    for cutoff in np.unique(aspect)[1:]:  # ratios of whole numbers: equal ones are equal to the bit
        kept = aspect >= cutoff
        if kept.sum() < x.shape[1] + 2 or not is_defined(x[kept]):
            break  # stricter cutoffs keep fewer cells
        cutoffs.append(cutoff)
    picks = np.linspace(0, len(cutoffs) - 1, min(len(cutoffs), _MOST_CUTOFFS)).round().astype(int)
    return [float(cutoffs[i]) for i in picks]


def _movement(fit: PowerLawFit, rng: np.random.Generator) -> tuple[float, float]:
    """Largest standardised change of an exponent at stricter cutoffs, and its p-value."""
    x = fit.design(fit.width, fit.depth)
    y = fit.log_value - get_form(fit.form).fixed(fit.width, fit.depth)
    aspect = fit.width / fit.depth
    stricter = [c for c in _cutoffs(fit) if c > aspect.min()]
    if not stricter:
        return math.nan, math.nan
    scale = np.sqrt(fit.variance + fit.tau2)
    contrasts = _contrasts(x, 1 / scale**2, [aspect >= c for c in stricter])
    if not len(contrasts):
        return 0.0, 1.0
    draws = scale * rng.standard_normal((_NULL_DRAWS, len(y)))
    largest = np.abs(np.concatenate([y[None], draws]) @ contrasts.T).max(1)
    exceed = 1 + int((largest[1:] >= largest[0]).sum())
    return float(largest[0]), exceed / (1 + _NULL_DRAWS)


def _contrasts(x: FloatArray, weight: FloatArray, masks: list[BoolArray]) -> FloatArray:
    """Change of each exponent at each stricter cutoff, in units of its deviation, `[C, M]`.

    A contrast maps the responses to its change, and any exact law to zero. Exponents that a
    cutoff cannot move, because it drops only cells without leverage on them, are left out.
    """
    everywhere = linear_map(x, weight)
    rows = []
    for mask in masks:
        stricter = linear_map(x, mask * weight)
        change = (stricter - everywhere)[1:]
        variance = (change**2 / weight).sum(1)
        moves = variance > 1e-9 * (stricter[1:] ** 2 / weight).sum(1)
        rows.append(change[moves] / np.sqrt(variance[moves])[:, None])
    return np.concatenate(rows)


def find_regions(
    cells: CellTable, **options: Any
) -> tuple[tuple[Region, ...], tuple[Skipped, ...]]:
    """Find the region of every group, so that regions can be laid side by side over κ.

    Args:
        cells: The cells of any number of groups.
        **options: Those of `find_region`.

    Returns:
        The regions, and the groups that have none with the reason.
    """
    return fit_each(cells, find_region, options)
