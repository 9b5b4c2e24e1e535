"""The entry for a model of one's own: `maximal_lr`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etastar.api import SETTINGS_TOLD, criterion_line
from etastar.checking import check_choice, check_number, known_names, plain
from etastar.data import Dataset
from etastar.engines import LoopEngine
from etastar.engines.workers import WorkersEngine
from etastar.errors import ConfigError, NotBracketedWarning, warn
from etastar.problem.answers import WHOLE
from etastar.problem.optimizers import Groups
from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem
from etastar.problem.streams import untouched
from etastar.problem.trial import Outcome, Trial
from etastar.progress import ProgressLine
from etastar.result import Result
from etastar.run import Early, run
from etastar.search.search import (
    OF_THE_CURVE,
    RESOLUTION,
    STRATEGY_NAMES,
    Search,
    chosen_strategy,
)
from etastar.study.kept import Shelf, keeper

SCAN_RATIO = 1.6
"""Largest factor between neighbouring rates of the scan for a user's model. Wider than for our
networks: it rarely fails at once (batch normalisation and Adam keep every loss finite), so most
failures cost a whole budget. An island of trainability narrower than this may be missed."""


@known_names
def maximal_lr(
    model: nn.Module | Callable[[int], nn.Module],
    train_data: Any,
    val_data: Any = None,
    loss_fn: Callable[..., Any] = torch.nn.functional.cross_entropy,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    metric: str | Callable[..., Any] = "accuracy",
    threshold: float | str | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    eval_every: int | None = None,
    seeds: int | Sequence[int] | None = None,
    start_lr: float = 1e-5,
    end_lr: float = 10.0,
    resolution: float | None = None,
    step_fn: Callable[..., Any] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    *,
    higher_is_better: bool | None = None,
    engine: str = "auto",
    from_checkpoint: Mapping[str, Any] | None = None,
    strategy: str | None = None,
    precision: float | None = None,
    trials: int | None = None,
    budgets: float | None = None,
    confirm: int | None = None,
    round_size: int | None = None,
    slow_edge: bool = False,
    first_seed: int = 0,
    max_steps: int | None = None,
    eval_batch_size: int | None = None,
    eval_grad: bool = False,
    scheduler: Callable[..., Any] | None = None,
    store: str | Path | None = None,
    minutes: float | None = None,
    executor: Any = None,
    resources: Mapping[str, float] | None = None,
) -> Result:
    """Measure the largest constant learning rate that a model can start training with.

    Every rate trains a fresh copy of the same model on the same batches with a new optimizer and
    the same random numbers; it *trains* if the metric touches the threshold within the budget. The
    rate at which half of fresh seeds do is η*. Nothing that is passed in changes.

    Args:
        model: A module, which is copied, or a factory seed → module, called under random streams
            fixed by the seed. With a module, seeds vary the order of the data and the random
            numbers of training; with a factory, the initialisation too.
        train_data: Tensors `(inputs, targets)`, where inputs may be a tuple or dictionary; a
            `Dataset`, a `DataLoader`, or an iterable of batches. A batch is a pair, or holds its
            targets by a name such as `labels`. What can be read only once is kept in memory;
            batches from a loader are kept too, while they fit into a quarter of the free memory.
        val_data: The same; None evaluates on the training data.
        loss_fn: Maps `(model(inputs), targets)` to the mean loss, a scalar. A module with weights
            or buffers of its own is trained and copied as the model is. Left out, a model that is
            given its targets by name and returns its `loss` has that.
        optimizer: A class or `functools.partial`, called `(params, lr=lr)`, or a function
            `(model, lr) -> Optimizer` for parameter groups, each a fixed multiple of `lr`. It may
            return a list of optimizers, or an object with `param_groups`, `step` and `zero_grad`.
        metric: `"accuracy"`, whose meaning the outputs, targets and loss decide: classes, 0/1 per
            sample, label or pixel, tokens without those that the loss ignores; `"loss"` (of the
            validation data); or a callable of all
            `(outputs, targets)`, or of `(model, batch)` where `step_fn` is given.
        threshold: What the metric must reach, 0.9 of an accuracy if None; `"auto"` is half-way from
            what is reached without training to the best of a few located runs, and is shown first.
        epochs: The budget, in passes over the training data; 1 if None.
        batch_size: For tensors and data sets, 128 if None; loaders come as they are. A smaller last
            batch of training tensors is dropped.
        eval_every: Steps between evaluations; None is once per epoch, and at the end.
        seeds: How many, or which, each with a bracket of its own; given, it means the strategy
            `section`, which takes 3 by default.
        start_lr: Lower end of the range searched.
        end_lr: Upper end.
        resolution: Relative width of a bracket, 0.05 by default; given, it means `section` too.
        step_fn: Maps `(model, batch)` to the loss, a scalar tensor, for models whose step is not
            `loss_fn(model(inputs), targets)`; do not call `backward()` or `step()` in it. Or does
            the whole step of `(model, batch, optimizer)`, with clipping, accumulation or a gradient
            scaler, and returns its loss; a step of the budget is then one call, and `metric="loss"`
            is `loss_fn(model(inputs), targets)`.
        device: Where to train; None where the model is.
        progress: Show a line of progress, on a terminal only.
        higher_is_better: Which way the metric points; None is up, but down for `"loss"`.
        engine: `"stack"` or `"loop"`; `"auto"` takes the first that can. Outcomes are the same up
            to rounding.
        from_checkpoint: A state dict of the model to start from, or `{"model": ..., "optimizer":
            ...}` of both. If the metric already meets the threshold there, it must still, or
            again, at the end of the budget.
        strategy: `"curve"` (the default): p(η), the probability that a fresh seed trains, and a
            rate inside its window that fresh seeds confirm. `"section"` and `"bisection"` bracket
            η* of each seed.
        precision: Under `curve`, the 95 % interval of η* reaches at most the factor 1 + precision
            to either side; 0.2 if None.
        trials: Most whole trials of the curve, beside confirming ones, which count where they fail
            but are made all the same; 120 if None.
        budgets: Most steps, in whole trainings, everything included; no cap if None.
        confirm: Fresh seeds that train at the recommended rate, 0 for none; 10 if None.
        round_size: Trials that are placed at once; 4 if None.
        slow_edge: Whether the rates that are too slow for the budget are looked for, too.
        first_seed: The first seed; the others follow.
        max_steps: The budget in steps, instead of `epochs`; no more batches are read, so the data
            need not end.
        eval_batch_size: Samples of tensors and data sets that are evaluated at once; as many as in
            training if None.
        eval_grad: Whether evaluation records gradients, which models and losses with derivatives in
            their inputs need.
        scheduler: Maps an optimizer to an `LRScheduler`, whose `step()` follows every training
            step. What is measured is the rate that the optimizer begins with, its peak.
        store: A file that keeps every trial, and from which the same measurement goes on; other
            models, data and settings may share it. None keeps nothing.
        minutes: After so many the search ends with what is known by then; None for no limit.
        executor: Where trials are trained: Dask's client, or any object with
            `submit(fn, spec) -> Future` that runs processes; in this one if None.
        resources: What a trial takes of a Dask worker, such as `{"GPU": 1}`.

    Returns:
        η* with its interval, the success curve and the recommended rate, or every seed's bracket.
        After Ctrl-C, or `minutes`, what is known by then, `interrupted`.

    Raises:
        ModelError: Model, data, loss, optimizer and metric do not fit together; says what to do.
        ConfigError: A number is out of its range, or an option has no effect.
        StoreError: The store cannot be used, or has trials of other code under the same name.
        ExecutorError: The executor is gone; trials that had ended are in the store.

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
    given = {k: v for k, v in locals().items() if k not in PLACES}
    asked = OwnModel(**given)
    if executor is None and resources is not None:
        raise ConfigError("`resources` has no effect without `executor`: leave it out.")
    workers = None if executor is None else WorkersEngine(executor, resources)
    early = Early(None if minutes is None else check_number("minutes", plain(minutes), above=0))
    with untouched(train_data, val_data), keeper(store) as kept:

        def train(problem: Problem, trials: list[Trial]) -> dict[Trial, Outcome]:
            check_room(asked.budgets, kept.steps / problem.max_steps, problem, trials)
            loop = LoopEngine()
            there = workers.over(loop) if workers else loop
            return kept.trained(problem, trials, there, early)

        try:
            problem, groups, notes = asked.problem(train)
        except TimeoutError:
            if not early.late:
                raise
            raise ConfigError(
                f"`minutes={early.minutes:g}` have passed before `threshold='auto'` was found: "
                "give more, or a threshold; with `store` it goes on where it was."
            ) from None
        search = _own_search(asked)
        shelf = kept.shelf(problem, apart=search.seeds[0] if search.apart else None)
        with ProgressLine(wanted=progress) as line:
            found = measured(
                asked,
                problem,
                search,
                shelf,
                groups=groups,
                notes=notes,
                spent=kept.steps,
                on_progress=line.update if line else None,
                early=early,
                workers=workers,
            )
    if found.reason:
        warn(found.reason, NotBracketedWarning)
    return found


