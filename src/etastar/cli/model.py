"""`etastar model MODULE:NAME`: η* of a model of one's own, from the shell."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from etastar.cli import INTERRUPTED
from etastar.cli.options import parse
from etastar.cli.output import check_figure, check_output
from etastar.cli.printing import show
from etastar.cli.user_code import called, imported, takes_an_argument
from etastar.data import DATASETS
from etastar.errors import ConfigError, NotBracketedWarning
from etastar.search.search import OF_THE_CURVE, STRATEGY_NAMES
from etastar.settings import Settings
from etastar.validation import OneOf

if TYPE_CHECKING:
    from etastar.result import Result

GROUPS = {
    "data": "data (this code is imported and run)",
    "loss": "training",
    "metric": "criterion and budget",
    "strategy": "search",
    "device": "machine",
    "plot": "output",
}
DEFAULT_THRESHOLD = 0.9
"""Of an accuracy, as in `maximal_lr`; a loss has no default."""
DATA_OPTIONS = ("data_dir", "train_size", "val_size")


class ModelOptions(BaseModel):
    """The options of `etastar model`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(
        description="MODULE:NAME or FILE.py:NAME of a function (seed) -> nn.Module, a function of "
        "no arguments, or an nn.Module. The module is looked for in the current folder first. "
        "Its code is run.",
    )
    data: str | None = Field(
        None,
        description="MODULE:NAME of a function of no arguments that returns training data "
        "(tensors (inputs, targets), a Dataset or a DataLoader), a pair (training, validation) of "
        "them, or a dictionary with train and val. Its code is run.",
    )
    dataset: str | None = Field(
        None,
        description=f"Instead of --data: {', '.join(DATASETS)}, as flat inputs [N, d] and labels "
        "[N].",
    )
    data_dir: str | None = Field(
        None,
        description="Folder with the data set's files. [default: $ETASTAR_DATA_DIR, else download]",
    )
    train_size: int | None = Field(
        None, ge=1, description="Of --dataset: the first so many training samples. [default: all]"
    )
    val_size: int | None = Field(
        None, ge=1, description="Of --dataset: the first so many validation samples. [default: all]"
    )

    loss: Literal["cross-entropy", "mse", "mse-mean"] = Field(
        "cross-entropy",
        description="cross-entropy: mean over samples. mse: ½ · sum over outputs · mean over "
        "samples, classes as one-hot. mse-mean: torch.nn.functional.mse_loss, the mean over "
        "outputs too.",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "sgd", description="With PyTorch's defaults but for the learning rate and the momentum."
    )
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="μ of heavy-ball momentum, for sgd.")
    batch_size: int | None = Field(
        None, ge=1, description="Samples per step; a DataLoader comes as it is. [default: 128]"
    )

    metric: Literal["accuracy", "loss"] = Field(
        "accuracy", description="On the validation data, else on the training data."
    )
    threshold: FiniteFloat | Literal["auto"] | None = Field(
        None,
        description="What the metric must reach; auto is half-way from no training to the best of "
        f"a few runs. [default: {DEFAULT_THRESHOLD} for accuracy]",
    )
    epochs: float | None = Field(
        None,
        gt=0.0,
        allow_inf_nan=False,
        description="Budget in passes over the training data. [default: 1]",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Budget in steps, instead of --epochs; no more batches are read."
    )
    eval_every: int | None = Field(
        None, ge=1, description="Steps between evaluations. [default: once per epoch]"
    )
    eval_batch_size: int | None = Field(
        None,
        ge=1,
        description="Samples evaluated at once, where the data are no DataLoader. [default: as in "
        "training]",
    )

    strategy: Annotated[str | None, OneOf("strategy", STRATEGY_NAMES)] = Field(
        None,
        description="curve: where a fresh seed trains, and a rate that is confirmed. section, "
        "bisection: one bracket per seed. [default: curve; section with --seeds or --resolution]",
    )
    precision: float | None = Field(
        None,
        gt=0.0,
        allow_inf_nan=False,
        description="curve: the 95 % interval of η* reaches at most the factor 1 + precision to "
        "either side. [default: 0.2]",
    )
    trials: int | None = Field(None, ge=1, description="curve: most whole trials. [default: 120]")
    budgets: float | None = Field(
        None,
        gt=0.0,
        allow_inf_nan=False,
        description="curve: most steps, in whole trainings, all included. [default: no cap]",
    )
    confirm: int | None = Field(
        None,
        ge=0,
        description="curve: fresh seeds that train at the recommended rate, 0 for none. "
        "[default: 10]",
    )
    round_size: int | None = Field(
        None, ge=1, description="curve: trials that are placed at once. [default: 4]"
    )
    slow_edge: bool = Field(
        False, description="curve: look for the rates that are too slow for the budget, too."
    )
    seeds: int | None = Field(
        None, ge=1, description="section, bisection: number of seeds. [default: 3]"
    )
    first_seed: int = Field(0, ge=0, description="Number of the first seed.")
    resolution: float | None = Field(
        None,
        gt=0.0,
        allow_inf_nan=False,
        description="section, bisection: relative width of a bracket. [default: 0.05]",
    )
    start_lr: float = Field(
        1e-5, gt=0.0, allow_inf_nan=False, description="Lower end of the range of rates."
    )
    end_lr: float = Field(
        10.0, gt=0.0, allow_inf_nan=False, description="Upper end of the range of rates."
    )
    engine: Literal["auto", "stack", "loop"] = Field(
        "auto", description="How trials are trained; auto takes the fastest that can."
    )

    device: str | None = Field(
        None, description="Device to train on. [default: where the model is]"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads. [default: PyTorch's]")

    plot: str | None = Field(None, description="Write the picture here: .png, .svg or .pdf.")
    json_file: str | None = Field(
        None, alias="json", description="Write the result as JSON here; - is standard output."
    )


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
    check_figure(options.plot)
    check_output(options.json_file)
    if (options.data is None) == (options.dataset is None):
        what = "both" if options.data else "neither"
        raise ConfigError(
            f"the data come from --data (MODULE:NAME of a function that returns them) or from "
            f"--dataset; got {what}. See etastar model --help."
        )
    try:
        found = _measure(options)
    except KeyboardInterrupt:
        print("etastar: interrupted. Nothing was written.", file=sys.stderr)
        return INTERRUPTED
    return show(found, options.plot, options.json_file)


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
    left, model = [], None
    words = iter(arguments)
    for word in words:
        flag, _, value = word.partition("=")
        if flag == "--model":
            model = value or next(words, None)
        else:
            left.append(word)
    if model is None or model.startswith("-"):  # no model, as in `--model --help`
        return run([*([model] if model else []), *left])
    print(
        f"etastar: `measure --model` is now a command of its own: etastar model {model} ...",
        file=sys.stderr,
    )
    return run([model, *_old_mse(left)])


def _old_mse(arguments: list[str]) -> list[str]:
    """Give `--loss mse` the meaning that it had: PyTorch's mean over outputs."""
    found = list(arguments)
    for place, word in enumerate(arguments):
        after = arguments[place + 1] if place + 1 < len(arguments) else ""
        if word == "--loss=mse" or (word == "--loss" and after == "mse"):
            print(
                "etastar: --loss mse of this old command is PyTorch's mean over outputs, now "
                "called mse-mean; in etastar model, mse is ½ · sum over outputs · mean over "
                "samples.",
                file=sys.stderr,
            )
            if word == "--loss":
                found[place + 1] = "mse-mean"
            else:
                found[place] = "--loss=mse-mean"
    return found


def _measure(options: ModelOptions) -> Result:
    """Call `maximal_lr` with these options."""
    import torch

    from etastar.api import maximal_lr
    from etastar.machine import use_threads
    from etastar.problem.losses import half_squared_distance

    threshold = options.threshold
    if threshold is None:
        if options.metric == "loss":
            raise ConfigError("--threshold is missing: a loss has no default threshold.")
        threshold = DEFAULT_THRESHOLD
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
    same = [
        *(
            "metric",
            "epochs",
            "max_steps",
            "eval_batch_size",
            "batch_size",
            "eval_every",
            "start_lr",
            "end_lr",
            "resolution",
        )
    ]
    same += ["strategy", "seeds", "first_seed", *OF_THE_CURVE]
    with use_threads(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotBracketedWarning)  # printed with the result
        found = maximal_lr(
            model,
            train_data,
            val_data,
            loss_fn=losses[options.loss],
            optimizer=optimizer,
            threshold=threshold,
            device=options.device,
            engine=options.engine,
            **{name: getattr(options, name) for name in same},
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
    from torch import nn

    found = imported("model", place)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(f"model {place} is a {kind}; expected a function or an nn.Module.")
    if takes_an_argument(found):
        return lambda seed: called("model", place, found, seed)
    return called("model", place, found)


def _data(options: ModelOptions) -> tuple[Any, Any]:
    """Return training and validation data; the latter may be None."""
    import torch

    from etastar.data import load

    if options.data is None:
        given = {name: getattr(options, name) for name in DATA_OPTIONS}
        loaded = load(options.dataset or "", **given, progress=True)
        return (loaded.x_train, loaded.y_train), (loaded.x_val, loaded.y_val)
    for name in DATA_OPTIONS:
        if getattr(options, name) is not None:
            raise ConfigError(f"`{name}` goes with --dataset, not with --data.")
    found = imported("--data", options.data)
    if callable(found) and not hasattr(found, "__getitem__"):
        found = called("--data", options.data, found)
    if isinstance(found, dict):
        if unknown := set(found) - {"train", "val"}:
            raise ConfigError(
                f"--data {options.data}: expected a dictionary with train and val, got also "
                f"{', '.join(sorted(map(repr, unknown)))}."
            )
        if "train" not in found:
            raise ConfigError(f"--data {options.data}: the dictionary has no key 'train'.")
        return found["train"], found.get("val")
    if isinstance(found, tuple) and len(found) == 2 and not torch.is_tensor(found[0]):
        return found
    return found, None
