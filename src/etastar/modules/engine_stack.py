"""Engine 1: the stack of `etastar.training`, for the networks it knows, from the user's weights."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from etastar.data import Dataset
from etastar.engines.replicas import Stack
from etastar.engines.stack import Engine
from etastar.modules.batches import TensorBatches
from etastar.modules.objective import Objective
from etastar.modules.origin import Start
from etastar.modules.task import Run, Task
from etastar.problem.networks import MLP
from etastar.problem.order import DataOrder
from etastar.problem.trial import Criterion, Outcome, Recipe, Trial

if TYPE_CHECKING:
    from etastar.problem.networks.base import Params


class MappedOrder(DataOrder):
    """The order of the data by a trial's `seed`, which here numbers the searches.

    Args:
        samples: Of the training data.
        orders: Order seed of each search.
    """

    def __init__(self, samples: int, orders: list[int]) -> None:
        super().__init__(samples)
        self._orders = orders

    def permutation(self, seed: int, epoch: int) -> torch.Tensor:
        """See `DataOrder`."""
        return super().permutation(self._orders[seed], epoch)

    def keep_only(self, keys: set[tuple[int, int]]) -> None:
        """See `DataOrder`."""
        super().keep_only({(self._orders[seed], epoch) for seed, epoch in keys})


class GivenStack(Stack):
    """A stack whose replicas start from the user's weights; none is ever called dead.

    Args:
        engine: Whose task it trains.
    """

    def __init__(self, engine: StackEngine) -> None:
        super().__init__(engine.network, engine.data, engine.recipe, engine.check_every)
        self._task, self._starts = engine.task, engine.starts
        self._given_up = engine.given_up
        self._order = MappedOrder(self.samples, [start.order for start in engine.starts])

    def _draw(self, seed: int) -> Params:
        """The user's initial weights, in the layout of `MLP.init`."""
        if seed not in self._drawn:
            model = self._task.origin.copy(self._starts[seed].model)
            params: Params = []
            for layer in linear_layers(model):
                params.append(layer.weight.detach().T.contiguous()[None])
                if layer.bias is not None:
                    params.append(layer.bias.detach()[None])
            self._drawn[seed] = params
        return self._drawn[seed]

    def _bury(self, decided: dict[int, Outcome]) -> None:
        """A dead replica is `short`; given up early if one class for all is not enough."""
        ceiling, criterion = self._task.ceiling, self.recipe.criterion
        if ceiling is None or criterion.threshold <= ceiling:
            return
        before = dict(decided)
        super()._bury(decided)
        for row, outcome in decided.items():
            if outcome.kind != "dead":
                continue
            if row in before:
                decided[row] = before[row]
                continue
            decided[row] = Outcome("short", criterion.max_steps, self._accuracy[row])
            self._given_up[self.trials[row]] = self.steps[row]


class StackEngine(Engine):
    """Runs a queue of trials on `GivenStack`s.

    Args:
        task: One for which `refusal` is None.
        starts: Seeds by the trials' `seed`.
    """

    def __init__(self, task: Task, starts: list[Start]) -> None:
        self.task, self.starts = task, starts
        self.given_up: dict[Trial, int] = {}
        model = task.origin.copy(starts[0].model)
        layers = linear_layers(model)
        network = MLP(
            width=layers[0].out_features,
            depth=len(layers) - 1,
            biases=layers[0].bias is not None,
        )
        train, val = task.train, task.val
        assert isinstance(train, TensorBatches)
        assert isinstance(val, TensorBatches)
        data = Dataset(
            name="given",
            x_train=train.parts[0].flatten(1),
            y_train=train.parts[1],
            x_val=val.parts[0].flatten(1),
            y_val=val.parts[1],
            classes=layers[-1].out_features,
            input_shape=tuple(train.parts[0].shape[1:]),
            provenance={},
        )
        group = task.optimizer.build(model, 1.0).param_groups[0]
        objective = task.objective
        recipe = Recipe(
            loss="cross-entropy",
            momentum=float(group["momentum"]),
            batch_size=train.batch,
            criterion=Criterion(
                kind="hold" if objective.hold else "reach",
                threshold=objective.threshold,
                max_steps=task.max_steps,
                eval_every=task.eval_every,
            ),
        )
        dtype = layers[0].weight.dtype
        super().__init__(network, data, recipe, device=task.origin.device, dtype=dtype)

    def stack(self) -> Stack:
        """See `Engine`."""
        return GivenStack(self)

    def run_of(self, trial: Trial, outcome: Outcome) -> Run:
        """How a trial ended; its accuracy only where it was read in full."""
        kind = outcome.kind
        assert kind != "dead"
        metric = None if kind == "diverged" else outcome.accuracy
        return Run(kind, outcome.step, metric, outcome.slow, self.given_up.get(trial))


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers of a model in order."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def refusal(task: Task, model: nn.Module) -> str | None:
    """Why the stack cannot train this task; None if it can.

    Args:
        task: What is trained.
        model: A copy of the model, which may be spoilt.
    """
    optimizer = task.optimizer.build(model, 1.0)
    return (
        _refused_objective(task.objective)
        or _refused_model(model)
        or _refused_optimizer(optimizer, task)
        or _refused_data(task, model)
    )


