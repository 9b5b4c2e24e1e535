"""How a model is called with a batch: which parts are inputs, and how they are handed over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem.nested import are_fields, held_as, named_parts, shape_of

TARGETS = ("labels", "label", "label_ids", "targets", "target", "y")
"""What the targets are called in a batch that holds its parts by name."""
ANSWERS = "metric=lambda outputs, targets: ((outputs > 0) == targets).float().mean()"


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


def call(model: nn.Module, inputs: Any, size: int | None = None) -> Any:
    """Return the outputs: a tuple of inputs is the arguments, a mapping the keywords.

    Where a model takes one argument only, it gets them as they are, or the only one there is. Named
    tuples, packed sequences and dataclasses are one argument always. A list is one where the model
    takes one, as in `model(inputs)`, unless it holds tensors `[B, ...]`, as loaders make them of
    tuples.

    Args:
        model: The model.
        inputs: Of one batch.
        size: B; None where it is not known.
    """
    if isinstance(inputs, Mapping):
        if all(isinstance(key, str) for key in inputs) and takes(model, **inputs):
            return model(**inputs)
        if len(inputs) == 1 and takes(model, inputs):
            return model(next(iter(inputs.values())))
        return model(inputs) if takes(model, inputs) else model(**inputs)
    if type(inputs) in (list, tuple):
        several = type(inputs) is tuple or are_fields(inputs, size)
        if (several and takes(model, *inputs)) or not takes(model, inputs):
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


def logits_of(outputs: Any) -> Tensor:
    """Return the tensor of the outputs: themselves, or what they hold as `logits`.

    Raises:
        ModelError: There is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = held_as(outputs, "logits")
    if isinstance(found, Tensor):
        return found
    raise ModelError(
        "metric='accuracy' needs outputs that are a tensor, or an object with `logits`, got "
        f"{shape_of(outputs)}. Pass a callable, e.g. metric=lambda outputs, targets: "
        "(outputs[0].argmax(1) == targets).float().mean()."
    )


def with_part(whole: Any, name: str, part: Tensor) -> Any:
    """Return outputs or a batch like these with another tensor in the place of a name.

    Args:
        whole: A tensor, which is the part itself, or what holds the part as an item or attribute.
        name: The name.
        part: The tensor.
    """
    if isinstance(whole, Tensor):
        return part
    if isinstance(whole, tuple) and hasattr(whole, "_replace"):
        return whole._replace(**{name: part})
    changed = copy.copy(whole)
    if isinstance(whole, MutableMapping):
        changed[name] = part
    if hasattr(whole, name):
        object.__setattr__(changed, name, part)
    return changed


def with_targets(batch: Any, targets: Tensor) -> Any:
    """Return a batch like this one with other targets; see `pair`."""
    if isinstance(batch, list | tuple) and len(batch) == 2:
        kind: Any = type(batch)
        return getattr(kind, "_make", kind)((batch[0], targets))
    return with_part(batch, target_names(named_parts(batch) or {})[0], targets)
