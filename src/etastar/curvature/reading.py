"""Batches as people have them: read once, held as copies, counted, and named where they fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import is_dataclass
from itertools import count
from typing import Any, TypeAlias

import torch
from torch.nn.utils.rnn import PackedSequence

from etastar.checking import is_number
from etastar.errors import ConfigError, CurvatureError, EtaStarError, ModelError
from etastar.machine import SHARE, free_bytes
from etastar.problem.nested import copied, nbytes, shape_of

Batch: TypeAlias = tuple[Any, Any]
"""Inputs and targets."""

MOST_BATCHES = 1000
"""Batches read from an iterable without a length, which may never end."""

REMEDIES = {
    "aot_autograd": "Compiled code has no second derivative: pass the model that torch.compile was "
    "given (model._orig_mod)",
    "heckpoint": "Use checkpoint(..., use_reentrant=False), or no checkpoints",
    "sparse": "Sparse gradients have no second derivative: set sparse=False of the embedding",
    "once_differentiable": "Let backward be differentiable too, or write it in plain operations",
    "derivative": "Write this operation in plain ones that can be differentiated twice, or measure "
    "without it",
}
"""Remedy by a word of the errors that PyTorch raises where there is no second derivative."""


@contextmanager
def explained(doing: str, expected: str) -> Iterator[None]:
    """Raise what a user's code, or its derivatives, raise as one error of ours.

    Args:
        doing: What fails, for the message.
        expected: What is expected, where no other remedy is known.

    Raises:
        CurvatureError: There is no second derivative.
        ModelError: Anything else.
    """
    try:
        yield
    except EtaStarError:
        raise
    except (Exception, SystemExit) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        remedy = next((REMEDIES[word] for word in REMEDIES if word in cause), None)
        kind = CurvatureError if remedy else ModelError
        raise kind(f"{doing} fails: {cause}. {remedy or expected}.") from error


def going_through(index: int, batch: Batch) -> AbstractContextManager[None]:
    """`explained`, for a batch in model, loss and derivatives."""
    inputs, targets = map(shape_of, batch)
    return explained(
        f"batch {index} (inputs {inputs}, targets {targets}) in model, loss or derivatives",
        "Expected loss_fn(model(inputs), targets): check shapes, types and device",
    )


def read(
    batches: Iterable[Any], batch_size: Callable[[Any, Any], Any] | None
) -> tuple[list[Batch], list[float]]:
    """Read all batches, and count what each holds.

    Raises:
        ConfigError: They are no batches, do not fit in memory, or may never end.
    """
    if not isinstance(batches, Iterable):
        raise ConfigError(
            "batches must hold pairs (inputs, targets), as a DataLoader does; got "
            f"{type(batches).__name__}. A single batch goes into a list: [(inputs, targets)]."
        )
    ends = False
    with suppress(TypeError, NotImplementedError):
        ends = len(batches) >= 0  # type: ignore[arg-type]
    held: list[Batch] = []
    counts: list[float] = []
    room = free_bytes(torch.device("cpu")) * SHARE
    for index, batch in enumerate(_each(batches)):
        if (index >= MOST_BATCHES and not ends) or room < 0:
            what = f"{len(held):,} batches" if room >= 0 else "batches for half of the free memory"
            raise ConfigError(
                f"batches: {what} were read, and there are more; all of them are held, so they "
                "must end. Pass a part: list(itertools.islice(batches, 100))."
            )
        held.append(copied(_pair(index, batch)))
        counts.append(_count(index, held[-1], batch_size or _first_dimension))
        room -= nbytes(held[-1])
    if not held:
        raise ConfigError("batches is empty; expected at least one pair (inputs, targets).")
    return held, counts


def _each(batches: Iterable[Any]) -> Iterator[Any]:
    """Iterate over a loader; what it raises is named."""
    iterator, end = None, object()
    for index in count():
        with explained(f"reading batch {index}", "Look at the loader and its data set"):
            iterator = iter(batches) if iterator is None else iterator  # a loader's may be false
            batch = next(iterator, end)
        if batch is end:
            return
        yield batch


def _pair(index: int, batch: Any) -> Batch:
    """Split a batch; one that names its parts goes to the model and to the loss as it is."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping) or is_dataclass(batch):
        return batch, batch
    raise ConfigError(
        f"batch {index} must be a pair (inputs, targets); got {shape_of(batch)}. Several inputs "
        "go into one tuple or mapping."
    )


def _count(index: int, batch: Batch, batch_size: Callable[[Any, Any], Any]) -> float:
    try:
        with explained(f"batch_size of batch {index}", "It is called (inputs, targets)"):
            size = batch_size(*copied(batch))
    except ConfigError as error:
        raise ConfigError(f"batch {index}: {error}") from None
    if isinstance(size, torch.Tensor) and size.numel() == 1:
        size = size.item()
    if not is_number(size) or not 0 < size < math.inf:
        raise ConfigError(
            f"the number of samples of batch {index} must be above 0 and finite, got {size!r}."
        )
    return int(size) if size == int(size) else float(size)


def _first_dimension(inputs: Any, targets: Any) -> int:
    """Count the samples of a batch; they are the first dimension of all its tensors."""
    single = isinstance(inputs, (torch.Tensor, PackedSequence))
    parts = [inputs] if single else list(getattr(inputs, "values", lambda: inputs)())
    found = {
        shape_of(part): int(part.batch_sizes[0]) if isinstance(part, PackedSequence) else len(part)
        for part in (targets, *parts)
        if isinstance(part, PackedSequence) or (isinstance(part, torch.Tensor) and part.ndim)
    }
    if not found:
        raise ConfigError("the number of samples is not to be seen; pass `batch_size`.")
    if len(set(found.values())) > 1:
        raise ConfigError(
            "inputs and targets differ in their first dimension, where the samples are expected; "
            f"got {', '.join(found)} (targets first). If they lie elsewhere, pass "
            "`batch_size=lambda inputs, targets: ...`"
        )
    return next(iter(found.values()))
