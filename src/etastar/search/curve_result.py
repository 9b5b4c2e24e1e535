"""The answer of the strategy `curve`: the blocks of its JSON, computed from outcomes alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from etastar.search.choosing import exact_interval, lower_bound
from etastar.search.curve_counts import CAUSES, Counts, SlowEdge
from etastar.search.curve_fit import SAFE, Fit
from etastar.search.curve_model import Posterior
from etastar.search.curve_remarks import Remark, remarks

if TYPE_CHECKING:
    from etastar.search.curve import Curve

CONFIDENCE = 0.95
"""Of a confirmation: its attempts' errors add up to the rest."""
BAND_POINTS = 41
"""Rates of the band, over all that were tried."""
PEAK_RADIUS = 0.2
"""Runs so near in log η count together for the highest p."""


@dataclass(frozen=True)
class CurveEtaStar:
    """η* of the network; None where the range or the runs do not determine it.

    Attributes:
        median: η_50: where p falls through one half, the median of its posterior.
        ci_low: Lower end of its 95 % interval.
        ci_high: Upper end.
        safe: The one-sided 90 % lower bound of η_95.
        set_by: `budget` where slow runs end η*: had they trained, η_50 would lie beyond its
            interval; else `stability`; None where no run failed above.
    """

    median: float | None
    ci_low: float | None
    ci_high: float | None
    safe: float | None
    set_by: Literal["budget", "stability"] | None


@dataclass(frozen=True)
class CurvePoint:
    """The whole runs at one rate, confirming ones included.

    Attributes:
        lr: η.
        tried: Runs.
        trained, diverged, dead, collapsed, slow: Runs by outcome.
        p: Fraction that trained.
        ci_low: Lower end of the exact (Clopper–Pearson) 95 % interval.
        ci_high: Upper end.
        median_steps: Median steps to the threshold of the trained runs; None without one.
    """

    lr: float
    tried: int
    trained: int
    diverged: int
    dead: int
    collapsed: int
    slow: int
    p: float
    ci_low: float
    ci_high: float
    median_steps: float | None


@dataclass(frozen=True)
class BandPoint:
    """The fitted p at one rate.

    Attributes:
        lr: η.
        p: Posterior mean.
        low: Lower end of its pointwise 95 % interval.
        high: Upper end.
    """

    lr: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Peak:
    """The highest p that was seen.

    Attributes:
        lr: Where.
        p: Fraction of the runs within 0.2 of it in log η that trained.
        ci_low: Lower end of the exact 95 % interval.
        ci_high: Upper end.
    """

    lr: float
    p: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class CurveBlock:
    """The success curve.

    Attributes:
        eta_50: Where p falls through 0.5.
        eta_95: Where p falls through 0.95, the median of its posterior; None where it is not that
            high.
        eta_95_low: The one-sided 90 % lower bound of that.
        p_max: The highest p seen.
        points: The whole runs by rate, ascending.
        band: The fit, over the rates tried.
    """

    eta_50: float | None
    eta_95: float | None
    eta_95_low: float | None
    p_max: Peak | None
    points: tuple[CurvePoint, ...]
    band: tuple[BandPoint, ...]


@dataclass(frozen=True)
class WindowBlock:
    """The rates with p ≥ 0.95.

    Attributes:
        low: The slow edge; None unless it was looked for and found.
        high: η_95.
        low_status: `found`, `below the range` or `not looked for`.
    """

    low: float | None
    high: float | None
    low_status: Literal["found", "below the range", "not looked for"]


@dataclass(frozen=True)
class AttemptBlock:
    """An attempt to confirm a rate.

    Attributes:
        lr: The rate.
        tried: Fresh runs at it.
        trained: How many reached the threshold.
    """

    lr: float
    tried: int
    trained: int


@dataclass(frozen=True)
class Recommended:
    """The rate to train with.

    Attributes:
        lr: The rate; None where every attempt to confirm one failed.
        tried: Fresh runs at it, to the end of the budget; 0 where none was made.
        trained: How many reached the threshold.
        held: How many were still at or above the threshold at the end.
        p_low: Lower bound of p that these runs give, with the error of this attempt.
        confidence: 0.95: the errors of all attempts that may be made add up to the rest.
        median_steps: Median steps to the threshold.
        attempts: Every attempt, this one last.
    """

    lr: float | None
    tried: int
    trained: int | None
    held: int | None
    p_low: float | None
    confidence: float | None
    median_steps: float | None
    attempts: tuple[AttemptBlock, ...]


