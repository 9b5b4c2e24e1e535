"""The entries, readable from top to bottom. Start here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from etastar.data import Dataset
from etastar.errors import ConfigError, quoted
from etastar.machine import device_named
from etastar.problem.answers import label_notes
from etastar.problem.networks import Network
from etastar.problem.networks.parametrization import scheme_notes
from etastar.problem.problem import Problem, of_network
from etastar.problem.streams import check_ambient
from etastar.result import Result
from etastar.run import Progress, run
from etastar.settings import DATA_OPTIONS, NETWORK_OPTIONS, NO_FROM_STEP, NTK_END_LR, Settings


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
        raise ConfigError(NO_FROM_STEP)
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
    whole = round((settings.epochs or 0) * problem.train.steps_per_epoch)
    told = settings.model_dump(include=set(SETTINGS_TOLD))
    scheme = network.parametrization_record(data.inputs, data.classes)
    return run(
        problem,
        search,
        heading=_heading(network, data, problem),
        data={"name": data.name, "classes": data.classes, **data.provenance},
        threads=settings.threads,
        budget="max_steps" if settings.max_steps == problem.max_steps != whole else "epochs",
        settings=told | ({"parametrization": scheme} if scheme else {}),
        notes=_batch_notes(settings, data)
        + scheme_notes(scheme)
        + label_notes([data.y_train], data.classes, "the network"),
        **how,
    )


def _batch_notes(settings: Settings, data: Dataset) -> list[str]:
    """Say so if the batch asked for is more than there is."""
    samples, batch = len(data.y_train), settings.batch_size
    if not isinstance(batch, int) or batch <= samples:
        return []
    return [
        f"`batch_size={batch}` is more than the {samples:,} samples: each step takes all of them."
    ]


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
    ntk = getattr(network, "parametrization", None) == "ntk"
    ranged = {"end_lr": NTK_END_LR} | options if ntk else options  # as Settings has it for names
    settings = Settings.checked(dataset=name, **ranged)
    for what, given, names in (
        ("network", network is not None, NETWORK_OPTIONS),
        ("data set", isinstance(dataset, Dataset), DATA_OPTIONS),
    ):
        if given and (meaningless := sorted(names & set(options))):
            raise ConfigError(
                f"{quoted(meaningless)}: the {what} was given as an object; set this on it."
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
            "`from_lr`: η* at initialisation was not found, so half of it cannot be the rate up to "
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
        f"{recipe.loss}, SGD{momentum}, {batch}\n{criterion_line(problem)}{start}"
    )


def criterion_line(problem: Problem) -> str:
    """Return metric, threshold and budget."""
    objective, steps = problem.objective, problem.max_steps
    on = "training" if problem.val is problem.train else "validation"
    side = "" if objective.higher_is_better else "at most "
    return (
        f"{'hold' if objective.hold else 'reach'} {on} {objective.name} {side}"
        f"{objective.threshold:g} within {steps} step{'s' * (steps > 1)}, evaluated "
        f"every {problem.eval_every}"
    )
