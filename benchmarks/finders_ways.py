"""The ways of `finders.py` to a learning rate: what each finds, at what cost, and how that trains.

A way maps a problem and an optimizer to a record: `cost`, the steps spent on finding; what was
found; and `runs`, one per fresh seed, trained through a whole budget at what was found. Seeds that
something was found with are below 1000; `FRESH` ones are not.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import matplotlib
import torch
from finders_tasks import EVALUATIONS, OPTIMIZERS, Problem, loaded, train
from torch import nn

import etastar

matplotlib.use("Agg")

FRESH = range(1000, 1020)
SWEEPS = 10
"""Sweeps of a finder; each rate is tried on two fresh seeds."""
GRID_SEEDS = range(3)
COARSE = {
    "SGD": range(-16, 5, 4),
    "momentum": range(-20, 1, 4),
    "Adam": range(-24, -3, 4),
    "AdamW": range(-24, -3, 4),
    "RMSprop": range(-28, -7, 4),
}
"""Where the best rate is looked for first; a place n of the grid is the rate 2^(n/2)."""
Record = dict[str, Any]


def at_rate(problem: Problem, optimizer: str, lr: float, seeds: range = FRESH) -> list[Record]:
    """Train each seed at one rate."""
    make = OPTIMIZERS[optimizer]
    return [train(problem, lambda model: make(model.parameters(), lr=lr), s) for s in seeds]


def best(problem: Problem, optimizer: str) -> Record:
    """Find the best rates of a grid with factor √2, and re-measure them on fresh seeds.

    One seed at powers of 4 tells where. Three seeds at every rate within a factor of 4 of the best
    of these then choose, and rates are added while a choice is the last one of the grid. There are
    two choices: the fewest mean steps to the threshold, and the best mean score at the end.
    """
    grid: dict[int, list[Record]] = {}  # by place

    def measured(place: int, seeds: range) -> None:
        grid[place] = at_rate(problem, optimizer, 2 ** (place / 2), seeds)

    coarse = COARSE[optimizer]
    for place in coarse:
        measured(place, range(1))
    middle = min(coarse, key=lambda place: (steps(problem, grid[place]), -end(grid[place])))
    low, high = middle - 4, middle + 4
    for place in range(low, high + 1):
        measured(place, GRID_SEEDS)
    while True:
        fine = range(low, high + 1)
        fastest = min(fine, key=lambda place: (steps(problem, grid[place]), -end(grid[place])))
        highest = max(fine, key=lambda place: end(grid[place]))
        chosen = {fastest, highest}
        if low not in chosen and high not in chosen:
            break
        low, high = low - (low in chosen), high + (high in chosen)
        for place in (low, high):
            if place not in fine:
                measured(place, GRID_SEEDS)
    runs = at_rate(problem, optimizer, 2 ** (fastest / 2))
    return {
        "lr": 2 ** (fastest / 2),
        "lr_end": 2 ** (highest / 2),
        "cost": problem.budget * (len(coarse) + len(GRID_SEEDS) * len(fine)),
        "grid": [[2 ** (p / 2), steps(problem, grid[p]), round(end(grid[p]), 5)] for p in fine],
        "runs": runs,
        "runs_end": runs if highest == fastest else at_rate(problem, optimizer, 2 ** (highest / 2)),
    }


def steps(problem: Problem, runs: list[Record]) -> float:
    """Mean steps to the threshold; a run that does not meet it counts as the whole budget."""
    return statistics.fmean(run["step"] or problem.budget for run in runs)


def end(runs: list[Record]) -> float:
    """Mean score at the end of the budget."""
    return statistics.fmean(run["end"] for run in runs)


def threshold(problem: Problem, optimizers: tuple[str, ...]) -> float:
    """Nine tenths of what the worst of these optimizers reaches in half of the budget.

    At its best rate among powers of 4, in the mean over three seeds; rounded down to hundredths.
    """
    half = replace(problem, budget=problem.budget // 2)
    found = [
        max(
            end(at_rate(half, optimizer, 2 ** (place / 2), GRID_SEEDS))
            for place in COARSE[optimizer]
        )
        for optimizer in optimizers
    ]
    return math.floor(90 * min(found)) / 100


def eta_star(problem: Problem, optimizer: str, **options: Any) -> etastar.Result:
    """`maximal_lr` as a user would call it, with every default that does not name the task."""
    data = loaded(problem.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", etastar.NotBracketedWarning)
        return etastar.maximal_lr(
            problem.build,
            data.train,
            data.val,
            loss_fn=problem.loss,
            optimizer=OPTIMIZERS[optimizer],
            metric=problem.score if problem.regression else "accuracy",
            threshold=problem.threshold,
            max_steps=problem.budget,
            batch_size=problem.batch,
            eval_every=problem.budget // EVALUATIONS,
            progress=False,
            **options,
        )


def recommended(problem: Problem, optimizer: str) -> Record:
    """The rate that `maximal_lr` recommends."""
    found = eta_star(problem, optimizer)
    told = {"eta_star": found.lr, "safe_lr": found.safe_lr, "trials": found.cost.trials}
    return told | used(problem, optimizer, found.recommended_lr, found)


def half_of_eta_star(problem: Problem, optimizer: str) -> Record:
    """Half of the median of three seeds' brackets, which 0.1.0 advised."""
    found = eta_star(problem, optimizer, strategy="section")
    return used(problem, optimizer, found.lr and found.lr / 2, found)


