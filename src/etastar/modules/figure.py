"""Pictures: what became of every trial, and a warm-up below the η* that allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from etastar.modules.result import MaximalLR
    from etastar.modules.warm_up_result import Warmup

# Okabe & Ito (2008): distinguishable with any colour vision; the markers do without colour.
MARKS = {"trained": ("o", "#0072B2"), "short": ("v", "#E69F00"), "diverged": ("x", "#D55E00")}


def trials_figure(found: MaximalLR, ax: Axes | None = None) -> Axes:
    """Rate against seed, marked by outcome, with the bracket of each seed and η*.

    Args:
        found: A result.
        ax: Where to draw; a new figure if None.

    Returns:
        The Axes.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(6.0, 1.6 + 0.3 * len(found.seeds)), layout="constrained")
    place = {seed: row for row, seed in enumerate(found.seeds)}
    shown = [t for t in found.history if t.initialisation in (None, t.order) and t.order in place]
    for kind, (marker, colour) in MARKS.items():
        points = [(t.lr, place[t.order]) for t in shown if t.outcome == kind]
        if points:
            rates, rows = zip(*points, strict=True)
            ax.scatter(rates, rows, s=22, marker=marker, color=colour, label=kind, zorder=3)
    for seed, result in found.seeds.items():
        if result.lo is not None and result.hi is not None:
            ax.plot([result.lo, result.hi], [place[seed]] * 2, color="0.4", lw=5, alpha=0.5)
    if found.lr is not None:
        ax.axvline(found.lr, color="0.2", lw=1, label=f"η* = {found.lr:.3g}")
    if found.safe_lr is not None:
        ax.axvline(found.safe_lr, color="0.2", lw=1, ls=":", label=f"safe {found.safe_lr:.3g}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="seed", yticks=list(place.values()))
    ax.set_yticklabels([str(seed) for seed in place])
    ax.margins(y=0.25)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


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
