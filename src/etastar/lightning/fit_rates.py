"""The optimizer that a `LightningModule` configures, at other rates, and where its rate is set."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn

from etastar.carried import named
from etastar.errors import ConfigError
from etastar.lightning.fit_step import Training, is_own

ENTRY = "lightning_maximal_lr"
RATES = ("lr", "learning_rate")
"""What the rate is called, as an attribute of the module or of its `hparams`."""


@dataclass(frozen=True)
class Prepared:
    """A factory seed → a copy of the module as a Trainer has it when the fit begins.

    Attributes:
        training: What a Trainer would do.
        given: The module, or a factory of it.
    """

    training: Training
    given: Any

    def __call__(self, seed: int) -> nn.Module:
        """Return the module of a seed, set up and in the precision of the Trainer."""
        given = self.given
        module: Any = copy.deepcopy(given) if isinstance(given, nn.Module) else given(seed)
        vars(module).pop("optimizers", None)
        self.training.attached(module)
        for name, arguments in (("setup", ("fit",)), ("configure_model", ())):
            if is_own(module, name):
                getattr(module, name)(*arguments)
        module.trainer = None
        vars(module).pop("log", None)
        precision = self.training.precision
        return module if precision is None else precision.convert_module(module)  # type: ignore[no-any-return]


def configured(training: Training, module: Any) -> tuple[torch.optim.Optimizer, list[Any]]:
    """Return the optimizer of a copy of the module, with the rates of before any schedule.

    Args:
        training: What a Trainer would do.
        module: The copy.

    Returns:
        It, and the schedulers that came with it.

    Raises:
        ConfigError: It is not one optimizer, or its rates before the schedule are not known.
    """
    training.attached(module)
    found = module.configure_optimizers()
    if isinstance(found, dict):
        found = ([found["optimizer"]], [found["lr_scheduler"]] if "lr_scheduler" in found else [])
    if isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], list | tuple):
        optimizers, schedulers = found
    else:
        optimizers, schedulers = (found if isinstance(found, list | tuple) else [found]), []
    if len(optimizers) != 1 or not hasattr(optimizers[0], "param_groups"):
        count = len(optimizers) if len(optimizers) > 1 else "no"
        raise ConfigError(
            f"{ENTRY}: configure_optimizers returns {count} optimizers. Expected one: for others "
            "write the step for etastar.maximal_lr."
        )
    optimizer = optimizers[0]
    schedulers = [each["scheduler"] if isinstance(each, dict) else each for each in schedulers]
    for group in optimizer.param_groups:
        if any(hasattr(each, "cycle_momentum") for each in schedulers):  # it changes more than lr
            if len(optimizer.param_groups) > 1:
                raise ConfigError(
                    f"{ENTRY}: {named(schedulers)} overwrites the rates of several groups. Leave "
                    "it out of configure_optimizers, and pass it as `scheduler`."
                )
            group.update(optimizer.defaults)
        group["lr"] = group.pop("initial_lr", group["lr"]) if schedulers else group["lr"]
    return optimizer, schedulers


@dataclass(frozen=True)
class Configured:
    """The optimizer of the module at another rate.

    Attributes:
        training: What a Trainer would do.
        rate: Name of the rate; None where the module has none, and all groups are scaled.
    """

    training: Training
    rate: str | None

    def __call__(self, module: Any, lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of a copy at a rate."""
        _set_attribute(module, self.rate, lr)
        optimizer = configured(self.training, module)[0]
        if self.rate is None:
            base = float(optimizer.param_groups[0]["lr"])
            for group in optimizer.param_groups:
                group["lr"] *= lr / base
        return optimizer


def _set_attribute(module: Any, name: str | None, lr: float) -> None:
    """Set the rate wherever the module has it."""
    if name is not None and name in vars(module):
        setattr(module, name, lr)
    if name is not None and name in getattr(module, "hparams", {}):
        module.hparams[name] = lr


def rate_name(training: Training, module: Any) -> str | None:
    """Return the name of the rate that `configure_optimizers` reads; None if it reads none.

    Args:
        training: What a Trainer would do.
        module: A copy of the user's.
    """
    for name in RATES:
        if name in vars(module) or name in getattr(module, "hparams", {}):
            seen = []
            for lr in (1.0, 0.5):
                tried = copy.deepcopy(module)
                _set_attribute(tried, name, lr)
                seen.append([g["lr"] for g in configured(training, tried)[0].param_groups])
            if seen[0] != seen[1]:
                return name
    return None


def set_rate(training: Training, name: str | None, module: Any, lr: float) -> None:
    """Set the rate of the user's module: its attribute, else that of the optimizer it configures.

    Args:
        training: What a Trainer would do.
        name: Of the rate, see `rate_name`.
        module: The user's.
        lr: The rate.

    Raises:
        ConfigError: It has no attribute for the rate, and a schedule of its own.
    """
    if name is not None:
        _set_attribute(module, name, lr)
        return
    if configured(training, copy.deepcopy(module))[1]:
        raise ConfigError(
            "apply: configure_optimizers has a schedule and reads no rate from the module. Let it "
            f"read self.lr, and set that to {lr:.4g}."
        )
    module.configure_optimizers = MethodType(lambda own: _scaled(type(own), own, lr), module)


def _scaled(kind: Any, module: Any, lr: float) -> Any:
    """Return what `configure_optimizers` of a class returns, its groups scaled to a rate."""
    found = kind.configure_optimizers(module)
    optimizer = found
    while not hasattr(optimizer, "param_groups"):
        optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer[0]
    base = float(optimizer.param_groups[0]["lr"])
    for group in optimizer.param_groups:
        group["lr"] *= lr / base
    return found
