"""Which law? Information criteria and held-out error of several forms, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from etastar.errors import ConfigError
from etastar.scaling.cells import CellTable, FloatArray, Response
from etastar.scaling.domain import below_cutoff
from etastar.scaling.estimates import estimate_cells
from etastar.scaling.forms import BASELINES, get_form, is_defined
from etastar.scaling.least_squares import fit_random_effects
from etastar.scaling.power_law import PowerLawFit, fit_power_law
from etastar.scaling.prediction import check_level
from etastar.scaling.process import Kernel, Process, fit_process

_MOST_FOLDS, _FOLDS = 100, 20
"""Up to so many cells each is left out alone; beyond, so many folds bound the time."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How well unseen cells were predicted; arrays are over them, `[test]`.

    Attributes:
        train: Cells fitted (the fewest, if there were several fits).
        width: n.
        depth: L.
        log_measured: Logarithm of the measured medians.
        log_predicted: Logarithm of the predictions.
        half: Half-widths of the prediction intervals in log.
        unpredicted: Cells that could not be held out, because the law is not defined without them.
    """

    train: int
    width: FloatArray
    depth: FloatArray
    log_measured: FloatArray
    log_predicted: FloatArray
    half: FloatArray
    unpredicted: int = 0

    @property
    def test(self) -> int:
        """Cells predicted."""
        return len(self.half)

    @property
    def median_error(self) -> float:
        """Median of |predicted/measured − 1|; NaN without a cell."""
        error = np.abs(np.expm1(self.log_predicted - self.log_measured))
        return float(np.median(error)) if self.test else math.nan

    @property
    def coverage(self) -> float:
        """Share of the measured values inside their prediction intervals."""
        inside = np.abs(self.log_predicted - self.log_measured) <= self.half
        return float(np.mean(inside)) if self.test else math.nan

    @property
    def median_width(self) -> float:
        """Median of upper ÷ lower end of the intervals."""
        return float(np.exp(np.median(2 * self.half))) if self.test else math.nan


@dataclass(frozen=True, eq=False)
class ComparedForm:
    """One row of the comparison.

    Attributes:
        fit: To all cells.
        cross_validated: Cells left out one by one (or in 20 folds, beyond 100 cells).
        extrapolated: Fitted up to a fraction of the largest n·L, the rest predicted; None if the
            small cells do not determine the law.
    """

    fit: PowerLawFit
    cross_validated: HeldOut
    extrapolated: HeldOut | None

    @property
    def form(self) -> str:
        """Name in `FORMS`."""
        return self.fit.form

    def to_dict(self) -> dict[str, Any]:
        """The row as one flat record."""
        fit = self.fit
        record: dict[str, Any] = {
            "form": fit.form,
            "law": get_form(fit.form).title,
            "baseline": fit.form in BASELINES,
            "parameters": len(fit.beta) + 1,
            "exponents": fit.exponents(),
            "r2": fit.r2,
            "tau": math.sqrt(fit.tau2),
            **{name: getattr(fit, name) for name in ("aic", "aicc", "bic")},
        }
        for kind, held in (("cv", self.cross_validated), ("extrapolation", self.extrapolated)):
            for name in ("train", "test", "median_error", "coverage", "median_width"):
                record[f"{kind}_{name}"] = None if held is None else getattr(held, name)
        return record


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several forms fitted to the same cells.

    Attributes:
        rows: In the order asked for.
        skipped: Forms that these cells do not determine, with the reason.
        equal_exponents: Two-sided p-value of "the exponents of n and L are equal" under the form
            `separate`, by Student t with effects of width and depth (`two_way`); NaN if that form
            was not fitted. Small: one power of n·L is not enough.
        level: Nominal coverage of the prediction intervals.
    """

    rows: tuple[ComparedForm, ...]
    skipped: Mapping[str, str]
    equal_exponents: float
    level: float

    def __getitem__(self, form: str) -> ComparedForm:
        """The row of that form.

        Raises:
            ConfigError: It was not compared; with the reason, if it was skipped.
        """
        for row in self.rows:
            if row.form == form:
                return row
        raise ConfigError(f"form {form!r} was not compared: {self.skipped.get(form, 'not asked')}.")

    def best(self, by: Literal["aic", "aicc", "bic", "cv", "extrapolation"] = "bic") -> str:
        """The form with the least criterion, or the least median held-out error.

        Raises:
            ConfigError: No row has that criterion.
        """
        key = f"{by}_median_error" if by in ("cv", "extrapolation") else by
        scores = {row.form: row.to_dict()[key] for row in self.rows}
        finite = {form: s for form, s in scores.items() if s is not None and math.isfinite(s)}
        if not finite:
            raise ConfigError(f"no form can be ranked by {by!r}: there are too few cells for it.")
        return min(finite, key=finite.__getitem__)


