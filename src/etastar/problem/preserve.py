"""Nothing of the user's changes: what is global is put back however a measurement ends."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from etastar.problem.streams import restore, snapshot

PARTS = ("sampler", "batch_sampler", "dataset")
"""Parts of a loader that may hold a generator of their own."""


@contextmanager
def untouched(*sources: Any) -> Iterator[None]:
    """Put back all random streams, the working directory and the gradient mode at the end.

    Models are copied before use, so their weights, buffers, gradients, mode and flags need no
    restoring. What cannot be copied, a loader's own generators, is put back here.

    Args:
        sources: Data sources whose generators will be used.
    """
    streams, directory = snapshot(), os.getcwd()
    generators = [(g, _state(g)) for g in generators_of(sources)]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            yield
        finally:
            restore(streams)
            for generator, state in generators:
                _set_state(generator, state)
            if os.getcwd() != directory:
                os.chdir(directory)


def generators_of(sources: Iterable[Any]) -> list[Any]:
    """Generators held by data sources, their samplers and data sets: of PyTorch, NumPy, Python."""
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    found: dict[int, Any] = {}
    waiting = list(sources)
    for _ in range(3):  # loader → batch sampler → sampler, data set → wrapped data set
        owners, waiting = waiting, []
        for owner in owners:
            held = getattr(owner, "__dict__", {})
            found |= {id(v): v for v in held.values() if isinstance(v, kinds)}
            waiting += [held[part] for part in PARTS if held.get(part) is not None]
    return list(found.values())


def seed_generator(generator: Any, seed: int) -> None:
    """Seed a generator of any kind that `generators_of` finds, in place."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        kind = type(generator.bit_generator)
        generator.bit_generator.state = kind(seed).state
    else:
        generator.seed(seed % 2**32)


def _state(generator: Any) -> Any:

    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    return generator.getstate()


def _set_state(generator: Any, state: Any) -> None:

    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)
