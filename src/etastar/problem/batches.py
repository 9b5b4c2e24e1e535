"""Training data in any form, as endless streams of batches: one per seed, the same every time.

Tensors are cut into batches here, in the order of `etastar.problem.order`. Data sets and loaders
are read epoch by epoch, each epoch with its own random streams; what was read is kept while it fits
into a share of the free memory, and read again otherwise. An iterator, which can be read only once,
is kept whole. A model may do what it likes to a batch, so nothing that belongs to the user or is
kept is handed out, but a copy each time; nor is anything kept but a copy, for a loader may refill
one buffer for every batch. No more is read than a trial may use (`LoaderBatches.limit`).
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count, islice
from operator import itemgetter
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from etastar.errors import ModelError
from etastar.machine import free_bytes
from etastar.problem.nested import Accumulated, copied, equal, leaves, nbytes, rebuilt
from etastar.problem.order import DataOrder
from etastar.problem.streams import Stream, generators_of, mixed, seed_generator, untouched
from etastar.problem.user_code import told

END = object()
SHARE = 0.25
"""Of the free memory that batches read from a loader may fill."""
MOST_BATCHES, MOST_SECONDS = 10_000, 10.0
"""What has no length and goes on beyond so many batches, or so long, is taken to be endless."""


class TensorBatches:
    """Samples in memory; a last batch smaller than the others is dropped.

    Like every `Batches`, they yield `stream` after stream without end, a pure function of the seed,
    and `once` one fixed pass for evaluation; who gets a batch may spoil it.

    Args:
        data: A tensor `[N, ...]`, or tuples and dictionaries of tensors with equal N.
        batch_size: Samples per batch; all of them if there are no more.
        eval_size: Samples that are evaluated at once; the same if None.
    """

    fixed = True
    batch: int

    def __init__(self, data: Any, batch_size: int, eval_size: int | None = None) -> None:
        self.data, self.parts = data, tuple(leaves(data))
        self.samples = len(self.parts[0])
        self.batch = min(batch_size, self.samples)
        self.eval_size = eval_size or self.batch
        self.steps_per_epoch = self.samples // self.batch

    def stream(self, seed: int) -> Iterator[Any]:
        """Yield batch after batch, epoch after epoch.

        Args:
            seed: Of the order.
        """
        while self.batch == self.samples:
            yield copied(self.data)
        order = DataOrder(self.samples)
        for epoch in count():
            permutation = order.permutation(seed, epoch)[: self.steps_per_epoch * self.batch]
            order.keep_only({(seed, epoch)})
            for rows in torch.split(permutation, self.batch):
                yield rebuilt(itemgetter(rows.to(self.parts[0].device)), self.data)

    def once(self) -> Iterable[Any]:
        """Yield one pass without shuffling, and with the last samples."""
        for start in range(0, self.samples, self.eval_size):
            piece = slice(start, start + self.eval_size)
            yield copied(rebuilt(itemgetter(piece), self.data))

    def varies(self, one: int, other: int) -> bool:
        """Tell whether two seeds see different data, or the same in different order.

        Args:
            one: A seed.
            other: Another one.
        """
        return one != other and self.batch < self.samples


class LoaderBatches:
    """Whatever can be iterated anew for every epoch: a `DataLoader`, a list, a class of one's own.

    Args:
        loader: Read under random streams fixed by seed and epoch, its own generators included.
        what: Its name in messages.
        limit: Batches that a trial may use; None if that is not known yet.

    Attributes:
        limit: The same.
        ends: Whether an epoch is known to end: it has a length, or has been read to its end.

    Raises:
        ModelError: It yields nothing, or does not end and there is no limit.
    """

    batched = True
    """Whether the user made the batches, rather than `as_batches`."""

    def __init__(self, loader: Iterable[Any], what: str, limit: int | None = None) -> None:
        if isinstance(loader, torch.utils.data.DataLoader):
            loader = copy.copy(loader)
            vars(loader)["_iterator"] = None  # persistent workers stay with the user's loader
        self.loader, self.what, self.limit = loader, what, limit
        self.batch = loader.batch_size if isinstance(loader, DataLoader) else None
        self.fixed = isinstance(loader, list) or (
            type(loader) is DataLoader
            and type(loader.dataset) is TensorDataset
            and loader.collate_fn is default_collate
            and not loader.drop_last
        )
        self._budget = int(SHARE * free_bytes(torch.device("cpu")))
        self._kept: OrderedDict[tuple[int, int], tuple[list[Any], int, bool]] = OrderedDict()
        self._first: dict[tuple[int, int], Any] = {}
        self._drops = False
        self.streaming = False
        """Whether what a trial reads of an epoch does not fit into its share of the memory."""
        length = length_of(loader)
        self.ends = length is not None
        if length is None:
            length = sum(1 for _ in self._epoch(0, 0, limit))
            self.ends = limit is None or length < limit
        elif length == 0:
            raise self._empty((0, 0))
        self.steps_per_epoch = length

    def __deepcopy__(self, memo: Any) -> LoaderBatches:
        """Return the same: those who read it get copies of its batches."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the batches that were kept: they are read again."""
        return vars(self) | {"_kept": OrderedDict()}

    def stream(self, seed: int) -> Iterator[Any]:
        """See `TensorBatches`; after the limit, if any, it goes on reading batch by batch."""
        taken, length = 0, self.steps_per_epoch if self._drops else None
        for epoch in count():
            left = length if self.limit is None else max(1, self.limit - taken)
            left = left if length is None or left is None else min(left, length)
            for batch in self._epoch(seed, epoch, left):
                taken += 1
                yield batch

    def drop_last(self, batch_size: int) -> None:
        """Leave a last batch smaller than this out of training; evaluation reads it.

        Args:
            batch_size: Of the data set that was given.
        """
        assert isinstance(self.loader, DataLoader)
        whole = len(self.loader.dataset) // batch_size  # type: ignore[arg-type]
        self._drops, self.steps_per_epoch = True, max(1, whole)

    def once(self) -> Iterable[Any]:
        """Yield the first epoch of seed 0."""
        # an epoch in progress keeps its place
        with untouched(self.loader) if self.streaming else nullcontext():
            yield from self._epoch(0, 0, None)

    def varies(self, one: int, other: int) -> bool:
        """See `TensorBatches`; judged by the first two batches, and no more are read."""
        begun = (list(self._epoch(seed, 0, 2)) for seed in (one, other))
        return one != other and not all(map(equal, *begun))

    def _epoch(self, seed: int, epoch: int, most: int | None) -> Iterator[Any]:
        """Yield the batches of one epoch, at most so many: kept ones, else read."""
        key = (seed, epoch)
        kept, _, whole = self._kept.get(key, ([], 0, False))
        if not whole and not self.streaming and (most is None or most > len(kept)):
            self._keep(key, most)
        if key in self._kept:
            self._kept.move_to_end(key)
            yield from map(copied, self._kept[key][0][:most])
        else:
            yield from map(copied, islice(self._read(key), most))

    def _read(self, key: tuple[int, int]) -> Iterator[Any]:
        """Read one epoch, under streams of its own."""
        stream = Stream("data", *key)
        for number, generator in enumerate(generators_of([self.loader])):
            seed_generator(generator, mixed("data", *key, number))
        length, began = 0, time.monotonic()
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
            if self.limit is None and length_of(self.loader) is None:
                check_ends(self.what, length, began)
            yield batch
        if length == 0:
            raise self._empty(key)

    def _empty(self, key: tuple[int, int]) -> ModelError:
        return ModelError(
            f"{self.what} is empty: epoch {key[1]} of seed {key[0]} gave no batch. Expected at "
            "least one. If it can be read only once, pass an iterator (it is then kept), a "
            "list of batches or a Dataset."
        )

    def _keep(self, key: tuple[int, int], most: int | None) -> None:
        """Read one epoch and keep it; if it does not fit, no epoch is kept from now on."""
        read, size = [], 0
        refills = not isinstance(self.loader, list)  # maybe, one buffer for every batch
        for batch in islice(self._read(key), most):
            read.append(copied(batch) if refills else batch)
            size += nbytes(batch)
            if size > self._budget:
                self.streaming = True
                self._kept.clear()
                return
        self._kept[key] = read, size, most is None or len(read) < most
        while sum(size for _, size, _ in self._kept.values()) > self._budget:
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


