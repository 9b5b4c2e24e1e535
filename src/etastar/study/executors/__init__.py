"""Where tasks run. A new executor is a file here and a line in `EXECUTORS`.

An executor is anything with `submit(function, task) -> concurrent.futures.Future`. Two optional
attributes tell how to feed it: `slots`, tasks to have submitted at once; `threads_per_task`, CPU
threads that a task may use.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from etastar.errors import unknown_name
from etastar.study.executors.dask_cluster import make_dask
from etastar.study.executors.in_process import Executor, InProcess, make_in_process

Maker: TypeAlias = Callable[[int | None, str | None], AbstractContextManager[Executor]]
"""From `workers` (processes to start; all cores if None) and `scheduler` (address of one that runs
already) to an executor, as a context that closes it."""

EXECUTORS: dict[str, Maker] = {
    "in-process": make_in_process,
    "dask": make_dask,
}


def make_executor(
    name: str, workers: int | None = None, scheduler: str | None = None
) -> AbstractContextManager[Executor]:
    """Give the executor of that name, as a context that closes it.

    Raises:
        ConfigError: The name is not in `EXECUTORS`; on entering, it cannot be had.
    """
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return EXECUTORS[name](workers, scheduler)


__all__ = ["EXECUTORS", "Executor", "InProcess", "make_executor"]
