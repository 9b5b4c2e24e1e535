"""The pipeline, readable from top to bottom. Start here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etastar.errors import ConfigError
from etastar.settings import NETWORK_FIELDS, Settings

if TYPE_CHECKING:
    import torch

    from etastar.data import Dataset
    from etastar.engines.stack import Engine
    from etastar.problem.networks import Network
    from etastar.problem.trial import Recipe
    from etastar.result import Measurement
    from etastar.search import SearchQueue
    from etastar.search.base import SeedResult

NETWORK_OPTIONS = {*NETWORK_FIELDS, "norm"}
"""Options that describe the network, and so cannot go with one that is given as an object."""


@dataclass(frozen=True)
class Progress:
    """How far a measurement is: seeds whose bracket is found, of how many; trials; steps."""

    seeds_done: int
    seeds: int
    trials: int
    steps: int


def measure(
    network: Network | None = None,
    dataset: Dataset | str = "digits",
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Measurement:
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
        ConfigError: An option is unknown, out of range, or contradicts another.
        DataError: A data file is missing or damaged.

    Example:
        >>> found = measure(MLP(width=64, depth=2), "digits", seeds=3)  # doctest: +SKIP
        >>> found.eta_star.median  # doctest: +SKIP
    """
    from etastar.machine import device_named

    settings = checked_settings(network, dataset, options)
    network = network or settings.network()

    if isinstance(dataset, str):
        dataset = settings.data(progress=on_progress is not None)
    device = device_named(settings.device)
    if settings.from_step and settings.from_lr is None:
        settings = _with_half_of_eta_star(network, dataset, settings, device, on_progress)
    recipe = settings.recipe(dataset)
    return _measure(network, dataset, recipe, settings, device, on_progress)


def checked_settings(network: Any, dataset: Any, options: dict[str, Any]) -> Settings:
    """The settings of a call, its network and data set being what they must be.

    Raises:
        ConfigError: One of them is not, or an option is unknown or out of range.
    """
    from etastar.data import Dataset
    from etastar.problem.networks import Network

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
    if network is not None and (given := NETWORK_OPTIONS & set(options)):
        raise ConfigError(
            f"{', '.join(sorted(given))}: the network was given as an object; set this on it."
        )
    return settings


def _with_half_of_eta_star(
    network: Network,
    data: Dataset,
    settings: Settings,
    device: torch.device,
    on_progress: Callable[[Progress], None] | None,
) -> Settings:
    """The settings with `from_lr` filled in.

    Raises:
        ConfigError: η* at initialisation does not exist, so half of it does not either.
    """
    initial = settings.model_copy(update={"from_step": 0})
    found = _measure(network, data, initial.recipe(data), initial, device, on_progress)
    if found.eta_star.median is None:
        raise ConfigError(
            "from_lr: η* at initialisation was not found, so half of it cannot be the rate up to "
            f"step {settings.from_step}. {' '.join(found.warnings)} Or give --from-lr."
        )
    return settings.model_copy(update={"from_lr": found.eta_star.median / 2})


def _measure(
    network: Network,
    data: Dataset,
    recipe: Recipe,
    settings: Settings,
    device: torch.device,
    on_progress: Callable[[Progress], None] | None,
) -> Measurement:
    """data, network, recipe → engine and searches → brackets → η*."""
    from etastar.machine import environment
    from etastar.result import Cost, Measurement
    from etastar.search.estimate import eta_star, success_curve

    started = time.perf_counter()
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    engine, queue = prepare(network, data, recipe, settings, seeds, device)
    if on_progress:
        queue.on_outcome = lambda trial, outcome: on_progress(
            Progress(queue.done, settings.seeds, queue.ended, engine.steps_taken)
        )
    engine.run(queue)

    results = {seed: queue.strategies[seed].result() for seed in seeds}
    trials = queue.outcomes()
    tried = [queue.strategies[seed].outcomes for seed in seeds]
    return Measurement(
        eta_star=eta_star(list(results.values()), settings.start_lr),
        seeds=results,
        trials=trials,
        curve=success_curve(list(results.values()), tried),
        network=network,
        recipe=recipe,
        data={"name": data.name, "classes": data.classes, **data.provenance},
        search=settings.model_dump(
            include={"strategy", "start_lr", "end_lr", "resolution", "seeds", "first_seed"}
        ),
        cost=Cost(
            trials=len(trials),
            steps=sum(outcome.step for outcome in trials.values()),
            seconds=round(time.perf_counter() - started, 3),
        ),
        environment=environment(engine.device, engine.dtype, engine.threads),
        warnings=tuple(advice(results, recipe, settings, min(trial.lr for trial in trials))),
    )


def prepare(
    network: Network,
    data: Dataset,
    recipe: Recipe,
    settings: Settings,
    seeds: Iterable[int],
    device: torch.device | str,
) -> tuple[Engine, SearchQueue]:
    """The engine that will train, and the searches that will say what; nothing has run yet."""
    import torch

    from etastar.engines.stack import Engine
    from etastar.search import STRATEGIES, Lattice, SearchQueue

    dtype = getattr(torch, settings.dtype)
    engine = Engine(network, data, recipe, device=device, dtype=dtype, threads=settings.threads)
    lattice = Lattice(settings.start_lr, settings.end_lr, settings.resolution)
    strategy = STRATEGIES[settings.strategy]
    searches = {seed: strategy(lattice) for seed in seeds}
    return engine, SearchQueue(searches, width=engine.useful_width)


def advice(
    results: dict[int, SeedResult], recipe: Recipe, settings: Settings, lowest: float
) -> list[str]:
    """What to know before trusting the number, each with what to do; `lowest`: of rates tried."""
    notes = []
    status = [result.status for result in results.values()]
    total = len(status)
    if above := status.count("all-trained"):
        notes.append(
            f"{above} of {total} seeds trained at the highest rate, {settings.end_lr:g}: "
            "η* lies above the range. Raise --end-lr."
        )
    if below := status.count("none-trained"):
        notes.append(
            f"{below} of {total} seeds trained at no rate from {settings.end_lr:g} down to "
            f"{lowest:.3g}{', from where on rates were too slow,' * (lowest > settings.start_lr)} "
            f"within {recipe.criterion.max_steps} steps. Lengthen the budget (--epochs), lower "
            "--threshold, or widen the range."
        )
    short = [r for r in results.values() if r.hi_outcome == "short"]
    if 2 * len(short) > sum(s == "bracketed" for s in status):
        notes.append(
            f"in {len(short)} of {total} seeds the rate above η* was not unstable, only short of "
            "the threshold when the budget ended: η* is set by the budget. Compare a longer one "
            "(--epochs)."
        )
    entries = sum(bool(r.re_entries) for r in results.values())
    if entries:
        notes.append(
            f"{entries} of {total} seeds train above a rate that fails (re-entry): the boundary is "
            "not sharp. To train, take half of η*."
        )
    return notes
