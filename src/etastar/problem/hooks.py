"""What hangs on a model or an optimizer besides its tensors, where copies or stacks would lose it.

A deep copy of a parameter comes without its hooks, and that of a module shares the functions among
its hooks, so that a closure goes on reading the module that was copied. A stacked update
rule knows an optimizer's options, not what was hung on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from torch import nn
from torch.nn.modules import module as of_modules
from torch.optim import Optimizer
from torch.optim import optimizer as of_optimizers

FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
GLOBAL_BACKWARD_HOOKS = ("_global_backward_hooks", "_global_backward_pre_hooks")
GLOBAL_STEP_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def has(owner: Any, names: Iterable[str]) -> bool:
    """Tell whether an object has a hook of one of these kinds.

    Args:
        owner: A parameter, a module, or a Python module of PyTorch's.
        names: Attributes that hold hooks, where there are any.
    """
    return any(getattr(owner, name, None) for name in names)


def on_parameters(model: nn.Module) -> str | None:
    """Return the first parameter with a hook on its gradient, by name; None without one."""
    hooked = (name for name, p in model.named_parameters() if has(p, PARAMETER_HOOKS))
    return next(hooked, None)


def lost_by_copying(model: nn.Module) -> str | None:
    """Name the hooks that act on a model, but not on a deep copy of it; None without them."""
    if name := on_parameters(model):
        return f"a gradient hook on its parameter {name}"
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for module in model.modules():
        for kind in (*FORWARD_HOOKS, *BACKWARD_HOOKS):
            for hook in getattr(module, kind).values():
                if any(id(read) in parts for read in _enclosed(hook)):
                    called = kind.strip("_").removesuffix("s").replace("_", " ")
                    called = called.replace("pre hook", "pre-hook")
                    return f"a {called} of {type(module).__name__} that reads the model by closure"
    return None


def _enclosed(function: Any) -> Iterator[Any]:
    """Yield what a function holds besides its arguments."""
    yield from getattr(function, "__defaults__", None) or ()
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # a name that is not bound yet
            yield cell.cell_contents


def on_gradients(model: nn.Module) -> str | None:
    """Say what changes, or may look at, the gradients of a model; None if nothing does."""
    if name := on_parameters(model):
        return f"the parameter {name} has a gradient hook"
    for name, module in model.named_modules():
        if has(module, BACKWARD_HOOKS):
            return f"{type(module).__name__} ({name}) has a backward hook"
    all_have = has(of_modules, GLOBAL_BACKWARD_HOOKS)
    return "every module has a backward hook" if all_have else None


def on_optimizer(optimizer: Optimizer) -> str | None:
    """Say what an optimizer does besides its rule; None if nothing."""
    kind = type(optimizer).__name__
    if has(of_optimizers, GLOBAL_STEP_HOOKS):
        return "every optimizer has step hooks"
    for name, value in vars(optimizer).items():
        if "_state_dict_" in name and name.endswith("_hooks") and value:
            return f"{kind} has state dict hooks"
        if name.startswith("_optimizer_step_") and value:
            return f"{kind} has step hooks"
        if callable(getattr(type(optimizer), name, None)):
            return f"{kind} has a {name} of its own"
    return None
