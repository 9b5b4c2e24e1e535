"""Which problems a stack can train, and what it needs to know of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from etastar.data import Dataset
from etastar.engines.collapse import ceiling_of
from etastar.problem import hooks
from etastar.problem.batches import TensorBatches
from etastar.problem.losses import Loss, half_squared_distance
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.problem.networks.mlp_layernorm import EPSILON
from etastar.problem.origin import NetworkOrigin
from etastar.problem.trial import Criterion, Recipe, Start

if TYPE_CHECKING:
    from etastar.problem.networks import Network
    from etastar.problem.networks.base import Params
    from etastar.problem.objective import Objective
    from etastar.problem.problem import Problem

Layer = TypeVar("Layer", bound=nn.Module)
UNKNOWN = "the stack knows an nn.Sequential of Linear, ReLU (and LayerNorm) of constant width only"


@dataclass(frozen=True)
class Stackable:
    """A problem as a stack trains it.

    Attributes:
        network: The architecture, κ included.
        data: Inputs `[N, d]` and labels `[N]`, on the device and in the dtype of the training.
        recipe: Loss, momentum, batch size and criterion.
        draw: Initialisation seed → weights of one replica, `[1, ...]` each, in the layout of
            `Network.init`.
        deaths: What is done with a replica that has died: `said` (of networks of ours), `given up`
            (it is `short`, and one class for all cannot reach the threshold), or `ignored`.
    """

    network: Network
    data: Dataset
    recipe: Recipe
    draw: Callable[[int], Params]
    deaths: str


def stackable(problem: Problem) -> Stackable | str:
    """Return the problem as a stack trains it, or why it cannot.

    Args:
        problem: What is to be trained.
    """
    origin = problem.origin
    if problem.recipe is not None and isinstance(origin, NetworkOrigin):
        data = _dataset(problem, origin.outputs)
        return Stackable(origin.network, data, problem.recipe, origin.draw, "said")
    model = origin.copy(0)
    optimizer = problem.optimizer.build(origin.copy(0), 1.0)
    loss = _loss(problem.objective)
    refused = (
        hooks.on_gradients(model)
        or problem.optimizer.besides_rates(lambda: origin.copy(0))
        or (loss if loss not in ("cross-entropy", "mse") else None)
        or _refused_model(model)
        or _refused_optimizer(optimizer)
    )
    if refused:
        return refused
    linear = _of(model, nn.Linear)
    ratios = _ratios(model, problem)
    if ratios is None:
        return "the stack trains the input layer at κ times lr and every other layer at lr"
    if refused := _refused_data(problem, model):
        return refused
    assert isinstance(problem.train, TensorBatches)
    kind = LayerNormMLP if _of(model, nn.LayerNorm) else MLP
    network = kind(
        width=linear[0].out_features,
        depth=len(linear) - 1,
        biases=linear[0].bias is not None,
        input_lr_ratio=ratios,
    )
    recipe = Recipe(
        loss=loss,  # type: ignore[arg-type]
        momentum=float(optimizer.param_groups[0]["momentum"]),
        batch_size=problem.train.batch,
        criterion=Criterion(
            kind="hold" if problem.objective.hold else "reach",
            threshold=problem.objective.threshold,
            max_steps=problem.max_steps,
            eval_every=problem.eval_every,
        ),
    )
    deaths = "given up" if ceiling_of(problem, Start(0, 0)).watched else "ignored"
    data = _dataset(problem, linear[-1].out_features)
    return Stackable(network, data, recipe, lambda seed: _weights(origin.copy(seed)), deaths)


def _dataset(problem: Problem, classes: int) -> Dataset:
    train, val = problem.train, problem.val
    assert isinstance(train, TensorBatches)
    assert isinstance(val, TensorBatches)
    return Dataset(
        name="given",
        x_train=train.parts[0].flatten(1),
        y_train=train.parts[1],
        x_val=val.parts[0].flatten(1),
        y_val=val.parts[1],
        classes=classes,
        input_shape=tuple(train.parts[0].shape[1:]),
        provenance={},
    )


def _weights(model: nn.Module) -> Params:
    """Return a user's initial weights, in the layout of `MLP.init`."""
    params: Params = []
    for layer in _of(model, nn.Linear):
        params.append(layer.weight.detach().T.contiguous()[None])
        if layer.bias is not None:
            params.append(layer.bias.detach()[None])
    return params