def measured(
    asked: OwnModel, problem: Problem, search: Search, shelf: Shelf, *, groups: Groups, **how: Any
) -> Result:
    """Measure η* of a user's model on `etastar.run.run`, with what was asked for in the record.

    Args:
        asked: The arguments.
        problem: What they make, or the same in the middle of its training.
        search: How η* is looked for.
        shelf: Where its trials are kept.
        groups: Parameter groups and their rates over η.
        **how: Further arguments of `run`.
    """
    data = asked.train_data
    return run(
        problem,
        search,
        heading=own_heading(problem, asked.seed_list[0]),
        data={"name": data.name if isinstance(data, Dataset) else None},
        engine=asked.engine,
        groups=groups[0],
        ratios=groups[1],
        settings={
            **{key: getattr(asked, key) for key in SETTINGS_TOLD[:4]},
            "seeds": asked.seed_list,
            "from_checkpoint": asked.from_checkpoint is not None,
        },
        budget=asked.budget_option,
        known=dict(shelf.known),
        on_outcome=shelf.add,
        **how,
    )


def check_room(budgets: float | None, spent: float, problem: Problem, trials: list[Trial]) -> None:
    """Raise if the runs that find a threshold could take more than the cap.

    Args:
        budgets: The cap, or None.
        spent: Budgets taken so far.
        problem: What is trained.
        trials: Runs to be made; whole runs follow partial ones.

    Raises:
        ConfigError: They could.
    """
    most = spent + sum(t.steps or problem.max_steps for t in trials) / problem.max_steps
    most += WHOLE if any(t.steps for t in trials) else 0
    if budgets is not None and most > budgets:
        raise ConfigError(
            f"`budgets={budgets:g}` leave no room to find `threshold='auto'`, which may take "
            f"{most:.3g} of them: give more, or a threshold."
        )


