"""A copy of a `transformers.Trainer` for one run of its own, beside the user's."""

from __future__ import annotations

import copy
from typing import Any


def shadow_of(trainer: Any) -> Any:
    """Return a copy of a Trainer for one run, which calls no callback and shares no count.

    Args:
        trainer: Stays as it is.
    """
    shadow = copy.copy(trainer)
    for name, value in vars(trainer).items():
        if type(value) in (list, dict, set):
            setattr(shadow, name, copy.copy(value))
    shadow.args, shadow.state = copy.copy(trainer.args), copy.deepcopy(trainer.state)
    shadow.control, shadow.is_in_train = copy.deepcopy(trainer.control), True
    accelerator = shadow.accelerator = copy.copy(trainer.accelerator)
    for name in ("_dataloaders", "_optimizers", "_schedulers", "_custom_objects"):
        setattr(accelerator, name, [])
    accelerator._models = [None]  # so that no evaluation prepares one
    accelerator.prepare = lambda *things, **options: things[0] if len(things) == 1 else things
    accelerator.scaler = copy.deepcopy(accelerator.scaler)
    handler = shadow.callback_handler = copy.copy(trainer.callback_handler)
    handler.callbacks = []
    if accelerator.native_amp:  # which prepare() would hang on the model
        own = shadow.compute_loss_context_manager

        def mixed() -> Any:
            stack = own()
            stack.enter_context(accelerator.autocast())
            return stack

        shadow.compute_loss_context_manager = mixed
    shadow.optimizer = shadow.lr_scheduler = None
    return shadow
