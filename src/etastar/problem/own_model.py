"""A user's model, data and step, checked, as a problem."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from etastar.checking import check_accuracy, check_whole, is_number, is_whole, plain
from etastar.data import Dataset
from etastar.errors import ConfigError, ModelError, unknown_name
from etastar.problem import answers, checks, own_loss
from etastar.problem.batches import Batches, LoaderBatches, TensorBatches
from etastar.problem.given_data import as_batches
from etastar.problem.held import Held, rebindable
from etastar.problem.objective import Objective
from etastar.problem.optimizers import Groups, OptimizerFactory, probes
from etastar.problem.origin import GivenOrigin
from etastar.problem.problem import Problem
from etastar.problem.rehearsal import rehearsed, schedule_notes
from etastar.problem.streams import Stream, check_ambient
from etastar.problem.trial import Start

METRICS = ("accuracy", "loss")
SEEDS = 3
"""Of a search per seed, where none are asked for."""
BATCH_SIZE = 128
"""Samples per step of tensors and data sets, where none are asked for."""
EVALUATIONS = 10
"""In the budget, of training data whose epochs have no known end."""
THRESHOLD = 0.9
"""Of an accuracy, where none is asked for."""
AUTO = "auto"
"""The threshold that is looked for."""
NEVER = {True: math.inf, False: -math.inf}
"""A threshold that no metric meets, by whether higher is better."""
IN_TRAINING = (
    "the model has a loss in train mode only: the metric is taken in train mode, without updates, "
    "its buffers put back."
)
TWO_BATCHES = (
    "train_data is a list of two, taken as two batches. If it is (training, validation) data, pass "
    "`train_data=...` and `val_data=...`."
)
SAME_WEIGHTS = (
    "the model factory draws the same weights for every seed, so that seeds vary the order of the "
    "data only. Let it draw them from PyTorch's global stream, or from the seed."
)


@dataclass(kw_only=True)
class OwnModel:
    """The arguments of `maximal_lr`, as given; numbers are checked here.

    Raises:
        ConfigError: A number is out of its range, or an argument has no effect beside another.
    """

    model: nn.Module | Callable[[int], nn.Module]
    train_data: Any
    val_data: Any = None
    loss_fn: Callable[..., Any] = nn.functional.cross_entropy
    optimizer: Callable[..., Optimizer] = torch.optim.SGD
    metric: str | Callable[..., Any] = "accuracy"
    threshold: float | str | None = None
    epochs: float | None = None
    batch_size: int | None = None
    eval_every: int | None = None
    seeds: int | Sequence[int] | None = None
    start_lr: float = 1e-5
    end_lr: float = 10.0
    resolution: float | None = None
    step_fn: Callable[..., Any] | None = None
    device: torch.device | str | None = None
    progress: bool = True
    higher_is_better: bool | None = None
    engine: str = "auto"
    from_checkpoint: Mapping[str, Any] | None = None
    strategy: str | None = None
    precision: float | None = None
    trials: int | None = None
    budgets: float | None = None
    confirm: int | None = None
    round_size: int | None = None
    slow_edge: bool = False
    first_seed: int = 0
    scheduler: Callable[..., Any] | None = None
    max_steps: int | None = None
    eval_batch_size: int | None = None
    eval_grad: bool = False

    def __post_init__(self) -> None:
        check_ambient()
        for name, value in list(vars(self).items()):
            setattr(self, name, plain(value))  # PyTorch and JSON take no others
        optional = ("epochs", "resolution", "precision", "budgets")
        for name in ("start_lr", "end_lr", *optional):
            value = getattr(self, name)
            if name in optional and value is None:
                continue
            if not is_number(value) or not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
        whole = ("batch_size", "eval_every", "trials", "round_size", "confirm", "first_seed")
        for name in (*whole, "max_steps", "eval_batch_size"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, least=0 if name in ("confirm", "first_seed") else 1)
        for name in ("slow_edge", "eval_grad", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if self.start_lr >= self.end_lr:
            raise ConfigError(
                f"`start_lr` must be below `end_lr`, got {self.start_lr:g} and {self.end_lr:g}."
            )
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS)
        if self.epochs is not None and self.max_steps is not None:
            raise ConfigError("give the budget in `epochs` or in `max_steps`, not in both.")
        self._check_threshold()
        for name in ("loss_fn", "step_fn", "metric", "scheduler"):
            self._check_callable(name)
        default = self.loss_fn is nn.functional.cross_entropy
        by_steps = Objective(self.loss_fn, self.step_fn, self.metric, 0, self.higher).whole_step
        if self.step_fn is not None and not default and not (by_steps and self.metric == "loss"):
            raise ConfigError(
                "`loss_fn` has no effect beside `step_fn`, which returns the loss itself: leave "
                "it out."
            )
        _ = self.seed_list

    def _check_threshold(self) -> None:
        """Raise if the threshold is neither `"auto"` nor a number that the metric can reach."""
        threshold = self.threshold
        if threshold is None:
            if self.metric != "accuracy":
                raise ConfigError(
                    f"threshold is missing: only an accuracy has a default, {THRESHOLD}. Say what "
                    f"the metric must reach, or {AUTO!r} to look for it."
                )
            threshold = self.threshold = THRESHOLD
        if isinstance(threshold, str) and threshold == AUTO:
            return
        if isinstance(threshold, str) or not is_number(threshold) or not math.isfinite(threshold):
            raise ConfigError(
                f"threshold must be a finite number, got {threshold!r}; {AUTO!r} looks for one."
            )
        if self.metric == "accuracy":
            check_accuracy("threshold of an accuracy", threshold, 0.0)

    def _check_callable(self, name: str) -> None:
        """Raise if a function is none, or the class of one."""
        given = getattr(self, name)
        if given is None or (name == "metric" and isinstance(given, str)):
            return
        if inspect.isclass(given) and issubclass(given, nn.Module):
            raise ConfigError(
                f"{name} must be a function, got the class {given.__name__}: pass an instance, "
                f"{given.__name__}()."
            )
        if not callable(given):
            raise ConfigError(f"{name} must be a function, got {given!r:.60}.")

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
    def budget_option(self) -> str:
        """Name the option that sets the budget."""
        return "epochs" if self.max_steps is None else "max_steps"

    @property
    def higher(self) -> bool:
        """Tell whether a higher metric is better."""
        return self.metric != "loss" if self.higher_is_better is None else self.higher_is_better

    def problem(self, probe: answers.Train | None = None) -> tuple[Problem, Groups, list[str]]:
        """Make the problem, its parameter groups, and notes; all that can be checked has been.

        Args:
            probe: What trains where the threshold `"auto"` is asked for.

        Raises:
            ModelError: What was given does not fit together.
            ConfigError: The batch size has no effect.
        """
        weights, state = self._checkpoint()
        carried = self.step_fn is None and own_loss.has_state(self.loss_fn)
        origin = GivenOrigin(self.model, self.device, weights, self.loss_fn if carried else None)
        seeds, drawn = self.seed_list, origin.varies
        origin.settle(seeds[0])
        notes = [SAME_WEIGHTS] if drawn and not origin.varies else []
        model = origin.copy(seeds[0])
        factory = OptimizerFactory(self.optimizer, state, probes(self.start_lr, self.end_lr))
        groups = factory.groups(model)
        train, val = self._batches(origin, notes)
        steps, often = self._budget(train)
        objective = self._objective(origin.device)
        functions = [objective.step_fn, objective.metric, self.optimizer, self.scheduler]
        functions += [] if carried else [self.loss_fn]
        problem = Problem(
            origin=origin,
            train=train,
            val=val,
            objective=objective,
            optimizer=factory,
            max_steps=steps,
            eval_every=self.eval_every or often,
            scheduler=self.scheduler,
            held=Held(functions + [type(module) for module in model.modules()]),
        )
        with problem.held.aside(seeds[0]):
            problem = self._checked(problem, notes, probe)
        return problem, groups, notes

    def _objective(self, device: torch.device) -> Objective:
        """Return loss and criterion as asked for; a threshold to be found is never met."""
        loss_fn = self.loss_fn
        if isinstance(loss_fn, nn.Module):
            loss_fn = copy.deepcopy(loss_fn).to(device)
        assert self.threshold is not None
        threshold = NEVER[self.higher] if self.threshold == AUTO else float(self.threshold)
        return Objective(
            loss_fn=loss_fn,
            step_fn=rebindable(self.step_fn),
            metric=rebindable(self.metric),
            threshold=threshold,
            higher_is_better=self.higher,
            eval_grad=self.eval_grad,
        )

    def _budget(self, train: Batches) -> tuple[int, int]:
        """Return the steps of a trial, of which no more are read, and those between evaluations."""
        epoch = train.steps_per_epoch
        steps = self.max_steps or max(1, round((self.epochs or 1) * epoch))
        if isinstance(train, LoaderBatches):
            train.limit = steps
            epoch = epoch if train.ends else max(1, steps // EVALUATIONS)
        return steps, epoch

    def _checked(self, problem: Problem, notes: list[str], probe: answers.Train | None) -> Problem:
        """Return the problem with what was learned from its first steps; adds to the notes."""
        seeds = self.seed_list
        first = Start(seeds[0], seeds[0])
        problem = checks.with_loss(problem, first)
        checks.check_samples(problem, first)
        checks.check_first_step(problem, first)
        notes += [*schedule_notes(problem, first), *checks.sum_notes(problem, first)]
        problem = checks.with_metric(rehearsed(problem, first), first)
        if problem.objective.in_training:
            notes.append(IN_TRAINING)
        notes += answers.notes_of(problem, first)
        starts = [Start(seed, seed) for seed in (seeds if problem.origin.varies else seeds[:1])]
        values = [checks.check_first_metric(problem, start) for start in starts]
        share = answers.constant_share(problem, first)
        if self.threshold == AUTO:
            assert probe is not None
            ends = self.start_lr, self.end_lr
            problem = answers.with_threshold(
                problem, first, values, share, ends, probe, self.progress
            )
        notes += checks.percent_notes(problem, values)
        for start, value in zip(starts, values, strict=True):
            if self.from_checkpoint is None:
                checks.check_not_met(problem, start, value, share)
            elif problem.objective.met(value):
                problem = problem.holding()
                notes.append(
                    f"the checkpoint already meets the threshold ({value:.4g}): a rate trains if "
                    "the metric stands at the end of the budget."
                )
        answers.check_not_constant(problem, share)
        return problem

    def _batches(self, origin: GivenOrigin, notes: list[str]) -> tuple[Batches, Batches]:
        """Return training and validation data; an `etastar.Dataset` holds both."""
        train_data, val_data, device = self.train_data, self.val_data, origin.device
        if isinstance(train_data, str):
            raise ModelError(
                f"train_data must be data, got {train_data!r}. For a data set of ours pass "
                f"etastar.load({train_data!r})."
            )
        if isinstance(train_data, Dataset):
            data = train_data.to(device=device)
            images = [x.reshape(len(x), *data.input_shape) for x in (data.x_train, data.x_val)]
            if _needs_images(origin.copy(self.seed_list[0]), data.x_train, images[0]):
                data = replace(data, x_train=images[0], x_val=images[1])
                notes.append(
                    f"the inputs of {data.name} are given as images, "
                    f"{['N', *data.input_shape]}: flat ones do not fit the model.".replace("'", "")
                )
            val_data = (data.x_val, data.y_val) if val_data is None else val_data
            train_data = (data.x_train, data.y_train)
        size = self.batch_size or BATCH_SIZE
        train = as_batches(
            train_data,
            size,
            device,
            "train_data",
            eval_size=self.eval_batch_size,
            limit=self.max_steps,
        )
        if self.batch_size and isinstance(train, TensorBatches) and size > train.samples:
            notes.append(
                f"`batch_size` = {size} is more than the {train.samples} training samples: every "
                "step takes all of them."
            )
        if type(train_data) is list and len(train_data) == 2 and isinstance(train, LoaderBatches):
            notes.append(TWO_BATCHES)
        return train, self._validation(train, val_data, device, notes)

    def _validation(
        self, train: Batches, given: Any, device: torch.device, notes: list[str]
    ) -> Batches:
        """Return what the metric is evaluated on, at the batch size of training if none is asked.

        Raises:
            ConfigError: A batch size has no effect, or the training data may not end.
        """
        size = self.batch_size or train.batch or BATCH_SIZE
        if isinstance(train, TensorBatches):
            size = train.batch
        val = train
        if given is not None:
            val = as_batches(given, self.eval_batch_size or size, device, "val_data", drops=False)
        elif not getattr(train, "ends", True):
            raise ConfigError(
                f"train_data did not end within `max_steps={self.max_steps}` batches, and without "
                "val_data all of it would be evaluated: pass `val_data`."
            )
        batched = [isinstance(b, LoaderBatches) and b.batched for b in (train, val)]
        fixed = batched[1] or (val is train and isinstance(val, LoaderBatches))
        useless = (("batch_size", all(batched), train), ("eval_batch_size", fixed, val))
        for name, unused, batches in useless:
            asked, which = getattr(self, name), "train_data" if batches is train else "val_data"
            if asked and unused and asked != batches.batch:
                raise ConfigError(
                    f"`{name}={asked}` has no effect: {which} comes in batches already. Leave it "
                    "out, or pass data that come in none, such as tensors."
                )
        if self.batch_size and batched[0] and self.batch_size != train.batch:
            use = "has no effect" if self.eval_batch_size else "is that of the evaluation"
            notes.append(
                f"`batch_size` = {self.batch_size} {use}: train_data comes in batches already."
            )
        return val

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


def _needs_images(model: nn.Module, flat: torch.Tensor, images: torch.Tensor) -> bool:
    """Tell whether a model takes samples as images, but not flat."""

    def fits(x: torch.Tensor) -> bool:
        try:
            with Stream("model", 0).active(), torch.no_grad():
                model(x[:2])
        except Exception:  # whatever the user's code raises
            return False
        return True

    return flat.shape != images.shape and not fits(flat) and fits(images)
