"""The contract of an executor: what the runner asks of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol


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
