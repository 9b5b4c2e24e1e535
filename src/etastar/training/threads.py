"""PyTorch's own CPU parallelism, set for a while: the engine and the solvers bring threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def use_threads(count: int | None) -> Iterator[int]:
    """PyTorch on so many threads inside the block, and on as many as before after it.

    Args:
        count: Threads; as many as now if None.

    Yields:
        The number in use.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