PLACES = ("store", "minutes", "executor", "resources")
"""Arguments that say where trials are trained and kept, and for how long; no outcome depends on."""


MODEL_DEFAULTS = {"precision": 0.2, "trials": 120, "confirm": 10, "round_size": 4}
"""Of the curve of a user's model, whose trials cost more than those of our networks."""


def _own_search(asked: OwnModel) -> Search:
    """Return how η* of a user's model is looked for.

    Raises:
        ConfigError: An option has no effect beside another.
    """
    given = {name: getattr(asked, name) for name in OF_THE_CURVE}
    if asked.strategy is not None:
        check_choice("strategy", asked.strategy, STRATEGY_NAMES)
    strategy = chosen_strategy(asked.strategy, asked.seeds, asked.resolution, given)
    ends, seeds = (asked.start_lr, asked.end_lr), tuple(asked.seed_list)
    if strategy == "curve":
        options = {k: v for k, v in given.items() if v is not None}
        return Search(*ends, strategy, seeds[:1], None, **(MODEL_DEFAULTS | options))
    resolution = asked.resolution or RESOLUTION
    return Search(*ends, strategy, seeds, resolution, scan_ratio=SCAN_RATIO, apart=True)


def own_heading(problem: Problem, seed: int) -> str:
    """Return model, training and criterion, in two lines.

    Args:
        problem: What is trained.
        seed: An initialisation whose model is looked at.
    """
    told = problem.described(seed)
    known = told["optimizer_options"].get("momentum")
    momentum = f" with momentum {known:g}" if known else ""
    batch = f", batch {told['batch_size']}" if told["batch_size"] else ""
    trained = f"{told['model']}; {told['loss']}, {told['optimizer']}{momentum}{batch}"
    return f"{trained}\n{criterion_line(problem)}"
