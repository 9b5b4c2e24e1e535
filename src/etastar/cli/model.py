"""`etastar model MODULE:NAME`: η* of a model of one's own, from the shell."""

from __future__ import annotations

import functools
import itertools
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, FiniteFloat

from etastar.cli import INTERRUPTED
from etastar.cli.options import JsonFile, Picture, parse
from etastar.cli.output import check_results
from etastar.cli.printing import show
from etastar.data import DATASETS, load
from etastar.errors import ConfigError, NotBracketedWarning
from etastar.machine import use_threads
from etastar.maximal import maximal_lr
from etastar.problem.given_data import pair_of
from etastar.problem.losses import half_squared_distance
from etastar.problem.own_model import THRESHOLD
from etastar.problem.user_code import imported, sent_whole, told
from etastar.result import Result
from etastar.run import CTRL_C
from etastar.search.search import STRATEGY_NAMES
from etastar.settings import DATA_OPTIONS, Count, Positive, Rate, Settings
from etastar.study.executors import EXECUTORS, make_executor
from etastar.validation import OneOf, Options

GROUPS = {
    "data": "data (this code is imported and run)",
    "loss": "training",
    "metric": "criterion and budget",
    "strategy": "search",
    "store": "kept, and for how long",
    "executor": "where trials are trained",
    "device": "machine",
    "plot": "output",
}


def as_in_measure(name: str, default: Any = None, shown: float | None = None, **limits: Any) -> Any:
    """Make an option that `etastar measure` has too, in its words.

    Args:
        name: Of the option.
        default: Its value where it is not given.
        shown: What its help calls the default, where that differs here.
        **limits: What the value is held to, as pydantic has it.
    """
    words = Settings.model_fields[name].description or ""
    if shown is not None:
        words = re.sub(r"\[default: [^]]*\]", f"[default: {shown:g}]", words)
    return Field(default, description=words, **limits)


class ModelOptions(Options):
    """The options of `etastar model`."""

    model: str
    """MODULE:NAME or FILE.py:NAME of a function (seed) -> nn.Module, a function of no arguments, or
    an nn.Module. The module is looked for in the current folder first. Its code is run."""
    data: str | None = None
    """MODULE:NAME of a function of no arguments that returns training data (tensors (inputs,
    targets), a Dataset or a DataLoader), a pair (training, validation) of them, or a dictionary
    with train and val. Its code is run."""
    dataset: str | None = Field(
        None,
        description=f"Instead of --data: {', '.join(DATASETS)}, as flat inputs [N, d] and labels "
        "[N].",
    )
    data_dir: str | None = as_in_measure("data_dir")
    train_size: Count = as_in_measure("train_size")
    val_size: Count = as_in_measure("val_size")

    loss: Literal["cross-entropy", "mse", "mse-mean"] = "cross-entropy"
    """cross-entropy: mean over samples. mse: ½ · sum over outputs · mean over samples, classes as
    one-hot. mse-mean: torch.nn.functional.mse_loss, the mean over outputs too."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """With PyTorch's defaults but for the learning rate and the momentum."""
    momentum: float = as_in_measure("momentum", 0.0, ge=0.0, lt=1.0)
    batch_size: Count = None
    """Samples per step; a DataLoader comes as it is. [default: 128]"""

    metric: Literal["accuracy", "loss"] = "accuracy"
    """On the validation data, else on the training data."""
    threshold: FiniteFloat | Literal["auto"] | None = Field(
        None,
        description="What the metric must reach; auto is half-way from no training to the best of "
        f"a few runs. [default: {THRESHOLD} for accuracy]",
    )
    epochs: Rate = None
    """Budget in passes over the training data. [default: 1]"""
    max_steps: Count = None
    """Budget in steps, instead of --epochs; no more batches are read."""
    eval_every: Count = None
    """Steps between evaluations. [default: once per epoch]"""
    eval_batch_size: Count = None
    """Samples evaluated at once, where the data are no DataLoader. [default: as in training]"""

    strategy: Annotated[str | None, OneOf("strategy", STRATEGY_NAMES)] = as_in_measure("strategy")
    precision: Rate = as_in_measure("precision", shown=0.2)
    trials: Count = as_in_measure("trials", shown=120)
    budgets: Rate = as_in_measure("budgets")
    confirm: int | None = as_in_measure("confirm", shown=10, ge=0)
    round_size: Count = as_in_measure("round_size", shown=4)
    slow_edge: bool = as_in_measure("slow_edge", False)
    seeds: Count = as_in_measure("seeds", shown=3)
    first_seed: int = as_in_measure("first_seed", 0, ge=0)
    resolution: Rate = as_in_measure("resolution")
    start_lr: Positive = as_in_measure("start_lr", 1e-5)
    end_lr: Positive = as_in_measure("end_lr", 10.0)
    engine: Literal["auto", "stack", "loop"] = "auto"
    """How trials are trained; auto takes the fastest that can."""

    store: str | None = None
    """Keep every trial in this file, and go on from those that are there; other models, data and
    settings may share it."""
    minutes: Rate = None
    """End after so many minutes with what is known by then. [default: no end]"""
    executor: Annotated[str, OneOf("executor", tuple(EXECUTORS))] = "in-process"
    """Where trials are trained: here, or one each on the workers of Dask, with the same result on
    any number of them."""
    scheduler: str | None = None
    """Address of a Dask scheduler; its workers have one thread each."""
    workers: Count = None
    """Processes that Dask starts here. [default: one per core]"""

    device: str | None = None
    """Device to train on, of each worker's own. [default: where the model is]"""
    threads: Count = as_in_measure("threads")

    plot: Picture = None
    json_file: JsonFile = None


