"""One batch, of whatever form, and how a model is called with it.

Tensors are held in lists, tuples, mappings, named tuples and dataclasses. Which parts are inputs,
and how they are handed over, is told by their form, their names and the model's signature.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from etastar.errors import ModelError

TARGETS = ("labels", "label", "label_ids", "targets", "target", "y")
"""What the targets are called in a batch that holds its parts by name."""
ANSWERS = "`metric=lambda outputs, targets: ((outputs > 0) == targets).float().mean()`"


class Accumulated(list[Any]):
    """The batches of one optimizer step, over which gradients are accumulated."""


def parts_of_step(batch: Any) -> Sequence[Any]:
    """Return the batches of one optimizer step.

    Args:
        batch: Of which one may be several, `Accumulated`.
    """
    return batch if isinstance(batch, Accumulated) else [batch]


def named_parts(batch: Any) -> dict[Any, Any] | None:
    """Return what a mapping, a named tuple or a dataclass holds by name; None for anything else."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def held_as(found: Any, name: str) -> Any:
    """Return what a batch or outputs hold by a name, as an item or an attribute; else None.

    Args:
        found: Of any form.
        name: The name.
    """
    return (named_parts(found) or {}).get(name, getattr(found, name, None))


def leaves(batch: Any, whole: tuple[type, ...] = ()) -> list[Any]:
    """Return what a batch holds, in order, without its containers.

    Args:
        batch: Of any form.
        whole: Types of containers that are leaves.
    """
    if isinstance(batch, Tensor):  # the commonest, and the other questions are slow
        return [batch]
    held = None if isinstance(batch, whole) else named_parts(batch)
    parts = batch if held is None else list(held.values())
    if isinstance(parts, Sequence) and not isinstance(parts, (str, bytes, *whole)):
        return [leaf for part in parts for leaf in leaves(part, whole)]
    return [batch]


def tensors(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch, in order."""
    return [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]


def samples_in(batch: Any) -> int:
    """Return the samples in a batch: the length of its targets or first tensor, 1 without one.

    The targets of a pair come first, since sequences may have the time along their first axis. A
    list of mappings, as of objects in images, holds one per sample.
    """
    if isinstance(batch, Accumulated):
        return sum(map(samples_in, batch))
    if type(batch) in (list, tuple) and len(batch) == 2:
        targets = batch[1]
        if isinstance(targets, list) and targets and isinstance(targets[0], Mapping):
            return len(targets)
        batch = (targets, batch[0])
    for part in leaves(batch, (PackedSequence,)):
        if isinstance(part, PackedSequence):
            return int(part.batch_sizes[0])
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    return 1


def only_label(targets: Any) -> int | None:
    """Return the one whole number that all targets are; None if they are several or others."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or not len(targets):
        return None
    first = targets.flatten()[0]
    return int(first) if bool((targets == first).all()) else None


def nbytes(batch: Any) -> int:
    """Return the memory of the tensors of a batch."""
    return sum(tensor.nbytes for tensor in tensors(batch))


def equal(one: Any, other: Any) -> bool:
    """Tell whether two batches hold the same tensors, bit for bit; nothing else is compared."""
    return same(tensors(one), tensors(other))


def same(one: Any, other: Any) -> bool:
    """Tell whether two values, or lists of them, are the same, tensors bit for bit and NaN too."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if torch.equal(one, other):
            return True
        return one.shape == other.shape and bool(
            ((one == other) | ((one != one) & (other != other))).all()
        )
    return one is other or bool(one == other)


def shape_of(batch: Any) -> str:
    """Return the shapes and types of a batch, for messages."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    held = named_parts(batch)
    if held is not None:
        inner = ", ".join(f"{k}: {shape_of(v)}" for k, v in held.items())
        return f"{{{inner}}}" if isinstance(batch, dict) else f"{type(batch).__name__}({inner})"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__}({', '.join(map(shape_of, batch))})"
    return type(batch).__name__


