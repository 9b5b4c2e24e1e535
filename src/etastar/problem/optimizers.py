"""Optimizers built anew for every trial, their parameter groups scaled by one multiplier."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from etastar.errors import ModelError
from etastar.problem import hooks, own_loss

PROBES = (1.0, 0.001)
"""Rates at which a factory is called to see whether its groups follow `lr`."""
WITHIN = 8
"""Further such rates, from one end of the range that is searched to the other."""
FOLLOWS = 1e-6
"""Relative difference of a group's multiple of `lr` at two rates that is rounding."""
MOST_NAMED = 5
"""Parameters that a message names."""


def probes(start_lr: float, end_lr: float) -> tuple[float, ...]:
    """Return `PROBES`, and geometrically spaced rates from one end of the range to the other."""
    ratio = end_lr / start_lr
    return (*PROBES, *(start_lr * ratio ** (i / (WITHIN - 1)) for i in range(WITHIN)))


@dataclass(frozen=True)
class Groups:
    """What the factory makes of a model.

    Attributes:
        names: Parameters of each group.
        ratios: Rate of each group over `lr`.
    """

    names: tuple[tuple[str, ...], ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class OptimizerFactory:
    """Builds the optimizer of a trial.

    Attributes:
        given: A class or `functools.partial`, called `(params, lr=lr)`, or any other callable,
            called `(model, lr)`.
        state: State of the optimizer to start from, of `Optimizer.state_dict`; None for a new one.
        rates: Where it is asked what depends on the rate, two or more.
    """

    given: Callable[..., Optimizer]
    state: dict[str, Any] | None = None
    rates: tuple[float, ...] = PROBES

    def build(self, model: nn.Module, lr: float) -> Optimizer:
        """Return an optimizer of the model's trainable parameters at rate `lr`."""
        given: Callable[..., Any] = self.given
        optimizer: Optimizer
        if inspect.isclass(self.given) or isinstance(self.given, functools.partial):
            trainable = [p for _, p in own_loss.named_parameters(model) if p.requires_grad]
            optimizer = given(trainable, lr=lr)
        else:
            optimizer = given(model, lr)
            named = own_loss.named_parameters(model)
            own = [p for name, p in named if name.startswith("loss_fn.") and p.requires_grad]
            groups = optimizer.param_groups if own else []
            held = {id(p) for group in groups for p in group["params"]}
            if rest := [p for p in own if id(p) not in held]:
                optimizer.add_param_group({"params": rest, "lr": lr})
        if self.state is not None:
            rates = [group["lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(copy.deepcopy(self.state))  # it keeps tensors, not copies
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        return optimizer

    def groups(self, model: nn.Module) -> Groups:
        """Check the factory on a model that may be spoilt.

        Raises:
            ModelError: It returns no optimizer, leaves parameters out, takes foreign ones, or a
                group's rate is not a fixed multiple of `lr`.
        """
        named = own_loss.named_parameters(model)
        trainable = {id(p): name for name, p in named if p.requires_grad}
        first, base = None, self.rates[0]
        for lr in self.rates:
            optimizer = self._tried(model, lr)
            _check_covers(optimizer, trainable, model)
            groups = optimizer.param_groups
            names = tuple(tuple(trainable.get(id(p), "") for p in g["params"]) for g in groups)
            first = first or Groups(names, tuple(float(g["lr"]) / lr for g in groups))
            if names != first.names:
                raise ModelError(
                    "the optimizer factory must make the same parameter groups at every lr, got "
                    f"{len(first.names)} at lr = {base:g} and {len(names)} of other parameters "
                    f"at lr = {lr:g}. Let the groups not depend on lr."
                )
            for index, (group, ratio) in enumerate(zip(groups, first.ratios, strict=True)):
                if not math.isclose(ratio, float(group["lr"]) / lr, rel_tol=FOLLOWS):
                    raise ModelError(
                        f"parameter group {index} does not follow lr: its rate is "
                        f"{ratio * base:g} at lr = {base:g} and {group['lr']:g} at lr = {lr:g}. "
                        "All groups are scaled by one multiplier: write every group's rate as a "
                        "multiple of lr, e.g. lambda model, lr: "
                        "SGD([{'params': ..., 'lr': 0.1 * lr}, ...], lr=lr)."
                    )
        assert first is not None
        return first

    def besides_rates(self, fresh: Callable[[], nn.Module]) -> str | None:
        """Say what the factory does that an update rule with a rate of its own would leave out.

        Args:
            fresh: Makes an initial model, which may be spoilt.

        Returns:
            Hooks, overridden methods, changes of the model, or an option or the class that depends
            on `lr`; None if there is nothing of the kind at any of `rates`.
        """
        model, before = fresh(), _parts(fresh())
        first = None
        for lr in self.rates:
            optimizer = self.build(model, lr)
            first = first or optimizer
            if reason := hooks.on_optimizer(optimizer) or hooks.on_gradients(model):
                return reason
            if not _same(before, _parts(model)):
                return "the optimizer factory changes the model"
            if type(optimizer) is not type(first):
                return "the optimizer's class depends on lr"
            for one, two in zip(first.param_groups, optimizer.param_groups, strict=True):
                for name in optimizer.defaults:
                    if name != "lr" and not _same(one.get(name), two.get(name)):
                        return f"the {name} of {type(optimizer).__name__} depends on lr"
        return None

    def described(self, model: nn.Module) -> dict[str, Any]:
        """Return the optimizer's class and options, those of groups where they differ.

        Args:
            model: One that may be spoilt.
        """
        optimizer = self.build(model, 1.0)
        groups = [
            {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            for group in optimizer.param_groups
        ]
        same = all(group == groups[0] for group in groups)
        shown = groups[0] if same else {str(i): group for i, group in enumerate(groups)}
        return {"optimizer": type(optimizer).__name__, "optimizer_options": shown}

    def _tried(self, model: nn.Module, lr: float) -> Optimizer:
        try:
            optimizer = self.build(model, lr)
        except Exception as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"the optimizer cannot be built: {type(error).__name__}: {error}. A class or "
                "functools.partial is called (params, lr=lr), any other callable (model, lr); wrap "
                "what needs other arguments in a partial."
            ) from error
        if not isinstance(optimizer, Optimizer):
            raise ModelError(
                "the optimizer factory must return a torch.optim.Optimizer, got "
                f"{type(optimizer).__name__}. Pass a class or partial, called (params, lr=lr), "
                "or a function (model, lr) -> Optimizer."
            )
        return optimizer


def _check_covers(optimizer: Optimizer, trainable: dict[int, str], model: nn.Module) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if foreign := held - {id(p) for _, p in own_loss.named_parameters(model)}:
        raise ModelError(
            f"the optimizer factory uses {len(foreign)} parameters that are not those of the "
            "model it was given. Every trial trains a copy: take the parameters from the "
            "factory's first argument, (model, lr)."
        )
    if missing := [name for key, name in trainable.items() if key not in held]:
        shown = ", ".join(missing[:MOST_NAMED]) + ", ..." * (len(missing) > MOST_NAMED)
        raise ModelError(
            f"the optimizer factory leaves out {len(missing)} of {len(trainable)} trainable "
            f"parameters: {shown}. Add them to a group, or freeze them with "
            "requires_grad_(False) if they are not meant to train."
        )


def needs_closure(optimizer: Optimizer) -> bool:
    """Tell whether `step` cannot be called without a closure, as for L-BFGS."""
    step = inspect.signature(type(optimizer).step).parameters.get("closure")
    return step is not None and step.default is inspect.Parameter.empty


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values, or lists of them, are the same."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one is other or bool(one == other)


def _parts(model: nn.Module) -> list[Any]:
    """Return a model's tensors, as they are, its flags and the numbers of its forward hooks."""
    return [
        *((name, p.requires_grad) for name, p in model.named_parameters()),
        *(
            (name, type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
            for name, m in model.named_modules()
        ),
        *(name for name, _ in model.named_buffers()),
        *(tensor.detach() for tensor in (*model.parameters(), *model.buffers())),
    ]