def _of(model: nn.Module, kind: type[Layer]) -> list[Layer]:
    """Return the layers of a kind, in order."""
    return [module for module in model.modules() if type(module) is kind]


def _loss(objective: Objective) -> Loss | str:
    """Return the loss's name, or why the stack does not know the objective."""
    loss = objective.loss_fn
    plain = type(loss) is nn.CrossEntropyLoss and (
        loss.weight is None
        and loss.label_smoothing == 0
        and loss.reduction == "mean"
        and loss.ignore_index < 0
    )
    if objective.step_fn is not None:
        return "the stack knows no step_fn"
    if objective.metric != "accuracy" or not 0 < objective.threshold <= 1:
        return "the stack evaluates accuracy only"
    if not objective.higher_is_better:
        return "the stack's accuracy is better when higher"
    if loss is half_squared_distance:
        return "mse"
    if loss is not nn.functional.cross_entropy and not plain:
        return "the stack knows plain cross_entropy, and ½ · squared distance, only"
    return "cross-entropy"


def _refused_model(model: nn.Module) -> str | None:
    """The model must be Linear, (LayerNorm,) ReLU, ..., Linear of constant width."""
    if type(model) is not nn.Sequential or _has_hooks(model):
        return UNKNOWN
    parts = list(model)
    if parts and _flattens(parts[0]):
        parts = parts[1:]
    if len(parts) < 3 or any(map(_has_hooks, parts)):
        return UNKNOWN
    linear, norms = _of(model, nn.Linear), _of(model, nn.LayerNorm)
    period = [nn.Linear, nn.LayerNorm, nn.ReLU] if norms else [nn.Linear, nn.ReLU]
    if [type(p) for p in parts] != period * (len(linear) - 1) + [nn.Linear]:
        return UNKNOWN
    chained = all(a.out_features == b.in_features for a, b in itertools.pairwise(linear))
    constant = len({layer.out_features for layer in linear[:-1]}) == 1
    same_biases = len({layer.bias is None for layer in linear}) == 1
    distinct = len({id(layer) for layer in parts}) == len(parts)
    if not (chained and constant and same_biases and distinct):
        return UNKNOWN
    if any(n.elementwise_affine or n.eps != EPSILON or len(n.normalized_shape) > 1 for n in norms):
        return "the stack knows LayerNorm without gain and offset only"
    trainable = all(p.requires_grad for p in model.parameters())
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


def _refused_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    if type(optimizer) is not torch.optim.SGD:
        return "the stack knows torch.optim.SGD only"
    groups = optimizer.param_groups
    if any(
        g["nesterov"] or g["weight_decay"] or g["maximize"] or g["dampening"] or g["differentiable"]
        for g in groups
    ):
        return "the stack knows plain SGD and heavy-ball momentum only"
    if len({group["momentum"] for group in groups}) > 1:
        return "the stack knows one momentum for all parameter groups only"
    return "the stack starts with a fresh optimizer" if optimizer.state else None


def _ratios(model: nn.Module, problem: Problem) -> float | None:
    """Return κ, the rate of the input layer over lr; None if the other rates are not lr itself."""
    optimizer = problem.optimizer.build(model, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    layers = [{rates[id(p)] for p in layer.parameters()} for layer in _of(model, nn.Linear)]
    first, rest = layers[0], set().union(*layers[1:])
    return float(next(iter(first))) if len(first) == 1 and rest == {1.0} else None


def _refused_data(problem: Problem, model: nn.Module) -> str | None:
    linear = _of(model, nn.Linear)
    classes, dtype = linear[-1].out_features, linear[0].weight.dtype
    for batches in (problem.train, problem.val):
        if not isinstance(batches, TensorBatches) or len(batches.parts) != 2:
            return "the stack trains on tensors (inputs, targets) only"
        x, y = batches.parts
        flattens = _flattens(next(iter(model.children())))
        if x.dtype != dtype or (x.ndim != 2 and not flattens):
            return "the stack trains on inputs [N, d] of the model's type only"
        if y.dtype != torch.int64 or y.ndim != 1 or not 0 <= int(y.min()) <= int(y.max()) < classes:
            return "the stack trains on class indices [N] only"
    return None
