"""`maximal_lr`: η* of any PyTorch model, readable from top to bottom."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from etastar.errors import NotBracketedWarning
from etastar.machine import versions
from etastar.modules.arguments import Arguments
from etastar.modules.choice import Choice, EngineName, choose
from etastar.modules.preserve import untouched
from etastar.modules.result import MaximalLR, TrialRecord, middle_bracket, spread_of
from etastar.problem.trial import Trial
from etastar.search import Lattice, SearchQueue, Section
from etastar.search.estimate import eta_star

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from etastar.modules.optimizers import Groups
    from etastar.modules.origin import Start
    from etastar.modules.task import Run, Task
    from etastar.search.base import SeedResult

SCAN_RATIO = 1.6
"""Largest factor between neighbouring rates of the scan. Wider than for `measure`: a user's model
rarely fails at once (batch normalisation and Adam keep every loss finite), so most failures cost a
whole budget. An island of trainability narrower than this may be missed."""


def maximal_lr(
    model: nn.Module | Callable[[int], nn.Module],
    train_data: Any,
    val_data: Any = None,
    loss_fn: Callable[..., Any] = torch.nn.functional.cross_entropy,
    optimizer: Callable[..., Optimizer] = torch.optim.SGD,
    metric: str | Callable[..., Any] = "accuracy",
    threshold: float = 0.9,
    epochs: float = 1,
    batch_size: int = 128,
    eval_every: int | None = None,
    seeds: int | Sequence[int] = 3,
    start_lr: float = 1e-5,
    end_lr: float = 10.0,
    resolution: float = 0.05,
    step_fn: Callable[..., Any] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    *,
    higher_is_better: bool | None = None,
    engine: EngineName = "auto",
    from_checkpoint: Mapping[str, Any] | None = None,
) -> MaximalLR:
    """Measure the largest constant learning rate that a model can start training with.

    Every rate trains a fresh copy of the same model on the same batches with a new optimizer and
    the same random numbers; it *trains* if the metric touches the threshold within the budget. The
    largest such rate is bracketed for each seed to `resolution`. Nothing that is passed in changes.

    Args:
        model: A module, which is copied, or a factory seed → module, called under random streams
            fixed by the seed. With a module, seeds vary the order of the data and the random
            numbers of training; with a factory, the initialisation too.
        train_data: Tensors `(inputs, targets)`, a `Dataset`, a `DataLoader`, or an iterable of
            batches. What can be read only once is kept in memory; batches from a loader are kept
            too, while they fit into a quarter of the free memory.
        val_data: The same; None evaluates on the training data.
        loss_fn: Maps `(model(inputs), targets)` to the mean loss, a scalar.
        optimizer: A class or `functools.partial`, called `(params, lr=lr)`, or a function
            `(model, lr) -> Optimizer` for parameter groups, each a fixed multiple of `lr`.
        metric: `"accuracy"`; `"loss"` (of the validation data); or a callable of all
            `(outputs, targets)`, or of `(model, batch)` where `step_fn` is given.
        threshold: What the metric must reach.
        epochs: The budget, in passes over the training data.
        batch_size: For tensors and data sets; loaders come as they are. A smaller last batch of
            training tensors is dropped.
        eval_every: Steps between evaluations; None is once per epoch, and at the end.
        seeds: How many, or which.
        start_lr: Lower end of the range searched.
        end_lr: Upper end.
        resolution: Relative width of a bracket.
        step_fn: Maps `(model, batch)` to the loss, a scalar tensor, for models whose step is not
            `loss_fn(model(inputs), targets)`. Gradients and the optimizer are not its business.
        device: Where to train; None where the model is.
        progress: Show a line of progress, on a terminal only.
        higher_is_better: Which way the metric points; None is up, but down for `"loss"`.
        engine: `"stack"`, `"vmap"` or `"loop"`; `"auto"` takes the first that can. Outcomes are
            the same up to rounding.
        from_checkpoint: A state dict of the model to start from, or `{"model": ..., "optimizer":
            ...}` of both. If the metric already meets the threshold there, it must still, or
            again, at the end of the budget.

    Returns:
        η* with its bracket, the safe rate, every seed and every trial.

    Raises:
        ModelError: Model, data, loss, optimizer and metric do not fit together; says what to do.
        ConfigError: A number is out of its range.

    Warns:
        NotBracketedWarning: No rate trains, or all do; `lr` is then None.

    Example:
        >>> import torch, etastar
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> digits = etastar.load("digits")
        >>> result = etastar.maximal_lr(model, (digits.x_train, digits.y_train))  # doctest: +SKIP
        >>> result.lr, result.bracket, result.safe_lr  # doctest: +SKIP
    """
    arguments = Arguments(**locals())
    with untouched(train_data, val_data):
        return measured(arguments)


def measured(arguments: Arguments) -> MaximalLR:
    """Arguments → task → engine and searches → brackets → result."""
    began = time.perf_counter()
    task, groups, notes = arguments.task()
    starts, own = searches(arguments, task)
    choice = choose(task, starts, arguments.engine)
    queue, runs = run_searches(task, starts, choice, arguments)
    results = [queue.strategies[index].result() for index in range(len(starts))]
    found = _assemble(arguments, task, groups, choice, starts, own, results, runs)
    notes += _advice(found, arguments, runs) + _order_note(task, starts[:own])
    result = MaximalLR(**found, notes=tuple(notes), cost=_cost(runs, began))
    if result.lr is None:
        warnings.warn(notes[0], NotBracketedWarning, stacklevel=4)
    return result


def searches(arguments: Arguments, task: Task) -> tuple[list[Start], int]:
    """The searches to make, and how many of them are the seeds' own.

    A factory's further searches keep the first initialisation and vary the order of the data, so
    that the two sources of spread can be told apart.
    """
    from etastar.modules.origin import Start

    seeds = arguments.seed_list
    starts = [Start(seed, seed) for seed in seeds]
    if task.origin.varies:
        starts += [Start(seeds[0], seed) for seed in seeds[1:]]
    return starts, len(seeds)


def run_searches(
    task: Task, starts: Sequence[Start], choice: Choice, arguments: Arguments
) -> tuple[SearchQueue, dict[Trial, Run]]:
    """Bracket η* of every start."""
    lattice = Lattice(arguments.start_lr, arguments.end_lr, arguments.resolution)
    strategies = {i: Section(lattice, scan_ratio=SCAN_RATIO) for i in range(len(starts))}
    engine = choice.engine(task, list(starts))
    queue = SearchQueue(strategies, width=engine.useful_width)
    with _progress_line(queue, arguments.progress):
        engine.run(queue)
    return queue, {t: engine.run_of(t, outcome) for t, outcome in queue.outcomes().items()}


def _assemble(
    arguments: Arguments,
    task: Task,
    groups: Groups,
    choice: Choice,
    starts: list[Start],
    own: int,
    results: list[SeedResult],
    runs: dict[Trial, Run],
) -> dict[str, Any]:
    """The fields of the result but cost and notes."""
    star = eta_star(results[:own], arguments.start_lr)
    status, lo, hi = middle_bracket(results[:own], arguments.end_lr)
    lr = math.sqrt(lo * hi) if lo and hi else None
    interval = (star.ci_low, star.ci_high) if star.ci_low and star.ci_high else None
    reasons = [r.hi_outcome for r in results[:own] if r.hi_outcome]
    budget = 2 * reasons.count("short") > len(reasons)
    same_model = [results[0], *results[own:]] if len(results) > own else None
    varies_model = task.origin.varies
    return {
        "lr": lr,
        "bracket": (lo, hi),
        "safe_lr": star.safe if lr else None,
        "interval": interval,
        "status": status,
        "set_by": ("budget" if budget else "stability") if reasons else None,
        "group_lrs": tuple(lr * ratio for ratio in groups.ratios) if lr else None,
        "groups": groups.names,
        "seeds": {starts[i].order: results[i] for i in range(own)},
        "varies": "initialisation and order of the data" if varies_model else "order of the data",
        "spread": spread_of(results[:own], same_model, varies_model),
        "history": _history(starts, runs, varies_model),
        "engine": choice.name,
        "engine_reason": choice.reason,
        "settings": arguments.described(task),
        "environment": _environment(task),
    }


def _history(
    starts: list[Start], runs: dict[Trial, Run], varies_model: bool
) -> tuple[TrialRecord, ...]:
    return tuple(
        TrialRecord(
            starts[trial.seed].model if varies_model else None,
            starts[trial.seed].order,
            trial.lr,
            run.kind,
            run.step,
            run.metric,
            run.given_up,
        )
        for trial, run in sorted(runs.items())
    )


def _advice(found: Mapping[str, Any], arguments: Arguments, runs: Mapping[Trial, Run]) -> list[str]:
    """What to know before trusting the number, the most important first."""
    notes = []
    tops = [r.hi for r in found["seeds"].values() if r.hi]
    near = {t: run for t, run in runs.items() if t.lr <= max(tops, default=t.lr)}
    nans = _nan_note(found["settings"]["metric"], near) if callable(arguments.metric) else None
    if found["status"] == "none-trained":
        results = found["seeds"].values()
        who = f"{sum(r.status == 'none-trained' for r in results)} of {len(results)} seeds"
        notes.append(
            f"{who}: no rate from {arguments.start_lr:g} to {arguments.end_lr:g} reached the "
            f"threshold {arguments.threshold:g} within {found['settings']['max_steps']} steps; "
            f"{_why_none(found, arguments, nans)}"
        )
    elif some := [seed for seed, r in found["seeds"].items() if r.status == "none-trained"]:
        notes.append(
            f"{len(some)} of {len(found['seeds'])} seeds ({', '.join(map(str, some))}) trained at "
            "no rate within the budget, and have no bracket; where that is many, safe_lr and the "
            "interval have no value. Train longer (epochs), or make the threshold easier."
        )
    if found["status"] != "all-trained" and (
        above := [seed for seed, r in found["seeds"].items() if r.status == "all-trained"]
    ):
        notes.append(
            f"{len(above)} of {len(found['seeds'])} seeds ({', '.join(map(str, above))}) trained "
            f"even at the highest rate, {arguments.end_lr:g}. Raise end_lr."
        )
    if nans and not any(nans in note for note in notes):
        notes.append(nans)
    if found["status"] == "all-trained":
        notes.append(
            f"training succeeds even at the highest rate, {arguments.end_lr:g}: η* lies above the "
            "range. Raise end_lr."
        )
    elif found["set_by"] == "budget":
        notes.append(
            "most rates above η* did not blow up but ran out of steps below the threshold: η* "
            "depends on the budget. Compare a longer one (epochs)."
        )
    if entries := sum(bool(r.re_entries) for r in found["seeds"].values()):
        notes.append(
            f"{entries} of {len(found['seeds'])} seeds train above a rate that fails (re-entry): "
            "the boundary is not sharp. Prefer safe_lr."
        )
    return notes


def _why_none(found: Mapping[str, Any], arguments: Arguments, nans: str | None) -> str:
    """How near the runs came if none trained, and what to do about it."""
    tried = found["history"]
    met = [trial.metric for trial in tried if trial.metric is not None]
    if not met and nans:
        return nans
    best = f"the best run reached {(max if arguments.higher else min)(met):.4g}" if met else None
    lowest = min(trial.lr for trial in tried)
    if all(trial.outcome == "diverged" for trial in tried if trial.lr == lowest):
        return (
            f"{best or 'every run diverged'}, and even the lowest rate tried, {lowest:.4g}, "
            "diverges: look for NaN in the data, or lower start_lr."
        )
    closest = best or "no run ended with a metric that is finite"
    return f"{closest}. Train longer (epochs), make the threshold easier, or widen the range."


def _nan_note(name: str, runs: Mapping[Trial, Run]) -> str | None:
    """Say so if a metric of the user's own was not a number; the other two are NaN by divergence.

    Args:
        name: Of the metric.
        runs: Those that bear on the brackets: far above η* a metric may well be NaN.
    """
    rates = [trial.lr for trial, run in runs.items() if run.nans]
    if not rates:
        return None
    count = sum(run.nans for run in runs.values())
    return (
        f"the metric {name} was not a number at {count} evaluations of {len(rates)} runs whose "
        f"loss was finite, at rates from {min(rates):.4g} to {max(rates):.4g}, and NaN never meets "
        "the threshold: mend the metric, e.g. a division by the number of a class never predicted."
    )


def _order_note(task: Task, starts: list[Start]) -> list[str]:
    """Say so if the seeds can only repeat each other."""
    same = len(starts) > 1 and not task.train.varies(starts[0].order, starts[1].order)
    if task.origin.varies or not same:
        return []
    return [
        "the data come in the same order for every seed: seeds differ only where training draws "
        "random numbers. Shuffle the loader, pass tensors or a Dataset, or pass a model factory."
    ]


def _cost(runs: dict[Trial, Run], began: float) -> dict[str, float]:
    return {
        "trials": len(runs),
        "steps": sum(run.given_up or run.step for run in runs.values()),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _environment(task: Task) -> dict[str, Any]:
    """Versions and machine, as far as they can change a result."""
    return {
        **versions(),
        "device": str(task.origin.device),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def _progress_line(queue: SearchQueue, wanted: bool) -> Iterator[None]:
    """Seeds done and trials ended, redrawn on standard error if that is a terminal."""
    import sys

    if not wanted or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("measuring η*") as line:

        def show(trial: Trial, outcome: Any) -> None:
            line.update(
                f"measuring η*: {queue.done} of {len(queue.strategies)} searches done, "
                f"{queue.ended} trials"
            )

        queue.on_outcome = show
        yield
