"""The answer of the strategy `curve`, computed from outcomes alone."""

from __future__ import annotations

import math

import numpy as np

from etastar.search.choosing import exact_interval, lower_bound
from etastar.search.curve_blocks import (
    AttemptBlock,
    BandPoint,
    Cost,
    CurveBlock,
    CurvePoint,
    CurveResult,
    LocatedRun,
    Peak,
    Recommended,
    WindowBlock,
)
from etastar.search.curve_budget import set_by
from etastar.search.curve_counts import CAUSES, Counts
from etastar.search.curve_fit import SAFE, Fit
from etastar.search.curve_model import Array
from etastar.search.curve_remarks import remarks
from etastar.search.curve_state import CurveState
from etastar.search.estimate import EtaStar

CONFIDENCE = 0.95
"""Of a confirmation: its attempts' errors add up to the rest."""
BAND_POINTS = 41
"""Rates of the band, over all that were tried."""
PARTS = 50
"""Quantiles of p at each of two edges, all pairs of which make the band."""


def result_of(curve: CurveState, seconds: float | None = None) -> CurveResult:
    """Compute the answer from the outcomes of whole rounds.

    Args:
        curve: The strategy, done or not.
        seconds: Wall time to report.
    """
    fit = curve.fit()
    eta = _eta_star(curve, fit)
    high = None if fit.empty() else _inside(curve, float(fit.posterior.quantile(SAFE, 0.5)))
    seen = eta.median is not None or fit.counts.trained.any()
    points = tuple(_points(curve))
    block = CurveBlock(
        eta_50=eta.median,
        eta_95=high if seen else None,
        eta_95_low=eta.safe,
        p_max=_peak(curve, fit),
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
    cost = Cost(trials, steps, seconds, steps / curve.options.max_steps)
    advice = _recommended(curve)
    return CurveResult(
        eta, block, window, advice, located, cost, curve.ended_by, tuple(remarks(curve, fit))
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rate(curve: CurveState, point: float) -> float | None:
    """The rate of a lattice point that need not be whole; None outside of the range."""
    if not 0 <= point <= curve.lattice.cells:
        return None
    rate = curve.options.start_lr * math.exp(point * curve.step)
    return float(min(rate, curve.options.end_lr))


def _inside(curve: CurveState, point: float) -> float | None:
    """The same; None outside of the rates tried, to which nothing is extrapolated."""
    first, last = curve.fit().tried_range()
    return _rate(curve, point) if first - 0.5 <= point <= last + 0.5 else None


def _eta_star(curve: CurveState, fit: Fit) -> EtaStar:
    if curve.ended_by == "nowhere" or fit.without_half():
        return EtaStar(None, None, None)
    low, middle, high = map(float, fit.eta_50())
    first, last = fit.tried_range()
    known = _rate if curve.ended_by == "precision" else _inside
    ends = known(curve, min(low, last)), known(curve, max(high, first))
    safe = None if fit.no_width() else _inside(curve, min(fit.safe(), last))
    star = _inside(curve, middle)
    told = star is not None and fit.enough()
    cause = set_by(fit, curve.options.max_steps) if told else None
    return EtaStar(star, *ends, safe, cause)


def _points(curve: CurveState) -> list[CurvePoint]:
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


def _peak(curve: CurveState, fit: Fit) -> Peak | None:
    found = fit.peak()
    if found is None:
        return None
    i, trained, tried = found
    return Peak(curve.lattice.rate(i), trained / tried, *exact_interval(trained, tried))


def _band(curve: CurveState, fit: Fit) -> list[BandPoint]:
    points = np.unique(np.round(np.linspace(*fit.tried_range(), BAND_POINTS)))
    if curve.ended_by == "nowhere" or fit.without_half():
        near = [fit.near(int(i)) for i in points]
        points = points[[p is not None for p in near]]
        columns = np.array([p for p in near if p is not None]).T
    else:
        columns = _both_edges(fit, points)
    return [
        BandPoint(curve.lattice.rate(int(i)), float(p), float(low), float(high))
        for i, p, low, high in zip(points, *columns, strict=True)
    ]


def _both_edges(fit: Fit, points: Array) -> Array:
    """Mean of p and its pointwise interval, [3, N]: p of the fast edge times that of the slow."""
    band = np.array(fit.posterior.band(points))
    if fit.slow.low is None:
        return band
    parts = (np.arange(PARTS) + 0.5) / PARTS
    fast, slow = fit.posterior.spread(points, parts), fit.slow.spread(points, parts)
    products = (fast[:, None] * slow).reshape(-1, len(points))
    tails = np.quantile(products, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return np.array([band[0] * slow.mean(axis=0), *tails])


def _window(curve: CurveState, fit: Fit, high: float | None) -> WindowBlock:
    looked, slow = curve.options.slow_edge, fit.slow.low
    low = _rate(curve, slow) if looked and slow is not None else None
    if low is not None:
        return WindowBlock(low, high, "found")
    below = looked and fit.trains_at_bottom()
    return WindowBlock(None, high, "below the range" if below else "not looked for")


def _recommended(curve: CurveState) -> Recommended | None:
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
    point = None if attempts else curve.untried()
    if point is None and not attempts:
        return None
    lr = None if point is None else curve.lattice.rate(point)
    return Recommended(lr, 0, None, None, None, None, None, attempts)
