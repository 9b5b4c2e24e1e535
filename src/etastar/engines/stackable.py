"""Which problems a stack can train, and what it needs to know of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from etastar.engines.collapse import ceiling_of
from etastar.problem import hooks
from etastar.problem.batches import TensorBatches
from etastar.problem.losses import Loss, half_squared_distance
from etastar.problem.networks import MLP, LayerNormMLP, Network
from etastar.problem.networks.base import Params
from etastar.problem.networks.mlp_layernorm import EPSILON
from etastar.problem.objective import Objective
from etastar.problem.origin import NetworkOrigin
from etastar.problem.problem import Problem
from etastar.problem.trial import Start

Layer = TypeVar("Layer", bound=nn.Module)
NOT_PLAIN = ("nesterov", "weight_decay", "maximize", "dampening", "differentiable")
"""Options of SGD that the stack does not know."""


@dataclass(frozen=True)
class Stackable:
    """A problem as a stack trains it.

    Attributes:
        problem: The same; its data are tensors.
        network: The architecture, κ included.
        classes: Outputs C.
        loss: The loss's name.
        momentum: μ; 0 for plain SGD.
        draw: Initialisation seed → weights of one replica, `[1, ...]` each, in the layout of
            `Network.init`.
        deaths: What is done with a replica that has died: `said` (of networks of ours), `given up`
            (it is `short`, and one class for all cannot reach the threshold), or `ignored`.
    """

    problem: Problem
    network: Network
    classes: int
    loss: Loss
    momentum: float
    draw: Callable[[int], Params]
    deaths: str

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return inputs `[N, d]` and labels `[N]` of training, then those of validation."""
        train, val = self.problem.train, self.problem.val
        assert isinstance(train, TensorBatches)
        assert isinstance(val, TensorBatches)
        return train.parts[0].flatten(1), train.parts[1], val.parts[0].flatten(1), val.parts[1]


