"""The contract of an executor, and the default: tasks run here, one after another, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from etastar.errors import ConfigError


class Executor(Protocol):
    """The part of `concurrent.futures.Executor` that a study uses."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `fn(*args)` somewhere, some time; possibly more than once.

        Args:
            fn: Importable by name wherever it is to run.
            *args: What it is called with; sent there by pickle.

        Returns:
            Its value, or what it raised.
        """


class InProcess:
    """Runs a task as soon as it is submitted: one stack of networks uses all cores by itself."""

    slots = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `fn(*args)` now; the future that is returned has ended.

        Raises:
            KeyboardInterrupt: On Ctrl-C. Any `Exception` is kept in the future.
        """
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def make_in_process(workers: int | None, scheduler: str | None) -> Iterator[InProcess]:
    """Give the executor, which needs no closing.

    Raises:
        ConfigError: Options were given that are for a cluster.
    """
    for name, value in (("workers", workers), ("scheduler", scheduler)):
        if value is not None:
            raise ConfigError(f"`{name}` needs `executor='dask'`.")
    yield InProcess()
