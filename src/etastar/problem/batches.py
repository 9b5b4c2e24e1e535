"""Training data in any form, as endless streams of batches: one per seed, the same every time.

Tensors are cut into batches here, in the order of `etastar.problem.order`. Data sets and loaders
are read epoch by epoch, each epoch with its own random streams; what was read is kept while it fits
into a share of the free memory, and read again otherwise. An iterator, which can be read only once,
is kept whole. A model may do what it likes to a batch, so nothing that belongs to the user or is
kept is handed out, but a copy each time; nor is anything kept but a copy, for a loader may refill
one buffer for every batch.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from etastar.errors import ModelError
from etastar.machine import free_bytes
from etastar.problem.nested import copied, equal, nbytes
from etastar.problem.order import DataOrder
from etastar.problem.preserve import generators_of, untouched
from etastar.problem.streams import Stream, mixed, seed_generator
from etastar.problem.user_errors import told

END = object()
Array = torch.Tensor | np.ndarray

SHARE = 0.25
"""Of the free memory that batches read from a loader may fill."""
EVALUATED_AT_ONCE = 4
"""Tensors are evaluated in pieces of this many training batches: no gradient needs the rest."""


class Batches(ABC):
    """Where a trial's batches come from; those who get one may spoil it.

    Attributes:
        steps_per_epoch: Batches in one pass.
        fixed: Whether every epoch is known to hold the same samples.
    """

    steps_per_epoch: int
    fixed: bool

    @abstractmethod
    def stream(self, seed: int) -> Iterator[Any]:
        """Yield batch after batch, epoch after epoch, without end; a pure function of the seed."""

    @abstractmethod
    def once(self) -> Iterable[Any]:
        """Yield one fixed pass, for evaluation."""

    @abstractmethod
    def varies(self, one: int, other: int) -> bool:
        """Tell whether two seeds see different data, or the same in different order."""


class TensorBatches(Batches):
    """Samples in memory; a last batch smaller than the others is dropped.

    Args:
        data: One tensor `[N, ...]`, or a tuple of tensors with equal N.
        batch_size: Samples per batch; all of them if there are no more.
    """

    fixed = True

    def __init__(self, data: torch.Tensor | tuple[torch.Tensor, ...], batch_size: int) -> None:
        self.data = data
        self.parts = data if isinstance(data, tuple) else (data,)
        self.samples = len(self.parts[0])
        self.batch = min(batch_size, self.samples)
        self.steps_per_epoch = self.samples // self.batch

    def rows(self, seed: int) -> Iterator[torch.Tensor]:
        """Yield the samples of batch after batch, int64 `[B]` each."""
        order = DataOrder(self.samples)
        whole = torch.arange(self.samples)
        for epoch in count():
            if self.batch == self.samples:
                yield whole
                continue
            permutation = order.permutation(seed, epoch)
            order.keep_only({(seed, epoch)})
            yield from torch.split(permutation[: self.steps_per_epoch * self.batch], self.batch)

    def take(self, rows: torch.Tensor) -> Any:
        """Return the samples `rows`, of any shape, as one batch."""
        rows = rows.to(self.parts[0].device)
        taken = tuple(part[rows] for part in self.parts)
        return taken if isinstance(self.data, tuple) else taken[0]

    def stream(self, seed: int) -> Iterator[Any]:
        """See `Batches`."""
        if self.batch == self.samples:
            while True:
                yield copied(self.data)
        for rows in self.rows(seed):
            yield self.take(rows)

    def once(self) -> Iterable[Any]:
        """See `Batches`; without shuffling, and with the last samples."""
        size = EVALUATED_AT_ONCE * self.batch
        pieces = zip(*(torch.split(p, size) for p in self.parts), strict=True)
        return map(copied, pieces if isinstance(self.data, tuple) else (p for (p,) in pieces))

    def varies(self, one: int, other: int) -> bool:
        """See `Batches`."""
        return one != other and self.batch < self.samples


class LoaderBatches(Batches):
    """Whatever can be iterated anew for every epoch: a `DataLoader`, a list, a class of one's own.

    Args:
        loader: Read under random streams fixed by seed and epoch, its own generators included.
        what: Its name in messages.

    Raises:
        ModelError: It yields nothing.
    """

    batched = True
    """Whether the user made the batches, rather than `as_batches`."""

    def __init__(self, loader: Iterable[Any], what: str) -> None:

        if isinstance(loader, torch.utils.data.DataLoader):
            loader = copy.copy(loader)
            vars(loader)["_iterator"] = None  # persistent workers stay with the user's loader
        self.loader, self.what = loader, what
        self.fixed = isinstance(loader, list) or (
            type(loader) is DataLoader
            and type(loader.dataset) is TensorDataset
            and loader.collate_fn is default_collate
            and not loader.drop_last
        )
        self._budget = int(SHARE * free_bytes(torch.device("cpu")))
        self._kept: OrderedDict[tuple[int, int], tuple[list[Any], int]] = OrderedDict()
        self._first: dict[tuple[int, int], Any] = {}
        self.streaming = False
        """Whether an epoch does not fit into its share of the memory."""
        self.steps_per_epoch = sum(1 for _ in self._epoch(0, 0))

    def stream(self, seed: int) -> Iterator[Any]:
        """See `Batches`."""
        for epoch in count():
            yield from self._epoch(seed, epoch)

    def once(self) -> Iterable[Any]:
        """See `Batches`: the first epoch of seed 0."""
        # an epoch in progress keeps its place
        with untouched(self.loader) if self.streaming else nullcontext():
            yield from self._epoch(0, 0)

    def varies(self, one: int, other: int) -> bool:
        """See `Batches`; judged by the first two batches."""
        firsts = zip(self.stream(one), self.stream(other), range(2), strict=False)
        return one != other and not all(equal(a, b) for a, b, _ in firsts)

    def _epoch(self, seed: int, epoch: int) -> Iterable[Any]:
        """Return the batches of one epoch: kept ones, else read."""
        key = (seed, epoch)
        if key in self._kept:
            self._kept.move_to_end(key)
        elif not self.streaming:
            self._keep(key)
        return map(copied, self._kept[key][0] if key in self._kept else self._read(key))

    def _read(self, key: tuple[int, int]) -> Iterator[Any]:
        """Read one epoch, under streams of its own."""
        stream = Stream("data", *key)
        for number, generator in enumerate(generators_of([self.loader])):
            seed_generator(generator, mixed("data", *key, number))
        length = 0
        with stream.active(), reading(self.loader, f"{self.what}: opening epoch {key[1]}"):
            batches = iter(self.loader)
        while True:
            doing = f"{self.what}: reading batch {length} of epoch {key[1]}"
            with stream.active(), reading(self.loader, doing):
                batch = next(batches, END)
            if batch is END:
                break
            if length == 0:
                self._check_repeats(key, batch)
            length += 1
            yield batch
        if length == 0:
            raise ModelError(
                f"{self.what} is empty: epoch {key[1]} of seed {key[0]} gave no batch. Expected at "
                "least one. If it can be read only once, pass an iterator (it is then kept), a "
                "list of batches or a Dataset."
            )

    def _keep(self, key: tuple[int, int]) -> None:
        """Read one epoch and keep it; if it does not fit, no epoch is kept from now on."""
        read, size = [], 0
        refills = not isinstance(self.loader, list)  # maybe, one buffer for every batch
        for batch in self._read(key):
            read.append(copied(batch) if refills else batch)
            size += nbytes(batch)
            if size > self._budget:
                self.streaming = True
                self._kept.clear()
                return
        self._kept[key] = read, size
        while sum(size for _, size in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)

    def _check_repeats(self, key: tuple[int, int], batch: Any) -> None:
        """Raise if an epoch begins otherwise than before: every rate must see the same data."""
        if key not in self._first:
            self._first[key] = copied(batch)
        elif not equal(self._first[key], batch):
            raise ModelError(
                f"{self.what} gives other batches each time it is read, though every random "
                "stream is the same: rates cannot be compared. Give it a seed or a generator of "
                "its own, or pass a list of batches."
            )


def reading(source: Any, doing: str) -> AbstractContextManager[None]:
    """Raise what the user's data raise inside as a `ModelError` that says what was read.

    Args:
        source: The data.
        doing: The argument's name, and what is asked of it.
    """
    name = type(getattr(source, "dataset", source)).__name__
    return told(
        lambda: f"{doing} from {name}",
        "Expected a Dataset whose __getitem__ gives every sample from 0 to len - 1, all of one "
        "shape, or an iterable of batches (inputs, targets).",
    )


def as_batches(data: Any, batch_size: int, device: torch.device, what: str) -> Batches:
    """Return batches from tensors, a `Dataset`, a `DataLoader` or any iterable of batches.

    Args:
        data: See `etastar.maximal_lr`.
        batch_size: For tensors and data sets.
        device: Where tensors are put, if they are not batched already.
        what: The argument's name, for messages.

    Raises:
        ModelError: The data is empty or of no form that is known.
    """
    given = data
    if isinstance(data, TensorDataset):
        data = data.tensors
    tensors = _as_tensors(data)
    if tensors is not None:
        parts = tensors if isinstance(tensors, tuple) else (tensors,)
        sizes = [len(part) if part.ndim else 0 for part in parts]
        if min(sizes) == 0 or len(set(sizes)) > 1:
            raise ModelError(
                f"{what}: the tensors must have the same number of samples, at least one, along "
                f"their first axis; got shapes {[tuple(part.shape) for part in parts]}."
            )
        moved = tuple(part.detach().to(device) for part in parts)
        return TensorBatches(moved if isinstance(tensors, tuple) else moved[0], batch_size)
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size)
    elif isinstance(data, Dataset):
        try:
            size = len(data)  # type: ignore[arg-type]
        except Exception as error:  # TypeError, or what a __len__ of its own raises
            raise ModelError(
                f"{what}: the Dataset {type(data).__name__} has no length: {error}. Give it a "
                "__len__, or make it an IterableDataset."
            ) from error
        if size == 0:
            raise ModelError(f"{what} is empty: the data set has no samples.")
        generator = torch.Generator()
        enough = size >= batch_size
        data = DataLoader(data, batch_size, True, drop_last=enough, generator=generator)
    batched = data is given
    if isinstance(data, Iterator):
        data = _all(data, what)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
        raise ModelError(
            f"{what} must be tensors, a Dataset, a DataLoader or an iterable of batches, got "
            f"{type(data).__name__}."
        )
    batches = LoaderBatches(data, what)
    batches.batched = batched
    return batches


def _all(batches: Iterator[Any], what: str) -> list[Any]:
    """Return everything that an iterator has."""
    read: list[Any] = []
    while not read or read[-1] is not END:
        with reading(batches, f"{what}: reading batch {len(read)}"):
            batch = next(batches, END)
        read.append(batch if batch is END else copied(batch))  # it may be one buffer, refilled
    return read[:-1]


def _as_tensors(data: Any) -> Any:
    """Return a tensor or an array as a tensor, a tuple or pair of them as a tuple; else None."""
    if isinstance(data, Array):
        return torch.as_tensor(data)
    parts = (
        list(data) if isinstance(data, tuple) or (isinstance(data, list) and len(data) == 2) else []
    )
    if not parts or not all(isinstance(part, Array) for part in parts):
        return None
    if isinstance(data, list) and len(data[0]) != len(data[1]):
        return None  # two batches of inputs only
    return tuple(torch.as_tensor(part) for part in parts)
