"""One training step and one validation of a `LightningModule`, in the order that Lightning has.

A Trainer cannot train many copies side by side, so its loop is written out here for a single device
and one optimizer; what decides about numbers (precision, clipping, the hooks of the module) is
asked of the user's own objects. Callbacks are not called.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from etastar.carried import Whole, parts_of_step
from etastar.errors import ModelError
from etastar.problem.nested import samples_in


def is_own(owner: Any, name: str) -> bool:
    """Tell whether a hook is the user's own, rather than Lightning's.

    Args:
        owner: A module or a data module.
        name: Of the hook.
    """
    hook = vars(owner).get(name, getattr(type(owner), name, None))
    home = (getattr(hook, "__module__", None) or "").partition(".")[0]
    return hook is not None and home not in ("lightning", "pytorch_lightning")


class Attached:
    """What a module finds as `self.trainer`: the counts of its own run, and the user's Trainer.

    Args:
        training: What is trained.
    """

    def __init__(self, training: Training) -> None:
        self.real = training.trainer
        self.global_step = self.current_epoch = self.batch_index = 0
        self.training, self.validating, self.sanity_checking = True, False, False
        self.logger, self.loggers = None, list[Any]()
        self.callback_metrics: dict[str, Any] = {}
        self.scaler = copy.deepcopy(getattr(training.precision, "scaler", None))
        if training.max_steps is not None:
            self.estimated_stepping_batches = training.max_steps
        if training.batches is not None:
            self.num_training_batches = training.batches

    def __getattr__(self, name: str) -> Any:
        """Return what the user's Trainer has, to be read."""
        real = vars(self).get("real")
        if real is None or name.startswith("__"):
            raise AttributeError(f"the module asks its trainer for {name}: pass the Trainer, too")
        return getattr(real, name)


@dataclass(frozen=True)
class Training:
    """What a Trainer would do with a module.

    Attributes:
        trainer: The user's; None for the defaults.
        data: The data module, whose hooks a batch goes through; None without one.
        accumulation: Batches over which gradients are accumulated.
        batches: Batches of an epoch; None where that is not known.
        max_steps: The budget in optimizer steps; None where that is not known.
    """

    trainer: Any
    data: Any
    accumulation: int
    batches: int | None
    max_steps: int | None

    @property
    def precision(self) -> Any:
        """Return Lightning's precision plugin; None without a Trainer."""
        return getattr(self.trainer, "precision_plugin", None)

    def attached(self, module: nn.Module, optimizer: Any = None) -> Attached:
        """Return what a copy of the module finds as its Trainer, which it gets if it has none yet.

        Args:
            module: A copy that is trained.
            optimizer: Of its run.
        """
        held: Any = module
        if held._trainer is None:
            held.trainer = Attached(self)
            vars(module)["log"] = Log()
        if optimizer is not None:
            vars(module)["optimizers"] = lambda use_pl_optimizer=True: optimizer
        return held.trainer  # type: ignore[no-any-return]

    def moved(self, module: nn.Module, batch: Any) -> Any:
        """Return a batch as `training_step` gets it: converted, and through the hooks of transfer.

        Args:
            module: Whose device it is put on.
            batch: From the loader.
        """
        if self.precision is not None:
            batch = self.precision.convert_input(batch)
        device = next(module.parameters()).device
        for name, args in (
            ("on_before_batch_transfer", ()),
            ("transfer_batch_to_device", (device,)),
            ("on_after_batch_transfer", ()),
        ):
            owner = self.data if self.data is not None and is_own(self.data, name) else module
            batch = getattr(owner, name)(batch, *args, 0)
        return batch


class Log:
    """What stands in for `self.log`: keeps the values of a validation."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[Any, float, str]]] = {}
        self.size, self.keeps = 1, False

    def __call__(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Keep a value, while validating; see `LightningModule.log`."""
        if not self.keeps:
            return
        weight = options.get("batch_size") or self.size
        value = value.detach() if isinstance(value, torch.Tensor) else value
        self.values.setdefault(name, []).append((value, weight, options.get("reduce_fx", "mean")))

    def reduced(self, name: str) -> float:
        """Return what Lightning makes of the values of an epoch.

        Args:
            name: What was logged.

        Raises:
            ModelError: Nothing of that name was, or it is reduced in another way.
        """
        if name not in self.values:
            logged = ", ".join(self.values) or "nothing"
            raise ModelError(f"validation_step logs no {name!r}; it logs {logged}.")
        value, _, how = self.values[name][-1]
        if hasattr(value, "compute"):  # of torchmetrics, which has seen all batches
            return float(value.compute())
        numbers = [float(v) for v, _, _ in self.values[name]]
        weights = [weight for _, weight, _ in self.values[name]]
        if how in ("mean", torch.mean):
            pairs = zip(numbers, weights, strict=True)
            return sum(v * weight for v, weight in pairs) / sum(weights)
        known: dict[Any, Callable[[list[float]], float]] = {
            "min": min,
            "max": max,
            "sum": sum,
            torch.min: min,
            torch.max: max,
            torch.sum: sum,
        }
        if how not in known:
            raise ModelError(
                f"validation_step logs {name!r} with reduce_fx={how!r}: expected one of mean, min, "
                "max and sum."
            )
        return float(known[how](numbers))


