"""What hangs on a model or an optimizer besides its tensors, where copies or stacks would lose it.

A deep copy of a parameter comes without its hooks, and that of a module shares the functions among
its hooks, so that a closure goes on reading the module that was copied. Under vmap no gradient hook
of a parameter, a module or an activation is called, while forward hooks are. A stacked update rule
knows an optimizer's options, not what was hung on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
GLOBAL_STEP_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
STATE_HOOKS = (
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
MODULE_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
GLOBAL_BACKWARD_HOOKS = ("_global_backward_hooks", "_global_backward_pre_hooks")


def on_parameters(model: nn.Module) -> str | None:
    """The first parameter with a hook on its gradient, by name; None without one."""
    for name, parameter in model.named_parameters():
        if _any(parameter, PARAMETER_HOOKS):
            return name
    return None


def lost_by_copying(model: nn.Module) -> str | None:
    """The hooks that act on a model, but not on a deep copy of it; None if there are none."""
    if name := on_parameters(model):
        return f"a gradient hook on its parameter {name}"
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for module in model.modules():
        for kind, called in MODULE_HOOKS.items():
            for hook in getattr(module, kind).values():
                if any(id(read) in parts for read in _enclosed(hook)):
                    return f"a {called} of {type(module).__name__} that reads the model by closure"
    return None


def _enclosed(function: Any) -> Iterator[Any]:
    """What a function holds besides its arguments."""
    yield from getattr(function, "__defaults__", None) or ()
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue


def on_gradients(model: nn.Module) -> str | None:
    """What changes, or may look at, the gradients of a model; None if nothing does."""
    from torch.nn.modules import module as of_all

    if name := on_parameters(model):
        return f"the parameter {name} has a gradient hook"
    for name, module in model.named_modules():
        if _any(module, BACKWARD_HOOKS):
            return f"{type(module).__name__} ({name}) has a backward hook"
    return "every module has a backward hook" if _any(of_all, GLOBAL_BACKWARD_HOOKS) else None


def on_optimizer(optimizer: Optimizer) -> str | None:
    """What an optimizer does besides its rule; None if nothing."""
    from torch.optim import optimizer as of_all

    kind = type(optimizer).__name__
    if _any(of_all, GLOBAL_STEP_HOOKS):
        return "every optimizer has step hooks"
    if _any(optimizer, STEP_HOOKS):
        return f"{kind} has step hooks"
    if _any(optimizer, STATE_HOOKS):
        return f"{kind} has state dict hooks"
    for name in vars(optimizer):
        if callable(getattr(type(optimizer), name, None)):
            return f"{kind} has a {name} of its own"
    return None


def _any(owner: Any, names: tuple[str, ...]) -> bool:
    return any(getattr(owner, name, None) for name in names)
