"""`etastar measure --model my_module:build`: η* of a model of one's own, from the shell."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from etastar.cli import INTERRUPTED
from etastar.cli.options import parse
from etastar.cli.output import check_figure, check_output, write_text
from etastar.cli.user_code import called, imported, takes_an_argument
from etastar.data import DATASETS
from etastar.errors import ConfigError
from etastar.problem.losses import Loss
from etastar.result import number

if TYPE_CHECKING:
    from rich.console import Console

    from etastar.modules import MaximalLR

GROUPS = {
    "model": "model and data (this code is imported and run)",
    "loss": "training",
    "metric": "criterion and budget",
    "seeds": "search",
    "device": "machine",
    "plot": "output",
}
DEFAULT_THRESHOLD = 0.9
"""Of an accuracy, as in `maximal_lr`; a loss has no default."""


class OwnModelOptions(BaseModel):
    """The options of `etastar measure --model`."""

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

    loss: Loss = Field(
        "cross-entropy",
        description="torch.nn.functional.cross_entropy or mse_loss of (model(inputs), targets).",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "sgd", description="With PyTorch's defaults but for the learning rate and the momentum."
    )
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="μ of heavy-ball momentum, for sgd.")
    batch_size: int = Field(128, ge=1, description="Samples per step; a DataLoader comes as it is.")

    metric: Literal["accuracy", "loss"] = Field(
        "accuracy", description="On the validation data, else on the training data."
    )
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description=f"What the metric must reach. [default: {DEFAULT_THRESHOLD} for accuracy]",
    )
    epochs: float = Field(
        1.0, gt=0.0, allow_inf_nan=False, description="Budget in passes over the training data."
    )
    eval_every: int | None = Field(
        None, ge=1, description="Steps between evaluations. [default: once per epoch]"
    )

    seeds: int = Field(3, ge=1, description="Seeds, each with its own bracket.")
    first_seed: int = Field(0, ge=0, description="Number of the first seed.")
    resolution: float = Field(
        0.05, gt=0.0, allow_inf_nan=False, description="Relative width of a bracket."
    )
    start_lr: float = Field(
        1e-5, gt=0.0, allow_inf_nan=False, description="Lower end of the range of rates."
    )
    end_lr: float = Field(
        10.0, gt=0.0, allow_inf_nan=False, description="Upper end of the range of rates."
    )
    engine: Literal["auto", "stack", "vmap", "loop"] = Field(
        "auto", description="How replicas are trained; auto takes the fastest that can."
    )

    device: str | None = Field(
        None, description="Device to train on. [default: where the model is]"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads. [default: PyTorch's]")

    plot: str | None = Field(None, description="Write the picture here: .png, .svg or .pdf.")
    json_file: str | None = Field(
        None, alias="json", description="Write the result as JSON here; - is standard output."
    )


def wanted(arguments: list[str]) -> bool:
    """Whether a command line of `measure` names a model of one's own."""
    return any(word == "--model" or word.startswith("--model=") for word in arguments)


def run(arguments: list[str]) -> int:
    """Measure η* of the model, print it, write what was asked for; returns the exit code."""
    _refuse_built_in(arguments)
    options = parse(
        OwnModelOptions,
        arguments,
        prog="etastar measure --model",
        description="Measure η* of a PyTorch model of your own; see etastar.maximal_lr.",
        groups=GROUPS,
    )
    check_figure(options.plot)
    check_output(options.json_file)
    if options.data is not None and options.dataset is not None:
        raise ConfigError("--data and --dataset are given; the data come from one of them.")
    if options.data is None and options.dataset is None:
        raise ConfigError("--data is missing: name a function that returns the data, or --dataset.")
    from rich.console import Console

    console = Console(stderr=options.json_file == "-", highlight=False)
    try:
        found = _measure(options)
    except KeyboardInterrupt:
        print("etastar: interrupted. Nothing was written.", file=sys.stderr)
        return INTERRUPTED
    print_result(found, options, console)
    if options.plot:
        _save_figure(found, options.plot)
        console.print(f"picture: {options.plot}")
    if options.json_file:
        write_text(_json(found, options) + "\n", options.json_file)
        if options.json_file != "-":
            console.print(f"JSON: {options.json_file}")
    return 0


def _refuse_built_in(arguments: list[str]) -> None:
    """An option of the built-in networks or their search says nothing about a user's model."""
    from etastar.settings import Settings

    own = set(OwnModelOptions.model_fields)
    for word in arguments:
        name = word.split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if word.startswith("--") and name in Settings.model_fields and name not in own:
            instead = ": give the budget in --epochs" if name == "max_steps" else ": leave it out"
            raise ConfigError(f"{word.split('=')[0]} does not apply to --model{instead}.")


