"""All random number streams at once: Python's, NumPy's, PyTorch's on the CPU and on GPUs.

A trial, a pass over a loader and a call of a factory each run in a stream of their own, so that
none disturbs another and each is a pure function of its seed; the caller's streams are put back.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

PURPOSES = ("model", "training", "data", "metric")
"""What streams are for; two purposes never share numbers, even for equal seeds."""

_LOCK = threading.RLock()
"""The streams are the process's: one thread at a time may change them."""


@dataclass(frozen=True)
class Snapshot:
    """The state of every stream; `cuda` is empty while CUDA is not initialised."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]


def _has_cuda() -> bool:

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def snapshot() -> Snapshot:
    """The present state of every global stream."""
    cuda = torch.cuda.get_rng_state_all() if _has_cuda() else []
    legacy = np.random.get_state()  # noqa: NPY002 - the user's model may read the legacy stream
    return Snapshot(random.getstate(), legacy, torch.get_rng_state(), tuple(cuda))


def restore(state: Snapshot) -> None:
    """Put every global stream back."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002 - as above
    torch.set_rng_state(state.cpu)
    for index, generator_state in enumerate(state.cuda):
        torch.cuda.set_rng_state(generator_state, index)


def mixed(purpose: str, *numbers: int) -> int:
    """A 63-bit seed from a purpose and seeds."""
    words = np.random.SeedSequence([PURPOSES.index(purpose), *numbers]).generate_state(2)
    return (int(words[0]) << 32 | int(words[1])) >> 1


def seed_all(seed: int) -> None:
    """Seed every global stream.

    Not `torch.manual_seed`: that leaves a call for CUDA behind even where there is none.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
    torch.default_generator.manual_seed(seed)
    if _has_cuda():
        for generator in torch.cuda.default_generators:
            generator.manual_seed(seed)


@contextmanager
def exclusive() -> Iterator[None]:
    """No other thread touches the global streams inside. Take this lock before any other."""
    with _LOCK:
        yield


class Stream:
    """Streams of one purpose, which stand still while they are not active.

    Args:
        purpose: One of `PURPOSES`.
        numbers: Seeds.
    """

    def __init__(self, purpose: str, *numbers: int) -> None:
        self._seed = mixed(purpose, *numbers)
        self._state: Snapshot | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Global streams are this one's inside, and the caller's again outside."""
        with _LOCK:
            outer = snapshot()
            try:
                if self._state is None:
                    seed_all(self._seed)
                else:
                    restore(self._state)
                yield
                self._state = snapshot()
            finally:
                restore(outer)