Batches: TypeAlias = TensorBatches | LoaderBatches
"""Where a trial's batches come from. They tell `steps_per_epoch`, the samples per `batch` if known,
and in `fixed` whether every epoch is known to hold the same samples."""


class Grouped:
    """A loader of which an epoch ends early, or whose batches come in groups, one a step.

    Args:
        loader: Whatever can be iterated anew for every epoch.
        size: Batches of a step, the last one of an epoch may have fewer; None for the batches as
            they are.
        limit: Batches of an epoch; None for all.

    Attributes:
        dataset: The loader, where `streams.generators_of` looks for one.
        change: Batch → batch; nothing is changed at first.
    """

    def __init__(
        self, loader: Iterable[Any], size: int | None = None, limit: int | None = None
    ) -> None:
        self.dataset, self.size, self.limit = loader, size, limit
        self.change: Callable[[Any], Any] = lambda batch: batch

    def __iter__(self) -> Iterator[Any]:
        """Yield a batch, or the `Accumulated` batches, of step after step."""
        batches = map(self.change, islice(self.dataset, self.limit))
        if self.size is None:
            yield from batches
            return
        while group := Accumulated(islice(batches, self.size)):
            yield group

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        length = length_of(self.dataset)
        if length is None:
            raise TypeError("the loader has no length")
        length = length if self.limit is None else min(length, self.limit)
        return -(-length // (self.size or 1))


def length_of(loader: Any) -> int | None:
    """Return the batches of an epoch where that is sure without reading; else None.

    A `__len__` of a class of one's own may count samples.
    """
    sized = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    try:
        return len(loader) if sized or isinstance(loader, list | tuple | Grouped) else None
    except (TypeError, NotImplementedError):  # a sampler without a length
        return None


def check_ends(what: str, read: int, began: float) -> None:
    """Raise if what has no length has given so many batches, or taken so long, that it may not end.

    Args:
        what: The argument's name.
        read: Batches so far.
        began: When reading began, by `time.monotonic`.

    Raises:
        ModelError: It has.
    """
    seconds = time.monotonic() - began
    if read > MOST_BATCHES or seconds > MOST_SECONDS:
        instead = "pass max_steps"
        if "val" in what:
            instead = "take a part of them, e.g. list(itertools.islice(batches, 100))"
        raise ModelError(
            f"{what} has no length and did not end within {read} batches and {seconds:.0f} s: it "
            f"may be endless. Expected data that end, or that have a length: {instead}."
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
