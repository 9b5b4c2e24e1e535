"""A loss with a state of its own: every trial trains a copy, which hangs on its copy of the model.

What a loss module learns or keeps belongs to the trial, as the model's weights do. The copy is an
attribute of the model that is no submodule, so the model's forward pass and state dict stay as they
are, and a deep copy of the model copies the loss too.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from etastar.errors import ModelError

NAME = "_etastar_loss"


def has_state(loss_fn: Callable[..., Any]) -> bool:
    """Tell whether a loss may keep something: it is an object, not a plain function."""
    plain = (types.FunctionType, types.BuiltinFunctionType, type)
    return not isinstance(loss_fn, plain)


def attach(
    model: nn.Module, loss_fn: Callable[..., Any] | None, memo: dict[int, Any] | None = None
) -> None:
    """Let a model carry its own copy of the loss, if there is one.

    Args:
        model: A copy of ours.
        loss_fn: The user's.
        memo: Of `copy.deepcopy`, which made the model: they may share parts.

    Raises:
        ModelError: The loss cannot be copied.
    """
    if loss_fn is None:
        return
    try:
        vars(model)[NAME] = copy.deepcopy(loss_fn, memo)
    except Exception as error:
        raise ModelError(
            f"loss_fn cannot be copied ({type(error).__name__}: {error}), and every rate needs "
            "a copy of what it may keep. Pass a plain function, or a module without tensors "
            "that were computed."
        ) from error


def of(model: nn.Module, loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loss that a model carries, else this one."""
    carried: Callable[..., Any] = vars(model).get(NAME, loss_fn)
    return carried


def modules(model: nn.Module) -> list[nn.Module]:
    """Return a model, and the loss that it carries if that is a module."""
    carried = vars(model).get(NAME)
    return [model, carried] if isinstance(carried, nn.Module) else [model]


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield names and parameters of a model, then those of its loss, shared ones once."""
    seen = set()
    for module, before in zip(modules(model), ("", "loss_fn."), strict=False):
        for name, parameter in module.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield before + name, parameter


def set_training(model: nn.Module, training: bool) -> None:
    """Put a model and its loss in train or eval mode."""
    for module in modules(model):
        module.train(training)


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """Put a model in train mode, and its buffers and mode back at the end."""
    buffers = [
        (owner, name, buffer, buffer.clone())
        for module in modules(model)
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    set_training(model, True)
    try:
        yield
    finally:
        set_training(model, False)
        with torch.no_grad():
            for owner, name, buffer, before in buffers:
                owner._buffers[name] = buffer.copy_(before)
