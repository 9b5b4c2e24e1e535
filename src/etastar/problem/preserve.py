"""Nothing of the user's changes: what is global is put back however a measurement ends."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from etastar.errors import ConfigError
from etastar.problem.streams import KINDS, restore, snapshot, the_global_ones

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
