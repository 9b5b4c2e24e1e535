"""The entries, readable from top to bottom. Start here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from etastar.auto_threshold import finder
from etastar.checking import known_names
from etastar.data import Dataset
from etastar.errors import ConfigError, NotBracketedWarning, unknown_name
from etastar.machine import device_named
from etastar.problem.answers import label_notes
from etastar.problem.networks import Network
from etastar.problem.networks.parametrization import scheme_notes
from etastar.problem.own_model import OwnModel
from etastar.problem.preserve import check_ambient, untouched
from etastar.problem.problem import Problem, of_network
from etastar.result import Result
from etastar.run import Progress, progress_line, run
from etastar.search.search import (
    OF_THE_CURVE,
    RESOLUTION,
    STRATEGY_NAMES,
    Search,
    chosen_strategy,
)
from etastar.settings import DATA_OPTIONS, NETWORK_OPTIONS, Settings

SCAN_RATIO = 1.6
"""Largest factor between neighbouring rates of the scan for a user's model. Wider than for our
networks: it rarely fails at once (batch normalisation and Adam keep every loss finite), so most
failures cost a whole budget. An island of trainability narrower than this may be missed."""


def measure(
    network: Network | None = None,
    dataset: Dataset | str = "digits",
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Result:
    """Measure the maximal initial learning rate η* of a network on a data set.

    η* is the largest constant learning rate at which the randomly initialised network reaches the
    threshold validation accuracy within the budget (Iyer, Hanin & Rolnick, ICML 2023). This is what
    `etastar measure` runs.

    Args:
        network: An architecture, e.g. `etastar.MLP(width=128, depth=4)`. None builds one from the
            network options (`width`, `depth`, `input_lr_ratio`, ...).
        dataset: A data set, or the name of one in `etastar.data.DATASETS`.
        on_progress: Called after every trial; a download then shows its own progress, too.
        **options: Any field of `etastar.settings.Settings`: the command's options, underscored.

    Returns:
        Brackets per seed, median η* with its interval, p(η), and all that is needed to repeat it.

    Raises:
        ConfigError: An option is unknown, out of range, contradicts another or has no effect.
        DataError: A data file is missing or damaged.

    Example:
        >>> found = measure(MLP(width=64, depth=2), "digits", seeds=3)  # doctest: +SKIP
        >>> found.eta_star.median  # doctest: +SKIP
    """
    settings = checked_settings(network, dataset, options)
    if settings.from_lr is not None and not settings.from_step:
        raise ConfigError(
            "`from_lr` has no effect without `from_step`: leave it out, or give both."
        )
    network = network or settings.network()
    if isinstance(dataset, str):
        dataset = settings.data(progress=on_progress is not None)
    if settings.from_step and settings.from_lr is None:
        settings = _with_half_of_eta_star(network, dataset, settings, on_progress)
    return measured(network, dataset, settings, on_progress=on_progress)


def measured(
    network: Network,
    data: Dataset,
    settings: Settings,
    seeds: Sequence[int] | None = None,
    **how: Any,
) -> Result:
    """Measure η* of a network: the problem of these settings, through `run`.

    Args:
        network: The architecture.
        data: The data set.
        settings: Every default that does not depend on the data filled in.
        seeds: Instead of those of the settings.
        **how: Passed on to `etastar.run.run`.
    """
    search = settings.search()
    search = search if seeds is None else replace(search, seeds=tuple(seeds))
    problem = network_problem(network, data, settings)
    told = settings.model_dump(include=set(SETTINGS_TOLD))
    scheme = network.parametrization_record(data.inputs, data.classes)
    return run(
        problem,
        search,
        heading=_heading(network, data, problem),
        data={"name": data.name, "classes": data.classes, **data.provenance},
        threads=settings.threads,
        settings=told | ({"parametrization": scheme} if scheme else {}),
        notes=scheme_notes(scheme) + label_notes([data.y_train], data.classes, "the network"),
        **how,
    )


SETTINGS_TOLD = ("epochs", "start_lr", "end_lr", "resolution", "seeds", "first_seed")


def network_problem(network: Network, data: Dataset, settings: Settings) -> Problem:
    """Return the problem of these settings.

    Args:
        network: The architecture.
        data: The data set.
        settings: Of the measurement.
    """
    machine = {"device": device_named(settings.device), "dtype": getattr(torch, settings.dtype)}
    return of_network(network, data, settings.recipe(data), **machine)


def checked_settings(network: Any, dataset: Any, options: dict[str, Any]) -> Settings:
    """Return the settings of a call, its network and data set being what they must be.

    Args:
        network: An architecture, or None.
        dataset: A data set, or the name of one.
        options: Fields of `Settings`.

    Raises:
        ConfigError: One of them is not, or an option is unknown, out of range or has no effect.
    """
    check_ambient()
    if not isinstance(dataset, (str, Dataset)):
        raise ConfigError(
            f"dataset must be the name of a data set or an etastar.Dataset; got {dataset!r:.60}. "
            "Tensors go into etastar.Dataset.from_tensors."
        )
    if network is not None and not isinstance(network, Network):
        raise ConfigError(
            f"network must be an architecture, e.g. etastar.MLP(width=128, depth=4), or None; got "
            f"{network!r:.60}. For a torch module see etastar.maximal_lr and etastar.sharpness."
        )
    name = dataset if isinstance(dataset, str) else dataset.name
    settings = Settings.checked(dataset=name, **options)
    for what, given, names in (
        ("network", network is not None, NETWORK_OPTIONS),
        ("data set", isinstance(dataset, Dataset), DATA_OPTIONS),
    ):
        if given and (meaningless := sorted(names & set(options))):
            raise ConfigError(
                f"{', '.join(meaningless)}: the {what} was given as an object; set this on it."
            )
    return settings


def _with_half_of_eta_star(
    network: Network,
    data: Dataset,
    settings: Settings,
    on_progress: Callable[[Progress], None] | None,
) -> Settings:
    """Return the settings with `from_lr` filled in.

    Raises:
        ConfigError: η* at initialisation does not exist.
    """
    initial = settings.model_copy(update={"from_step": 0})
    found = measured(network, data, initial, on_progress=on_progress)
    if found.lr is None:
        raise ConfigError(
            "from_lr: η* at initialisation was not found, so half of it cannot be the rate up to "
            f"step {settings.from_step}. {found.reason} Or give `from_lr`."
        )
    return settings.model_copy(update={"from_lr": found.lr / 2})


def _heading(network: Network, data: Dataset, problem: Problem) -> str:
    """Return network, data, training and criterion, in two lines."""
    net, recipe = network.model_dump(), problem.recipe
    assert recipe is not None
    size = f" {net['width']}×{net['depth']}" if "depth" in net else ""
    batch = "full batch" if recipe.batch_size == "full" else f"batch {recipe.batch_size}"
    momentum = f" with momentum {recipe.momentum:g}" if recipe.momentum else ""
    scheme = f", {net['parametrization']}" if "parametrization" in net else ""
    start = f" from step {recipe.from_step} at rate {recipe.from_lr}" if recipe.from_step else ""
    return (
        f"{net['architecture']}{size}{scheme}, κ = {net['input_lr_ratio']:g}, on {data.name}; "
        f"{recipe.loss}, SGD{momentum}, {batch}\n{_criterion_line(problem)}{start}"
    )


def _criterion_line(problem: Problem) -> str:
    """Return metric, threshold and budget."""
    objective, steps = problem.objective, problem.max_steps
    on = "training" if problem.val is problem.train else "validation"
    side = "" if objective.higher_is_better else "at most "
    return (
        f"{'hold' if objective.hold else 'reach'} {on} {objective.name} {side}"
        f"{objective.threshold:g} within {steps} step{'s' * (steps > 1)}, evaluated "
        f"every {problem.eval_every}"
    )


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
        trials: Most whole trials of the curve; 120 if None.
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

    Returns:
        η* with its interval, the success curve and the recommended rate, or every seed's bracket.

    Raises:
        ModelError: Model, data, loss, optimizer and metric do not fit together; says what to do.
        ConfigError: A number is out of its range, or an option has no effect.

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
    asked = OwnModel(**locals())
    with untouched(train_data, val_data):
        problem, groups, notes = asked.problem(finder(asked))
        name = problem.described(asked.seed_list[0])["model"]
        with progress_line(progress) as show:
            found = run(
                problem,
                _own_search(asked),
                heading=own_heading(name, problem),
                data={"name": train_data.name if isinstance(train_data, Dataset) else None},
                engine=engine,
                groups=groups.names,
                ratios=groups.ratios,
                settings={
                    **{key: getattr(asked, key) for key in SETTINGS_TOLD[:4]},
                    "seeds": asked.seed_list,
                    "from_checkpoint": from_checkpoint is not None,
                },
                notes=notes,
                on_progress=show,
            )
    if found.reason:
        warnings.warn(found.reason, NotBracketedWarning, stacklevel=3)
    return found


MODEL_DEFAULTS = {"precision": 0.2, "trials": 120, "confirm": 10, "round_size": 4}
"""Of the curve of a user's model, whose trials cost more than those of our networks."""


