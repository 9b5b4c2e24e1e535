"""A user's model, data and step, checked, as a problem."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etastar.checking import check_whole, is_number, is_whole, plain
from etastar.data import Dataset
from etastar.errors import ConfigError, ModelError, unknown_name
from etastar.problem import checks
from etastar.problem.batches import Batches, LoaderBatches, as_batches
from etastar.problem.objective import Objective
from etastar.problem.optimizers import Groups, OptimizerFactory, probes
from etastar.problem.origin import GivenOrigin
from etastar.problem.problem import Problem
from etastar.problem.trial import Start

if TYPE_CHECKING:
    from torch.optim import Optimizer

METRICS = ("accuracy", "loss")
SEEDS = 3
"""Of a search per seed, where none are asked for."""
BATCH_SIZE = 128
"""Samples per step of tensors and data sets, where none are asked for."""


@dataclass(frozen=True)
class OwnModel:
    """The arguments of `maximal_lr`, as given; numbers are checked here.

    Raises:
        ConfigError: A number is out of its range, or an argument has no effect beside another.
    """

    model: nn.Module | Callable[[int], nn.Module]
    train_data: Any
    val_data: Any
    loss_fn: Callable[..., Any]
    optimizer: Callable[..., Optimizer]
    metric: str | Callable[..., Any]
    threshold: float
    epochs: float
    batch_size: int | None
    eval_every: int | None
    seeds: int | Sequence[int] | None
    start_lr: float
    end_lr: float
    resolution: float | None
    step_fn: Callable[..., Any] | None
    device: torch.device | str | None
    progress: bool
    higher_is_better: bool | None
    engine: str
    from_checkpoint: Mapping[str, Any] | None
    strategy: str | None = None
    precision: float | None = None
    trials: int | None = None
    budgets: float | None = None
    confirm: int | None = None
    round_size: int | None = None
    slow_edge: bool = False
    first_seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))  # PyTorch and JSON take no others
        optional = ("resolution", "precision", "budgets")
        for name in ("epochs", "start_lr", "end_lr", *optional):
            value = getattr(self, name)
            if name in optional and value is None:
                continue
            if not is_number(value) or not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
        for name in ("batch_size", "eval_every", "trials", "round_size", "confirm"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least=0 if name == "confirm" else 1)
        check_whole("first_seed", self.first_seed, least=0)
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
        if self.step_fn is not None and self.loss_fn is not nn.functional.cross_entropy:
            raise ConfigError(
                "loss_fn has no effect beside step_fn, which returns the loss itself: leave it out."
            )
        _ = self.seed_list

    @property
    def seed_list(self) -> list[int]:
        """Return the seeds.

        Raises:
            ConfigError: They are no distinct whole numbers, or none.
        """
        if self.seeds is None:
            return list(range(self.first_seed, self.first_seed + SEEDS))
        if is_whole(self.seeds):
            check_whole("seeds", self.seeds)
            return list(range(self.first_seed, self.first_seed + int(self.seeds)))  # type: ignore[arg-type]
        if self.first_seed:
            raise ConfigError("`first_seed` has no effect beside a list of `seeds`: leave it out.")
        chosen = list(self.seeds) if isinstance(self.seeds, Iterable) else []
        good = all(is_whole(seed) and seed >= 0 for seed in chosen)
        if not chosen or not good or len(set(chosen)) < len(chosen):
            raise ConfigError(
                "seeds must be a positive number of seeds, or distinct whole numbers from 0, got "
                f"{self.seeds!r}."
            )
        return [int(seed) for seed in chosen]

    @property
    def higher(self) -> bool:
        """Tell whether a higher metric is better."""
        return self.metric != "loss" if self.higher_is_better is None else self.higher_is_better

    def problem(self) -> tuple[Problem, Groups, list[str]]:
        """Make the problem, its parameter groups, and notes; all that can be checked has been.

        Raises:
            ModelError: What was given does not fit together.
            ConfigError: The batch size has no effect.
        """
        weights, state = self._checkpoint()
        origin = GivenOrigin(self.model, self.device, weights)
        seeds = self.seed_list
        origin.settle_device(seeds[0])
        factory = OptimizerFactory(self.optimizer, state, probes(self.start_lr, self.end_lr))
        groups = factory.groups(origin.copy(seeds[0]))
        train, val = self._batches(origin.device)
        loss_fn = self.loss_fn
        if isinstance(loss_fn, nn.Module):
            loss_fn = copy.deepcopy(loss_fn).to(origin.device)
        problem = Problem(
            origin=origin,
            train=train,
            val=val,
            objective=Objective(
                loss_fn=loss_fn,
                step_fn=self.step_fn,
                metric=self.metric,
                threshold=float(self.threshold),
                higher_is_better=self.higher,
            ),
            optimizer=factory,
            max_steps=max(1, round(self.epochs * train.steps_per_epoch)),
            eval_every=self.eval_every or train.steps_per_epoch,
        )
        checks.check_first_step(problem, Start(seeds[0], seeds[0]))
        notes = []
        for seed in seeds if origin.varies else seeds[:1]:
            start = Start(seed, seed)
            value = checks.check_first_metric(problem, start)
            if self.from_checkpoint is None:
                checks.check_not_met(problem, start, value)
            elif problem.objective.met(value):
                problem = problem.holding()
                notes.append(
                    f"the checkpoint already meets the threshold ({value:.4g}): a rate trains if "
                    "the metric stands at the end of the budget."
                )
        return problem, groups, notes

    def _batches(self, device: torch.device) -> tuple[Batches, Batches]:
        """Return training and validation data; an `etastar.Dataset` holds both."""
        train_data, val_data = self.train_data, self.val_data
        if isinstance(train_data, Dataset):
            data = train_data
            val_data = (data.x_val, data.y_val) if val_data is None else val_data
            train_data = (data.x_train, data.y_train)
        size = self.batch_size or BATCH_SIZE
        train = as_batches(train_data, size, device, "train_data")
        val = train if val_data is None else as_batches(val_data, size, device, "val_data")
        batched = (isinstance(b, LoaderBatches) and b.batched for b in (train, val))
        if self.batch_size and all(batched):
            raise ConfigError(
                f"batch_size={self.batch_size} has no effect: the data come in batches already. "
                "Leave it out, or pass tensors or a Dataset."
            )
        return train, val

    def _checkpoint(self) -> tuple[Mapping[str, Any] | None, dict[str, Any] | None]:
        """Return the states of model and optimizer to start from, copied."""
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
