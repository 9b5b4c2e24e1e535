"""What a `LightningModule` gives, and what it finds in the place of its Trainer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch

from etastar.carried import unscheduled
from etastar.errors import ConfigError, ModelError

ENTRY = "lightning_maximal_lr"
NAMES = ("lr", "learning_rate")
"""What the rate is called, as an attribute of the module or of its `hparams`."""


def is_own(owner: Any, name: str) -> bool:
    """Tell whether a hook is the user's own, rather than Lightning's.

    Args:
        owner: A module or a data module.
        name: Of the hook.
    """
    if name in vars(owner):  # as LightningDataModule.from_datasets sets it
        return vars(owner)[name] is not None
    hook = getattr(type(owner), name, None)
    home = (getattr(hook, "__module__", None) or "").partition(".")[0]
    return hook is not None and home not in ("lightning", "pytorch_lightning")


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


def optimizers_in(found: Any) -> tuple[list[Any], list[Any]]:
    """Return the optimizers and the schedulers of any form that Lightning takes.

    Args:
        found: What `configure_optimizers` returned.
    """
    if isinstance(found, dict):
        return [found["optimizer"]], [found.get("lr_scheduler")]
    if not isinstance(found, tuple | list):
        return [found], []
    if len(found) == 2 and isinstance(found[0], list | tuple):
        return list(found[0]), list(found[1]) if isinstance(found[1], list | tuple) else [found[1]]
    pairs = [optimizers_in(each) for each in found]
    return [o for own, _ in pairs for o in own], [s for _, its in pairs for s in its]


def one_optimizer(found: Any) -> tuple[Any, list[Any]]:
    """Return the optimizer that was configured, with the rates of its schedule's peak.

    Args:
        found: What `configure_optimizers` returned.

    Returns:
        It, and the schedulers that came with it.

    Raises:
        ConfigError: It is not one optimizer.
    """
    optimizers, schedulers = optimizers_in(found)
    if len(optimizers) != 1 or not hasattr(optimizers[0], "param_groups"):
        count = len(optimizers) if len(optimizers) > 1 else "no"
        raise ConfigError(
            f"{ENTRY}: configure_optimizers returns {count} optimizers. Expected one: for others "
            "write the step for etastar.maximal_lr."
        )
    schedulers = [each["scheduler"] if isinstance(each, dict) else each for each in schedulers]
    schedulers = [each for each in schedulers if each is not None]
    return unscheduled(optimizers[0], schedulers), schedulers


def set_attribute(module: Any, name: str | None, lr: float) -> None:
    """Set the rate wherever a module has it.

    Args:
        module: Any.
        name: Of the rate; None for nowhere.
        lr: The rate.
    """
    if name is not None and name in vars(module):
        setattr(module, name, lr)
    if name is not None and name in getattr(module, "hparams", {}):
        module.hparams[name] = lr


class Attached:
    """What a module finds as `self.trainer`: the counts of its own run, and the user's Trainer.

    Args:
        training: What is trained, see `fit_step.Training`.

    Attributes:
        logged: The values of a validation, by name: each with its weight and how it is reduced.
        callback_metrics: What was logged last.
    """

    def __init__(self, training: Any) -> None:
        self.real = training.trainer
        self.global_step = self.current_epoch = self.batch_index = 0
        self.training, self.validating, self.sanity_checking = True, False, False
        self.logger: Any = None
        if self.real is None or self.real.loggers:
            from lightning.pytorch.loggers.logger import DummyLogger

            self.logger = DummyLogger()  # writes nothing
        self.loggers = [self.logger] if self.logger else []
        self.logged: dict[str, list[tuple[Any, float, str]]] = {}
        self.callback_metrics: dict[str, Any] = {}
        self.logged_size, self.datamodule = 1, training.data
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

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Keep a value, of a step in training the last; see `LightningModule.log`."""
        value = value.detach() if isinstance(value, torch.Tensor) else value
        if not self.validating:
            if not options.get("on_epoch") and not hasattr(value, "compute"):
                self.callback_metrics[name] = torch.as_tensor(value)
            return
        weight = options.get("batch_size") or self.logged_size
        self.logged.setdefault(name, []).append((value, weight, options.get("reduce_fx", "mean")))

    def tell(self) -> None:
        """Let the module find what it has logged in this validation."""
        for name in self.logged:
            value = torch.tensor(self.reduced(name))
            self.callback_metrics[name] = self.callback_metrics[f"{name}_epoch"] = value

    def reduced(self, name: str) -> float:
        """Return what Lightning makes of the values of an epoch.

        Args:
            name: What was logged, or with `_epoch` what was logged of each step, too.

        Raises:
            ModelError: Nothing of that name was, or it is reduced in another way.
        """
        name = name if name in self.logged else name.removesuffix("_epoch")
        if name not in self.logged:
            logged = ", ".join(self.logged) or "nothing"
            raise ModelError(f"validation_step logs no {name!r}; it logs {logged}.")
        value, _, how = self.logged[name][-1]
        if hasattr(value, "compute"):  # of torchmetrics, which has seen all batches
            return float(value.compute())
        pairs = [(float(v), weight) for v, weight, _ in self.logged[name]]
        if how in ("mean", torch.mean):
            return sum(v * weight for v, weight in pairs) / sum(weight for _, weight in pairs)
        for reduced in (min, max, sum):
            if how in (reduced.__name__, getattr(torch, reduced.__name__)):
                return float(reduced(v for v, _ in pairs))
        raise ModelError(
            f"validation_step logs {name!r} with reduce_fx={how!r}: expected one of mean, min, max "
            "and sum."
        )