def _own_search(asked: OwnModel) -> Search:
    """Return how η* of a user's model is looked for.

    Raises:
        ConfigError: An option has no effect beside another.
    """
    given = {name: getattr(asked, name) for name in OF_THE_CURVE}
    if asked.strategy is not None and asked.strategy not in STRATEGY_NAMES:
        raise unknown_name("strategy", str(asked.strategy), STRATEGY_NAMES)
    strategy = chosen_strategy(asked.strategy, asked.seeds, asked.resolution, given)
    ends, seeds = (asked.start_lr, asked.end_lr), tuple(asked.seed_list)
    if strategy == "curve":
        options = {k: v for k, v in given.items() if v is not None}
        return Search(*ends, strategy, seeds[:1], None, **(MODEL_DEFAULTS | options))
    resolution = asked.resolution or RESOLUTION
    return Search(*ends, strategy, seeds, resolution, scan_ratio=SCAN_RATIO, apart=True)


def own_heading(name: str, problem: Problem) -> str:
    """Return model, training and criterion, in two lines.

    Args:
        name: Of the model.
        problem: What is trained.
    """
    told = problem.described(0)
    options = {k: v for k, v in told["optimizer_options"].items() if k in ("momentum",) and v}
    momentum = f" with momentum {options['momentum']:g}" if options else ""
    batch = f", batch {told['batch_size']}" if told["batch_size"] else ""
    return (
        f"{name}; {told['loss']}, {told['optimizer']}{momentum}{batch}\n{_criterion_line(problem)}"
    )
