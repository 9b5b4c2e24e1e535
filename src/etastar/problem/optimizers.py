"""Optimizers built anew for every trial, their parameter groups scaled by one multiplier."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from etastar.errors import ModelError
from etastar.problem import hooks, own_loss
from etastar.problem.nested import same
from etastar.problem.objective import name_of
from etastar.problem.user_code import told

Closure: TypeAlias = Literal["none", "within", "after"]
"""How `step` is called: after the gradient; with a closure that computes it; or both, in turn."""
PROBES = (1.0, 0.001)
"""Rates at which a factory is called to see whether its groups follow `lr`."""
WITHIN = 8
"""Further such rates, from one end of the range that is searched to the other."""
FOLLOWS = 1e-6
"""Relative difference of a group's multiple of `lr` at two rates that is rounding."""
MOST_NAMED = 5
"""Parameters that a message names."""
CALLED = (
    "A class or functools.partial is called (params, lr=lr), any other callable (model, lr); wrap "
    "what needs other arguments in a partial."
)


def probes(start_lr: float, end_lr: float) -> tuple[float, ...]:
    """Return `PROBES`, and geometrically spaced rates from one end of the range to the other."""
    return (*PROBES, *np.geomspace(start_lr, end_lr, WITHIN).tolist())


Groups: TypeAlias = tuple[tuple[tuple[str, ...], ...], tuple[float, ...]]
"""What the factory makes of a model: names of the parameters of each group, and its rate over
`lr`."""


class Several:
    """Several optimizers as one; `first, second = optimizer` and `optimizer[0]` are its parts.

    Args:
        parts: The optimizers.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)
        self.__name__ = " + ".join(type(part).__name__ for part in parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def __getitem__(self, place: int) -> Any:
        """Return one part; an end to them makes the whole iterable."""
        return self.parts[place]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Take a step with each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts."""
        states = [part.state_dict() for part in self.parts]
        return {"state": any(state["state"] for state in states), "parts": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the states of all parts back."""
        for part, its in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(its)


def parts_of(optimizer: Any) -> tuple[Any, ...]:
    """Return the optimizers of which one consists."""
    return optimizer.parts if isinstance(optimizer, Several) else (optimizer,)


@dataclass(frozen=True)
class OptimizerFactory:
    """Builds the optimizer of a trial.

    Attributes:
        given: A class or `functools.partial`, called `(params, lr=lr)`, or any other callable,
            called `(model, lr)`, which may return several.
        state: State of the optimizer to start from, of `Optimizer.state_dict`; None for a new one.
        rates: Where it is asked what depends on the rate, two or more.
        closure: How `step` of what it builds is called.
    """

    given: Callable[..., Any]
    state: dict[str, Any] | None = None
    rates: tuple[float, ...] = PROBES
    closure: Closure = "none"

    @property
    def middle(self) -> float:
        """Return the rate in the middle of the range that is searched."""
        return math.sqrt(self.rates[-1] * self.rates[min(len(self.rates) - 1, len(PROBES))])

    def build(self, model: nn.Module, lr: float) -> Any:
        """Return an optimizer of the model's trainable parameters at rate `lr`."""
        given: Callable[..., Any] = self.given
        optimizer: Any
        if inspect.isclass(self.given) or isinstance(self.given, functools.partial):
            trainable = [p for _, p in own_loss.named_parameters(model) if p.requires_grad]
            optimizer = given(trainable, lr=lr)
        else:
            optimizer = given(model, lr)
        if isinstance(optimizer, list | tuple) and optimizer:
            optimizer = Several(optimizer)
        _add_loss(optimizer, model, lr)
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
        first: Groups | None = None
        base = self.rates[0]
        for lr in self.rates:
            optimizer = self._tried(model, lr)
            _check_covers(optimizer, trainable, model)
            groups = optimizer.param_groups
            names = tuple(tuple(trainable.get(id(p), "") for p in g["params"]) for g in groups)
            first = first or (names, tuple(float(g["lr"]) / lr for g in groups))
            if names != first[0]:
                raise ModelError(
                    "the optimizer factory must make the same parameter groups at every lr, got "
                    f"{len(first[0])} at lr = {base:g} and {len(names)} of other parameters "
                    f"at lr = {lr:g}. Let the groups not depend on lr."
                )
            for index, (group, ratio) in enumerate(zip(groups, first[1], strict=True)):
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
            if not same(before, _parts(model)):
                return "the optimizer factory changes the model"
            if type(optimizer) is not type(first):
                return "the optimizer's class depends on lr"
            for one, two in zip(first.param_groups, optimizer.param_groups, strict=True):
                for name in getattr(optimizer, "defaults", {}):
                    if name != "lr" and not same(one.get(name), two.get(name)):
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
        return {"optimizer": name_of(optimizer), "optimizer_options": shown}

    def _tried(self, model: nn.Module, lr: float) -> Any:
        _check_kind(self.given)
        with told(lambda: f"the optimizer cannot be built: at lr = {lr:g} it", CALLED):
            optimizer = self.build(model, lr)
        if not all(
            hasattr(part, name)
            for part in parts_of(optimizer)
            for name in ("param_groups", "step", "zero_grad")
        ):
            raise ModelError(
                "the optimizer factory must return a torch.optim.Optimizer, a list of them, or an "
                f"object with param_groups, step and zero_grad, got {type(optimizer).__name__}. "
                f"{CALLED}"
            )
        return optimizer


def _add_loss(optimizer: Any, model: nn.Module, lr: float) -> None:
    """Let an optimizer train the parameters of the loss that a model carries, if it does not."""
    named = own_loss.named_parameters(model)
    own = [p for name, p in named if name.startswith("loss_fn.") and p.requires_grad]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]} if own else set()
    if rest := [p for p in own if id(p) not in held]:
        parts_of(optimizer)[-1].add_param_group({"params": rest, "lr": lr})


def _check_kind(given: Any) -> None:
    """Raise if what is given is no factory."""
    if not isinstance(given, Optimizer) and callable(given):
        return
    kind = type(given).__name__
    known = {name.lower(): name for name in vars(torch.optim) if name[0].isupper()}
    name = kind if isinstance(given, Optimizer) else known.get(str(given).lower(), "SGD")
    got = f"an instance of {kind}" if isinstance(given, Optimizer) else repr(given)
    raise ModelError(
        f"optimizer must build an optimizer for every trial, got {got}. Pass the class, "
        f"torch.optim.{name}; with options, functools.partial(torch.optim.{name}, ...), without lr."
    )


def _check_covers(optimizer: Any, trainable: dict[int, str], model: nn.Module) -> None:
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


def ways_to_step(optimizer: Any) -> tuple[Closure, ...]:
    """Return how `step` may be meant to be called, the likeliest first.

    PyTorch's own optimizers need a closure if it has no default. Those of others, such as
    sharpness-aware ones, may need it although it has one, and some look at a gradient before.
    """
    if isinstance(optimizer, Several):
        return ("none",)
    parameters = inspect.signature(optimizer.step).parameters
    closure = parameters.get("closure")
    if closure is None:
        return ("none", "within", "after") if parameters else ("none",)
    if closure.default is inspect.Parameter.empty:
        return ("within", "after")
    plain = optimizer.step.__module__.startswith("torch.") or hooks.on_optimizer(optimizer)
    return ("none",) if plain else ("within", "after", "none")


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
