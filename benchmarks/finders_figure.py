"""The figure of `finders.py`: one sweep beside η*, and every rate relative to η*."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from finders_tables import FINDERS, reference, runs, share
from matplotlib import pyplot as plt

from etastar.report.style import COLOURS, INK, MARKERS, MUTED, SERIES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("digits", "CNN", "SGD")
ROWS = (
    ("pytorch-lr-finder", "suggestion", "pytorch-lr-finder: suggestion"),
    ("pytorch-lr-finder", "divergence ÷ 10", "divergence ÷ 10"),
    ("pytorch-lr-finder", "divergence", "divergence"),
    ("Lightning", "suggestion", "Lightning: suggestion"),
    ("Lightning, per step", "suggestion", "steepest per step"),
    ("Lightning", "divergence ÷ 10", "divergence ÷ 10"),
    ("Lightning", "divergence", "divergence"),
    ("etastar", "η* ÷ 2", "etastar: η* ÷ 2"),
    ("etastar", "safe", "safe_lr"),
    ("etastar", "lo", "lower end of bracket"),
    ("etastar", "hi", "upper end of bracket"),
)
COLUMNS = (1.07, 1.23)
"""Where the shares that train stand, right of the axes."""
LOWEST = 0.01
"""Rates further below η* are drawn at the edge, as arrows."""


def draw(record: dict[str, Any], path: str) -> None:
    """Write the figure; the kind of file follows from its name."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 2, figsize=(8.2, 4.4), width_ratios=(2, 3), layout="constrained"
        )
        figure.get_layout_engine().set(wspace=0.06)
        cell = next(
            (c for c in record["cells"] if (c["dataset"], c["model"], c["optimizer"]) == SHOWN),
            record["cells"][0],
        )
        one_sweep(axes[0], cell)
        all_rates(axes[1], record)
        figure.savefig(path, metadata={"Software": None} if path.endswith(".png") else None)
        plt.close(figure)


def one_sweep(ax: Axes, cell: dict[str, Any]) -> None:
    """The smoothed loss of both sweeps of the first seed, and η* of that seed."""
    bracket = cell["eta_star"]["seeds"][0]
    if bracket["lo"] and bracket["hi"]:
        ax.axvspan(bracket["lo"], bracket["hi"], color=SERIES[2], alpha=0.9, lw=0)
        ax.annotate(
            "η*",
            ((bracket["lo"] * bracket["hi"]) ** 0.5, 1.0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=SERIES[2],
        )
    for finder, colour in zip(FINDERS, (SERIES[0], SERIES[3]), strict=True):
        sweep = cell["sweeps"][finder]["default"][0]
        curve = [(lr, loss) for lr, loss in sweep["curve"] if loss < 12]
        ax.plot(*zip(*curve, strict=True), color=colour, lw=1.4, label=finder)
        losses = dict(curve)
        for key, marker in (("suggestion", "o"), ("divergence", "s")):
            if sweep[key]:
                lr = min(losses, key=lambda rate, at=sweep[key]: abs(rate - at))
                ax.plot(lr, losses[lr], marker, color=colour, ms=6, mec="white", zorder=4)
    ax.plot([], [], "o", color=MUTED, ms=6, mec="white", label="suggested")
    ax.plot([], [], "s", color=MUTED, ms=6, mec="white", label="divergence seen")
    ax.set(xscale="log", xlabel="learning rate, rising every step", ylabel="smoothed loss")
    ax.set_title(
        f"a   One sweep: {cell['model']}, {cell['dataset']}, {cell['optimizer']}",
        loc="left",
        fontsize=9,
        pad=16,
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, handlelength=1.4)


def all_rates(ax: Axes, record: dict[str, Any]) -> None:
    """Each rate that was trained at, over the η* of its seed, marked by what became of it."""
    jitter = random.Random(0)
    for row, (source, name, _) in enumerate(ROWS):
        found = runs(record, source, name, False)
        for cell, run in found:
            if star := reference(cell, run):
                draw_run(ax, run["lr"] / star, row + jitter.uniform(-0.26, 0.26), run["outcome"])
        for place, some in zip(COLUMNS, (found, runs(record, source, name, True)), strict=True):
            ax.text(
                place,
                row,
                share(some),
                transform=ax.get_yaxis_transform(),
                va="center",
                ha="center",
                color=INK,
                fontsize=8,
            )
    for row in range(1, len(ROWS)):
        next_tool = ":" in ROWS[row][2]
        ax.axhline(row - 0.5, color="0.55" if next_tool else "0.9", lw=0.7, zorder=0)
    ax.axvline(1, color=SERIES[2], lw=1.2, zorder=1)
    ax.annotate(
        "η*",
        (1, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color=SERIES[2],
    )
    for place, text in zip(COLUMNS, ("same\nseed", "new\nseed"), strict=True):
        ax.text(
            place,
            1.01,
            text,
            transform=ax.transAxes,
            ha="center",
            va="bottom",
            color=INK,
            fontsize=8,
        )
    ax.set(xscale="log", xlabel="learning rate ÷ η* of the same seed", xlim=(LOWEST * 0.6, 200))
    ax.set_yticks(range(len(ROWS)), [label for *_, label in ROWS])
    ax.set_ylim(len(ROWS) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_title("b   Whether it trains", loc="left", fontsize=9, pad=16)
    for outcome in ("trained", "short", "diverged"):
        look = {"color": COLOURS[outcome], "marker": MARKERS[outcome], "ls": "", "ms": 4}
        ax.plot([], [], label=outcome, **look)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=3, handletextpad=0.2)


def draw_run(ax: Axes, ratio: float, height: float, outcome: str) -> None:
    """One run; far below η* at the edge, as an arrow."""
    below = ratio < LOWEST
    ax.scatter(
        max(ratio, LOWEST * 0.8),
        height,
        s=11,
        marker="<" if below else MARKERS[outcome],
        color=COLOURS[outcome],
        linewidths=0.8,
        alpha=0.75,
        zorder=3,
    )
