"""How long a task will take: a model for order and time left, and a calibration for `--dry-run`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etastar.settings import Settings
from etastar.study.cell import SharpnessSettings
from etastar.study.measuring import load_data

if TYPE_CHECKING:
    from etastar.problem.trial import Recipe

# Measured on a two-core x86 machine. Only ratios between cells matter: times are corrected by what
# finished tasks took, or by `calibrate`.
LAYER_SECONDS = 4e-5
"""Per layer and step of one replica, apart from its products."""
PER_FLOP = 1 / 30e9
"""Seconds per floating-point operation of one core."""

BUDGETS_PER_SEED = 5.0
"""Steps that a search takes per seed, as multiples of the budget: 3.9 to 7.2 in eight cells on
digits and MNIST. Most of it goes to rates near the boundary, which use the budget up."""

PRODUCTS, PASSES_PER_PRODUCT = 15, 4
"""Hessian-vector products per λ1, and what each costs in forward passes, about."""
MATRICES = 3
"""Hessian, Gauss-Newton matrix, and the Hessian without the layers' rates."""

CALIBRATION_SECONDS = 1.0
"""Of training, for each of the cells that are tried."""


@dataclass(frozen=True)
class Sizes:
    """What a cost needs to know of a data set."""

    inputs: int
    classes: int
    samples: int

    @classmethod
    def of(cls, settings: Settings) -> tuple[Sizes, Recipe]:
        """Sizes and recipe of these settings; reads the data.

        Raises:
            ConfigError: The settings do not fit the data.
            DataError: The data cannot be read.
        """
        data = load_data(settings)
        return cls(data.inputs, data.classes, len(data.y_train)), settings.recipe(data)


def lr_seconds(settings: Settings, recipe: Recipe, sizes: Sizes, seeds: int) -> float:
    """Seconds of one core that the searches of so many seeds are expected to take."""
    steps = recipe.criterion.max_steps * BUDGETS_PER_SEED * seeds
    return steps * step_seconds(settings, recipe, sizes)


def step_seconds(settings: Settings, recipe: Recipe, sizes: Sizes) -> float:
    """Seconds of one core per step of one replica: per weight and sample three multiply-adds."""
    batch = sizes.samples if recipe.batch_size == "full" else recipe.batch_size
    weights = _weights(settings, sizes)
    return LAYER_SECONDS * (settings.depth + 1) + 6 * weights * batch * PER_FLOP


def sharpness_seconds(
    settings: Settings, wanted: SharpnessSettings, sizes: Sizes, seeds: int
) -> float:
    """The same for λ1."""
    passes = MATRICES * PRODUCTS * PASSES_PER_PRODUCT * seeds
    flops = 2 * _weights(settings, sizes) * min(wanted.samples, sizes.samples)
    return passes * (LAYER_SECONDS * (settings.depth + 1) + flops * PER_FLOP)


def _weights(settings: Settings, sizes: Sizes) -> int:
    return settings.network().parameter_count(sizes.inputs, sizes.classes)


def calibrate(cells: Sequence[tuple[Settings, Recipe, Sizes]]) -> Calibration:
    """Train the cheapest, the middle and the dearest of these for about a second each.

    Args:
        cells: Settings with the recipe and sizes that `Sizes.of` gave.

    Returns:
        How much longer than the model's a step takes, as a function of its cost.
    """
    by_cost = sorted(cells, key=lambda cell: step_seconds(*cell))
    picked = {i: by_cost[i] for i in (0, len(by_cost) // 2, len(by_cost) - 1)}
    ratios: dict[float, float] = {}
    for cell in picked.values():
        modelled = step_seconds(*cell)
        if modelled not in ratios:
            ratios[modelled] = _measured(*cell[:2]) / modelled
    return Calibration(ratios)


@dataclass(frozen=True)
class Calibration:
    """Measured ÷ modelled time per step, by modelled time."""

    ratios: Mapping[float, float]

    def factor(self, modelled: float) -> float:
        """Interpolated over the logarithm of the modelled time, constant beyond its ends."""
        import numpy as np

        known = sorted(self.ratios.items())
        x, y = zip(*((math.log(a), math.log(b)) for a, b in known), strict=True)
        return float(np.exp(np.interp(math.log(modelled), x, y)))


def _measured(settings: Settings, recipe: Recipe) -> float:
    """Seconds per step of one replica, times threads, of real training below any boundary.

    From two runs of different length: what a run costs beside its steps (memory, the evaluation and
    the look for dead layers at its end) is in both.
    """
    from etastar.api import network_problem
    from etastar.engines import StackEngine, train_all
    from etastar.problem.trial import Trial

    problem = network_problem(settings.network(), load_data(settings), settings)
    most = recipe.criterion.max_steps

    def run(steps: int) -> tuple[float, int, int]:
        """Seconds, replicas and threads of a run."""
        limits = {
            "max_steps": steps,
            "eval_every": min(recipe.criterion.eval_every, steps),
            "threshold": 1.0,
        }
        criterion = recipe.criterion.model_copy(update=limits)
        known = recipe.model_copy(update={"criterion": criterion})
        engine = StackEngine(settings.threads)
        threads = engine.plan(problem).threads
        trials = [Trial.of(seed, settings.start_lr) for seed in range(max(2, threads))]
        started = time.perf_counter()
        train_all(engine, replace(problem, recipe=known), trials)
        return time.perf_counter() - started, len(trials), threads

    few = min(5, most)
    run(few)  # what only the first run pays
    least, replicas, threads = run(few)
    if most == few:
        return least * threads / (few * replicas)
    more = min(2 * few, most)
    while True:
        taken = run(more)[0] - least
        if taken > CALIBRATION_SECONDS / 2 or more == most:
            return max(taken, 1e-6) * threads / ((more - few) * replicas)
        longer = (more - few) * CALIBRATION_SECONDS / max(taken, 1e-3)
        more = min(few + max(int(longer), 2 * (more - few)), most)
