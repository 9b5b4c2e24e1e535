"""Figures for papers: matplotlib, one function each; every function takes and returns Axes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etastar.report.curve_figure import SAFE, curve_figure, steps_figure
from etastar.report.draw_matplotlib import decimal_ticks
from etastar.report.style import COLOURS, MARKERS, STYLE
from etastar.search.estimate import SuccessAt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from etastar.result import Result
    from etastar.schedule import Warmup


def success_figure(found: Result, ax: Axes | None = None) -> Axes:
    """p(η): the fraction of seeds that train at each rate, and what became of the others.

    Dots are fractions with exact binomial intervals; hollow where some seeds were not tried at that
    rate and their bracket was taken instead. The shading splits failures by cause among the seeds
    that were tried.

    Args:
        found: A measurement.
        ax: Where to draw; a new figure if None.

    Returns:
        The Axes.
    """
    ax = ax or _new_axes()
    if found.found:
        curve_figure(found, ax)
        _rate_axis(found, ax)
        ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return ax
    points: list[SuccessAt] = [p for p in found.success if isinstance(p, SuccessAt)]
    rates, p = [point.lr for point in points], np.array([point.p for point in points])
    failed = [max(1, point.short + point.dead + point.diverged) for point in points]
    bottom = p
    for cause in ("short", "dead", "diverged"):
        top = bottom + (1 - p) * [getattr(point, cause) for point in points] / failed
        if (top > bottom).any():
            ax.fill_between(rates, bottom, top, color=COLOURS[cause], alpha=0.25, lw=0, label=cause)
        bottom = top
    ax.vlines(rates, [q.ci_low for q in points], [q.ci_high for q in points], color="0.6", lw=0.8)
    blue = COLOURS["trained"]
    ax.plot(rates, p, color=blue, lw=1.2, zorder=3)
    seen = [point.inferred_trained + point.inferred_failed == 0 for point in points]
    faces = {True: (blue, "trained"), False: ("white", "trained, some seeds inferred")}
    look: dict[str, Any] = {"s": 14, "edgecolors": blue, "lw": 0.8, "zorder": 4}
    ax.scatter(rates, p, c=[faces[every][0] for every in seen], **look)
    for every, (face, text) in faces.items():
        if every in seen:
            ax.scatter([], [], c=face, label=text, **look)
    _mark_eta_star(found, ax)
    ax.set(ylim=(-0.03, 1.03), ylabel="fraction of seeds that train")
    _rate_axis(found, ax)
    return ax


def trials_figure(found: Result, ax: Axes | None = None) -> Axes:
    """Every trial: learning rate against seed, marked by outcome, with the bracket of each seed.

    Args:
        found: A measurement.
        ax: Where to draw; a new figure if None.

    Returns:
        The Axes.
    """
    ax = ax or _new_axes()
    for kind, colour in COLOURS.items():
        at = [(t.lr, t.seed) for t, outcome in found.own_trials.items() if outcome.kind == kind]
        if at:
            rates, seeds = np.transpose(at)
            look: dict[str, Any] = {"marker": MARKERS[kind], "s": 16, "lw": 0.9, "zorder": 3}
            ax.scatter(rates, seeds, c=colour, label=kind, **look)
    for seed, result in found.seeds.items():
        if result.lo and result.hi:
            ax.plot([result.lo, result.hi], [seed, seed], color="0.75", lw=7, solid_capstyle="butt")
    _mark_eta_star(found, ax)
    own = list(found.seeds)
    ax.set(ylim=(own[-1] + 0.7, own[0] - 0.7), ylabel="seed")
    if len(own) <= 20:
        ax.set_yticks(own)
    _rate_axis(found, ax)
    return ax


def save_measurement(found: Result, path: str | Path) -> None:
    """Write both panels, p(η) above the trials, to a PNG, SVG or PDF file.

    Args:
        found: A measurement.
        path: The file; its suffix decides the format.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = bool(found.found)
    rows = 1.4 if curve else min(3.2, 0.9 + 0.17 * len(found.seeds))
    with rc_context(STYLE):
        figure = Figure(figsize=(6.3, 2.9 + rows), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.3, rows])
        if curve:
            curve_figure(found, upper)
            steps_figure(found, lower)
        else:
            success_figure(found, upper)
            trials_figure(found, lower)
            upper.set(xlabel="", xlim=_interesting_range(found))
        _rate_axis(found, lower)
        upper.set_title(found.heading, loc="left", fontsize=8)
        listed: dict[str, Any] = {}
        for ax in (upper, lower):
            marks, names = ax.get_legend_handles_labels()
            listed |= dict(zip(names, marks, strict=True))
        marks, names = list(listed.values()), list(listed)
        figure.legend(marks, names, loc="outside lower center", ncols=4, fontsize=7)
        svg = Path(path).suffix.lower() == ".svg"
        figure.savefig(path, metadata={"Date": None} if svg else None)