def run(arguments: list[str]) -> int:
    """Measure η* of the model, print it, write what was asked for; return the exit code."""
    _check_not_of_networks(arguments)
    options = parse(
        ModelOptions,
        arguments,
        prog="etastar model",
        description="Measure η* of a PyTorch model of your own; see etastar.maximal_lr.",
        groups=GROUPS,
        positional=("model",),
    )
    check_results(options.plot, options.json_file, options.store)
    if (options.data is None) == (options.dataset is None):
        what = "both" if options.data else "neither"
        raise ConfigError(
            f"the data come from --data (MODULE:NAME of a function that returns them) or from "
            f"--dataset; got {what}. See etastar model --help."
        )
    found = _measure(options)
    code = show(found, options.plot, options.json_file)
    return INTERRUPTED if found.notes[:1] and found.notes[0].startswith(CTRL_C) else code


def _check_not_of_networks(arguments: list[str]) -> None:
    """Raise if an option of our networks or of their search is given: it says nothing here."""
    for word in arguments:
        flag = word.split("=")[0]
        name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
        known = name in Settings.model_fields and name not in ModelOptions.model_fields
        if word.startswith("--") and known:
            raise ConfigError(f"{flag} does not apply to a model of your own: leave it out.")


def old_command(arguments: list[str]) -> int:
    """Run `etastar measure --model MODULE:NAME ...`, as 0.1.0 had it, and say what it is now."""
    words = [part for word in arguments for part in word.split("=", 1 if word[:2] == "--" else 0)]
    place = words.index("--model")
    model, left = words[place + 1 : place + 2], words[:place] + words[place + 2 :]
    if not model or model[0].startswith("-"):  # no model, as in `--model --help`
        return run([*model, *left])
    told = [f"`measure --model` is now a command of its own: etastar model {model[0]} ..."]
    for place, pair in enumerate(itertools.pairwise(left)):
        if pair == ("--loss", "mse"):
            left[place + 1] = "mse-mean"
            told.append(
                "--loss mse of this old command is PyTorch's mean over outputs, now called "
                "mse-mean; in etastar model, mse is ½ · sum over outputs · mean over samples."
            )
    for text in told:
        print(f"etastar: {text}", file=sys.stderr)
    return run([*model, *left])


OTHERWISE = {"model", "optimizer", "executor", "scheduler"}
"""Options that mean something else than the arguments of the same name."""


def _measure(options: ModelOptions) -> Result:
    """Call `maximal_lr` with these options."""
    if options.momentum and options.optimizer != "sgd":
        raise ConfigError(f"--momentum is for sgd, got --optimizer {options.optimizer}.")
    losses: dict[str, Callable[..., Any]] = {
        "cross-entropy": torch.nn.functional.cross_entropy,
        "mse": half_squared_distance,
        "mse-mean": torch.nn.functional.mse_loss,
    }
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer: Callable[..., Any] = kinds[options.optimizer]
    if options.momentum:
        optimizer = functools.partial(optimizer, momentum=options.momentum)
    model = _model(options.model)
    train_data, val_data = _data(options)
    executor = make_executor(options.executor, options.workers, options.scheduler)
    remote = options.executor != "in-process"
    if remote and options.threads:
        raise ConfigError(
            f"--threads has no effect with --executor {options.executor}, whose workers have one "
            "thread each: leave it out."
        )
    if remote:
        sent_whole(options.model, options.data)
    same = options.model_dump(include=set(signature(maximal_lr).parameters) - OTHERWISE)
    with executor as there, use_threads(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotBracketedWarning)  # printed with the result
        found = maximal_lr(
            model,
            train_data,
            val_data,
            loss_fn=losses[options.loss],
            optimizer=optimizer,
            executor=there if remote else None,
            **same,
        )
    data = options.data or options.dataset
    kind, _, rest = found.heading.partition(";")
    return replace(
        found,
        heading=f"{options.model} ({kind}) on {data};{rest}",
        data={"name": data},
        settings={**found.settings, "model": options.model},
    )


def _model(place: str) -> Any:
    """Return a module as it is, or a factory seed → module."""
    found = imported("model", place)
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(f"model {place} is a {kind}; expected a function or an nn.Module.")
    return found


def _data(options: ModelOptions) -> tuple[Any, Any]:
    """Return training and validation data; the latter may be None."""
    if options.data is None:
        given = {name: getattr(options, name) for name in DATA_OPTIONS}
        loaded = load(options.dataset or "", **given, progress=True)
        return (loaded.x_train, loaded.y_train), (loaded.x_val, loaded.y_val)
    for name in sorted(DATA_OPTIONS):
        if getattr(options, name) is not None:
            raise ConfigError(f"`{name}` goes with --dataset, not with --data.")
    found = imported("--data", options.data)
    if callable(found) and not hasattr(found, "__getitem__"):
        with told(lambda: f"--data {options.data}"):
            found = found()
    return pair_of(found, f"--data {options.data}")
