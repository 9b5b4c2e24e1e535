"""What a worker does: measure some seeds of one specification. Knows nothing of stores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeAlias

from etastar.data import Dataset, load
from etastar.errors import ConfigError
from etastar.machine import environment, use_threads
from etastar.problem.trial import Outcome, Recipe, Start, Trial
from etastar.result import Result, json_ready
from etastar.settings import Settings
from etastar.study.cell import SharpnessSettings, Task
from etastar.study.factory import FactorySettings
from etastar.study.results import CurveFound, Results, SharpnessRow

OnOutcome: TypeAlias = Callable[["Trial", "Outcome"], None]


def run_task(task: Task, on_outcome: OnOutcome | None = None) -> Results:
    """Do a task, in whatever process this is.

    Args:
        task: The task.
        on_outcome: Called after every trial, from the engine's threads, one at a time.

    Raises:
        EtaStarError: The data cannot be read, or does not fit the settings.
    """
    if task.kind == "sharpness":
        return measure_sharpness(task)
    return measure_lr(task, on_outcome)


def measure_lr(task: Task, on_outcome: OnOutcome | None = None) -> Results:
    """Measure η* as `etastar.measure` does, but able to go on from known outcomes."""
    from etastar.api import measured

    known = dict(task.known)

    def told(trial: Trial, outcome: Outcome) -> None:
        known[trial] = outcome
        if on_outcome:
            on_outcome(trial, outcome)

    how = {"known": task.known, "on_outcome": told}
    seeds = None if task.curve else task.seeds
    if isinstance(task.settings, FactorySettings):
        found, recipe, facts = _of_factory(task.settings, seeds, how)
    else:
        data = load_data(task.settings)
        found = measured(task.settings.network(), data, task.settings, seeds, **how)
        assert found.recipe is not None
        recipe, facts = found.recipe, _facts(data)
    return Results(
        seeds={task.seeds[0]: _curve_found(found)} if task.curve else found.seeds,
        trials=known if task.curve else found.trials,
        resolved={"recipe": recipe.model_dump(), **facts},
        seconds=found.cost.seconds or 0.0,
        environment=found.environment,
    )


def _of_factory(
    settings: FactorySettings, seeds: tuple[Any, ...] | None, how: Mapping[str, Any]
) -> tuple[Result, Recipe, dict[str, Any]]:
    """Measure η* of a network that a function of the user builds.

    Raises:
        ConfigError: A success curve is asked for where nothing varies.
    """
    from etastar.engines.collapse import varies
    from etastar.run import run

    search = settings.search()
    search = search if seeds is None else replace(search, seeds=seeds)
    with use_threads(settings.threads) as threads:
        problem = settings.problem()
        if search.strategy == "curve" and not varies(problem, Start(0, 0), Start(1, 1)):
            raise ConfigError(
                "nothing varies between trials, so there is no success curve: vary the "
                "initialisation or the order of the data, or set `strategy='section'`."
            )
        data = {"name": settings.told()["dataset"]}
        found = run(
            problem,
            search,
            heading=settings.title,
            data=data,
            threads=threads,
            budget="max_steps" if settings.max_steps else "epochs",
            **how,
        )
    return found, settings.recipe_of(problem), settings.facts(problem)


def _curve_found(found: Result) -> CurveFound:
    """Return what the store keeps of a curve, beside its trials."""
    assert found.found is not None
    causes = Counter[str]()
    for point in found.found.curve.points:
        if found.lr and point.lr > found.lr:
            causes.update({cause: getattr(point, cause) for cause in UNSTABLE})
    seen = max(UNSTABLE, key=causes.__getitem__)
    ended = "short" if found.set_by == "budget" else seen if causes[seen] else None
    kept = {
        **found.found.as_dict(),
        "status": found.status,
        "hi_outcome": ended if found.set_by else None,
        "runs": [[trial.seed, trial.lr, trial.to_end] for trial in found.trials],
    }
    ready: CurveFound = json_ready(kept)
    return ready


UNSTABLE = ("diverged", "dead", "collapsed")
"""Ways to fail at the fast edge of a curve."""


def measure_sharpness(task: Task) -> Results:
    """λ1 of the Hessian and of the Gauss-Newton matrix at initialisation, for every seed."""
    import torch

    from etastar.curvature.initialisations import initial_sharpness

    started = time.perf_counter()
    settings = task.settings
    wanted = task.sharpness or SharpnessSettings.model_validate({})
    data = load_data(settings)
    count = min(wanted.samples, len(data.y_train))
    dtype = getattr(torch, settings.dtype)
    solve = partial(
        initial_sharpness,
        settings.network(),
        data,
        task.seeds,
        loss=settings.loss,
        samples=count,
        tol=wanted.tol,
        max_iter=wanted.max_iter,
        dtype=dtype,
        device=settings.device,
    )
    with use_threads(settings.threads) as threads:
        hessian, newton = solve(kind="hessian"), solve(kind="gauss-newton")
    found = {
        seed: SharpnessRow(
            hessian[seed].preconditioned,
            newton[seed].preconditioned,
            hessian[seed].lambda1,
            hessian[seed].preconditioned_residual,
            hessian[seed].converged and newton[seed].converged,
        )
        for seed in task.seeds
    }
    return Results(
        seeds=found,
        resolved={"samples": count, **_facts(data)},
        seconds=round(time.perf_counter() - started, 3),
        environment=environment(torch.device(settings.device), dtype, threads),
    )


def load_data(settings: Settings) -> Dataset:
    """The data set of these settings, read once per process while it stays in use."""
    return _load(settings.dataset, settings.data_dir, settings.train_size, settings.val_size)


@lru_cache(maxsize=2)
def _load(name: str, data_dir: str | None, train_size: int | None, val_size: int | None) -> Dataset:
    return load(name, data_dir=data_dir, train_size=train_size, val_size=val_size)


def _facts(data: Dataset) -> dict[str, Any]:
    return {"classes": data.classes, "inputs": data.inputs, "data": data.provenance}
