"""A user's model, data and step, checked, as a problem."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etastar.checking import check_whole, is_number, is_whole
from etastar.data import Dataset
from etastar.errors import ConfigError, ModelError, unknown_name
from etastar.problem import answers, checks
from etastar.problem.batches import Batches, LoaderBatches, TensorBatches
from etastar.problem.given_data import as_batches
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
EVALUATIONS = 10
"""In the budget, of training data whose epochs have no known end."""
AUTO = "auto"
"""The threshold that is looked for."""
NEVER = {True: math.inf, False: -math.inf}
"""A threshold that no metric meets, by whether higher is better."""


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
    threshold: float | str
    epochs: float | None
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
    max_steps: int | None = None
    eval_batch_size: int | None = None
    eval_grad: bool = False

    def __post_init__(self) -> None:
        optional = ("epochs", "resolution", "precision", "budgets")
        for name in ("epochs", "start_lr", "end_lr", *optional):
            value = getattr(self, name)
            if name in optional and value is None:
                continue
            if not is_number(value) or not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
        whole = ("batch_size", "eval_every", "trials", "round_size", "confirm")
        for name in (*whole, "max_steps", "eval_batch_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least=0 if name == "confirm" else 1)
        check_whole("first_seed", self.first_seed, least=0)
        if self.start_lr >= self.end_lr:
            raise ConfigError(
                f"start_lr must be below end_lr, got {self.start_lr:g} and {self.end_lr:g}."
            )
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS)
        if self.epochs is not None and self.max_steps is not None:
            raise ConfigError("give the budget in epochs or in max_steps, not in both.")
        self._check_threshold()
        if self.step_fn is not None and self.loss_fn is not nn.functional.cross_entropy:
            raise ConfigError(
                "loss_fn has no effect beside step_fn, which returns the loss itself: leave it out."
            )
        if inspect.isclass(self.loss_fn):
            name = self.loss_fn.__name__
            raise ConfigError(f"loss_fn is the class {name}: pass an instance of it, {name}().")
        _ = self.seed_list

    def _check_threshold(self) -> None:
        """Raise if the threshold is neither `"auto"` nor a number that the metric can reach."""
        threshold = self.threshold
        if isinstance(threshold, str) and threshold == AUTO:
            return
        if isinstance(threshold, str) or not is_number(threshold) or not math.isfinite(threshold):
            raise ConfigError(
                f"threshold must be a finite number, got {threshold!r}; {AUTO!r} looks for one."
            )
        if self.metric == "accuracy" and not 0 < threshold <= 1:
            meant = f"; did you mean {threshold / 100:g}?" if 1 < threshold <= 100 else "."
            raise ConfigError(
                f"threshold of an accuracy must be above 0 and at most 1, got {threshold:g}{meant}"
            )

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

    def problem(
        self, find: Callable[[Problem, Start, list[float]], Problem] | None = None
    ) -> tuple[Problem, Groups, list[str]]:
        """Make the problem, its parameter groups, and notes; all that can be checked has been.

        Args:
            find: Given the problem, a start and the metric of all seeds at step 0, returns the
                problem with a threshold, where `"auto"` is asked for.

        Raises:
            ModelError: What was given does not fit together.
            ConfigError: The batch size has no effect.
        """
        weights, state = self._checkpoint()
        own = self.loss_fn if self.step_fn is None else None
        origin = GivenOrigin(self.model, self.device, weights, own)
        seeds = self.seed_list
        origin.settle_device(seeds[0])
        factory = OptimizerFactory(self.optimizer, state, probes(self.start_lr, self.end_lr))
        groups = factory.groups(origin.copy(seeds[0]))
        train, val = self._batches(origin.device)
        loss_fn = self.loss_fn
        if isinstance(loss_fn, nn.Module):
            loss_fn = copy.deepcopy(loss_fn).to(origin.device)
        steps = int(self.max_steps or 0) or max(
            1, round((self.epochs or 1) * train.steps_per_epoch)
        )
        often = train.steps_per_epoch
        if isinstance(train, LoaderBatches):
            train.limit = steps
            often = often if train.ends else max(1, steps // EVALUATIONS)
        auto = self.threshold == AUTO
        problem = Problem(
            origin=origin,
            train=train,
            val=val,
            objective=Objective(
                loss_fn=loss_fn,
                step_fn=self.step_fn,
                metric=self.metric,
                threshold=NEVER[self.higher] if auto else float(self.threshold),
                higher_is_better=self.higher,
                eval_grad=self.eval_grad,
            ),
            optimizer=factory,
            max_steps=steps,
            eval_every=self.eval_every or often,
        )
        start = Start(seeds[0], seeds[0])
        problem = checks.with_loss(problem, start)
        checks.check_first_step(problem, start)
        problem = checks.with_metric(problem, start)
        notes = [*answers.notes_of(problem, start), *self._notes(problem)]
        starts = [Start(seed, seed) for seed in (seeds if origin.varies else seeds[:1])]
        values = [checks.check_first_metric(problem, each) for each in starts]
        if auto:
            assert find is not None
            problem = find(problem, starts[0], values)
        answers.check_not_constant(problem, start)
        for each, value in zip(starts, values, strict=True):
            if self.from_checkpoint is None:
                checks.check_not_met(problem, each, value)
            elif problem.objective.met(value):
                problem = problem.holding()
                notes.append(
                    f"the checkpoint already meets the threshold ({value:.4g}): a rate trains if "
                    "the metric stands at the end of the budget."
                )
        return problem, groups, notes

    def _notes(self, problem: Problem) -> list[str]:
        """Return what should be said of the data and the loss, beside their labels."""
        notes = []
        samples = getattr(problem.train, "samples", None)
        if self.batch_size and samples and self.batch_size > samples:
            notes.append(
                f"batch_size={self.batch_size} is more than the {samples} training samples: every "
                "step takes all of them."
            )
        if type(self.train_data) is list and len(self.train_data) == 2 and not samples:
            notes.append(
                "train_data is a list of two, taken as two batches. If it is (training, "
                "validation) data, pass train_data=... and val_data=...."
            )
        if problem.objective.in_training:
            notes.append(
                "the model has a loss in train mode only: the metric is taken in train mode, "
                "without updates, its buffers put back."
            )
        return notes

    def _batches(self, device: torch.device) -> tuple[Batches, Batches]:
        """Return training and validation data; an `etastar.Dataset` holds both."""
        train_data, val_data = self.train_data, self.val_data
        if isinstance(train_data, Dataset):
            data = train_data
            val_data = (data.x_val, data.y_val) if val_data is None else val_data
            train_data = (data.x_train, data.y_train)
        size = int(self.batch_size or BATCH_SIZE)
        train = as_batches(
            train_data,
            size,
            device,
            "train_data",
            eval_size=self.eval_batch_size,
            limit=self.max_steps,
        )
        if isinstance(train, TensorBatches):
            size = train.batch
        elif isinstance(train, LoaderBatches) and self.batch_size is None:
            size = getattr(train.loader, "batch_size", None) or size
        if val_data is None:
            val = train
        else:
            at_once = int(self.eval_batch_size or size)
            val = as_batches(val_data, at_once, device, "val_data", drops=False)
        if val is train and not getattr(train, "ends", True):
            raise ConfigError(
                f"train_data did not end within max_steps={self.max_steps} batches, and without "
                "val_data all of it would be evaluated: pass val_data."
            )
        batched = [isinstance(b, LoaderBatches) and b.batched for b in (train, val)]
        fixed = batched[1] or (val is train and isinstance(val, LoaderBatches))
        for name, useless in (("batch_size", all(batched)), ("eval_batch_size", fixed)):
            if getattr(self, name) and useless:
                raise ConfigError(
                    f"{name}={getattr(self, name)} has no effect: the data come in batches "
                    "already. Leave it out, or pass tensors or a Dataset."
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
