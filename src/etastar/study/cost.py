"""The expected time of a task: a model for order and time left, a calibration for `--dry-run`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from etastar.problem.trial import Recipe, Trial
from etastar.settings import Settings
from etastar.study.cell import SharpnessSettings, Task
from etastar.study.factory import FactorySettings
from etastar.study.measuring import load_data

# Measured on a two-core x86 machine. Only ratios between cells matter: times are corrected by what
# finished tasks took, or by `calibrate`.
LAYER_SECONDS = 4e-5
"""Per layer and step of one replica, apart from its products."""
PER_FLOP = 1 / 30e9
"""Seconds per floating-point operation of one core."""

BUDGETS_PER_SEED = 5.0
"""Steps that a search takes per seed, as multiples of the budget: 3.9 to 7.2 in eight cells on
digits and MNIST. Most of it goes to rates near the boundary, which use the budget up."""

BUDGETS_PER_CURVE = 60.0
"""Likewise of a success curve with its confirmation, at the default precision."""

PRODUCTS, PASSES_PER_PRODUCT = 15, 4
"""Hessian-vector products per λ1, and what each costs in forward passes, about."""
MATRICES = 3
"""Hessian, Gauss-Newton matrix, and the Hessian without the layers' rates."""

CALIBRATION_SECONDS = 1.0
"""Seconds of training, for each of the cells that are tried."""


@dataclass(frozen=True)
class Cost:
    """The expected time of a cell, in seconds of one core.

    Attributes:
        settings: The cell's settings.
        recipe: The settings with the defaults of the data filled in.
        weights: Parameters of the network.
        samples: Training samples.
    """

    settings: Settings
    recipe: Recipe
    weights: int
    samples: int

    @classmethod
    def of(cls, settings: Settings) -> Cost:
        """The cost of these settings; reads the data.

        Raises:
            ConfigError: The settings do not fit the data.
            DataError: The data cannot be read.
        """
        if isinstance(settings, FactorySettings):
            problem = settings.problem()
            weights = sum(p.numel() for p in problem.origin.copy(0).parameters())
            samples = getattr(problem.train, "samples", 0)
            return cls(settings, settings.recipe_of(problem), weights, samples)
        data = load_data(settings)
        weights = settings.network().parameter_count(data.inputs, data.classes)
        return cls(settings, settings.recipe(data), weights, len(data.y_train))

    @property
    def step(self) -> float:
        """Time of a step of one replica: per weight and sample three multiply-adds."""
        batch = self.samples if self.recipe.batch_size == "full" else self.recipe.batch_size
        return LAYER_SECONDS * (self.settings.depth + 1) + 6 * self.weights * batch * PER_FLOP

    def of_task(self, task: Task) -> float:
        """Time of a task of the cell."""
        count = len(task.seeds)
        return self.sharpness(task.sharpness, count) if task.sharpness else self.lr(count)

    def lr(self, seeds: int) -> float:
        """Time of the searches of so many seeds, or of the curve."""
        budgets = BUDGETS_PER_CURVE if self.settings.strategy == "curve" else BUDGETS_PER_SEED
        return self.recipe.criterion.max_steps * budgets * seeds * self.step

    def sharpness(self, wanted: SharpnessSettings, seeds: int) -> float:
        """Time of λ1 of so many seeds."""
        passes = MATRICES * PRODUCTS * PASSES_PER_PRODUCT * seeds
        flops = 2 * self.weights * min(wanted.samples, self.samples)
        return passes * (LAYER_SECONDS * (self.settings.depth + 1) + flops * PER_FLOP)


def calibrate(costs: Iterable[Cost]) -> Callable[[float], float]:
    """Train the cheapest, the middle and the dearest of these for about a second each.

    Returns:
        How much longer than expected a step takes, as a function of what is expected.
    """
    by_cost = sorted(costs, key=lambda cost: cost.step)
    picked = (by_cost[0], by_cost[len(by_cost) // 2], by_cost[-1])
    unlike = {cost.step: cost for cost in picked}
    return interpolated(
        {step: _measured(cost.settings, cost.recipe) / step for step, cost in unlike.items()}
    )


def interpolated(ratios: Mapping[float, float]) -> Callable[[float], float]:
    """Measured ÷ expected time by expected time, over its logarithm; constant beyond its ends."""
    known, found = np.log(np.array(sorted(ratios.items())).T)
    return lambda expected: float(np.exp(np.interp(math.log(expected), known, found)))


def _measured(settings: Settings, recipe: Recipe) -> float:
    """Seconds per step of one replica, times threads, of real training below any boundary.

    From two runs of different length: what a run costs beside its steps (memory, the evaluation and
    the look for dead layers at its end) is in both.
    """
    from etastar.api import network_problem
    from etastar.engines import StackEngine, choose, train_all

    if isinstance(settings, FactorySettings):
        problem = settings.problem()
    else:
        problem = network_problem(settings.network(), load_data(settings), settings)
    most = recipe.criterion.max_steps

    engine = choose(problem, "auto", settings.threads)[0]
    threads = engine.plan(problem).threads if isinstance(engine, StackEngine) else 1
    trials = [Trial.of(seed, settings.start_lr) for seed in range(max(2, threads))]
    never, often = replace(problem.objective, threshold=1.0), recipe.criterion.eval_every

    def run(steps: int) -> float:
        """Seconds of a run."""
        short = replace(problem, objective=never, max_steps=steps, eval_every=min(often, steps))
        started = time.perf_counter()
        train_all(engine, short, trials)
        return time.perf_counter() - started

    few = min(5, most)
    run(few)  # what only the first run pays
    least = run(few)
    if most == few:
        return least * threads / (few * len(trials))
    more = min(2 * few, most)
    while True:
        taken = run(more) - least
        if taken > CALIBRATION_SECONDS / 2 or more == most:
            return max(taken, 1e-6) * threads / ((more - few) * len(trials))
        longer = (more - few) * CALIBRATION_SECONDS / max(taken, 1e-3)
        more = min(few + max(int(longer), 2 * (more - few)), most)