@dataclass(frozen=True)
class LocatedRun:
    """A partial run.

    Attributes:
        lr: Its rate.
        steps: Steps taken.
        kind: Its outcome.
        first_loss: Training loss at step 0.
        last_loss: Training loss at its end; None where that is not finite.
    """

    lr: float
    steps: int
    kind: str
    first_loss: float | None
    last_loss: float | None


@dataclass(frozen=True)
class CurveCost:
    """What the measurement took.

    Attributes:
        trials: Whole trials, confirmations included.
        steps: Optimizer steps, partial runs included.
        seconds: Wall time, as the caller says; None if it does not.
        budgets: Steps ÷ steps of one budget.
    """

    trials: int
    steps: int
    seconds: float | None
    budgets: float


@dataclass(frozen=True)
class CurveResult:
    """The answer of the strategy `curve`.

    Attributes:
        eta_star: η* with its interval, the safe rate, and what ends it.
        curve: The success curve.
        window: The rates with p ≥ 0.95.
        recommended: The rate to train with; None where none was found.
        located: The partial runs.
        cost: What it took.
        ended_by: `precision`, `trials`, `budgets`, or `nowhere` (p is below 1/2 everywhere).
        remarks: What is unusual, and what is missing.
    """

    eta_star: CurveEtaStar
    curve: CurveBlock
    window: WindowBlock
    recommended: Recommended | None
    located: tuple[LocatedRun, ...]
    cost: CurveCost
    ended_by: str
    remarks: tuple[Remark, ...]

    def as_dict(self) -> dict[str, Any]:
        """The blocks as plain dictionaries and lists, for JSON."""
        return asdict(self)


