"""One step of a stack as a CUDA graph: a single launch in place of dozens.

A step of small networks is over before the next kernel is launched, so a GPU would idle.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Shown = tuple[torch.Tensor, torch.Tensor]
"""Losses and silent flags of a step, `[R]` each."""


class RecordedStep:
    """A step that the device repeats by itself, on the tensors that it was recorded with.

    Args:
        take: Takes a step with the samples `[R, B]` (None: with all) and changes tensors in place;
            it does not wait for the device, and has been called at least once.
        rows: Samples of the device, for their shape; None if it takes none.
    """

    def __init__(
        self, take: Callable[[torch.Tensor | None], Shown], rows: torch.Tensor | None
    ) -> None:
        self._rows = None if rows is None else rows.clone()
        self._graph = torch.cuda.CUDAGraph()
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._shown = take(self._rows)
            finally:
                self._graph.capture_end()
        here.wait_stream(aside)

    def __call__(self, rows: torch.Tensor | None) -> Shown:
        """Take a step; what it returns is overwritten by the next one."""
        if self._rows is not None and rows is not None:
            self._rows.copy_(rows)
        self._graph.replay()
        return self._shown
