"""One writing process per store: a lock of ours beside it, which the system drops with its owner.

SQLite's own locks would let two processes write in turn; before 3.51.3 that is reported to damage
a write-ahead log when both checkpoint at the same instant.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from etastar.errors import StoreError

POLL = 0.2
"""Seconds between looks at a lock that another process holds."""

LONGEST_HOLDER = 200
"""Bytes of the file that are read: who holds the lock is written there in one short line."""

_held: set[Path] = set()
_guard = threading.Lock()


class StoreLock:
    """An exclusive lock on `STORE.lock`, held until `release` or until the process ends.

    Args:
        store: The store's file.
        wait: Wait for another process to finish; otherwise refuse at once.
        on_wait: Called once, with the holder's description, before waiting.

    Raises:
        StoreError: Another process holds it and `wait` is false, or this process holds it already,
            or the file cannot be made.
    """

    def __init__(
        self, store: Path, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
    ) -> None:
        # beside the file itself: a store that is reached through a link is the same store
        store = store.resolve()
        self.path = store.with_name(store.name + ".lock")
        # a POSIX lock does not exclude its own process, so threads are told apart here
        with _guard:
            if self.path in _held:
                raise StoreError(f"{store} is being written by this process already.")
            _held.add(self.path)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            with _guard:
                _held.discard(self.path)
            raise StoreError(f"{self.path} cannot be written: {error.strerror}.") from None
        try:
            self._acquire(store, wait, on_wait)
        except BaseException:
            self._close()
            raise

    def release(self) -> None:
        """Let others write; the lock's file stays, since removing it would race with them."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            self._close()

    def _acquire(self, store: Path, wait: bool, on_wait: Callable[[str], None] | None) -> None:
        told = False
        while not self._try():
            holder = os.pread(self._file, LONGEST_HOLDER, 0).decode(errors="replace").strip()
            holder = holder or "another process"
            if not wait:
                raise StoreError(
                    f"{store} is being written by {holder}. Wait until it has ended, or give this "
                    "study another --store."
                )
            if on_wait and not told:
                on_wait(holder)
                told = True
            time.sleep(POLL)
        os.ftruncate(self._file, 0)
        with suppress(OSError):  # who holds it is for messages: on a full disk the store tells why
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _try(self) -> bool:
        """Take the lock if it is free. A POSIX lock is not inherited by forked children."""
        import fcntl

        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be locked ({error.strerror}): some network file systems know "
                "no locks. Put the store on another disk with --store."
            ) from None
        return True

    def _close(self) -> None:
        os.close(self._file)
        self._file = -1
        with _guard:
            _held.discard(self.path)