def result_of(curve: Curve, seconds: float | None = None) -> CurveResult:
    """Compute the answer from the outcomes of whole rounds.

    Args:
        curve: The strategy, done or not.
        seconds: Wall time to report.
    """
    fit = curve.fit()
    eta = _eta_star(curve, fit)
    high = _rate(curve, float(fit.posterior.quantile(SAFE, 0.5)))
    seen = eta.median is not None or fit.counts.trained.any()
    points = tuple(_points(curve))
    block = CurveBlock(
        eta_50=eta.median,
        eta_95=high if seen else None,
        eta_95_low=eta.safe,
        p_max=_peak(curve, fit.counts),
        points=points,
        band=tuple(_band(curve, fit)) if fit.counts.tried.any() else (),
    )
    window = _window(curve, fit, block.eta_95)
    located = tuple(
        LocatedRun(t.lr, o.step, o.kind, o.first_loss, _finite(o.last_loss))
        for t, o in curve.located
    )
    steps = curve.spent()
    trials = len(curve.runs()) - len(curve.located)
    cost = CurveCost(trials, steps, seconds, steps / curve.options.max_steps)
    advice = _recommended(curve)
    return CurveResult(
        eta, block, window, advice, located, cost, curve.ended_by, tuple(remarks(curve, fit))
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rate(curve: Curve, point: float) -> float | None:
    """The rate of a lattice point that need not be whole; None outside of the range."""
    if not 0 <= point <= curve.lattice.cells:
        return None
    return float(curve.options.start_lr * math.exp(point * curve.step))


def _eta_star(curve: Curve, fit: Fit) -> CurveEtaStar:
    if not fit.counts.trained.any() or curve.ended_by == "nowhere" or fit.nowhere_half():
        return CurveEtaStar(None, None, None, None, None)
    low, middle, high = (_rate(curve, float(point)) for point in fit.eta_50())
    return CurveEtaStar(middle, low, high, _rate(curve, fit.safe()), set_by(fit, curve.begins))


def set_by(fit: Fit, begins: float) -> Literal["budget", "stability"] | None:
    """What ends η*: `budget` if slow runs do.

    The fit is made again as if the slow runs above the slow edge had trained, which is the most
    that a longer budget could do; where η_50 then lies beyond its interval, slow runs end it.

    Args:
        fit: To all whole runs.
        begins: Lattice point around which η_50 is looked for first.
    """
    counts, above = fit.counts, np.arange(fit.cells + 1) > fit.slow.last
    slow = counts.slow * above
    if not (counts.failed * above).any() or not counts.trained.any():
        return None
    if not slow.any():
        return "stability"
    failed = (counts.failed - counts.slow) * 1.0
    longer = Posterior(fit.step, fit.cells, counts.trained + slow, failed, begins)
    return "budget" if float(longer.quantile(0.5, 0.5)) > fit.eta_50()[2] else "stability"


def _points(curve: Curve) -> list[CurvePoint]:
    passed = [(a.point, o) for a in curve.attempts if a.passed for _, o in a.runs]
    runs = [*((i, outcome) for i, _, outcome in curve.whole), *passed]
    counts = Counts.of(curve.lattice.cells, runs)
    points = []
    for i in map(int, np.flatnonzero(counts.tried)):
        trained, tried = int(counts.trained[i]), int(counts.tried[i])
        causes = {cause: int(counts.failures[row, i]) for row, cause in enumerate(CAUSES)}
        low, high = exact_interval(trained, tried)
        steps = float(np.median(counts.steps[i])) if trained else None
        points.append(
            CurvePoint(
                lr=curve.lattice.rate(i),
                tried=tried,
                trained=trained,
                **causes,
                p=trained / tried,
                ci_low=low,
                ci_high=high,
                median_steps=steps,
            )
        )
    return points


def _peak(curve: Curve, counts: Counts) -> Peak | None:
    """The rate whose neighbourhood has the highest lower bound of p."""
    best: tuple[float, int, int, int] | None = None
    radius = round(PEAK_RADIUS / curve.step)
    for i in map(int, np.flatnonzero(counts.tried)):
        near = slice(max(0, i - radius), i + radius + 1)
        trained, tried = int(counts.trained[near].sum()), int(counts.tried[near].sum())
        found = (lower_bound(trained, tried, 0.025), i, trained, tried)
        best = max(best, found) if best else found
    if best is None:
        return None
    _, i, trained, tried = best
    return Peak(curve.lattice.rate(i), trained / tried, *exact_interval(trained, tried))


def _band(curve: Curve, fit: Fit) -> list[BandPoint]:
    tried = np.flatnonzero(fit.counts.tried)
    points = np.unique(np.round(np.linspace(tried[0], tried[-1], BAND_POINTS)))
    fine = fit.slow.fine(points)
    columns = (column * fine for column in fit.posterior.band(points))
    return [
        BandPoint(curve.lattice.rate(int(i)), float(p), float(low), float(high))
        for i, p, low, high in zip(points, *columns, strict=True)
    ]


def _window(curve: Curve, fit: Fit, high: float | None) -> WindowBlock:
    if not curve.options.slow_edge:
        return WindowBlock(None, high, "not looked for")
    slow: SlowEdge = fit.slow
    low = None if slow.low is None else _rate(curve, slow.low)
    if low is not None:
        return WindowBlock(low, high, "found")
    reached = fit.counts.tried.any() and np.flatnonzero(fit.counts.tried)[0] == 0
    return WindowBlock(None, high, "below the range" if reached else "not looked for")


def _recommended(curve: Curve) -> Recommended | None:
    attempts = tuple(
        AttemptBlock(curve.lattice.rate(a.point), len(a.runs), a.trained) for a in curve.attempts
    )
    if attempts and curve.attempts[-1].passed:
        last = curve.attempts[-1]
        steps = [o.step for _, o in last.runs if o.kind == "trained"]
        return Recommended(
            lr=attempts[-1].lr,
            tried=attempts[-1].tried,
            trained=last.trained,
            held=sum(outcome.held is True for _, outcome in last.runs),
            p_low=lower_bound(last.trained, len(last.runs), last.error),
            confidence=CONFIDENCE,
            median_steps=float(np.median(steps)),
            attempts=attempts,
        )
    if attempts:
        return Recommended(None, 0, None, None, None, None, None, attempts)
    point = curve.choice()
    if point is None:
        return None
    return Recommended(curve.lattice.rate(point), 0, None, None, None, None, None, ())
