"""The forms in which data are given, told apart: tensors, data sets, loaders, batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from etastar.checking import is_number
from etastar.errors import ConfigError, ModelError
from etastar.machine import free_bytes
from etastar.problem.batches import (
    END,
    SHARE,
    Batches,
    LoaderBatches,
    TensorBatches,
    check_ends,
    reading,
)
from etastar.problem.nested import copied, leaves, nbytes, pair, rebuilt, shape_of

Array = torch.Tensor | np.ndarray
PARTS = {"train", "training", "val", "valid", "validation", "test", "dev"}
"""Keys of a dictionary that holds data for several purposes."""


def as_batches(
    data: Any,
    batch_size: int,
    device: torch.device,
    what: str,
    *,
    eval_size: int | None = None,
    limit: int | None = None,
    drops: bool = True,
) -> Batches:
    """Return batches from tensors, a `Dataset`, a `DataLoader` or any iterable of batches.

    Args:
        data: See `etastar.maximal_lr`.
        batch_size: For tensors and data sets.
        device: Where tensors are put, if they are not batched already.
        what: The argument's name, for messages.
        eval_size: Samples of tensors that are evaluated at once.
        limit: Batches that a trial may use.
        drops: Whether training leaves out a last batch of a data set smaller than the others.

    Raises:
        ModelError: The data is empty or of no form that is known.
    """
    _check_one_purpose(data, what)
    if _are_samples(data):
        data = Subset(data, range(len(data)))
    given = data
    if isinstance(data, TensorDataset):
        data = data.tensors
    tensors = _as_tensors(data)
    if tensors is not None:
        parts = leaves(tensors)
        sizes = [len(part) if part.ndim else 0 for part in parts]
        if min(sizes) == 0 or len(set(sizes)) > 1:
            raise ModelError(
                f"{what}: the tensors must have the same number of samples, at least one, along "
                f"their first axis; got shapes {[tuple(part.shape) for part in parts]}."
            )
        moved = rebuilt(lambda part: part.detach().to(device), tensors)
        return TensorBatches(moved, batch_size, eval_size)
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size)
    elif isinstance(data, Dataset):
        data = _loader(data, batch_size, what)
    if isinstance(data, Iterator):
        data = _all(data, what, limit)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
        raise ModelError(
            f"{what} must be tensors, a Dataset, a DataLoader or an iterable of batches, got "
            f"{shape_of(data):.200}."
        )
    batches = LoaderBatches(data, what, limit)
    batches.batched = not isinstance(given, Dataset)
    if drops and isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        batches.drop_last(batch_size)
    return batches


def _are_samples(data: Any) -> bool:
    """Tell whether a list holds single samples, whose targets are numbers, rather than batches."""
    if type(data) is not list or not data:
        return False
    with suppress(ModelError):
        return all(
            getattr(pair(item)[1], "ndim", is_number(pair(item)[1]) - 1) == 0 for item in data
        )
    return False


def _loader(data: Dataset[Any], batch_size: int, what: str) -> DataLoader[Any]:
    """Return a loader of a data set, shuffled anew every epoch."""
    try:
        size = len(data)  # type: ignore[arg-type]
    except Exception as error:  # TypeError, or what a __len__ of its own raises
        raise ModelError(
            f"{what}: the Dataset {type(data).__name__} has no length: {error}. Give it a "
            "__len__, or make it an IterableDataset."
        ) from error
    if size == 0:
        raise ModelError(f"{what} is empty: the data set has no samples.")
    return DataLoader(data, batch_size, shuffle=True, generator=torch.Generator())


def _check_one_purpose(data: Any, what: str) -> None:
    """Raise if training and validation data are given as one.

    Raises:
        ModelError: They are.
    """
    found = None
    if isinstance(data, Mapping) and len(set(data) & PARTS) == len(data) > 0:
        found = f"a dictionary with {', '.join(map(str, data))}"
    elif type(data) in (list, tuple) and data:
        if all(isinstance(part, Dataset | DataLoader) for part in data):
            found = f"{len(data)} of type {type(data[0]).__name__}"
        elif type(data) is tuple and len(data) == 2 and all(map(_is_pair, data)):
            one, other = ([(p.dtype, p.shape[1:]) for p in leaves(part)] for part in data)
            sizes = {len(part) for part in leaves(data)}
            found = "two pairs of tensors" if one == other or len(sizes) > 1 else None
        elif len(data) == 4 and all(isinstance(p, Array) and p.ndim for p in data):
            found = "four tensors" if _is_split(data) else None
    if found:
        raise ModelError(
            f"{what} looks like training and validation data in one: {found}. Expected one of "
            "them: pass `train_data=...` and `val_data=...`; batches go into a list, [(inputs, "
            "targets), ...], and several inputs into a tuple, ((a, b), targets)."
        )


def _is_split(data: Any) -> bool:
    """Tell whether four tensors are inputs and targets twice; a tuple may be four inputs, too."""
    forms = [(part.dtype, part.shape[1:]) for part in data]
    lengths = [len(part) for part in data]
    if type(data) is tuple and len(set(lengths)) > 1:
        return True
    twice = forms[:2] == forms[2:] and forms[0] != forms[1]
    return type(data) is list and twice and lengths[::2] == lengths[1::2]


def _is_pair(part: Any) -> bool:
    return (
        type(part) in (list, tuple)
        and len(part) == 2
        and all(isinstance(p, Array) and p.ndim for p in part)
    )


def _all(batches: Iterator[Any], what: str, limit: int | None) -> list[Any]:
    """Return what an iterator has, or so much of it as a trial may use."""
    read: list[Any] = []
    began, size, most = time.monotonic(), 0, int(SHARE * free_bytes(torch.device("cpu")))
    for number in islice(count(), limit):
        with reading(batches, f"{what}: reading batch {number}"):
            batch = next(batches, END)
        if batch is END:
            break
        read.append(copied(batch))  # it may be one buffer, refilled
        size += nbytes(batch)
        if limit is None:
            check_ends(what, number, began)
        if size > most:
            raise ModelError(
                f"{what} can be read only once, and its first {number + 1} batches hold "
                f"{size / 2**30:.1f} GiB, too much to keep. Pass a Dataset, or an object that can "
                "be read anew, or lower `max_steps`."
            )
    return read


def _as_tensors(data: Any) -> Any:
    """Return tensors in the nest in which they are given, arrays made tensors; None for others.

    A pair may hold further tuples and dictionaries. A list is a pair only if it holds two tensors
    of equal length: other lists are lists of batches.
    """
    if _is_array(data):
        return _tensor(data)
    if isinstance(data, list) and len(data) == 2 and all(map(_is_array, data)):
        data = tuple(data) if len(data[0]) == len(data[1]) else None
    nested = type(data) is tuple and len(data) == 2
    if type(data) is tuple and data and all(map(_is_nest if nested else _is_array, data)):
        return rebuilt(_tensor, tuple(map(_plain, data)))
    if type(data) is dict and data and all(map(_is_array, data.values())):
        return {key: _tensor(part) for key, part in data.items()}
    return None


def _is_array(part: Any) -> bool:
    """Tell whether something is one number array: a tensor, NumPy's, pandas', a list of numbers."""
    if isinstance(part, list):
        return bool(part) and all(map(is_number, part))
    return isinstance(part, Array) or (hasattr(part, "__array__") and hasattr(part, "shape"))


def _is_nest(part: Any) -> bool:
    if isinstance(part, dict):
        return bool(part) and all(map(_is_array, part.values()))
    return _is_array(part) or (type(part) is tuple and bool(part) and all(map(_is_array, part)))


def _plain(part: Any) -> Any:
    """Return a list of numbers as an array, so that it is not taken for a container."""
    return np.asarray(part) if isinstance(part, list) else part


def _tensor(part: Any) -> torch.Tensor:
    try:
        array = part if isinstance(part, Array) else np.array(part)  # a view may be read-only
        return torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the {type(part).__name__} in the data is no array of numbers: {error}. Convert its "
            "columns, e.g. frame.to_numpy('float32')."
        ) from error


def pair_of(found: Any, what: str) -> tuple[Any, Any]:
    """Return training and validation data of what a user's function returned.

    Args:
        found: Data, a pair of them, or a dictionary with `train` and `val`.
        what: What it was named as, for messages.

    Returns:
        Both; the latter may be None.

    Raises:
        ConfigError: The dictionary has other keys.
    """
    if isinstance(found, dict):
        if unknown := set(found) - {"train", "val"}:
            raise ConfigError(
                f"{what}: expected a dictionary with train and val, got also "
                f"{', '.join(sorted(map(repr, unknown)))}."
            )
        if "train" not in found:
            raise ConfigError(f"{what}: the dictionary has no key 'train'.")
        return found["train"], found.get("val")
    if isinstance(found, tuple) and len(found) == 2 and not isinstance(found[0], Array):
        return found
    return found, None
