"""The fit of one law to the cells of one group, by weighted least squares on logarithms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from etastar.errors import ConfigError, unknown_name
from etastar.scaling.bend import Bend, find_bend
from etastar.scaling.cells import BoolArray, CellTable, FloatArray, Response
from etastar.scaling.coefficients import Coefficient, coefficient
from etastar.scaling.domain import Domain
from etastar.scaling.estimates import CellEstimates, Usage, median_inefficiency
from etastar.scaling.fitted import Fitted, chosen_cells
from etastar.scaling.forms import Form, get_form
from etastar.scaling.least_squares import fit_random_effects, log_likelihood, stand_ins
from etastar.scaling.prediction import check_level
from etastar.scaling.two_way import TwoWay, two_way

_BENT = 0.05
"""Below this p-value a bend is reported with an extrapolation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PowerLawFit(Fitted):
    """A fitted law. Of its cells and its predictions see `Fitted`.

    Attributes:
        form: Name in `FORMS`.
        level: Nominal coverage of the coefficients' intervals.
        coefficients: `log_prefactor` first.
        covariance: That of the coefficients, `[p, p]`, with effects of width and depth.
        tau2: τ², variance of the lack of fit between cells, beyond seed noise.
        freedom: M − p.
        r2: 1 − residual ÷ total sum of squares, every cell alike.
        r2_weighted: The same with weights 1/(v + τ²).
        log_likelihood: Maximal, over the coefficients and τ².
        aic: Akaike's criterion, with p + 1 parameters.
        aicc: The same, corrected for few cells; inf if M ≤ p + 2.
        bic: Schwarz's criterion.
        residual: log measured − log fitted.
        seed_variance: Variance of one seed's logarithm, mean over cells.
        noise: Variances of the medians if every seed had that variance.
        effects: What widths and depths share beyond the law, and how many of them carry it.
        bend: How far the cells bend away from the form.
    """

    form: str
    level: float
    coefficients: tuple[Coefficient, ...]
    covariance: FloatArray
    tau2: float
    freedom: int
    r2: float
    r2_weighted: float
    log_likelihood: float
    aic: float
    aicc: float
    bic: float
    residual: FloatArray
    seed_variance: float
    noise: FloatArray
    effects: TwoWay
    bend: Bend

    def __getitem__(self, name: str) -> Coefficient:
        """The coefficient of that name, e.g. `fit["width"]`."""
        for found in self.coefficients:
            if found.name == name:
                return found
        raise unknown_name("coefficient", name, [c.name for c in self.coefficients])

    def exponents(self) -> dict[str, tuple[float, float, float]]:
        """Every exponent with the ends of its Student t interval."""
        return {c.name: (c.value, c.low, c.high) for c in self.coefficients[1:]}

    @property
    def beta(self) -> FloatArray:
        """The coefficients, `[p]`."""
        return np.array([c.value for c in self.coefficients])

    def design(self, width: FloatArray, depth: FloatArray) -> FloatArray:
        """The form's design at these networks, `[T, p]`."""
        return get_form(self.form).design(width, depth, self.labels)

    def predict_log(self, width: FloatArray, depth: FloatArray) -> FloatArray:
        """Logarithm of the law at these networks, `[T]`."""
        return get_form(self.form).fixed(width, depth) + self.design(width, depth) @ self.beta

    def half_width_log(
        self, width: FloatArray, depth: FloatArray, noise: FloatArray | float, level: float
    ) -> FloatArray:
        """Half-widths of the prediction intervals in log, `[T]`.

        Args:
            width: n of the targets, `[T]`.
            depth: L, `[T]`.
            noise: Variance of each target's median over its seeds, `[T]` (`CellEstimates.noise`).
            level: Nominal coverage.
        """
        x = self.design(width, depth)
        missed = np.maximum(self.tau2, self.bend.variance(x, width, depth))
        spread = ((x @ self.covariance) * x).sum(1)
        t = stdtrit(self.freedom, 0.5 + 0.5 * level)
        return np.asarray(t * np.sqrt(spread + missed + noise))

    def interval_log(
        self, width: FloatArray, depth: FloatArray, level: float, seeds: float | None
    ) -> tuple[float, float]:
        """See `Fitted`."""
        if seeds is None:
            seeds = float(np.median(self.seeds))
        noise = 0.0
        if math.isfinite(seeds):
            noise = float(median_inefficiency(int(seeds))) * self.seed_variance / int(seeds)
        half = self.half_width_log(width, depth, noise, level)
        return float(self.predict_log(width, depth)[0]), float(half[0])

    def doubts(
        self, width: FloatArray, depth: FloatArray, centre: float, outside: bool
    ) -> tuple[list[str], float | None]:
        """See `Fitted`."""
        if not self.bend.known:
            text = "the cells are too few to show whether the law bends: the interval assumes not"
            return [text] if outside else [], None
        curved = centre + float(self.bend.shift(self.design(width, depth), width, depth)[0])
        told = [
            f"the cells bend away from the form {self.form} (p = {self.bend.p_value:.1g}); "
            f"with the curvature that they show, the prediction is {math.exp(curved):.4g}, "
            f"{math.exp(curved - centre):.3g} times this one"
        ]
        return told if self.bend.p_value < _BENT and outside else [], math.exp(curved)

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the fit, for JSON; without arrays over cells or replicates."""
        plain = ("form", "response", "level", "freedom", "r2", "r2_weighted", "aic", "aicc", "bic")
        record = {name: getattr(self, name) for name in plain}
        record["bend_p_value"] = self.bend.p_value
        return {
            **{
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in record.items()
            },
            "law": get_form(self.form).title,
            "labels": dict(self.labels),
            # `bootstrap` is what 0.1.0 called it
            "coefficients": [asdict(c) | {"bootstrap": c.over_seeds} for c in self.coefficients],
            "tau": math.sqrt(self.tau2),
            "seed_log_sd": math.sqrt(self.seed_variance),
            "domain": asdict(self.domain),
            "usage": asdict(self.usage),
            **{name: getattr(self.effects, name) for name in ("widths", "depths")},
        }


def fit_power_law(
    cells: CellTable,
    *,
    form: str = "product",
    response: Response = "eta_star",
    cutoff: float | None = None,
    level: float = 0.95,
) -> PowerLawFit:
    """Fit a log-linear law to the median of every cell.

    Weighted least squares with weights 1/(v + τ²): v is the sampling variance of the median from
    seed spread and bracket width (`estimate_cells`), τ² the lack of fit (`fit_random_effects`).
    Cells of which only a bound is known enter with the likelihood of that bound (`stand_ins`); R²,
    the criteria and what is drawn are of the measured cells. The intervals of the coefficients are
    Student t intervals that allow for lack of fit shared by networks of one width or one depth
    (`two_way`); beside them stand those of the seeds alone.

    Args:
        cells: The cells of one group: one loss, κ, dataset, ....
        form: Name in `FORMS`.
        response: `"eta_star"`, `"lambda1"` or `"eta_lambda1"` (their product, seed by seed).
        cutoff: Fit only cells with n/L at least this.
        level: Coverage of the intervals.

    Returns:
        The fit.

    Raises:
        ConfigError: The cells mix groups, an axis does not vary, or the cells are too few.
    """
    check_level(level)
    law = get_form(form)
    estimates, beyond, chosen = chosen_cells(cells, response, cutoff)
    labels, width, depth, y, v, seeds = (
        chosen[name] for name in ("labels", "width", "depth", "log_value", "variance", "seeds")
    )
    _check_enough(law, width, depth, labels, chosen["usage"], cutoff)
    x, offset = law.design(width, depth, labels), law.fixed(width, depth)
    (beta,), _, (tau2,) = fit_random_effects(x, y - offset, v)
    where = estimates.bounded & ~beyond
    bounds = _bounds(law, labels, estimates, where)
    beta, _, doubt = stand_ins(beta, x, y - offset, v, float(tau2), bounds)
    freedom = len(y) - x.shape[1]
    residual = y - offset - x @ beta
    weight = 1 / (v + tau2)
    all_v = np.append(v, doubt)
    effects = two_way(
        np.concatenate([x, bounds[0]]),
        y - offset,
        all_v,
        np.append(width, cells.width[where]),
        np.append(depth, cells.depth[where]),
        1 / (all_v + tau2),
    )
    single = bool(np.median(seeds) <= 1)
    score = log_likelihood(x, y - offset, v)[0]
    parameters = x.shape[1] + 1
    aic = 2 * parameters - 2 * score
    room = len(y) - parameters - 1
    errors, own = (np.sqrt(np.diagonal(c)) for c in (effects.covariance, effects.noise))
    use = estimates.used & ~beyond
    seed_variance = float(np.mean(estimates.seed_variance[use]))
    fit = PowerLawFit(
        **chosen,
        form=form,
        level=level,
        coefficients=tuple(
            coefficient(
                *(name, float(beta[k]), float(errors[k]), effects.freedom(axis), level),
                None if single else float(own[k]),
            )
            for k, (name, axis) in enumerate(
                zip(("log_prefactor", *law.exponents), np.eye(len(beta)), strict=True)
            )
        ),
        covariance=effects.covariance,
        tau2=float(tau2),
        freedom=freedom,
        r2=r_squared(y, residual, np.ones(len(y))),
        r2_weighted=r_squared(y, residual, weight),
        log_likelihood=score,
        aic=aic,
        aicc=aic + 2 * parameters * (parameters + 1) / room if room > 0 else math.inf,
        bic=parameters * math.log(len(y)) - 2 * score,
        residual=residual,
        seed_variance=seed_variance,
        noise=estimates.noise(seed_variance)[use],
        effects=effects,
        domain=Domain.of(width, depth, cutoff),
        bend=find_bend(x, residual, v, width, depth),
    )
    return replace(
        fit, usage=replace(fit.usage, contradicted=_contradicted(fit, cells, estimates, beyond))
    )


def _bounds(
    law: Form, labels: Mapping[str, str | float], estimates: CellEstimates, where: BoolArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """What `stand_ins` takes, of these cells with a bound."""
    width, depth, floor = (a[where] for a in (estimates.width, estimates.depth, estimates.bound))
    above = np.isfinite(floor)
    bound = np.where(above, floor, estimates.ceiling[where]) - law.fixed(width, depth)
    x = law.design(width, depth, labels)
    return x, bound, estimates.variance[where], np.where(above, 1.0, -1.0)


def r_squared(y: FloatArray, residual: FloatArray, weight: FloatArray) -> float:
    """1 − Σ w r² ÷ Σ w (y − ȳ)², ȳ the weighted mean; negative if worse than a constant.

    NaN if the responses do not vary.
    """
    total = float(np.sum(weight * (y - np.average(y, weights=weight)) ** 2))
    return 1 - float(np.sum(weight * residual**2)) / total if total > 0 else math.nan


def _check_enough(
    law: Form,
    width: FloatArray,
    depth: FloatArray,
    labels: Mapping[str, str | float],
    usage: Usage,
    cutoff: float | None,
) -> None:
    needed = 2 + len(law.exponents)
    if len(width) < needed:
        limit = "" if cutoff is None else f" and have n/L of at least {cutoff:g}"
        where = {"below": usage.untrained, "above": usage.right_censored}
        beyond = [f"{count} with η* {side} it" for side, count in where.items() if count]
        others = f" (of the range: {', '.join(beyond)})" if beyond else ""
        remedy = ", widen their range of learning rates" if cutoff is None else " or lower it"
        raise ConfigError(
            f"the form {law.title} needs at least {needed} cells for an interval; got "
            f"{len(width)} that are bracketed{limit}, of {usage.cells}{others}. Measure more "
            f"networks{remedy}."
        )
    law.check(width, depth, labels)


def _contradicted(
    fit: PowerLawFit, cells: CellTable, estimates: CellEstimates, beyond: BoolArray
) -> int:
    """Right-censored cells that the law puts below their bound: see `Usage.contradicted`."""
    censored = np.isfinite(estimates.bound) & ~estimates.used & ~beyond
    width, depth = cells.width[censored], cells.depth[censored]
    noise = estimates.noise(fit.seed_variance)[censored]
    half = fit.half_width_log(width, depth, noise, 0.95)
    return int((fit.predict_log(width, depth) + half < estimates.bound[censored]).sum())


def residual_map(fit: PowerLawFit) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Lay the residuals of the fitted cells on the grid of their widths and depths.

    Args:
        fit: The law.

    Returns:
        The distinct widths `[W]` and depths `[D]`, ascending; log measured − log fitted, `[W, D]`,
        positive where the network took more than the law says; and the same in standard deviations
        of the cell's own seed noise: far beyond ±2 the law is missing something that more seeds
        would not change. NaN where no network was fitted.
    """
    widths, row = np.unique(fit.width, return_inverse=True)
    depths, column = np.unique(fit.depth, return_inverse=True)
    log_residual = np.full((len(widths), len(depths)), np.nan)
    in_noise = log_residual.copy()
    log_residual[row, column] = fit.residual
    in_noise[row, column] = fit.residual / np.sqrt(fit.variance)
    return widths, depths, log_residual, in_noise
