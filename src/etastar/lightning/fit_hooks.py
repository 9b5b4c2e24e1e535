"""What a `LightningModule` gives: its hooks, its loss, its optimizer, and where its rate is set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from etastar.carried import scaled, unscheduled
from etastar.errors import ConfigError, ModelError

ENTRY = "lightning_maximal_lr"
NAMES = ("lr", "learning_rate")
"""What the rate is called, as an attribute of the module or of its `hparams`."""


def is_own(owner: Any, name: str) -> bool:
    """Tell whether a hook is the user's own, rather than Lightning's.

    Args:
        owner: A module or a data module.
        name: Of the hook.
    """
    if name in vars(owner):  # as LightningDataModule.from_datasets sets it
        return vars(owner)[name] is not None
    hook = getattr(type(owner), name, None)
    home = (getattr(hook, "__module__", None) or "").partition(".")[0]
    return hook is not None and home not in ("lightning", "pytorch_lightning")


def numbered(hook: Callable[..., Any], batch: Any, index: int) -> Any:
    """Call a step with the number of its batch, if it takes one.

    Args:
        hook: `training_step` or `validation_step`.
        batch: As it takes it.
        index: The number of the batch.
    """
    parameters = inspect.signature(hook).parameters.values()
    named = any(p.name == "batch_idx" for p in parameters)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return hook(batch, index) if named or len(places) > 1 else hook(batch)


def loss_of(output: Any) -> torch.Tensor:
    """Return the loss of what `training_step` returned.

    Args:
        output: A tensor, or a dictionary with `loss`.

    Raises:
        ModelError: There is none.
    """
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, torch.Tensor):
        raise ModelError(
            f"training_step must return the loss, or a dictionary with `loss`, got {output!r:.60}; "
            "a step that is skipped is not carried over."
        )
    return loss


def optimizers_in(found: Any) -> tuple[list[Any], list[Any]]:
    """Return the optimizers and the schedulers of any form that Lightning takes.

    Args:
        found: What `configure_optimizers` returned.
    """
    if isinstance(found, dict):
        return [found["optimizer"]], [found.get("lr_scheduler")]
    if not isinstance(found, tuple | list):
        return [found], []
    if len(found) == 2 and isinstance(found[0], list | tuple):
        return list(found[0]), list(found[1]) if isinstance(found[1], list | tuple) else [found[1]]
    pairs = [optimizers_in(each) for each in found]
    return [o for own, _ in pairs for o in own], [s for _, its in pairs for s in its]


def one_optimizer(found: Any) -> tuple[Any, list[Any]]:
    """Return the optimizer that was configured, with the rates of its schedule's peak.

    Args:
        found: What `configure_optimizers` returned.

    Returns:
        It, and the schedulers that came with it.

    Raises:
        ConfigError: It is not one optimizer.
    """
    optimizers, schedulers = optimizers_in(found)
    if len(optimizers) != 1 or not hasattr(optimizers[0], "param_groups"):
        count = len(optimizers) if len(optimizers) > 1 else "no"
        raise ConfigError(
            f"{ENTRY}: configure_optimizers returns {count} optimizers. Expected one: for others "
            "write the step for etastar.maximal_lr."
        )
    schedulers = [each["scheduler"] if isinstance(each, dict) else each for each in schedulers]
    schedulers = [each for each in schedulers if each is not None]
    return unscheduled(optimizers[0], schedulers), schedulers


def set_attribute(module: Any, name: str | None, lr: float) -> None:
    """Set the rate wherever a module has it.

    Args:
        module: Any.
        name: Of the rate; None for nowhere.
        lr: The rate.
    """
    if name is not None and name in vars(module):
        setattr(module, name, lr)
    if name is not None and name in getattr(module, "hparams", {}):
        module.hparams[name] = lr


def configured_at(module: Any, lr: float) -> Any:
    """Return what `configure_optimizers` of a module's class returns, scaled to a rate.

    Args:
        module: Without a schedule.
        lr: The rate.
    """
    found = type(module).configure_optimizers(module)
    scaled(optimizers_in(found)[0][0], lr)
    return found
