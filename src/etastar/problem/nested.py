"""One batch, of whatever form: nested lists, tuples and mappings with tensors as their leaves."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def leaves(batch: Any) -> list[Any]:
    """What a batch holds, in order, without its lists, tuples and mappings."""
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in leaves(value)]
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        return [leaf for value in batch for leaf in leaves(value)]
    return [batch]


def samples_in(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor, 1 without one."""
    for leaf in leaves(batch):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return len(leaf)
    return 1


def nbytes(batch: Any) -> int:
    """Memory of the tensors of a batch."""
    return sum(
        leaf.numel() * leaf.element_size()
        for leaf in leaves(batch)
        if isinstance(leaf, torch.Tensor)
    )


def equal(one: Any, other: Any) -> bool:
    """Whether two batches hold the same tensors, bit for bit; what is no tensor is not compared."""

    def tensors(batch: Any) -> list[torch.Tensor]:
        return [leaf for leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]

    mine, others = tensors(one), tensors(other)
    return len(mine) == len(others) and all(
        torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))
        for a, b in zip(mine, others, strict=True)
    )


def shape_of(batch: Any) -> str:
    """Shapes and types of a batch, for messages."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k}: {shape_of(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__}({', '.join(map(shape_of, batch))})"
    return type(batch).__name__


def copied(batch: Any) -> Any:
    """The batch with tensors and containers of its own; what cannot be copied stays the same."""
    if isinstance(batch, torch.Tensor):
        return batch.detach().clone().requires_grad_(batch.requires_grad)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(copied, batch))
    if type(batch) in (list, tuple):
        return type(batch)(map(copied, batch))
    if type(batch) is dict:
        return {key: copied(part) for key, part in batch.items()}
    try:
        return copy.deepcopy(batch)
    except Exception:  # whatever a class of the user's own raises
        return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; containers are rebuilt, tensors in place are kept."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(part, device) for part in batch)
    if type(batch) is dict:
        return {key: to_device(part, device) for key, part in batch.items()}
    if hasattr(batch, "to"):
        return batch.to(device)
    return batch