def copied(batch: Any) -> Any:
    """Return the batch with its own tensors and containers; what cannot be copied stays.

    What is one tensor in several places of the batch stays one.
    """
    memo: dict[int, Any] = {
        id(t): t.detach().clone().requires_grad_(t.requires_grad) for t in tensors(batch)
    }

    def own(leaf: Any) -> Any:
        try:
            return memo[id(leaf)] if id(leaf) in memo else copy.deepcopy(leaf, memo)
        except Exception:  # whatever a class of the user's own raises
            return leaf

    return rebuilt(own, batch)


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on `device`; containers are rebuilt, tensors there kept."""
    return rebuilt(lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf, batch)


def rebuilt(change: Callable[[Any], Any], batch: Any) -> Any:
    """Return the batch with its leaves changed.

    Plain dictionaries, named tuples and dataclasses are no leaves; packed sequences are, since the
    lengths that they hold stay on the CPU. Not `torch.utils._pytree`: that refuses
    keys that cannot be compared, and takes subclasses of `dict` of its own choice for containers.

    Args:
        change: Leaf → leaf.
        batch: Of any form.
    """
    again = functools.partial(rebuilt, change)
    if isinstance(batch, Tensor | PackedSequence):
        return change(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(again, batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map(again, batch))
    if type(batch) is dict:
        return {key: again(part) for key, part in batch.items()}
    if isinstance(batch, Mapping) or not dataclasses.is_dataclass(batch):
        return change(batch)
    changed = copy.copy(batch)
    for name, part in (named_parts(batch) or {}).items():
        object.__setattr__(changed, name, again(part))
    return changed


def joined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Return outputs or targets of several batches as one, of the form that one batch has.

    Tensors are put together along their first axis, numbers averaged. A list is one item per
    sample, unless its tensors are as long as the batch.

    Args:
        parts: One per batch.
        sizes: Samples of each batch.

    Raises:
        ValueError: They have no common form, e.g. sequences of several lengths.
    """
    first = parts[0]
    if all(isinstance(part, Tensor) for part in parts):
        if all(part.ndim == 0 for part in parts):
            weights = torch.tensor(sizes, dtype=torch.float64)
            values = torch.stack(list(parts)).double().cpu()
            return ((values * weights).sum() / weights.sum()).to(first)
        try:
            return torch.cat(list(parts))
        except RuntimeError as error:
            raise ValueError from error
    if isinstance(first, PackedSequence) or any(type(part) is not type(first) for part in parts):
        raise ValueError
    held = [named_parts(part) for part in parts]
    if isinstance(first, list) and not are_fields(first, sizes[0]):
        return [item for part in parts for item in part]
    if isinstance(first, list | tuple) and held[0] is None:
        if any(len(part) != len(first) for part in parts):
            raise ValueError
        return type(first)(joined(each, sizes) for each in zip(*parts, strict=True))
    if held[0] is not None:
        if any((other or {}).keys() != held[0].keys() for other in held):
            raise ValueError
        whole = {key: joined([(other or {})[key] for other in held], sizes) for key in held[0]}
        return whole if type(first) is dict else type(first)(**whole)
    if first is None:
        return None
    raise ValueError


def are_fields(part: list[Any], size: int | None = None) -> bool:
    """Tell whether a list holds a tensor `[B, ...]` per field, rather than an item per sample.

    Args:
        part: The list.
        size: B; None for the length that all tensors have, if they do.
    """
    if not all(isinstance(item, Tensor) and item.ndim for item in part):
        return False
    sizes = {len(item) for item in part} | ({size} if size else set())
    return len(sizes) == 1 and len(part) not in sizes


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
    four = "(x, y, xv, yv) is `train_data=(x, y)` and `val_data=(xv, yv)`. "
    four = four if isinstance(batch, list | tuple) and len(batch) == 4 else ""
    raise ModelError(
        "a batch must be a pair (inputs, targets), or hold its targets by one of the names "
        f"{', '.join(TARGETS)}, got {shape_of(batch)}. {four}Several inputs go into one tuple: "
        "((a, b), targets). For batches of another form pass "
        "`step_fn=lambda model, batch: loss`, and `metric='loss'` or a callable of (model, batch)."
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
        "`metric='accuracy'` needs outputs that are a tensor, or an object with .logits, got "
        f"{shape_of(outputs)}. Pass a callable, e.g. `metric=lambda outputs, targets: "
        "(outputs[0].argmax(1) == targets).float().mean()`."
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
