"""η* of what a `transformers.Trainer` trains: read from the Trainer; extra `huggingface`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn

from etastar.carried import (
    AppliedResult,
    Reported,
    check_carried,
    left_out,
    measured,
    named,
    not_of,
    own_attributes,
    points_down,
    scaled,
    steps_of,
    unscheduled,
)
from etastar.checking import is_number
from etastar.errors import ConfigError, ModelError
from etastar.maximal import PLACES
from etastar.problem.batches import Grouped, LoaderBatches, length_of
from etastar.problem.nested import parts_of_step
from etastar.problem.streams import Stream
from etastar.result import Result
from etastar.schedule import Warmup
from etastar.search.search import OF_THE_CURVE
from etastar.shadow import shadow_of
from etastar.warm_up import warmup as find_warmup

ENTRY = "trainer_maximal_lr"
QUIET = ("DefaultFlowCallback", "ProgressCallback", "PrinterCallback", "NotebookProgressCallback")
"""Callbacks that change nothing of what is trained."""
FUNCTIONS = ("compute_loss_func", "compute_metrics", "model_init", "preprocess_logits_for_metrics")
NO_MATTER = (
    *("output_dir", "log", "save_", "run_name", "report_to", "hub_", "push_to_hub", "resume"),
    *("disable_tqdm", "learning_rate", "max_steps", "num_train_epochs", "load_best_model"),
)
"""Arguments, by their beginnings, of which no trial depends: budget and rate are told elsewhere."""
TIMES = ("_time", "_runtime", "_per_second")
"""Ends of the names under which `evaluate` reports how long it took."""
OWN = "_etastar_run"
"""Where an optimizer carries the copy of the Trainer that it belongs to."""


def trainer_maximal_lr(
    trainer: Any, *, warmup: bool | float | Mapping[str, Any] | None = None, **options: Any
) -> AppliedResult:
    """Measure η* of what a Trainer trains, as `etastar.maximal_lr` does of any module.

    Read from the Trainer: the model or `model_init`, data sets, collator and samplers, its loss
    (label smoothing, `compute_loss_func` or a `compute_loss` of its own), the optimizer with its
    weight decay groups, and of its arguments the batch size, accumulation, clipping, precision and
    the budget. Nothing in it changes.

    Args:
        trainer: A `transformers.Trainer`, before `train()`.
        warmup: A rate, above `start_lr`, to which the shortest warm-up is looked for, too; True
            for the highest at which 95 % of fresh seeds train; or options of `etastar.warmup`, such
            as `{"target_lr": 0.01, "ladder": (0, 10, 50)}`.
        **options: Any of `etastar.maximal_lr` that is not read from the Trainer. `metric` may be a
            name that `evaluate()` reports. Left out, it is `metric_for_best_model`, or what
            `compute_metrics` returns if that is one number or holds an accuracy, or the accuracy of
            the logits. `"loss"` is the Trainer's `eval_loss`.

    Returns:
        The result; its `apply(trainer)` sets the recommended rate, and the schedule of a warm-up.

    Raises:
        ConfigError: Something cannot be carried over, or an option has no effect; says what to do.
        ModelError: As for `etastar.maximal_lr`.

    Warns:
        NotBracketedWarning: No rate trains, or all do.
    """
    _check(trainer)
    given = {"target_lr": warmup} if is_number(warmup) else warmup
    if given is not None and not isinstance(given, bool | Mapping):
        raise ConfigError(
            "warmup must be True, the rate to warm up to, or options of etastar.warmup, got "
            f"{warmup!r:.60}."
        )
    for name in (*PLACES[1:], "scheduler"):
        if warmup and options.get(name) is not None:
            raise ConfigError(
                f"{ENTRY}: `{name}` has no effect on a warm-up. Leave it out, or `warmup`."
            )
    with Stream("model", 0).active():
        shadow = shadow_of(trainer)
        train = shadow.get_train_dataloader()
        val = train if trainer.eval_dataset is None else shadow.get_eval_dataloader()
    size = int(trainer.args.gradient_accumulation_steps)
    training = Training(trainer)
    metric = _metric(training, options.get("metric"))
    better = {"higher_is_better": not points_down(str(getattr(metric, "__name__", metric)))}
    if options.get("metric") is None and trainer.args.metric_for_best_model is not None:
        better = {"higher_is_better": bool(trainer.args.greater_is_better)}
    options = better | options | {"metric": metric}
    read = {
        "model": training.drawn if trainer.model_init is not None else trainer.model,
        "train_data": steps_of(train, size),
        "val_data": [LoaderBatches(val, "the validation loader")]
        if isinstance(metric, Reported)
        else Grouped(val),
        "optimizer": training.optimizer,
        "step_fn": training.training_step,
        "device": trainer.args.device,
        **_budget(trainer, train, size),
    }

    def warmed(found: Result) -> Warmup | None:
        known = {k: v for k, v in options.items() if k not in (*OF_THE_CURVE, "strategy")}
        known["target_lr"] = (found.window and found.window.high) or found.recommended_lr
        known["threshold"] = found.settings["threshold"]
        known |= given if isinstance(given, Mapping) else {}
        return None if known["target_lr"] is None else find_warmup(**(read | known))

    return measured(
        options,
        where="the Trainer",
        notes=_notes(trainer),
        settings=training.told,
        on_training=trainer.eval_dataset is None,
        setter=_set,
        warmup=warmed if warmup else None,
        **read,
    )


def _check(trainer: Any) -> None:
    """Raise for what cannot be measured."""
    args = getattr(trainer, "args", None)
    if args is None or not hasattr(trainer, "get_train_dataloader"):
        expected = "trainer must be a transformers.Trainer"
        raise not_of(ENTRY, expected, trainer, ("transformers", "huggingface"))
    trials = "trials run on one device in one process"
    check_carried(
        ENTRY,
        {
            f"DeepSpeed and FSDP are not carried over: {trials}. Measure a Trainer without them"
            "": bool(trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled),
            f"the Trainer uses {max(args.n_gpu, args.world_size)} devices, and {trials}. Start one "
            "process, with one GPU in CUDA_VISIBLE_DEVICES": args.n_gpu > 1 or args.world_size > 1,
            "neftune_noise_alpha changes the model while it trains. Measure without it"
            "": trainer.neftune_noise_alpha is not None,
            "LOMO needs the rate in the backward pass. Measure another optimizer": "lomo"
            in str(args.optim).lower(),
            "there is no train_dataset": trainer.train_dataset is None,
            "eval_dataset holds several data sets. Pass one": isinstance(
                trainer.eval_dataset, dict
            ),
            "batch_eval_metrics is not carried over. Let compute_metrics see all batches"
            "": args.batch_eval_metrics,
        },
    )


def _notes(trainer: Any) -> list[str]:
    """Return what is left out of the measurement."""
    args, notes = trainer.args, []
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if schedulers := _schedulers(trainer):
        notes.append(left_out(schedulers, "the Trainer"))
    elif kind != "constant":
        notes.append(
            f"the schedule of the Trainer ({kind}) was left out: every rate is constant. Take the "
            "recommended one for its peak, or measure with `scheduler`."
        )
    others = [
        each
        for each in trainer.callback_handler.callbacks
        if type(each).__name__ not in QUIET and ".integrations" not in type(each).__module__
    ]
    if others:
        notes.append(f"callbacks of the Trainer were not called: {named(others)}.")
    if args.auto_find_batch_size:
        notes.append("auto_find_batch_size was left out: the batch size is the one that is set.")
    if getattr(args, "activation_checkpointing", False):
        notes.append("activation checkpointing was left out: it changes the memory used only.")
    return notes


def _budget(trainer: Any, train: Any, size: int) -> dict[str, Any]:
    """Return the budget, and the steps between evaluations, as options of `maximal_lr`."""
    args, batches = trainer.args, length_of(train)
    steps, every = args.max_steps, args.eval_steps if args.eval_strategy == "steps" else None
    if steps <= 0 and batches is not None:
        steps = math.ceil(args.num_train_epochs * -(-batches // size))
    if every is not None and every < 1:  # a share of the budget
        every = math.ceil(steps * every) if steps > 0 else None
    budget = {"max_steps": steps} if steps > 0 else {"epochs": args.num_train_epochs}
    return {**budget, "eval_every": every and int(every)}


class Training:
    """What a Trainer does with a model: its methods are the arguments of `maximal_lr`.

    Args:
        trainer: The user's; every run has a shadow of its own.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    @property
    def told(self) -> dict[str, Any]:
        """Return how a step is taken, for the record."""
        names = (
            *("per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm"),
            *("label_smoothing_factor", "mixed_precision", "weight_decay"),
        )
        return {name: getattr(self.trainer.args, name, None) for name in names}

    @property
    def identity(self) -> list[Any]:
        """Return what outcomes depend on besides the model, see `problem.fingerprint`."""
        read = {k: v for k, v in self.trainer.args.to_dict().items() if not k.startswith(NO_MATTER)}
        functions = [getattr(self.trainer, name) for name in FUNCTIONS]
        return [read, type(self.trainer), *functions, own_attributes(self.trainer)]

    def drawn(self) -> nn.Module:
        """Return a new model, drawn by `model_init` from the global streams."""
        return self.trainer.call_model_init().to(self.trainer.args.device)  # type: ignore[no-any-return]

    def optimizer(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of a copy of the model, with a shadow of the Trainer of its own.

        Args:
            model: The copy.
            lr: The rate.
        """
        shadow, given = shadow_of(self.trainer), self.trainer.optimizer
        shadow.model = shadow.model_wrapped = model
        _set_argument(shadow, lr)
        if given is None:
            shadow.create_optimizer()
            optimizer = shadow.optimizer
        else:
            optimizer = shadow.optimizer = self._moved(getattr(given, "optimizer", given), model)
            scaled(optimizer, lr)
        shadow.accelerator._optimizers = [optimizer]
        setattr(optimizer, OWN, shadow)
        return optimizer  # type: ignore[no-any-return]

    def _moved(self, optimizer: Any, model: nn.Module) -> Any:
        """Return a copy of the optimizer that was given, of the parameters of another model."""
        pairs = zip(self.trainer.model.parameters(), model.parameters(), strict=True)
        copied = copy.deepcopy(optimizer, {id(one): other for one, other in pairs})
        copied.state.clear()
        return unscheduled(copied, _schedulers(self.trainer))

    def training_step(self, model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
        """Train a copy of the model on the batches of one step; return their loss.

        Args:
            model: The copy.
            batch: Or several, see `parts_of_step`.
            optimizer: Of its run.
        """
        shadow, parts = getattr(optimizer, OWN), parts_of_step(batch)
        device = shadow.args.device
        samples, items = shadow.get_batch_samples(iter(parts), len(parts), device)
        shadow.current_gradient_accumulation_steps = len(samples)
        accelerator = shadow.accelerator
        losses = [shadow.training_step(model, inputs, items) for inputs in samples]
        if shadow.args.max_grad_norm and shadow.args.max_grad_norm > 0:
            shadow._clip_grad_norm(model)
        if accelerator.scaler is None:
            optimizer.step()
        else:
            accelerator.scaler.step(optimizer)
            accelerator.scaler.update()
        model.zero_grad()
        shadow.state.global_step += 1
        return torch.stack(losses).sum()

    def evaluated(
        self, model: nn.Module, data: LoaderBatches, name: str | None
    ) -> tuple[str, float]:
        """Evaluate a copy of the model on all validation data.

        Args:
            model: The copy.
            data: All of them.
            name: Of the metric, with or without `eval_`; None for the only one, or an accuracy.

        Returns:
            The name and the value that `Trainer.evaluate` reports.

        Raises:
            ModelError: It reports none of that name, or several where there is no name.
        """
        shadow = shadow_of(self.trainer)
        shadow.model = shadow.model_wrapped = model
        shadow.get_eval_dataloader = lambda *given, **options: data.loader
        shadow.log = lambda *given, **options: None
        found = shadow.evaluate().items()
        told = {k.removeprefix("eval_"): v for k, v in found if not k.endswith(TIMES)}
        if name is None:
            own = [key for key in told if key != "loss"]
            if len(own) > 1 and "accuracy" not in own:
                raise ModelError(
                    f"compute_metrics returns {', '.join(own)}: say which as `metric`."
                )
            name = "accuracy" if "accuracy" in own else (own or ["loss"])[0]
        key = name.removeprefix("eval_")
        if key not in told:
            raise ModelError(f"evaluate() reports no {key!r}; it reports {', '.join(told)}.")
        return name, float(told[key])


def _set_argument(trainer: Any, lr: float) -> None:
    """Set the rate that a Trainer makes an optimizer with."""
    trainer.args.learning_rate = lr
    if trainer.optimizer_cls_and_kwargs is not None:
        kind, keywords = trainer.optimizer_cls_and_kwargs
        trainer.optimizer_cls_and_kwargs = kind, {**keywords, "lr": lr}


def _metric(training: Training, asked: Any) -> Any:
    """Return the metric: what was asked for, else what the Trainer has."""
    trainer = training.trainer
    if asked is not None and not isinstance(asked, str):
        return asked
    asked = asked or trainer.args.metric_for_best_model
    if asked not in (None, "accuracy") or trainer.compute_metrics is not None:
        return Reported(training.evaluated, asked)
    if _shifts_labels(trainer):
        raise ConfigError(
            f"{ENTRY}: the model predicts the next token, of which no accuracy is read. Pass "
            "`metric='loss'` with a `threshold`, or a Trainer with compute_metrics."
        )
    return "accuracy"


def _shifts_labels(trainer: Any) -> bool:
    """Tell whether the loss compares an output with the label of the next position."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = type(trainer.model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return causal or bool(getattr(trainer, "_loss_shifts_labels", False))


def _schedulers(trainer: Any) -> list[Any]:
    """Return the scheduler that a Trainer was given, if any."""
    return [] if trainer.lr_scheduler is None else [trainer.lr_scheduler]


def _set(trainer: Any, lr: float, schedule: Warmup | None) -> None:
    """Set rate and schedule of the user's Trainer."""
    schedulers = _schedulers(trainer)
    optimizers = [trainer.optimizer, *(each.optimizer for each in schedulers)]
    if (own := next((each for each in optimizers if each is not None), None)) is not None:
        scaled(own, lr, schedulers)
    _set_argument(trainer, lr)
    if schedule is None:
        return
    if own is not None:
        unscheduled(own, schedulers)

    def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the warm-up that was measured, as the Trainer's schedule."""
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule.scheduler(optimizer or self.optimizer)
        return self.lr_scheduler

    trainer.lr_scheduler = None
    trainer.create_scheduler = MethodType(create_scheduler, trainer)
    if trainer.model_init is None:  # else train() makes them anew
        trainer.create_optimizer()
        trainer.create_scheduler(0)
