"""One batch, of whatever form: nested lists, tuples and mappings with tensors as their leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def leaves(batch: Any) -> list[Any]:
    """Return what a batch holds, in order, without its lists, tuples and mappings."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        return [leaf for value in batch for leaf in leaves(value)]
    return [batch]


def tensors(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch, in order."""
    return [leaf for leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]


def samples_in(batch: Any) -> int:
    """Return the samples in a batch: the length of its first tensor, 1 without one."""
    return next((len(tensor) for tensor in tensors(batch) if tensor.ndim), 1)


def nbytes(batch: Any) -> int:
    """Return the memory of the tensors of a batch."""
    return sum(tensor.nbytes for tensor in tensors(batch))


def equal(one: Any, other: Any) -> bool:
    """Tell whether two batches hold the same tensors, bit for bit; nothing else is compared."""
    mine, others = tensors(one), tensors(other)
    return len(mine) == len(others) and all(
        torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))
        for a, b in zip(mine, others, strict=True)
    )


def shape_of(batch: Any) -> str:
    """Return the shapes and types of a batch, for messages."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k}: {shape_of(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__}({', '.join(map(shape_of, batch))})"
    return type(batch).__name__


def copied(batch: Any) -> Any:
    """Return the batch with its own tensors and containers; what cannot be copied stays."""

    def own(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone().requires_grad_(leaf.requires_grad)
        try:
            return copy.deepcopy(leaf)
        except Exception:  # whatever a class of the user's own raises
            return leaf

    return _rebuilt(own, batch, lambda part: type(part) in (list, tuple))


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on `device`; containers are rebuilt, tensors there kept."""

    def moved(leaf: Any) -> Any:
        return leaf.to(device) if hasattr(leaf, "to") else leaf

    return _rebuilt(moved, batch, lambda part: isinstance(part, list | tuple))


def _rebuilt(change: Callable[[Any], Any], batch: Any, is_sequence: Callable[[Any], bool]) -> Any:
    """Return the batch with its leaves changed; plain dictionaries and named tuples are no leaves.

    Not `torch.utils._pytree`: that refuses keys that cannot be compared, and takes subclasses of
    `dict` of its own choice for containers.
    """
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_rebuilt(change, part, is_sequence) for part in batch))
    if is_sequence(batch):
        return type(batch)(_rebuilt(change, part, is_sequence) for part in batch)
    if type(batch) is dict:
        return {key: _rebuilt(change, part, is_sequence) for key, part in batch.items()}
    return change(batch)
