"""What a `LightningModule` finds in the place of its Trainer and of `self.log`."""

from __future__ import annotations

import copy
from typing import Any

import torch

from etastar.errors import ModelError


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
        self.logger = _swallowing(self.real)
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


def _swallowing(trainer: Any) -> Any:
    """Return a logger that writes nothing; None where the Trainer has none."""
    if trainer is not None and not trainer.loggers:
        return None
    from lightning.pytorch.loggers.logger import DummyLogger

    return DummyLogger()