def warmup_figure(found: Warmup, ax: Axes | None = None) -> Axes:
    """η* against the step of training, one line per seed, and the rates of the warm-up.

    Args:
        found: A warm-up.
        ax: Where to draw; a new figure if None.

    Returns:
        The Axes.
    """
    ax = ax or _new_axes()
    for seed in found.ladder[0].seeds:
        points = [(rung.step, rung.seeds[seed].lo) for rung in found.ladder]
        known = [(step, lo) for step, lo in points if lo is not None]
        if known:
            ax.plot(*zip(*known, strict=True), "o-", ms=4, lw=1, label=f"η*, seed {seed}")
    ax.axhline(found.target_lr, color="0.5", lw=1, ls=":", label="target")
    if found.total is not None:
        steps = range(max(found.ladder[-1].step, found.total) + 2)
        ax.step(steps, [found.lr_at(s) for s in steps], color="0.2", where="post", label="warm-up")
    last = max(2, found.ladder[-1].step, (found.total or 0) + 1)
    ax.set(xscale="symlog", yscale="log", xlabel="step", ylabel="learning rate", xlim=(-0.2, last))
    ax.set_title(f"warm-up to {found.target_lr:g}: {found.status}", loc="left", fontsize=8)
    ax.legend(frameon=False, fontsize=8)
    return ax


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.3, 3.2), layout="constrained")[1]


def _rate_axis(found: Result, ax: Axes) -> None:
    """Make the axis of rates, over the range searched where no whole run was made."""
    if not found.success:
        ax.set_xlim(found.search["start_lr"], found.search["end_lr"])
    ax.set(xscale="log", xlabel="learning rate η")
    low, high = ax.get_xlim()
    decimal_ticks(ax.xaxis, math.log10(high / low))


def _mark_eta_star(found: Result, ax: Axes) -> None:
    star, text = found.eta_star, ""
    if found.interval:
        text = f" [{star.ci_low:.3g}, {star.ci_high:.3g}]"
        across = ax.get_xaxis_transform()
        ax.plot(found.interval, [0.985, 0.985], transform=across, color=COLOURS["trained"], lw=3)
    if star.median is not None:
        text = f"η* = {star.median:.3g}{text}"
        ax.axvline(star.median, color=COLOURS["trained"], lw=1, zorder=1, label=text)
    if found.safe_lr is not None:
        text = f"safe = {found.safe_lr:.3g}"
        ax.axvline(found.safe_lr, color=SAFE, lw=1, ls="--", zorder=1, label=text)


def _interesting_range(found: Result) -> tuple[float, float]:
    """Rates from somewhat below the lowest trained trial to well above the highest bracket."""
    rates = sorted({trial.lr for trial in found.trials})
    tops = [result.hi for result in found.seeds.values() if result.hi]
    high = min(rates[-1], 4 * max(tops)) if tops else rates[-1]
    return rates[0] / 1.3, max(high, rates[0]) * math.sqrt(1.3)
