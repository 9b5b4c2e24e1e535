"""All random number streams at once: Python's, NumPy's, PyTorch's on the CPU and on GPUs.

A trial, a pass over a loader and a call of a factory each run in a stream of their own, so that
none disturbs another and each is a pure function of its seed. The caller's streams are put back, as
is whatever else of the process a measurement may change.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from etastar.errors import ConfigError

PURPOSES = ("model", "training", "data", "metric")
"""What streams are for; two purposes never share numbers, even for equal seeds."""

LOCK = threading.RLock()
"""The streams are the process's: one thread at a time may change them. Take it before any other."""

States: TypeAlias = list[tuple[Any, Any]]
"""Generators with their states."""


def _put(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


KINDS: dict[type, tuple[Callable[..., Any], Callable[..., Any], Callable[[Any, int], Any]]] = {
    torch.Generator: (
        torch.Generator.get_state,
        torch.Generator.set_state,
        torch.Generator.manual_seed,
    ),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        _put,
        lambda generator, seed: _put(generator, type(generator.bit_generator)(seed).state),
    ),
    np.random.RandomState: (
        np.random.RandomState.get_state,
        np.random.RandomState.set_state,
        lambda generator, seed: generator.seed(seed % 2**32),
    ),
    random.Random: (
        random.Random.getstate,
        random.Random.setstate,
        lambda generator, seed: generator.seed(seed % 2**32),
    ),
}
"""How the state of each kind of generator is read and put back, and how it is seeded."""


def _of(generator: Any) -> tuple[Callable[..., Any], ...]:
    return next(how for kind, how in KINDS.items() if isinstance(generator, kind))


def the_global_ones() -> list[Any]:
    """Return the generators that belong to the process, CUDA's only once it is initialised."""
    on_gpus = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    own = [random._inst, np.random.mtrand._rand, torch.default_generator]
    return [*own, *(torch.cuda.default_generators if on_gpus else ())]


def snapshot(generators: Iterable[Any]) -> States:
    """Return these generators with their present states."""
    return [(generator, _of(generator)[0](generator)) for generator in generators]


def restore(states: States) -> None:
    """Put the states of generators back."""
    for generator, state in states:
        _of(generator)[1](generator, state)


def seed_generator(generator: Any, seed: int) -> None:
    """Seed a generator of any kind in `KINDS`, in place."""
    _of(generator)[2](generator, seed)


def mixed(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed from a purpose and seeds."""
    words = np.random.SeedSequence([PURPOSES.index(purpose), *numbers]).generate_state(2)
    return (int(words[0]) << 32 | int(words[1])) >> 1


class Stream:
    """Streams of one purpose, which stand still while they are not active.

    Args:
        purpose: One of `PURPOSES`.
        numbers: Seeds.
    """

    def __init__(self, purpose: str, *numbers: int) -> None:
        self._seed = mixed(purpose, *numbers)
        self._state: States | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the global streams this one inside, and the caller's again outside."""
        with LOCK:
            outer = snapshot(the_global_ones())
            try:
                if self._state is None:
                    for generator, _ in outer:
                        seed_generator(generator, self._seed)
                    random.seed(self._seed)  # of Python's own, every bit counts
                else:
                    restore(self._state)
                yield
                self._state = snapshot(the_global_ones())
            finally:
                restore(outer)


PARTS = ("sampler", "batch_sampler", "dataset")
"""Parts of a loader that may hold a generator of their own."""


@contextmanager
def untouched(*sources: Any) -> Iterator[None]:
    """Put back all random streams, the working directory and autograd's modes at the end.

    Models are copied before use, so their weights, buffers, gradients, mode and flags need no
    restoring. What cannot be copied, a loader's own generators, is put back here.

    Args:
        sources: Data sources whose generators will be used.
    """
    directory = os.getcwd()
    states = snapshot([*the_global_ones(), *generators_of(sources)])
    anomalies = torch.autograd.set_detect_anomaly(False)  # NaN is an outcome here, no error
    with torch.inference_mode(False), torch.enable_grad(), anomalies:
        try:
            yield
        finally:
            restore(states)
            if os.getcwd() != directory:
                os.chdir(directory)


def check_ambient() -> None:
    """Raise if autocast is active.

    Raises:
        ConfigError: It is.
    """
    if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        raise ConfigError(
            "torch.autocast is active around this call, where it would reach backward passes and "
            "our own arithmetic, too. Call outside of it, and enter it in step_fn, around the loss."
        )


def generators_of(sources: Iterable[Any]) -> list[Any]:
    """Return the generators that data sources, their samplers and data sets hold."""
    found: dict[int, Any] = {}
    waiting = list(sources)
    for _ in range(3):  # loader → batch sampler → sampler, data set → wrapped data set
        owners, waiting = waiting, []
        for owner in owners:
            held = getattr(owner, "__dict__", {})
            found |= {id(v): v for v in held.values() if isinstance(v, tuple(KINDS))}
            waiting += [held[part] for part in PARTS if held.get(part) is not None]
    return list(found.values())