def compare_forms(
    cells: CellTable,
    *,
    forms: Sequence[str] = ("product", "separate", "gradient-norm", *BASELINES),
    response: Response = "eta_star",
    fraction: float = 0.25,
    cutoff: float | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Comparison:
    """Fit every form to the same cells and judge it by cells it has not seen.

    Args:
        cells: The cells of one group.
        forms: Names in `FORMS`; those that the cells do not determine are skipped, with the reason.
        response: What is fitted.
        fraction: The extrapolation is fitted to cells with n·L up to this share of the largest.
        cutoff: Use only cells with n/L at least this.
        level: Nominal coverage of the prediction intervals.
        seed: Seed of the folds.

    Returns:
        One row per form that could be fitted, in the order asked for.

    Raises:
        ConfigError: The cells mix groups, or determine none of the forms.
    """
    check_level(level)
    cells.the_labels()
    rows, skipped = [], {}
    for form in forms:
        get_form(form)
        try:
            fit = fit_power_law(cells, form=form, response=response, cutoff=cutoff)
        except ConfigError as error:
            skipped[form] = str(error)
            continue
        held = None
        with suppress(ConfigError):
            held = extrapolate(
                *(cells, form, response), fraction=fraction, cutoff=cutoff, level=level
            )
        rows.append(ComparedForm(fit, cross_validate(fit, level=level, seed=seed), held))
    if not rows:
        raise ConfigError("no form can be fitted. " + " ".join(skipped.values()))
    return Comparison(tuple(rows), skipped, _equal_exponents(rows), level)


def cross_validate(fit: PowerLawFit, *, level: float = 0.9, seed: int = 0) -> HeldOut:
    """Predict every fitted cell from the others.

    Args:
        fit: Any; only its cells and its form are used.
        level: Nominal coverage of the prediction intervals.
        seed: Seed of the folds, if there are more than 100 cells.
    """
    form, count = get_form(fit.form), len(fit.log_value)
    folds = np.arange(count)
    if count > _MOST_FOLDS:
        folds = np.random.default_rng(seed).permutation(count) % _FOLDS
    mask = folds != np.unique(folds)[:, None]  # (folds, M)
    x, offset = fit.design(fit.width, fit.depth), form.fixed(fit.width, fit.depth)
    kept = np.array([m.sum() > x.shape[1] and is_defined(x[m]) for m in mask])
    mask = mask[kept]
    beta, covariance, tau2 = fit_random_effects(x, fit.log_value - offset, fit.variance, mask)
    spread = ((x @ covariance) * x).sum(-1) + tau2[:, None] + fit.noise  # (folds, M)
    quantile = stdtrit(mask.sum(1) - x.shape[1], 0.5 + 0.5 * level)[:, None]
    half, predicted = quantile * np.sqrt(spread), beta @ x.T + offset
    fold, cell = np.nonzero(~mask)
    return HeldOut(
        int(mask.sum(1).min()) if len(mask) else count - 1,
        *(fit.width[cell], fit.depth[cell], fit.log_value[cell]),
        *(predicted[fold, cell], half[fold, cell], count - len(cell)),
    )


def extrapolate(
    cells: CellTable,
    form: str,
    response: Response = "eta_star",
    *,
    fraction: float = 0.25,
    cutoff: float | None = None,
    level: float = 0.9,
    kernel: Kernel | None = None,
) -> HeldOut:
    """Fit the cells with n·L up to `fraction` of the largest, and predict the others.

    The intervals are those of `PowerLawFit.predict`, the allowance for a bend included, or those
    of `Process.predict` for the form `process`, the only one that takes a `kernel`.

    Raises:
        ConfigError: The small cells do not determine the law, no cell is left to predict, or a
            power law was given a kernel.
    """
    if kernel is not None and form != Process.form:
        raise ConfigError(f"a kernel belongs to the form {Process.form!r}; got {form!r}.")
    estimates = estimate_cells(cells, response)
    use = estimates.used & ~below_cutoff(cells.width, cells.depth, cutoff)
    if not use.any():
        raise ConfigError("no cell can be used: none is bracketed within the cutoff on n/L.")
    size = cells.width * cells.depth
    small = size <= fraction * size[use].max() * (1 + 1e-9)
    test = use & ~small
    if not test.any():
        raise ConfigError(f"no cell is left to predict beyond {fraction:g} of the largest n·L.")
    if not (use & small).any():
        raise ConfigError(
            f"no cell to fit has n·L up to {fraction:g} of the largest, so there is nothing to "
            "predict from."
        )
    # the trained subset is made from usable cells alone, so its estimates see no held-out seed
    known, width, depth = cells.subset(use & small), cells.width[test], cells.depth[test]
    if form == Process.form:
        process = fit_process(known, response=response, cutoff=cutoff, kernel=kernel)
        predicted, sd = process.predict_log(width, depth)
        half = ndtri(0.5 + 0.5 * level) * np.sqrt(sd**2 + process.noise())
    else:
        fit = fit_power_law(known, form=form, response=response, cutoff=cutoff)
        predicted = fit.predict_log(width, depth)
        noise = estimates.noise(fit.seed_variance)[test]
        half = fit.half_width_log(width, depth, noise, level)
    return HeldOut(len(known), width, depth, estimates.value[test], predicted, half)


def _equal_exponents(rows: Sequence[ComparedForm]) -> float:
    for row in rows:
        if row.form == "separate":
            return row.fit.effects.p_value(np.array([0.0, 1.0, -1.0]), row.fit.beta)
    return math.nan
