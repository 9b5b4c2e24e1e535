"""The pictures of docs/index.md and docs/concepts.md, and numbers of docs/which-learning-rate.md.

`python docs/site/make_images.py` makes all, on `digits`: ten minutes on two busy cores. With the
argument `pictures` it makes docs/images/concepts-*.png alone, with `numbers` a table is printed,
with `story` docs/images/story-*.png are made by the code of docs/index.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import binomtest

import etastar
from etastar.engines import StackEngine, train_all
from etastar.engines.reference import accuracy_of, train_one
from etastar.problem.problem import Problem, of_network
from etastar.problem.trial import Trial
from etastar.report.style import COLOURS, MARKERS, STYLE
from etastar.search import Lattice
from etastar.settings import Settings

IMAGES = Path(__file__).parents[1] / "images"
NETWORK = etastar.MLP(width=64, depth=4)
DATA = etastar.load("digits")
MAP_SEEDS = 12
FRESH = range(1000, 1100)
"""Seeds that no search of this script has seen."""


def problem(**options: Any) -> Problem:
    """The problem of the network on the data, with these options."""
    return of_network(NETWORK, DATA, Settings.checked(dataset="digits", **options).recipe(DATA))


def pictures() -> None:
    """Accuracy along single trials; and the outcome of every rate beside what a search tried."""
    found = etastar.measure(NETWORK, DATA, seeds=MAP_SEEDS)
    print(found.eta_star, found.cost)
    with plt.rc_context(STYLE):
        _trials(found)
        _map(found)


class Course:
    """The loss of every batch of a trial, and the validation accuracy after every fourth."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.evaluated: list[int] = []
        self.reached: list[float] = []

    def note(self, step: int, loss: float, module: torch.nn.Module) -> None:
        """Called by the trainer at every step."""
        self.steps.append(step)
        self.losses.append(loss)
        if step % 4 == 0:
            self.evaluated.append(step)
            self.reached.append(accuracy_of(module, DATA.x_val, DATA.y_val))


def _trials(found: etastar.Result) -> None:
    seed = next(s for s, r in found.seeds.items() if r.hi_outcome == "diverged")
    bracket = found.seeds[seed]
    assert bracket.lo is not None
    assert bracket.hi is not None
    rates = [
        (0.003, "far below η*"),
        (bracket.lo / 4, "η*/4"),
        (bracket.lo, "lo of the bracket"),
        (bracket.hi, "hi of the bracket"),
        (3 * bracket.hi, "3 η*"),
    ]
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.0), layout="constrained")
    how = problem().recipe
    assert how is not None
    for place, (rate, name) in enumerate(rates):
        seen = Course()
        outcome = train_one(NETWORK, DATA, how, Trial.of(seed, rate), on_step=seen.note)
        print(f"seed {seed}, η = {rate:.4g} ({name}): {outcome}")
        colour = plt.get_cmap("viridis")(place / 5)
        label = f"η = {rate:.3g}, {name}: {outcome.kind}, step {outcome.step}"
        marker, fate = MARKERS[outcome.kind], COLOURS[outcome.kind]
        losses = np.clip(seen.losses, 1e-2, 1e3)
        left.plot(seen.steps, losses, color=colour, lw=1.1)
        right.plot(seen.evaluated, seen.reached, color=colour, lw=1.3, label=label)
        left.plot(seen.steps[-1:], losses[-1:], marker, color=fate)
        right.plot(seen.evaluated[-1:], seen.reached[-1:], marker, color=fate)
    right.axhline(how.criterion.threshold, color="#6b7280", lw=0.8, ls="--")
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="loss of the batch")
    right.set(xscale="log", xlabel="step", ylabel="validation accuracy", ylim=(0, 1))
    fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    fig.savefig(IMAGES / "concepts-trials.png", dpi=150)


