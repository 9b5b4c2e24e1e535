"""What the user asked for, checked, and turned into a task."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etastar.errors import ConfigError, ModelError, unknown_name
from etastar.modules.objective import name_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from etastar.modules.choice import EngineName
    from etastar.modules.optimizers import Groups
    from etastar.modules.task import Task

METRICS = ("accuracy", "loss")


@dataclass(frozen=True)
class Arguments:
    """The arguments of `maximal_lr`, as given; numbers are checked here.

    Raises:
        ConfigError: A number is out of its range.
    """

    model: nn.Module | Callable[[int], nn.Module]
    train_data: Any
    val_data: Any
    loss_fn: Callable[..., Any]
    optimizer: Callable[..., Optimizer]
    metric: str | Callable[..., Any]
    threshold: float
    epochs: float
    batch_size: int
    eval_every: int | None
    seeds: int | Sequence[int]
    start_lr: float
    end_lr: float
    resolution: float
    step_fn: Callable[..., Any] | None
    device: torch.device | str | None
    progress: bool
    higher_is_better: bool | None
    engine: EngineName
    from_checkpoint: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        for name in ("epochs", "start_lr", "end_lr", "resolution"):
            _positive(name, getattr(self, name))
        for name in ("batch_size", "eval_every"):
            if getattr(self, name) is not None or name == "batch_size":
                _whole(name, getattr(self, name))
        if self.start_lr >= self.end_lr:
            raise ConfigError(
                f"start_lr must be below end_lr, got {self.start_lr:g} and {self.end_lr:g}."
            )
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS)
        if not is_number(self.threshold) or not math.isfinite(self.threshold):
            raise ConfigError(f"threshold must be a finite number, got {self.threshold!r}.")
        if self.metric == "accuracy" and not 0 < self.threshold <= 1:
            raise ConfigError(
                f"threshold of an accuracy must be above 0 and at most 1, got {self.threshold:g}."
            )
        _ = self.seed_list

    @property
    def seed_list(self) -> list[int]:
        """The seeds.

        Raises:
            ConfigError: They are no distinct whole numbers, or none.
        """
        if isinstance(self.seeds, int) and not isinstance(self.seeds, bool):
            _whole("seeds", self.seeds)
            return list(range(self.seeds))
        chosen = list(self.seeds) if isinstance(self.seeds, Iterable) else []
        good = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in chosen)
        if not chosen or not good or len(set(chosen)) < len(chosen):
            raise ConfigError(
                "seeds must be a positive number of seeds, or distinct whole numbers from 0, got "
                f"{self.seeds!r}."
            )
        return chosen

    @property
    def higher(self) -> bool:
        """Whether a higher metric is better."""
        return self.metric != "loss" if self.higher_is_better is None else self.higher_is_better

    def task(self) -> tuple[Task, Groups, list[str]]:
        """The task, its parameter groups, and notes; everything that can be checked has been.

        Raises:
            ModelError: What was given does not fit together.
        """
        import torch

        from etastar.modules import checks
        from etastar.modules.batches import as_batches
        from etastar.modules.choice import watched
        from etastar.modules.objective import Objective
        from etastar.modules.optimizers import OptimizerFactory, probes
        from etastar.modules.origin import Origin, Start
        from etastar.modules.task import Task

        weights, state = self._checkpoint()
        origin = Origin(self.model, self.device, weights)
        seeds = self.seed_list
        origin.settle_device(seeds[0])
        factory = OptimizerFactory(self.optimizer, state, probes(self.start_lr, self.end_lr))
        groups = factory.groups(origin.copy(seeds[0]))
        train_data, val_data = self._data()
        train = as_batches(train_data, self.batch_size, origin.device, "train_data")
        val = train
        if val_data is not None:
            val = as_batches(val_data, self.batch_size, origin.device, "val_data")
        loss_fn = self.loss_fn
        task = Task(
            origin=origin,
            train=train,
            val=val,
            objective=Objective(
                loss_fn=copy.deepcopy(loss_fn).to(origin.device)
                if isinstance(loss_fn, torch.nn.Module)
                else loss_fn,
                step_fn=self.step_fn,
                metric=self.metric,
                threshold=float(self.threshold),
                higher_is_better=self.higher,
            ),
            optimizer=factory,
            max_steps=max(1, round(self.epochs * train.steps_per_epoch)),
            eval_every=self.eval_every or train.steps_per_epoch,
        )
        checks.check_first_step(task, Start(seeds[0], seeds[0]))
        task = watched(task, Start(seeds[0], seeds[0]))
        notes = []
        for seed in seeds if origin.varies else seeds[:1]:
            start = Start(seed, seed)
            value = checks.check_first_metric(task, start)
            if self.from_checkpoint is None:
                checks.refuse_met(task, start, value)
            elif task.objective.met(value):
                task = task.holding()
                notes.append(
                    f"the checkpoint already meets the threshold ({value:.4g}): a rate trains if "
                    "the metric stands at the end of the budget."
                )
        return task, groups, notes

    def described(self, task: Task) -> dict[str, Any]:
        """All that was asked for, for the record."""
        numbers = ("threshold", "epochs", "batch_size", "start_lr", "end_lr", "resolution")
        model = task.origin.copy(self.seed_list[0])
        return {
            "model": type(model).__name__,
            "factory": task.origin.is_factory,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "loss": name_of(self.step_fn or task.objective.loss_fn),
            "optimizer": type(task.optimizer.build(model, 1.0)).__name__,
            "metric": task.objective.name,
            "higher_is_better": self.higher,
            "evaluated_on": "training data" if task.val is task.train else "validation data",
            "criterion": "hold" if task.objective.hold else "reach",
            **{name: getattr(self, name) for name in numbers},
            "steps_per_epoch": task.train.steps_per_epoch,
            "max_steps": task.max_steps,
            "eval_every": task.eval_every,
            "seeds": self.seed_list,
            "from_checkpoint": self.from_checkpoint is not None,
        }

    def _checkpoint(self) -> tuple[Mapping[str, Any] | None, dict[str, Any] | None]:
        """State of the model and of the optimizer to start from, copied."""
        given = self.from_checkpoint
        if given is None:
            return None, None
        if not isinstance(given, Mapping):
            raise ModelError(
                "from_checkpoint must be a state dict, or {'model': ..., 'optimizer': ...} of both "
                f"state dicts, got {type(given).__name__}. Load a file with torch.load first."
            )
        if isinstance(given.get("model"), Mapping):
            return copy.deepcopy(given["model"]), copy.deepcopy(given.get("optimizer"))
        return copy.deepcopy(given), None

    def _data(self) -> tuple[Any, Any]:
        """Training and validation data; an `etastar.Dataset` holds both."""
        from etastar.data import Dataset

        data = self.train_data
        if not isinstance(data, Dataset):
            return data, self.val_data
        val = (data.x_val, data.y_val) if self.val_data is None else self.val_data
        return (data.x_train, data.y_train), val


def is_number(value: Any) -> bool:
    """Whether it is a number of Python's, finite or not; truth values are none."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def _positive(name: str, value: Any) -> None:
    if not is_number(value) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number, got {value!r}.")


def _whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")