def numbered(hook: Callable[..., Any], batch: Any, index: int) -> Any:
    """Call a step with the number of its batch, if it takes one.

    Args:
        hook: `training_step` or `validation_step`.
        batch: As it takes it.
        index: The number of the batch.
    """
    parameters = inspect.signature(hook).parameters.values()
    named = any(p.name == "batch_idx" for p in parameters)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return hook(batch, index) if named or len(places) > 1 else hook(batch)


class Step:
    """A whole optimizer step, see `step_fn` of `maximal_lr`.

    Args:
        training: What a Trainer would do.
    """

    __name__ = "training_step"

    def __init__(self, training: Training) -> None:
        self.training = training

    def __call__(self, model: Any, batch: Any, optimizer: Any) -> torch.Tensor:
        """Train a copy of the module on the batches of one step; return their mean loss."""
        run = self.training.attached(model, optimizer)
        parts = [self.training.moved(model, part) for part in parts_of_step(batch)]
        if run.batch_index == 0:
            if run.current_epoch == 0:
                model.on_fit_start()
                model.on_train_start()
            model.on_train_epoch_start()
        losses = []
        for place, part in enumerate(parts):
            if model.on_train_batch_start(part, run.batch_index) == -1:
                raise ModelError("on_train_batch_start returns -1, which is not carried over.")
            outputs: list[Any] = []

            def closure(part: Any = part, outputs: list[Any] = outputs) -> torch.Tensor:
                outputs.append(self._backward(model, optimizer, run, part))
                return loss_of(outputs[-1])

            if place + 1 < len(parts):
                closure()
            else:
                self._stepped(model, optimizer, run, closure)
                run.global_step += 1
            losses.append(loss_of(outputs[0]).detach())
            model.on_train_batch_end(outputs[0], part, run.batch_index)
            run.batch_index += 1
        if run.batch_index == self.training.batches:
            model.on_train_epoch_end()
            run.current_epoch, run.batch_index = run.current_epoch + 1, 0
        return torch.stack(losses).mean()

    def _stepped(
        self, model: Any, optimizer: Any, run: Attached, closure: Callable[[], torch.Tensor]
    ) -> None:
        """Let the optimizer step, with what the precision and the clipping ask for."""

        def clipped() -> torch.Tensor:
            loss = closure()
            if run.scaler is not None:
                run.scaler.unscale_(optimizer)
            model.on_before_optimizer_step(optimizer)
            trainer = self.training.trainer
            if trainer is not None:
                model.configure_gradient_clipping(
                    optimizer,
                    gradient_clip_val=trainer.gradient_clip_val,
                    gradient_clip_algorithm=trainer.gradient_clip_algorithm,
                )
            return loss

        if run.scaler is None:
            optimizer.step(clipped)
        else:
            clipped()
            run.scaler.step(optimizer)
            run.scaler.update()

    def _backward(self, model: Any, optimizer: Any, run: Attached, batch: Any) -> Any:
        """Add the gradients of one batch; return what `training_step` returned."""
        index, precision = run.batch_index, self.training.precision
        with precision.train_step_context() if precision else nullcontext(), torch.enable_grad():
            output = numbered(model.training_step, batch, index)
        loss = loss_of(output) / self.training.accumulation
        if index % self.training.accumulation == 0:
            model.on_before_zero_grad(optimizer)
            model.optimizer_zero_grad(run.current_epoch, index, optimizer)
        scaled = loss if run.scaler is None else run.scaler.scale(loss)
        model.on_before_backward(scaled)
        model.backward(scaled)
        model.on_after_backward()
        return output


def loss_of(output: Any) -> torch.Tensor:
    """Return the loss of what `training_step` returned.

    Args:
        output: A tensor, or a dictionary with `loss`.

    Raises:
        ModelError: There is none.
    """
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, torch.Tensor):
        raise ModelError(
            f"training_step must return the loss, or a dictionary with `loss`, got {output!r:.60}; "
            "a step that is skipped is not carried over."
        )
    return loss


class TrainingLoss:
    """The loss of `training_step` as a metric.

    Args:
        training: What a Trainer would do.
    """

    __name__ = "loss"

    def __init__(self, training: Training) -> None:
        self.training = training

    def __call__(self, model: Any, batch: Any) -> float:
        """Return the loss of a batch."""
        self.training.attached(model)
        return float(loss_of(numbered(model.training_step, batch, 0)))


class Logged:
    """A metric by the name under which `validation_step` logs it.

    Args:
        training: What a Trainer would do.
        name: Of the metric.
    """

    def __init__(self, training: Training, name: str) -> None:
        self.training, self.__name__ = training, name

    def __call__(self, model: Any, whole: Whole) -> float:
        """Validate a copy of the module on all validation data."""
        run, precision = self.training.attached(model), self.training.precision
        log: Log = vars(model)["log"]
        log.values.clear()
        log.keeps, run.training, run.validating = True, False, True
        with precision.val_step_context() if precision else nullcontext():
            model.on_validation_start()
            model.on_validation_epoch_start()
            for index, raw in enumerate(whole.batches.once()):
                batch = self.training.moved(model, raw)
                log.size = samples_in(batch)
                model.on_validation_batch_start(batch, index)
                output = numbered(model.validation_step, batch, index)
                model.on_validation_batch_end(output, batch, index)
            log.size = 1
            model.on_validation_epoch_end()
            model.on_validation_end()
        log.keeps, run.training, run.validating = False, True, False
        value = log.reduced(self.__name__)
        for metric in {id(v): v for held in log.values.values() for v, _, _ in held}.values():
            if hasattr(metric, "reset"):
                metric.reset()
        return value
