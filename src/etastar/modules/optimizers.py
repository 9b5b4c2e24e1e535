"""Optimizers built anew for every trial, their parameter groups scaled by one multiplier."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etastar.modules.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

PROBES = (1.0, 0.001)
"""Rates at which a factory is called to see whether its groups follow `lr`."""


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
    """

    given: Callable[..., Optimizer]
    state: dict[str, Any] | None = None

    def build(self, model: nn.Module, lr: float) -> Optimizer:
        """An optimizer of the model's trainable parameters at rate `lr`."""
        given: Callable[..., Any] = self.given
        optimizer: Optimizer
        if inspect.isclass(self.given) or isinstance(self.given, functools.partial):
            optimizer = given([p for p in model.parameters() if p.requires_grad], lr=lr)
        else:
            optimizer = given(model, lr)
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
        from torch.optim import Optimizer

        trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        ratios = []
        for lr in PROBES:
            optimizer = self._tried(model, lr)
            if not isinstance(optimizer, Optimizer):
                raise ModelError(
                    "the optimizer factory must return a torch.optim.Optimizer, got "
                    f"{type(optimizer).__name__}. Pass a class or partial, called (params, lr=lr), "
                    "or a function (model, lr) -> Optimizer."
                )
            self._check_covers(optimizer, trainable, model)
            ratios.append([float(group["lr"]) / lr for group in optimizer.param_groups])
        for index, (one, other) in enumerate(zip(*ratios, strict=True)):
            if not math.isclose(one, other, rel_tol=1e-6):
                raise ModelError(
                    f"parameter group {index} does not follow lr: its rate is {one:g} at lr = "
                    f"{PROBES[0]:g} and {other * PROBES[1]:g} at lr = {PROBES[1]:g}. All groups "
                    "are scaled by one multiplier: write every group's rate as a multiple of lr, "
                    "e.g. lambda model, lr: SGD([{'params': ..., 'lr': 0.1 * lr}, ...], lr=lr)."
                )
        names = tuple(
            tuple(trainable.get(id(p), "") for p in group["params"])
            for group in optimizer.param_groups
        )
        return Groups(names, tuple(ratios[0]))

    def _tried(self, model: nn.Module, lr: float) -> Any:
        try:
            return self.build(model, lr)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"the optimizer cannot be built: {type(error).__name__}: {error}. A class or "
                "functools.partial is called (params, lr=lr), any other callable (model, lr); wrap "
                "what needs other arguments in a partial."
            ) from error

    @staticmethod
    def _check_covers(optimizer: Optimizer, trainable: dict[int, str], model: nn.Module) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if foreign := held - {id(p) for p in model.parameters()}:
            raise ModelError(
                f"the optimizer factory uses {len(foreign)} parameters that are not those of the "
                "model it was given. Every trial trains a copy: take the parameters from the "
                "factory's first argument, (model, lr)."
            )
        if missing := [name for key, name in trainable.items() if key not in held]:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ModelError(
                f"the optimizer factory leaves out {len(missing)} of {len(trainable)} trainable "
                f"parameters: {shown}. Add them to a group, or freeze them with "
                "requires_grad_(False) if they are not meant to train."
            )


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` cannot be called without a closure, as for L-BFGS."""
    step = inspect.signature(type(optimizer).step).parameters.get("closure")
    return step is not None and step.default is inspect.Parameter.empty
