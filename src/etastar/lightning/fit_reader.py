"""η* of a `LightningModule`: its training is read from the module, its data and its Trainer."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from etastar.carried import (
    AppliedResult,
    Reported,
    check_carried,
    left_out,
    measured,
    named,
    not_of,
    points_down,
    steps_of,
)
from etastar.errors import ConfigError
from etastar.lightning.fit_hooks import ENTRY, Attached, is_own
from etastar.lightning.fit_step import Training
from etastar.problem.batches import Grouped, LoaderBatches, length_of
from etastar.problem.origin import copied_model
from etastar.problem.streams import Stream
from etastar.problem.user_code import told

QUIET = (
    *("ModelCheckpoint", "ModelSummary", "RichModelSummary", "LearningRateMonitor", "Timer"),
    *("TQDMProgressBar", "RichProgressBar", "DeviceStatsMonitor", "ThroughputMonitor"),
)
"""Callbacks that only look on."""
CHANGING = (
    *("GradientAccumulationScheduler", "StochasticWeightAveraging", "LearningRateFinder"),
    *("BatchSizeFinder", "BackboneFinetuning", "ModelPruning", "WeightAveraging"),
    "EMAWeightAveraging",
)
"""Callbacks that change what is trained."""
PRECISIONS = ("Precision", "MixedPrecision", "HalfPrecision", "DoublePrecision")


def lightning_maximal_lr(
    module: Any, datamodule_or_loaders: Any = None, trainer: Any = None, **options: Any
) -> AppliedResult:
    """Measure η* of a `LightningModule`, as `etastar.maximal_lr` does of any module.

    Read from the objects: `training_step` and the module's hooks, the optimizer of
    `configure_optimizers` with its groups, the loaders; of the Trainer gradient clipping,
    accumulation, precision, device, limits of batches and the budget. Nothing in them changes.

    Args:
        module: The module, which is copied, or a factory seed → module, with which seeds vary the
            initialisation, too.
        datamodule_or_loaders: A `LightningDataModule`; `(train, val)` loaders, or one of training;
            None where the module has loaders of its own.
        trainer: The Trainer that is to fit the module; None for Lightning's defaults.
        **options: Any of `etastar.maximal_lr` that is not read from the objects. `metric` may be a
            name that `validation_step` logs; `"accuracy"`, the default, is that of `module(x)`, and
            `"loss"` the mean of `training_step` over the validation data.

    Returns:
        The result; its `apply(module)` sets the recommended rate.

    Raises:
        ConfigError: Something cannot be carried over, or an option has no effect; says what to do.
        ModelError: As for `etastar.maximal_lr`.

    Warns:
        NotBracketedWarning: No rate trains, or all do.
    """
    factory = module if callable(module) and not isinstance(module, nn.Module) else None
    with Stream("model", 0).active():
        example = factory(0) if factory else module
        _check(example, trainer)
        size = int(getattr(trainer, "accumulate_grad_batches", 1))
        training = Training(module, trainer, None, size)
        train, val = _loaders(training, example, datamodule_or_loaders)
        if getattr(trainer, "limit_val_batches", None) == 0:
            val = None
        limit = _limit(trainer, "train", train)
        held = Grouped(train, limit=limit)
        epoch = length_of(held)
        if val is not None:
            held = Grouped(val, limit=_limit(trainer, "val", val))
        budget = _budget(trainer, options, epoch and -(-epoch // size))
        training.batches, training.max_steps = epoch, budget.get("max_steps")
        copied = training.prepared(0)
        training.rate = training.rate_of(copied)
        notes = _notes(example, trainer, training.configured(training.prepared(0))[1])
    often, apart = (None, []) if val is None else _often(trainer, epoch, size)
    options, seen = _evaluated(training, copied, held, val is not None, options)
    root = getattr(getattr(trainer, "strategy", None), "root_device", None)
    return measured(
        {"device": root} | options,
        where="the module, its loaders and the Trainer",
        notes=[*notes, *([] if options.get("eval_every") else apart)],
        settings=training.told,
        on_training=val is None,
        setter=training.set_rate,
        model=training.prepared if factory else copied,
        train_data=steps_of(train, size, limit),
        val_data=seen,
        optimizer=training.optimizer,
        step_fn=training.training_step,
        eval_every=often,
        **budget,
    )


def _check(module: Any, trainer: Any) -> None:
    """Raise for what cannot be measured."""
    if not hasattr(module, "training_step") or not hasattr(module, "configure_optimizers"):
        expected = "module must be a LightningModule, or a factory seed -> LightningModule"
        raise not_of(ENTRY, expected, module, ("lightning", "lightning"))
    strategy = getattr(trainer, "strategy", None)
    changing = [c for c in _callbacks(module, trainer) if type(c).__name__ in CHANGING]
    check_carried(
        ENTRY,
        {
            "manual optimization does what it likes in training_step. Set automatic_optimization = "
            "True, or write the step for etastar.maximal_lr": not module.automatic_optimization,
            "the module has an optimizer_step of its own. Write the step for etastar.maximal_lr"
            "": is_own(module, "optimizer_step"),
            f"{type(strategy).__name__} trains on several devices or shards the model, and trials "
            "run on one. Measure with Trainer(devices=1, strategy='auto')": trainer is not None
            and (trainer.world_size > 1 or not type(strategy).__name__.startswith("SingleDevice")),
            f"precision {getattr(trainer, 'precision', '')} is not carried over. Expected 32-true, "
            "16-mixed, bf16-mixed, 16-true, bf16-true or 64-true": trainer is not None
            and type(trainer.precision_plugin).__name__ not in PRECISIONS,
            "fast_dev_run and overfit_batches change the training. Leave them out of the Trainer"
            "": bool(getattr(trainer, "fast_dev_run", 0) or getattr(trainer, "overfit_batches", 0)),
            f"{named(changing)} changes the training, and callbacks are not called. Take it out of "
            "the Trainer": bool(changing),
        },
    )


def _callbacks(module: Any, trainer: Any) -> list[Any]:
    """Return the callbacks that a fit would call, without those that only look on."""
    own = module.configure_callbacks() if is_own(module, "configure_callbacks") else []
    found = [*getattr(trainer, "callbacks", []), *(own if isinstance(own, list | tuple) else [own])]
    return [c for c in found if type(c).__name__ not in QUIET]


def _notes(module: Any, trainer: Any, schedulers: list[Any]) -> list[str]:
    """Return what is left out of the measurement."""
    notes = []
    if schedulers:
        notes.append(left_out(schedulers, "configure_optimizers"))
    if others := _callbacks(module, trainer):
        notes.append(f"callbacks of the Trainer were not called: {named(others)}.")
    if getattr(trainer, "reload_dataloaders_every_n_epochs", 0):
        notes.append("the loaders were not reloaded during a run.")
    return notes


def _loaders(training: Training, module: Any, given: Any) -> tuple[Any, Any]:
    """Return the loaders of training and validation; what is trained gets the data module."""
    if given is None or hasattr(given, "train_dataloader"):
        owner: Any = copied_model(module) if given is None else copy.copy(given)
        if not is_own(owner, "train_dataloader"):
            raise ConfigError(
                f"{ENTRY}: there are no training data. Pass a LightningDataModule, or loaders "
                "(train, val)."
            )
        training.data = None if given is None else owner
        owner.trainer = Attached(training)
        with told(lambda: f"{ENTRY}: making the loaders of {type(owner).__name__}"):
            owner.prepare_data()
            owner.setup("fit")
            val = owner.val_dataloader() if is_own(owner, "val_dataloader") else None
            pair: Any = (owner.train_dataloader(), val)
    else:
        pair = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    train, val = (each[0] if isinstance(each, list) and len(each) == 1 else each for each in pair)
    for what, loader in (("training", train), ("validation", val)):
        several = isinstance(loader, list | tuple | dict) or hasattr(loader, "flattened")
        if loader is not None and (several or not isinstance(loader, Iterable)):
            raise ConfigError(
                f"{ENTRY}: expected one loader of {what} data, got {type(loader).__name__}. "
                "Several are not carried over: pass (train, val)."
            )
    return train, val


def _limit(trainer: Any, kind: str, loader: Any) -> int | None:
    """Return the batches of an epoch that the Trainer takes; None for all."""
    limit = getattr(trainer, f"limit_{kind}_batches", None)
    if limit is None or (isinstance(limit, float) and limit == 1.0):
        return None
    if isinstance(limit, int):
        return limit
    length = length_of(loader)
    if length is None:
        raise ConfigError(
            f"{ENTRY}: limit_{kind}_batches={limit} is a share of a loader without a length. "
            "Give a number of batches."
        )
    return int(length * limit)


def _budget(trainer: Any, options: dict[str, Any], epoch: int | None) -> dict[str, Any]:
    """Return the budget as an option of `maximal_lr`: the user's, else the Trainer's."""
    if options.get("max_steps") is not None:
        return {"max_steps": options["max_steps"]}
    epochs, steps = options.get("epochs"), -1
    if epochs is None and trainer is not None:
        epochs, steps = trainer.max_epochs, trainer.max_steps
    if (epochs is None or epochs < 0) and steps < 0:
        raise ConfigError(
            f"{ENTRY}: how long to train is not known. Give `epochs` or `max_steps`, or pass a "
            "Trainer with max_epochs."
        )
    by_epochs = None if epochs is None or epochs < 0 or not epoch else max(1, round(epochs * epoch))
    known = [number for number in (by_epochs, steps) if number is not None and number > 0]
    return {"max_steps": min(known)} if known else {"epochs": epochs}


def _often(trainer: Any, epoch: int | None, size: int) -> tuple[int | None, list[str]]:
    """Return the steps between validations, None for an epoch, and a note where they differ."""
    interval = getattr(trainer, "val_check_interval", None)
    epochs = getattr(trainer, "check_val_every_n_epoch", 1)
    every = interval if isinstance(interval, int) else None
    if isinstance(interval, float) and epoch:
        every = max(1, int(epoch * interval))
    if interval in (None, 1.0) or (every and every == epoch):  # whole epochs
        steps = epoch and -(-epoch // size)
        return ((epochs or 1) * steps if steps and (epochs or 1) > 1 else None), []
    if every is None:
        return None, [f"val_check_interval={interval} was left out: `eval_every` says how often."]
    if every % size or (epochs and (epochs > 1 or (epoch and epoch % every))):
        note = f"validations are {max(1, every // size)} steps apart throughout, which those of "
        return max(1, every // size), [note + f"val_check_interval={interval} are not."]
    return every // size, []


def _evaluated(
    training: Training, module: Any, held: Grouped, given: bool, options: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Return the options with the metric, and what it is evaluated on."""
    metric = options.get("metric", "accuracy")
    named_so = isinstance(metric, str) and metric not in ("accuracy", "loss")
    if named_so and not (given and is_own(module, "validation_step")):
        raise ConfigError(
            f"{ENTRY}: `metric={metric!r}` is what validation_step logs, and there is no "
            f"{'validation_step' if given else 'loader of validation data'}. Expected that, "
            "'accuracy', 'loss' or a function of (model, batch)."
        )
    if named_so:
        better = {"higher_is_better": not points_down(metric)}
        at_once = [LoaderBatches(held, "the validation loader")]
        return better | options | {"metric": Reported(training.logged, metric)}, at_once
    if metric == "loss":
        options = {"higher_is_better": False} | options | {"metric": training.loss}
    held.change = lambda batch: training.moved(module, batch)
    return options, held