def _measure(options: OwnModelOptions) -> MaximalLR:
    """The options as arguments of `maximal_lr`."""
    import warnings

    import torch

    from etastar.errors import NotBracketedWarning
    from etastar.machine import use_threads
    from etastar.modules import maximal_lr

    threshold = options.threshold
    if threshold is None:
        if options.metric == "loss":
            raise ConfigError("--threshold is missing: a loss has no default threshold.")
        threshold = DEFAULT_THRESHOLD
    if options.momentum and options.optimizer != "sgd":
        raise ConfigError(f"--momentum is for sgd, got --optimizer {options.optimizer}.")
    losses: dict[str, Callable[..., Any]] = {
        "cross-entropy": torch.nn.functional.cross_entropy,
        "mse": torch.nn.functional.mse_loss,
    }
    model = _model(options.model)
    train_data, val_data = _data(options)
    with use_threads(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotBracketedWarning)  # printed with the result
        return maximal_lr(
            model,
            train_data,
            val_data,
            loss_fn=losses[options.loss],
            optimizer=_optimizer(options),
            metric=options.metric,
            threshold=threshold,
            epochs=options.epochs,
            batch_size=options.batch_size,
            eval_every=options.eval_every,
            seeds=range(options.first_seed, options.first_seed + options.seeds),
            start_lr=options.start_lr,
            end_lr=options.end_lr,
            resolution=options.resolution,
            device=options.device,
            engine=options.engine,
        )


def _optimizer(options: OwnModelOptions) -> Callable[..., Any]:
    import functools

    import torch

    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kind = kinds[options.optimizer]
    return functools.partial(kind, momentum=options.momentum) if options.momentum else kind


def _model(place: str) -> Any:
    """A module as it is, or a factory seed → module."""
    from torch import nn

    found = imported("--model", place)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(f"--model {place} is a {kind}; expected a function or an nn.Module.")
    if takes_an_argument(found):
        return lambda seed: called("--model", place, found, seed)
    return called("--model", place, found)


def _data(options: OwnModelOptions) -> tuple[Any, Any]:
    """Training and validation data; the latter may be None."""
    import torch

    if options.data is None:
        from etastar.data import load

        loaded = load(
            options.dataset or "",
            data_dir=options.data_dir,
            train_size=options.train_size,
            val_size=options.val_size,
            progress=True,
        )
        return (loaded.x_train, loaded.y_train), (loaded.x_val, loaded.y_val)
    for name in ("data_dir", "train_size", "val_size"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} goes with --dataset, not with --data.")
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


def print_result(found: MaximalLR, options: OwnModelOptions, console: Console) -> None:
    """The brackets per seed, then η*, as `measure` prints them."""
    from etastar.cli.measure import bracket_table

    better = "reaches at most" if options.metric == "loss" else "reaches"
    asked = found.settings
    console.print(
        f"{options.model} on {options.data or options.dataset}; {options.loss}, "
        f"{options.optimizer}; engine {found.engine} ({found.engine_reason})\n"
        f"{options.metric} {better} {asked['threshold']:g} within {asked['max_steps']} steps; "
        f"seeds vary the {found.varies}"
    )
    console.print()
    console.print(bracket_table(found.seeds))
    console.print()
    low, high = found.interval or (None, None)
    interval = f"95 % interval {number(low)} – {number(high)}"
    console.print(f"[bold]η* = {number(found.lr)}[/bold]  (median over seeds; {interval})")
    if found.group_lrs and len(found.group_lrs) > 1:
        console.print("per group: " + ", ".join(number(rate) for rate in found.group_lrs))
    few = f"{len(found.seeds)} seed" + "s" * (len(found.seeds) > 1)
    console.print(
        f"safe learning rate (p = 0.95 estimated from the spread over {few}): "
        f"{number(found.safe_lr)}"
    )
    cost = found.cost
    console.print(
        f"cost: {cost['trials']} trials, {cost['steps']:,} steps, {cost['seconds']:.1f} s"
    )
    for note in found.notes:
        console.print(f"[yellow]note:[/yellow] {note}", markup=True)


def _save_figure(found: MaximalLR, path: str) -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6.4, 4.0), layout="constrained").subplots()
    found.plot(ax=axes)
    axes.figure.savefig(path)  # type: ignore[union-attr]


def _json(found: MaximalLR, options: OwnModelOptions) -> str:
    """Strict JSON with the keys of `measure`, and those of `MaximalLR` under `maximal_lr`."""
    import json

    whole = found.to_dict()
    low, high = found.interval or (None, None)
    record = {
        "schema_version": whole["schema_version"],
        "eta_star": {
            "median": found.lr,
            "ci_low": low,
            "ci_high": high,
            "safe": found.safe_lr,
            "set_by": found.set_by,
        },
        "seeds": whole["seeds"],
        "trials": [
            {
                "seed": trial["order"],
                "lr": trial["lr"],
                "outcome": trial["outcome"],
                "step": trial["step"],
                "accuracy": trial["metric"] if options.metric == "accuracy" else None,
                "metric": trial["metric"],
            }
            for trial in whole["history"]
            if trial["initialisation"] in (None, trial["order"])
        ],
        "network": {
            "architecture": options.model,
            "width": None,
            "depth": None,
            "input_lr_ratio": None,
            "output_variance": None,
            "biases": None,
        },
        "data": {"name": options.data or options.dataset},
        "criterion": {
            "kind": "reach",
            "metric": options.metric,
            "threshold": whole["settings"]["threshold"],
            "max_steps": whole["settings"]["max_steps"],
            "eval_every": whole["settings"]["eval_every"],
        },
        "cost": whole["cost"],
        "environment": whole["environment"],
        "maximal_lr": {
            key: value
            for key, value in whole.items()
            if key not in ("schema_version", "seeds", "cost", "environment")
        },
        "warnings": list(found.notes),
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
