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
    """

    def __init__(self, training: Any) -> None:
        self.real = training.trainer
        self.global_step = self.current_epoch = self.batch_index = 0
        self.training, self.validating, self.sanity_checking = True, False, False
        self.logger = _swallowing(self.real)
        self.loggers = [self.logger] if self.logger else []
        self.log, self.callback_metrics = Log(), dict[str, Any]()
        self.log.latest, self.datamodule = self.callback_metrics, training.data
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


def _swallowing(trainer: Any) -> Any:
    """Return a logger that writes nothing; None where the Trainer has none."""
    if trainer is not None and not trainer.loggers:
        return None
    from lightning.pytorch.loggers.logger import DummyLogger

    return DummyLogger()


class Log:
    """What stands in for `self.log`: keeps the values of a validation, and what was logged last.

    Attributes:
        latest: What a module finds as `callback_metrics`.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[Any, float, str]]] = {}
        self.latest: dict[str, Any] = {}
        self.size, self.keeps = 1, False

    def __call__(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Keep a value, of a step in training the last; see `LightningModule.log`."""
        value = value.detach() if isinstance(value, torch.Tensor) else value
        if not self.keeps:
            if not options.get("on_epoch") and not hasattr(value, "compute"):
                self.latest[name] = torch.as_tensor(value)
            return
        weight = options.get("batch_size") or self.size
        self.values.setdefault(name, []).append((value, weight, options.get("reduce_fx", "mean")))

    def tell(self) -> None:
        """Let the module find what it has logged in this validation."""
        for name in self.values:
            self.latest[name] = self.latest[f"{name}_epoch"] = torch.tensor(self.reduced(name))

    def reduced(self, name: str) -> float:
        """Return what Lightning makes of the values of an epoch.

        Args:
            name: What was logged, or with `_epoch` what was logged of each step, too.

        Raises:
            ModelError: Nothing of that name was, or it is reduced in another way.
        """
        name = name if name in self.values else name.removesuffix("_epoch")
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
        for reduced in (min, max, sum):
            if how in (reduced.__name__, getattr(torch, reduced.__name__)):
                return float(reduced(numbers))
        raise ModelError(
            f"validation_step logs {name!r} with reduce_fx={how!r}: expected one of mean, min, max "
            "and sum."
        )