def used(problem: Problem, optimizer: str, lr: float | None, found: etastar.Result) -> Record:
    """Train at a rate of etastar's; none where it gave none."""
    runs = at_rate(problem, optimizer, lr) if lr else [nothing(seed) for seed in FRESH]
    return {"lr": lr, "cost": found.cost.steps, "engine": found.engine, "runs": runs}


def nothing(seed: int) -> Record:
    """Record a seed for which no rate was found."""
    return {"seed": seed, "step": None, "end": None, "diverged": False}


def swept(
    sweep: Callable[[Problem, str, int], tuple[float | None, int]], problem: Problem, optimizer: str
) -> Record:
    """Sweep ten times, and train two fresh seeds at each suggestion."""
    rates, cost, runs = [], 0, []
    for seed in range(SWEEPS):
        lr, taken = sweep(problem, optimizer, seed)
        rates.append(lr)
        cost += taken
        fresh = FRESH[2 * seed : 2 * seed + 2]
        runs += at_rate(problem, optimizer, lr, fresh) if lr else [nothing(s) for s in fresh]
    return {"lr": rates, "cost": cost / SWEEPS, "runs": runs}


def pytorch_lr_finder(problem: Problem, optimizer: str, seed: int) -> tuple[float | None, int]:
    """One range test from the 1e-7 of its README to its default end; what its plot suggests."""
    from matplotlib import pyplot
    from torch_lr_finder import LRFinder

    model = problem.build(seed)
    with quiet():
        given = OPTIMIZERS[optimizer](model.parameters(), lr=1e-7)
        finder = LRFinder(model, given, problem.loss, device="cpu")
        finder.range_test(problem.loader(seed))
        figure, ax = pyplot.subplots()
        try:
            lr = float(finder.plot(ax=ax)[1])
        except RuntimeError:  # it stopped before the 17 steps that a suggestion takes
            lr = None
        pyplot.close(figure)
    return lr, len(finder.history["lr"])


def lightning(problem: Problem, optimizer: str, seed: int) -> tuple[float | None, int]:
    """One `Tuner.lr_find` with its defaults, and its suggestion."""
    with quiet():
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.tuner import Tuner

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = problem.build(seed), 1e-3

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return problem.loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return OPTIMIZERS[optimizer](self.parameters(), lr=self.lr)

    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        found = Tuner(trainer).lr_find(Module(), problem.loader(seed))
        assert found is not None
        lr = found.suggestion()
    return lr if lr and math.isfinite(lr) else None, len(found.results["lr"])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, tips and warnings of the peers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.CRITICAL)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def fixed(
    make: Callable[..., torch.optim.Optimizer],
    problem: Problem,
    seeds: range = FRESH,
    **options: Any,
) -> Record:
    """Train with an optimizer that needs no finding."""

    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return make(model.parameters(), **options)

    return {"cost": 0, "runs": [train(problem, optimizer_of, seed) for seed in seeds]}


def prodigy(problem: Problem, seeds: range = FRESH) -> Record:
    """Prodigy with its defaults: the rate 1."""
    from prodigyopt import Prodigy

    return fixed(Prodigy, problem, seeds)


def schedule_free(problem: Problem, seeds: range = FRESH) -> Record:
    """AdamW without a schedule, with its defaults: the rate 0.0025."""
    from schedulefree import AdamWScheduleFree

    return fixed(AdamWScheduleFree, problem, seeds)


def patient(way: str, problem: Problem) -> Record:
    """Give a way that needs no finding four budgets, on five of the seeds: is it only slow?"""
    return OF_A_PROBLEM[way](replace(problem, budget=4 * problem.budget), FRESH[:5])


OF_A_TASK: dict[str, Callable[[Problem, str], Record]] = {
    "best": best,
    "etastar": recommended,
    "half of 0.1.0's η*": half_of_eta_star,
    "pytorch-lr-finder": functools.partial(swept, pytorch_lr_finder),
    "Lightning": functools.partial(swept, lightning),
}
"""Ways that keep the optimizer and find its rate."""
OF_A_PROBLEM: dict[str, Callable[..., Record]] = {
    "Prodigy": prodigy,
    "AdamW 1e-3": functools.partial(fixed, torch.optim.AdamW, lr=1e-3),
    "SGD 0.1": functools.partial(fixed, torch.optim.SGD, lr=0.1),
    "schedule-free": schedule_free,
    "Prodigy, 4 budgets": functools.partial(patient, "Prodigy"),
    "AdamW 1e-3, 4 budgets": functools.partial(patient, "AdamW 1e-3"),
}
"""Ways that bring their optimizer, whatever a task trains with: measured once per problem."""
ORDER = (
    "best",
    "etastar",
    "Prodigy",
    "half of 0.1.0's η*",
    "AdamW 1e-3",
    "SGD 0.1",
    "pytorch-lr-finder",
    "schedule-free",
    "Lightning",
    "Prodigy, 4 budgets",
    "AdamW 1e-3, 4 budgets",
)
"""The order in which they are measured, if time may not suffice."""