def stackable(problem: Problem) -> Stackable | str:
    """Return the problem as a stack trains it, or why it cannot.

    Args:
        problem: What is to be trained.
    """
    origin = problem.origin
    if (recipe := problem.recipe) is not None and isinstance(origin, NetworkOrigin):
        network, classes, draw = origin.network, origin.outputs, origin.draw
        return Stackable(problem, network, classes, recipe.loss, recipe.momentum, draw, "said")
    model = origin.copy(0)
    optimizer = problem.optimizer.build(model, 1.0)
    refused = (
        hooks.on_gradients(model)
        or problem.optimizer.besides_rates(lambda: origin.copy(0))
        or ("the stack knows no scheduler" if problem.scheduler else None)
        or _refused(problem.objective, model, optimizer)
        or _refused_data(problem, model)
    )
    if refused:
        return refused
    linear, loss = _of(model, nn.Linear), _loss(problem.objective)
    assert loss is not None
    kind = LayerNormMLP if _of(model, nn.LayerNorm) else MLP
    return Stackable(
        problem=problem,
        network=kind(
            width=linear[0].out_features,
            depth=len(linear) - 1,
            biases=linear[0].bias is not None,
            input_lr_ratio=float(min(_rates(optimizer, linear[:1]))),
        ),
        classes=linear[-1].out_features,
        loss=loss,
        momentum=float(optimizer.param_groups[0]["momentum"]),
        draw=lambda seed: _weights(origin.copy(seed)),
        deaths="given up" if ceiling_of(problem, Start(0, 0))[1] else "ignored",
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


def _loss(objective: Objective) -> Loss | None:
    """Return the loss's name; None if the stack does not know it."""
    loss = objective.loss_fn
    plain = type(loss) is nn.CrossEntropyLoss and (
        loss.weight is None
        and loss.label_smoothing == 0
        and loss.reduction == "mean"
        and loss.ignore_index < 0
    )
    if loss is half_squared_distance:
        return "mse"
    return "cross-entropy" if plain or loss is nn.functional.cross_entropy else None


def _rates(optimizer: torch.optim.Optimizer, layers: Iterable[nn.Module]) -> set[float]:
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {rates.get(id(p), 0.0) for layer in layers for p in layer.parameters()}


def _refused(
    objective: Objective, model: nn.Module, optimizer: torch.optim.Optimizer
) -> str | None:
    """Say what the stack does not know about a step; None if it knows all."""
    groups, linear = optimizer.param_groups, _of(model, nn.Linear)
    norms = _of(model, nn.LayerNorm)
    accuracy = objective.metric == "accuracy" and 0 < objective.threshold <= 1
    one_momentum = len({group.get("momentum") for group in groups}) == 1
    plain = not any(group.get(name) for group in groups for name in NOT_PLAIN)
    known = _is_known(model, linear, bool(norms))
    no_gain = not any(
        n.elementwise_affine or n.eps != EPSILON or len(n.normalized_shape) > 1 for n in norms
    )
    trainable = all(p.requires_grad for p in model.parameters())
    by_kappa = len(_rates(optimizer, linear[:1])) == 1 and _rates(optimizer, linear[1:]) == {1.0}
    conditions = {
        "knows no step_fn": objective.step_fn is None,
        "evaluates accuracy only": accuracy,
        "calls an accuracy better when higher": objective.higher_is_better,
        "knows plain cross_entropy, and ½ · squared distance, only": _loss(objective) is not None,
        "knows an nn.Sequential of Linear, ReLU (and LayerNorm) of constant width only": known,
        "knows LayerNorm without gain and offset, of the default eps, over one axis only": no_gain,
        "trains every parameter": trainable,
        "knows torch.optim.SGD only": type(optimizer) is torch.optim.SGD,
        "knows plain SGD and heavy-ball momentum only": plain,
        "knows one momentum for all parameter groups only": one_momentum,
        "starts with a fresh optimizer": not getattr(optimizer, "state", None),
        "trains the input layer at κ times lr and every other layer at lr": by_kappa,
    }
    return next((f"the stack {does}" for does, holds in conditions.items() if not holds), None)


def _is_known(model: nn.Module, linear: list[nn.Linear], normed: bool) -> bool:
    """Tell whether a model is Linear, (LayerNorm,) ReLU, ..., Linear of constant width."""
    if type(model) is not nn.Sequential or any(map(_changed, (model, *model))):
        return False
    parts = list(model)[_flattens(model) :]
    period = [nn.Linear, nn.LayerNorm, nn.ReLU] if normed else [nn.Linear, nn.ReLU]
    return (
        len(parts) >= 3
        and [type(p) for p in parts] == period * (len(linear) - 1) + [nn.Linear]
        and all(a.out_features == b.in_features for a, b in itertools.pairwise(linear))
        and len({layer.out_features for layer in linear[:-1]}) == 1
        and len({layer.bias is None for layer in linear}) == 1
        and len({id(layer) for layer in parts}) == len(parts)
    )


def _flattens(model: nn.Module) -> bool:
    """Tell whether a model begins with a layer that makes its inputs `[N, d]`."""
    first = next(model.children(), None)
    return type(first) is nn.Flatten and first.start_dim == 1 and first.end_dim == -1


def _changed(module: nn.Module) -> bool:
    """Tell whether a module does more than its class, by hooks or a parametrisation."""
    return hooks.has(module, (*hooks.FORWARD_HOOKS, *hooks.BACKWARD_HOOKS, "parametrizations"))


def _refused_data(problem: Problem, model: nn.Module) -> str | None:
    linear = _of(model, nn.Linear)
    classes, dtype = linear[-1].out_features, linear[0].weight.dtype
    for batches in (problem.train, problem.val):
        if not isinstance(batches, TensorBatches) or len(batches.parts) != 2:
            return "the stack trains on tensors (inputs, targets) only"
        x, y = batches.parts
        if x.dtype != dtype or (x.ndim != 2 and not _flattens(model)):
            return "the stack trains on inputs [N, d] of the model's type only"
        if y.dtype != torch.int64 or y.ndim != 1 or not 0 <= int(y.min()) <= int(y.max()) < classes:
            return "the stack trains on class indices [N] only"
    return None
