"""The picture of a success curve: p(η) with its band and window, and steps to the threshold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from etastar.report.style import COLOURS, MARKERS
from etastar.search.choosing import exact_interval, lowest_seen
from etastar.search.curve_counts import Counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from etastar.result import Result
    from etastar.search.curve_blocks import CurvePoint

CAUSES = {
    "diverged": (MARKERS["diverged"], COLOURS["diverged"]),
    "dead": (MARKERS["dead"], COLOURS["dead"]),
    "collapsed": ("s", "#56B4E9"),
    "slow": (MARKERS["short"], COLOURS["short"]),
}
"""Failures by cause, and the mark and colour that each has."""
BIN = 0.16
"""Width in log η of the groups of runs that share a dot."""
SAFE, ADVISED = "#009E73", "#CC79A7"
"""Colours of the window with the safe rate, and of the recommended rate: Okabe & Ito (2008)."""


def curve_figure(found: Result, ax: Axes) -> Axes:
    """Draw p(η): fit and band, the runs in groups, the window, η*, the safe and the advised rate.

    Args:
        found: A result of the strategy `curve`.
        ax: Where to draw.

    Returns:
        The Axes.
    """
    assert found.found is not None
    curve, window, star = found.found.curve, found.found.window, found.eta_star
    rates = [at.lr for at in curve.band]
    low, high = [at.low for at in curve.band], [at.high for at in curve.band]
    if len(rates) > 1:
        ax.fill_between(rates, low, high, color="0.85", lw=0, label="95 % band")
    if all(r.code != "nowhere-half" for r in found.found.remarks):  # else p was not fitted
        ax.plot(rates, [at.p for at in curve.band], color="0.15", lw=1.4, label="p(η), fitted")
    for at in grouped(curve.points):
        ax.plot([at[0]] * 2, exact_interval(*at[1:]), color=COLOURS["trained"], lw=0.8)
        ax.scatter(at[0], at[1] / at[2], s=5 + 2 * at[2], color=COLOURS["trained"], zorder=3)
    _failures(curve.points, ax)
    if star.safe:  # as `Result.promise` has it
        end = window.high or star.safe
        begin = window.low or lowest_trained(curve.points, end)
        ax.axvspan(begin, end, color=SAFE, alpha=0.12, lw=0, label="window, p ≥ 0.95")
    if star.ci_low and star.ci_high:
        ax.plot([star.ci_low, star.ci_high], [0.5, 0.5], color="0.15", lw=4, alpha=0.6)
    if star.median:
        ax.axvline(star.median, color="0.15", lw=1, ls="--", label=f"η* = {star.median:.3g}")
    if star.safe:
        ax.axvline(star.safe, color=SAFE, lw=1.4, ls="-.", label=f"safe: {star.safe:.3g}")
    if found.recommended_lr:
        text = f"recommended: {found.recommended_lr:.3g}"
        ax.axvline(found.recommended_lr, color=ADVISED, lw=1.6, label=text)
    ax.set(ylim=(-0.15, 1.05), ylabel=f"{found.fresh} that train")
    return ax


def _failures(points: tuple[CurvePoint, ...], ax: Axes) -> None:
    """Mark every failed run below the curve, by its cause."""
    for row, (cause, (marker, colour)) in enumerate(CAUSES.items()):
        rates = [at.lr for at in points for _ in range(getattr(at, cause))]
        if rates:
            y = [-0.03 - 0.028 * row] * len(rates)
            ax.scatter(rates, y, s=12, marker=marker, c=colour, lw=0.8, label=cause, zorder=3)


def steps_figure(found: Result, ax: Axes) -> Axes:
    """Draw the steps to the threshold of every run that trained, and their median by rate.

    Args:
        found: A result of the strategy `curve`.
        ax: Where to draw.

    Returns:
        The Axes.
    """
    runs = [(t.lr, o.step) for t, o in found.trials.items() if o.kind == "trained"]
    if runs:
        rates, steps = np.array(runs).T
        ax.scatter(rates, steps, s=6, color=COLOURS["trained"], alpha=0.35, lw=0)
        bins = np.round(np.log(rates) / BIN).astype(int)
        middles = [(np.median(rates[bins == b]), np.median(steps[bins == b])) for b in set(bins)]
        ax.plot(*zip(*sorted(middles), strict=True), color="0.15", lw=1.2)
    if found.recommended_lr:
        ax.axvline(found.recommended_lr, color=ADVISED, lw=1.6)
    ax.set(ylabel="steps to train", ylim=(0, None))
    return ax


def lowest_trained(points: tuple[CurvePoint, ...], high: float) -> float:
    """Where the window is drawn from if its slow edge was not looked for.

    Args:
        points: The runs by rate.
        high: The window's upper end.

    Returns:
        The lowest rate from which on runs were seen to train, up to `high`.
    """
    below = [at for at in points if at.lr <= high]
    failures = np.array([[getattr(at, cause) for at in below] for cause in CAUSES])
    seen = lowest_seen(Counts(np.array([at.trained for at in below]), failures), len(below) - 1)
    return high if seen is None else below[seen].lr


def grouped(points: tuple[CurvePoint, ...]) -> list[tuple[float, int, int]]:
    """Put runs at neighbouring rates together.

    Args:
        points: The runs by rate.

    Returns:
        Geometric mean rate, runs that trained and all runs of every group, by rate.
    """
    groups: dict[int, list[CurvePoint]] = {}
    for at in points:
        groups.setdefault(round(math.log(at.lr) / BIN), []).append(at)
    found = []
    for some in groups.values():
        tried = sum(at.tried for at in some)
        middle = math.exp(sum(at.tried * math.log(at.lr) for at in some) / tried)
        found.append((middle, sum(at.trained for at in some), tried))
    return found