def _map(found: etastar.Result) -> None:
    """All rates of the lattice between a third of η* and four times η*."""
    lattice = Lattice(found.search["start_lr"], found.search["end_lr"], found.search["resolution"])
    middle = found.eta_star.median
    assert middle is not None
    every = [lattice.rate(i) for i in range(lattice.cells + 1)]
    rates = [rate for rate in every if middle / 2.5 < rate < 3 * middle]
    trials = [Trial.of(seed, rate) for seed in range(MAP_SEEDS) for rate in rates]
    outcomes = train_all(StackEngine(), problem(), trials)
    fig, (top, bottom) = plt.subplots(
        2, 1, figsize=(7.6, 5.2), sharex=True, layout="constrained", height_ratios=[1, 2]
    )
    others = FRESH[:60]
    fresh = train_all(StackEngine(), problem(), [Trial.of(s, r) for s in others for r in rates])
    good = [sum(fresh[Trial.of(s, r)].kind == "trained" for s in others) for r in rates]
    known = [binomtest(count, len(others)).proportion_ci() for count in good]
    low, high = [e.low for e in known], [e.high for e in known]
    top.fill_between(rates, low, high, color="#0072B2", alpha=0.2, lw=0)
    top.plot(rates, np.divide(good, len(others)), "o-", ms=3, color=COLOURS["trained"], lw=1)
    top.set(ylabel="p(η): share of 60\nother seeds that train", ylim=(-0.03, 1.03))
    for kind, marker in MARKERS.items():
        chosen = [t for t in trials if outcomes[t].kind == kind]
        if chosen:
            bottom.scatter(
                [t.lr for t in chosen], [t.seed for t in chosen],
                marker=marker, s=13, color=COLOURS[kind], label=kind, linewidths=0.9,
            )  # fmt: skip
    for seed, result in found.seeds.items():
        if result.lo and result.hi:
            bar = {"color": "#9ca3af", "lw": 9, "alpha": 0.55, "zorder": 0}
            label = "bracket" if seed == 0 else None
            ends = [result.lo, result.hi]
            bottom.plot(ends, [seed, seed], label=label, solid_capstyle="butt", **bar)
    for axes in (top, bottom):
        axes.axvline(middle, color=COLOURS["trained"], lw=1, label=f"η* = {middle:.3g}")
    bottom.set(xscale="log", xlabel="learning rate η", ylabel="seed", yticks=range(MAP_SEEDS))
    bottom.invert_yaxis()
    ticks = [t for t in (0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3) if rates[0] <= t <= rates[-1]]
    bottom.set_xticks(ticks, [f"{t:g}" for t in ticks])
    bottom.xaxis.minorticks_off()
    fig.legend(*bottom.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    fig.savefig(IMAGES / "concepts-map.png", dpi=150)
    print("re-entries:", {s: r.re_entries for s, r in found.seeds.items() if r.re_entries})


def numbers() -> None:
    """What fresh seeds do at and around the rates that a measurement gives."""
    names = ("recommended", "safe", "η* ÷ 2", "η*", "1.2 η*", "1.5 η*")
    print("| training | η* | safe | recommended | set by | " + " | ".join(names) + " |")
    for name, options in (
        ("SGD", {}),
        ("SGD, half the budget", {"epochs": 20.0}),
        ("SGD, twice the budget", {"epochs": 80.0}),
        ("SGD, `hold`", {"criterion": "hold"}),
        ("momentum 0.9", {"momentum": 0.9}),
    ):
        found = etastar.measure(NETWORK, DATA, **options)
        middle, safe, advised = found.lr, found.safe_lr, found.recommended_lr
        assert middle is not None
        rates = [advised, safe, middle / 2, middle, 1.2 * middle, 1.5 * middle]
        known = dict.fromkeys(rate for rate in rates if rate is not None)
        trials = [Trial.of(seed, rate) for seed in FRESH for rate in known]
        outcomes = train_all(StackEngine(), problem(**options), trials)
        shares = [
            f"{sum(outcomes[Trial.of(s, r)].kind == 'trained' for s in FRESH)} %" if r else "–"
            for r in rates
        ]
        told = [f"{rate:.3g}" if rate else "–" for rate in (middle, safe, advised)]
        print(f"| {name} | " + " | ".join([*told, str(found.set_by), *shares]) + " |", flush=True)


def story() -> None:
    """Run the code of docs/index.md, and draw its runs and its result."""
    page = (IMAGES.parent / "index.md").read_text(encoding="utf-8")
    told: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(code, told)
    recommended, epochs = told["result"].recommended_lr, range(1, 5)
    rates = {
        "η = 0.001: too slow": (1e-3, COLOURS["short"]),
        f"η = {recommended:.3g}, recommended": (recommended, COLOURS["trained"]),
        "η = 0.1: fails": (1e-1, COLOURS["diverged"]),
    }
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
        for name, (rate, colour) in rates.items():
            for seed in range(5):
                label = name if seed == 0 else None
                axes.plot(epochs, told["train"](seed, rate), color=colour, lw=1.3, label=label)
        axes.axhline(0.9, color="#6b7280", lw=0.8, ls="--", label="threshold")
        axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1), xticks=epochs)
        fig.legend(loc="outside right center")
        fig.savefig(IMAGES / "story-runs.png", dpi=150)
        figure = told["result"].plot().figure
        figure.savefig(IMAGES / "story-p.png", dpi=150)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["pictures", "numbers", "story"]
    if "pictures" in wanted:
        pictures()
    if "numbers" in wanted:
        numbers()
    if "story" in wanted:
        story()
