"""Figures for papers: matplotlib, one function each; every function takes and returns Axes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from etastar.report.curve_figure import curve_figure, steps_figure
from etastar.report.style import COLOURS, MARKERS, STYLE
from etastar.search.estimate import SuccessAt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        _rate_axis(ax)
        ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return ax
    points: list[SuccessAt] = [p for p in found.success if isinstance(p, SuccessAt)]
    rates = [point.lr for point in points]
    p = [point.p for point in points]
    bottom = p
    for cause in ("short", "dead", "diverged"):
        shares = []
        for point in points:
            failed = point.short + point.dead + point.diverged
            shares.append((1 - point.p) * getattr(point, cause) / failed if failed else 0.0)
        if any(shares):
            top = [low + share for low, share in zip(bottom, shares, strict=True)]
            ax.fill_between(rates, bottom, top, color=COLOURS[cause], alpha=0.25, lw=0, label=cause)
            bottom = top
    for point in points:
        ax.plot([point.lr] * 2, [point.ci_low, point.ci_high], color="0.6", lw=0.8, zorder=2)
    seen = [point.inferred_trained + point.inferred_failed == 0 for point in points]
    ax.plot(rates, p, color=COLOURS["trained"], lw=1.2, zorder=3)
    faces = [COLOURS["trained"] if every else "white" for every in seen]
    ax.scatter(rates, p, s=14, c=faces, edgecolors=COLOURS["trained"], lw=0.8, zorder=4)
    for every, text in ((True, "trained"), (False, "trained, some seeds inferred")):
        if every in seen:
            face = COLOURS["trained"] if every else "white"
            ax.scatter([], [], s=14, c=face, edgecolors=COLOURS["trained"], lw=0.8, label=text)
    _mark_eta_star(found, ax)
    ax.set(ylim=(-0.03, 1.03), ylabel="fraction of seeds that train")
    _rate_axis(ax)
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
        chosen = [trial for trial, outcome in found.own_trials.items() if outcome.kind == kind]
        if chosen:
            ax.scatter(
                [trial.lr for trial in chosen],
                [trial.seed for trial in chosen],
                marker=MARKERS[kind],
                s=16,
                c=colour,
                lw=0.9,
                zorder=3,
                label=kind,
            )
    for seed, result in found.seeds.items():
        if result.lo and result.hi:
            ax.plot([result.lo, result.hi], [seed, seed], color="0.75", lw=7, solid_capstyle="butt")
    _mark_eta_star(found, ax)
    seeds = list(found.seeds)
    ax.set(ylim=(seeds[-1] + 0.7, seeds[0] - 0.7), ylabel="seed")
    if len(seeds) <= 20:
        ax.set_yticks(seeds)
    _rate_axis(ax)
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

    with rc_context(STYLE):
        if found.found:
            figure = Figure(figsize=(6.3, 4.6), layout="constrained")
            FigureCanvasAgg(figure)
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1.0])
            curve_figure(found, upper)
            steps_figure(found, lower)
            _rate_axis(lower)
            upper.set_title(found.heading, loc="left", fontsize=8)
            handles, labels = upper.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
            _save(figure, path)
            return
        rows = min(3.2, 0.9 + 0.17 * len(found.seeds))
        figure = Figure(figsize=(6.3, 2.9 + rows), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.3, rows])
        success_figure(found, upper)
        trials_figure(found, lower)
        upper.set_xlabel("")
        upper.set_xlim(*_interesting_range(found))
        upper.set_title(found.heading, loc="left", fontsize=8)
        handles, labels = lower.get_legend_handles_labels()
        marks, names = upper.get_legend_handles_labels()
        for mark, name in zip(marks, names, strict=True):
            if name not in labels:
                handles.append(mark)
                labels.append(name)
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    metadata = {"Date": None} if Path(path).suffix.lower() == ".svg" else None
    figure.savefig(path, metadata=metadata)


def warmup_figure(found: Warmup, ax: Axes | None = None) -> Axes:
    """η* against the step of training, one line per seed, and the rates of the warm-up.

    Args:
        found: A warm-up.
        ax: Where to draw; a new figure if None.

    Returns:
        The Axes.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    for seed in found.ladder[0].seeds:
        points = [(rung.step, rung.seeds[seed].lo) for rung in found.ladder]
        known = [(step, lo) for step, lo in points if lo is not None]
        if known:
            ax.plot(*zip(*known, strict=True), "o-", ms=4, lw=1, label=f"η*, seed {seed}")
    ax.axhline(found.target_lr, color="0.5", lw=1, ls=":", label="target")
    if found.total is not None:
        steps = range(max(found.ladder[-1].step, found.total) + 2)
        ax.step(steps, [found.lr_at(s) for s in steps], color="0.2", where="post", label="warm-up")
    ax.set(xscale="symlog", yscale="log", xlabel="step", ylabel="learning rate")
    ax.legend(frameon=False, fontsize=8)
    return ax


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.3, 3.2), layout="constrained")[1]


def _rate_axis(ax: Axes) -> None:
    """A logarithmic axis of learning rates, labelled 0.2, 0.5, 1 rather than in powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set(xscale="log", xlabel="learning rate η")
    ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _mark_eta_star(found: Result, ax: Axes) -> None:
    star, safe = found.eta_star, found.safe_lr
    text = ""
    if star.ci_low is not None and star.ci_high is not None:
        text = f" [{star.ci_low:.3g}, {star.ci_high:.3g}]"
        ends = (star.ci_low, star.ci_high)
        ax.plot(
            ends, [0.985, 0.985], transform=ax.get_xaxis_transform(), color=COLOURS["trained"], lw=3
        )
    if star.median is not None:
        text = f"η* = {star.median:.3g}{text}"
        ax.axvline(star.median, color=COLOURS["trained"], lw=1, zorder=1, label=text)
    if safe is not None:
        text = f"safe = {safe:.3g}"
        ax.axvline(safe, color="#009E73", lw=1, ls="--", zorder=1, label=text)


def _interesting_range(found: Result) -> tuple[float, float]:
    """Rates from somewhat below the lowest trained trial to well above the highest bracket."""
    rates = sorted({trial.lr for trial in found.trials})
    tops = [result.hi for result in found.seeds.values() if result.hi]
    high = min(rates[-1], 4 * max(tops)) if tops else rates[-1]
    return rates[0] / 1.3, max(high, rates[0]) * math.sqrt(1.3)
