"""A problem: all that the outcome of a trial is a function of, beside its start and rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from etastar.data import Dataset
from etastar.problem import own_loss
from etastar.problem.batches import Batches, TensorBatches
from etastar.problem.held import NOTHING, Held
from etastar.problem.losses import half_squared_distance
from etastar.problem.nested import samples_in
from etastar.problem.networks import Network
from etastar.problem.objective import Objective, described_call
from etastar.problem.optimizers import OptimizerFactory
from etastar.problem.origin import NetworkOrigin, Origin
from etastar.problem.streams import Stream
from etastar.problem.trial import Recipe

EVALUATED_AT_ONCE = 4
"""Our networks are evaluated in pieces of this many training batches: no answer depends on it."""


@dataclass(frozen=True)
class Problem:
    """What is trained, on what, until when.

    Attributes:
        origin: Initial models.
        train: Training data.
        val: What the metric is evaluated on.
        objective: Loss and criterion.
        optimizer: Builds optimizers; parameter groups have fixed ratios of the rate.
        max_steps: The budget in optimizer steps.
        eval_every: Steps between evaluations; the end of the budget is always evaluated.
        from_step: Steps of a common run before the trial begins; the trial goes on with the next
            batch, its own steps, and the optimizer's state, begin at zero.
        from_lr: Learning rate of that run.
        scheduler: Makes a scheduler of an optimizer, around the trial's rate; None for none.
        held: What the user's functions hold besides their arguments.
        recipe: How a network of ours trains, as it was asked for; None for a user's model. Only
            networks of ours are ever called dead.
    """

    origin: Origin
    train: Batches
    val: Batches
    objective: Objective
    optimizer: OptimizerFactory
    max_steps: int
    eval_every: int
    from_step: int = 0
    from_lr: float | None = None
    scheduler: Callable[[Any], Any] | None = None
    held: Held = NOTHING
    recipe: Recipe | None = None

    def holding(self) -> Problem:
        """Return the same problem, but the threshold must stand at the end of the budget."""
        return replace(self, objective=replace(self.objective, hold=True))

    def evaluates_at(self, step: int) -> bool:
        """Tell whether the metric is asked for after so many steps.

        Args:
            step: Optimizer steps taken.
        """
        if step == self.max_steps:
            return True
        return not self.objective.hold and step % self.eval_every == 0

    def evaluate(self, model: nn.Module) -> float:
        """Return the metric of a model, which is left in train mode.

        Random numbers that the model or the metric draws are the same at every evaluation.

        Args:
            model: On the origin's device.
        """
        own_loss.set_training(model, False)
        with Stream("metric", 0).active():
            value = self.objective.evaluate(model, self.val.once(), self.origin.device)
        own_loss.set_training(model, True)
        return value

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the parameters."""
        if isinstance(self.origin, NetworkOrigin):
            return self.origin.dtype
        return next(self.origin.copy(0).parameters()).dtype

    @property
    def batch_size(self) -> int | None:
        """Return the samples per step as they really come; None where batches tell none."""
        if self.train.batch:
            return self.train.batch
        first = next(iter(self.train.stream(0)), None)
        return None if first is None else samples_in(first)

    def described(self, seed: int) -> dict[str, Any]:
        """Return what is really used, as JSON types.

        Args:
            seed: An initialisation whose model is looked at.
        """
        objective, origin = self.objective, self.origin
        if isinstance(origin, NetworkOrigin):
            name = type(origin.network).__name__
            parameters = origin.network.parameter_count(origin.inputs, origin.outputs)
            assert self.recipe is not None
            options = {"momentum": self.recipe.momentum}
            optimizer = {"optimizer": "SGD", "optimizer_options": options}
        else:
            model = origin.copy(seed)
            name = type(model).__name__
            named = own_loss.named_parameters(model)
            parameters = sum(p.numel() for _, p in named if p.requires_grad)
            optimizer = self.optimizer.described(model)
        return {
            "model": name,
            "factory": origin.is_factory,
            "parameters": parameters,
            "loss": objective.loss_name,
            **optimizer,
            **({"scheduler": described_call(self.scheduler)} if self.scheduler else {}),
            "metric": objective.name,
            "higher_is_better": objective.higher_is_better,
            "evaluated_on": "training data" if self.val is self.train else "validation data",
            "criterion": "hold" if objective.hold else "reach",
            "threshold": objective.threshold,
            "threshold_from": objective.located
            and dict(zip(("step_0", "best", "lr"), objective.located, strict=True)),
            "batch_size": self.batch_size,
            "steps_per_epoch": self.train.steps_per_epoch,
            "max_steps": self.max_steps,
            "eval_every": self.eval_every,
            "eval_batch_size": getattr(self.val, "eval_size", None),
            "eval_grad": objective.eval_grad,
            "from_step": self.from_step,
            "from_lr": self.from_lr,
        }


def of_network(
    network: Network,
    dataset: Dataset,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Make the problem of training a network of ours: κ becomes a parameter group.

    Args:
        network: The architecture.
        dataset: Training and validation tensors, on any device.
        recipe: Loss, optimizer, batch size and criterion.
        device: Where to train.
        dtype: Of parameters and data.

    Returns:
        The problem.
    """
    device = torch.device(device)
    data = dataset.to(device=device, dtype=dtype)
    criterion = recipe.criterion
    whole = recipe.batch_size == "full"
    batch = len(data.y_train) if whole else recipe.batch_size
    losses: dict[str, Callable[..., Any]] = {
        "cross-entropy": nn.functional.cross_entropy,
        "mse": half_squared_distance,
    }
    ratios = network.ratios(data.inputs)
    at_once = EVALUATED_AT_ONCE * min(int(batch), len(data.y_train))
    train = TensorBatches((data.x_train, data.y_train), int(batch))
    return Problem(
        origin=NetworkOrigin(network, data.inputs, data.classes, dtype, device),
        train=train,
        val=TensorBatches((data.x_val, data.y_val), train.batch, at_once),
        objective=Objective(
            loss_fn=losses[recipe.loss],
            step_fn=None,
            metric="accuracy",
            threshold=criterion.threshold,
            higher_is_better=True,
            hold=criterion.kind == "hold",
        ),
        optimizer=OptimizerFactory(lambda model, lr: _sgd(ratios, recipe.momentum, model, lr)),
        max_steps=criterion.max_steps,
        eval_every=criterion.eval_every,
        from_step=recipe.from_step,
        from_lr=recipe.from_lr,
        recipe=recipe,
    )


def _sgd(ratios: Sequence[float], momentum: float, model: nn.Module, lr: float) -> torch.optim.SGD:
    """Build SGD with a group for every run of tensors that share a learning-rate ratio."""
    pairs = zip(ratios, model.parameters(), strict=True)
    groups = [
        {"params": [p for _, p in run], "lr": ratio * lr}
        for ratio, run in itertools.groupby(pairs, key=lambda pair: pair[0])
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)
