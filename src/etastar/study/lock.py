"""One writing process per store: a lock of ours beside it, which the system drops with its owner.

SQLite's own locks would let two processes write in turn; before 3.51.3 that is reported to damage
a write-ahead log when both checkpoint at the same instant.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etastar.errors import StoreError

POLL = 0.2
"""Seconds between looks at a lock that another process holds."""

LONGEST_HOLDER = 200
"""Bytes of the file that are read: who holds the lock is written there in one short line."""

_held: set[Path] = set()
_guard = threading.Lock()


def lock_of(store: Path) -> Path:
    """Return the file that is locked while a store is written.

    Args:
        store: The store's file, or a link to it.
    """
    # beside the file itself: a store that is reached through a link is the same store
    store = store.resolve()
    return store.with_name(store.name + ".lock")


@contextmanager
def locked(
    store: Path, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on `STORE.lock`, until the block or the process ends.

    The lock's file stays, since removing it would race with others.

    Args:
        store: The store's file.
        wait: Wait for another process to finish; otherwise raise at once.
        on_wait: Called once, with the holder's description, before waiting.

    Raises:
        StoreError: Another process holds it and `wait` is false, or this process holds it already,
            or the file cannot be made.
    """
    store, path = store.resolve(), lock_of(store)
    # a POSIX lock does not exclude its own process, so threads are told apart here
    with _guard:
        if path in _held:
            raise StoreError(f"{store} is being written by this process already.")
        _held.add(path)
    try:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from None
        try:
            _acquire(file, store, wait, on_wait)
            yield
            os.ftruncate(file, 0)
        finally:
            os.close(file)
    finally:
        with _guard:
            _held.discard(path)


def _acquire(file: int, store: Path, wait: bool, on_wait: Callable[[str], None] | None) -> None:
    """Take the lock, and write into its file who has it."""
    while not _try(file, store):
        holder = os.pread(file, LONGEST_HOLDER, 0).decode(errors="replace").strip()
        holder = holder or "another process"
        if not wait:
            raise StoreError(
                f"{store} is being written by {holder}. Wait until it has ended, or name "
                "another store."
            )
        if on_wait:
            on_wait(holder)
            on_wait = None
        time.sleep(POLL)
    os.ftruncate(file, 0)
    with suppress(OSError):  # who holds it is for messages: on a full disk the store tells why
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _try(file: int, store: Path) -> bool:
    """Take the lock if it is free. A POSIX lock is not inherited by forked children."""
    import fcntl  # not on Windows

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise StoreError(
            f"{store}.lock cannot be locked ({error.strerror}): some network file systems know no "
            "locks. Put the store on another disk."
        ) from None
    return True
