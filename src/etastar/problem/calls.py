"""How a model is called with a batch: which parts are inputs, and how they are handed over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem.nested import named_parts, shape_of

TARGETS = ("labels", "label", "label_ids", "targets", "target", "y")
"""What the targets are called in a batch that holds its parts by name."""


def pair(batch: Any) -> tuple[Any, Any]:
    """Return `(inputs, targets)`: of a pair, or of a batch that holds its targets by name.

    Raises:
        ModelError: The batch is neither.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    held = named_parts(batch) or {}
    if len(names := target_names(held)) == 1 and len(held) > 1:
        return {key: part for key, part in held.items() if key != names[0]}, held[names[0]]
    four = "(x, y, xv, yv) is train_data=(x, y) and val_data=(xv, yv). "
    four = four if isinstance(batch, list | tuple) and len(batch) == 4 else ""
    raise ModelError(
        "a batch must be a pair (inputs, targets), or hold its targets by one of the names "
        f"{', '.join(TARGETS)}, got {shape_of(batch)}. {four}Several inputs go into one tuple: "
        "((a, b), targets). For batches of another form pass step_fn=lambda model, batch: loss, "
        "and metric='loss' or a callable of (model, batch)."
    )


def target_names(held: Mapping[Any, Any]) -> list[str]:
    """Return the names of targets that a batch has."""
    return [name for name in TARGETS if name in held]


def call(model: nn.Module, inputs: Any) -> Any:
    """Return the outputs: a tuple or list of inputs is the arguments, a mapping the keywords.

    Where a model takes one argument only, it gets them as they are, or the only one there is. Named
    tuples, packed sequences and dataclasses are one argument always.
    """
    if isinstance(inputs, Mapping):
        if all(isinstance(key, str) for key in inputs) and takes(model, **inputs):
            return model(**inputs)
        if len(inputs) == 1 and takes(model, inputs):
            return model(next(iter(inputs.values())))
        return model(inputs) if takes(model, inputs) else model(**inputs)
    if type(inputs) in (list, tuple) and (takes(model, *inputs) or not takes(model, inputs)):
        return model(*inputs)
    return model(inputs)


def takes(model: nn.Module, *args: Any, **keywords: Any) -> bool:
    """Tell whether the model's forward can be called with these arguments."""
    try:
        inspect.signature(model.forward).bind(*args, **keywords)
    except TypeError:
        return False
    except ValueError:  # it has no signature to be read
        return True
    return True


def with_logits(outputs: Any, logits: Tensor) -> Any:
    """Return outputs like these with other logits."""
    if isinstance(outputs, Tensor):
        return logits
    if isinstance(outputs, tuple) and hasattr(outputs, "_replace"):
        return outputs._replace(logits=logits)
    changed = copy.copy(outputs)
    if isinstance(outputs, dict):
        changed["logits"] = logits
    if hasattr(outputs, "logits"):
        object.__setattr__(changed, "logits", logits)
    return changed
