"""One step of a stack as a CUDA graph: a single launch in place of dozens.

A step of small networks is over before the next kernel is launched, so a GPU would idle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

Shown: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Losses and silent flags of a step, `[R]` each."""
TakeStep: TypeAlias = Callable[[torch.Tensor | None], Shown]
"""Takes a step with the samples `[R, B]` (None: with all) and changes tensors in place."""


def recorded(take: TakeStep, rows: torch.Tensor | None) -> TakeStep:
    """Return a step that the device repeats by itself, on the tensors that it was recorded with.

    Args:
        take: Does not wait for the device, and has been called at least once.
        rows: Samples of the device, for their shape; None if it takes none.

    Returns:
        The step; what it returns is overwritten by the next one.
    """
    kept = None if rows is None else rows.clone()
    graph = torch.cuda.CUDAGraph()
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            shown = take(kept)
        finally:
            graph.capture_end()
    here.wait_stream(aside)

    def again(rows: torch.Tensor | None) -> Shown:
        if kept is not None and rows is not None:
            kept.copy_(rows)
        graph.replay()
        return shown

    return again