def _refused_objective(objective: Objective) -> str | None:
    loss = objective.loss_fn
    plain = type(loss) is nn.CrossEntropyLoss and (
        loss.weight is None
        and loss.label_smoothing == 0
        and loss.reduction == "mean"
        and loss.ignore_index < 0
    )
    if objective.step_fn is not None:
        return "the stack knows no step_fn"
    if loss is not nn.functional.cross_entropy and not plain:
        return "the stack knows plain cross_entropy only"
    if objective.metric != "accuracy" or not 0 < objective.threshold <= 1:
        return "the stack evaluates accuracy only"
    return None if objective.higher_is_better else "the stack's accuracy is better when higher"


def _refused_model(model: nn.Module) -> str | None:
    """The model must be Linear, ReLU, ..., Linear of constant width, with or without Flatten."""
    unknown = "the stack knows an nn.Sequential of Linear and ReLU of constant width only"
    if type(model) is not nn.Sequential or _has_hooks(model):
        return unknown
    parts = list(model)
    if parts and _flattens(parts[0]):
        parts = parts[1:]
    if len(parts) < 3 or len(parts) % 2 == 0 or any(map(_has_hooks, parts)):
        return unknown
    linear = parts[0::2]
    if any(type(p) is not nn.Linear for p in linear) or any(
        type(p) is not nn.ReLU for p in parts[1::2]
    ):
        return unknown
    chained = all(a.out_features == b.in_features for a, b in itertools.pairwise(linear))
    constant = len({layer.out_features for layer in linear[:-1]}) == 1
    same_biases = len({layer.bias is None for layer in linear}) == 1
    distinct = len({id(layer) for layer in linear}) == len(linear)
    trainable = all(p.requires_grad for p in model.parameters())
    if not (chained and constant and same_biases and distinct):
        return unknown
    return None if trainable else "the stack trains every parameter"


def _flattens(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or getattr(module, "parametrizations", None)
    )


def _refused_optimizer(optimizer: torch.optim.Optimizer, task: Task) -> str | None:
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) > 1:
        return "the stack knows torch.optim.SGD with one parameter group only"
    group = optimizer.param_groups[0]
    if group["nesterov"] or group["weight_decay"] or group["maximize"] or group["dampening"]:
        return "the stack knows plain SGD and heavy-ball momentum only"
    if optimizer.state:
        return "the stack starts with a fresh optimizer"
    return None if group["lr"] == 1.0 else "the stack trains every parameter at lr itself"


def _refused_data(task: Task, model: nn.Module) -> str | None:
    classes, dtype = linear_layers(model)[-1].out_features, linear_layers(model)[0].weight.dtype
    for batches in (task.train, task.val):
        if not isinstance(batches, TensorBatches) or len(batches.parts) != 2:
            return "the stack trains on tensors (inputs, targets) only"
        x, y = batches.parts
        flattens = _flattens(next(iter(model.children())))
        if x.dtype != dtype or (x.ndim != 2 and not flattens):
            return "the stack trains on inputs [N, d] of the model's type only"
        if y.dtype != torch.int64 or y.ndim != 1 or not 0 <= int(y.min()) <= int(y.max()) < classes:
            return "the stack trains on class indices [N] only"
    return None
