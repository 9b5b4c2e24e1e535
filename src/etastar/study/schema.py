"""The tables of a store, how a file becomes one, and what SQLite's complaints mean.

A store is one SQLite file. `specification` holds every specification with its hash; `seed`,
`trial` and `sharpness` hold results, keyed by specification and seed, so that a result that comes
twice changes nothing; `run` and `curve` likewise hold success curves; `failure` and `work` tell how
they came about.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from etastar.errors import EmptyStoreError, StoreError
from etastar.study.cell import digest
from etastar.study.filesystem import is_network

APPLICATION_ID = 0x45544153  # "ETAS": tells a store from other SQLite files
MAGIC = b"SQLite format 3\0"
SMALLEST = 512
"""Bytes of the shortest SQLite file that is not empty: one page of the smallest size."""
WRITE_VERSION = 18
"""Where an SQLite file says whether it has a write-ahead log (2) or none (1)."""
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Errors of SQLite that mean that another program holds a lock."""
OnBusy: TypeAlias = Callable[[sqlite3.OperationalError], None]
T = TypeVar("T")
SCHEMA_VERSION = 1
"""Raised whenever a table changes; a store of a newer version is refused."""

TABLES, CURVE_TABLES = (
    (resources.files("etastar.study") / f"{name}.sql").read_text(encoding="utf-8")
    for name in ("schema", "curve")
)


def connect_writer(path: Path, on_busy: OnBusy) -> sqlite3.Connection:
    """Open a store for writing, or make a new one. The caller holds the store's lock.

    Every commit is on the disk when it returns (`synchronous=FULL`).

    Args:
        path: The store.
        on_busy: See `patient`.

    Raises:
        StoreError: The file is damaged, newer, or something else; it is left as it is.
    """
    if path.exists() and path.stat().st_size:
        check(path)  # before anything that could write
    with translated(path):
        # transactions are begun and ended in `store.py`; searches report from several threads
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            journal = "DELETE" if is_network(path.parent) else "WAL"
            patient(lambda: _prepare(connection, journal), on_busy)
        except BaseException:
            connection.close()
            raise
    return connection


def patient(action: Callable[[], T], on_busy: OnBusy) -> T:
    """Do something with a store until no other program holds a lock that forbids it.

    Args:
        action: What to do; nothing is left of it where it fails.
        on_busy: Called after every failure (SQLite itself waits 5 seconds) with the error, which
            it may raise.

    Returns:
        What the action returns.
    """
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in LOCKED:
                raise
            on_busy(error)


def _prepare(connection: sqlite3.Connection, journal: str) -> None:
    """Durability of every commit, and the tables."""
    connection.execute(f"PRAGMA journal_mode={journal}").fetchone()
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    if _pragma(connection, "user_version") == 0:
        _create(connection)
    connection.executescript(CURVE_TABLES)
    connection.execute(
        "INSERT OR REPLACE INTO note VALUES ('sqlite_version', ?)", (sqlite3.sqlite_version,)
    )
    mark_open(connection, True)
    # that a log belongs to this file is written in the file itself
    connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()


def mark_open(connection: sqlite3.Connection, is_open: bool) -> None:
    """Note in the store whether a writer has it open: then results may be in the log beside it."""
    connection.execute("INSERT OR REPLACE INTO note VALUES ('open', ?)", (str(int(is_open)),))


def lost_log(path: Path, connection: sqlite3.Connection) -> bool:
    """Check if a writer did not close the store, and the write-ahead log that it left is gone.

    Args:
        path: The store.
        connection: To it.
    """
    marked = connection.execute("SELECT 1 FROM note WHERE name = 'open' AND value = '1'").fetchone()
    with path.open("rb") as file:
        file.seek(WRITE_VERSION)
        has_log = file.read(1) == b"\x02"
    return bool(marked) and has_log and not _log(path, "-wal")


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a store for reading only, while another process may be writing it.

    Raises:
        EmptyStoreError: There is no such file, or nothing in it.
        StoreError: It is damaged, newer, or something else.
    """
    if not path.is_file():
        raise EmptyStoreError(f"{path} does not exist: nothing has been computed yet.")
    check(path)
    with translated(path):
        connection = _connect_read_only(path)
        if _pragma(connection, "user_version") == 0:
            connection.close()
            raise EmptyStoreError(f"{path} is empty: nothing has been computed yet.")
    return connection


def check(path: Path) -> None:
    """Raise if a file is not a sound store of a version that is known here.

    Raises:
        StoreError: What is wrong with it, and what to do.
    """
    with translated(path):
        _check_shape(path)
        with closing(_connect_read_only(path)) as connection:
            application = _pragma(connection, "application_id")
            version = _pragma(connection, "user_version")
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application != APPLICATION_ID and not (application == version == tables == 0):
                raise StoreError(
                    f"{path} is a SQLite file, but not a store of etastar. It was left as it is; "
                    "name another file as the store."
                )
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{path} was written by a newer etastar: its schema is {version}, the newest "
                    f"known here is {SCHEMA_VERSION}. Upgrade etastar, or name another "
                    "file as the store."
                )
            verdict = _pragma(connection, "quick_check(1)")
            if verdict != "ok":
                raise damaged(path, verdict)
            if version:
                _check_identities(path, connection)


def _check_shape(path: Path) -> None:
    """Raise if SQLite itself would take a file for an empty one, or pad it with zeros."""
    with path.open("rb") as file:
        start = file.read(SMALLEST)
        size = file.seek(0, os.SEEK_END)
    if not start:
        return
    if start[:4] != MAGIC[: len(start[:4])] and b"\0" not in start:
        raise StoreError(
            f"{path} is a text file, and no store. It was left as it is; name another file as the "
            "store."
        )
    if len(start) < SMALLEST or not start.startswith(MAGIC):
        raise damaged(path, "it does not begin as an SQLite file does")
    page = int.from_bytes(start[16:18], "big")
    page = 65536 if page == 1 else page
    # a writer that was killed may have left part of a page, and beside it the log to mend it with
    if page and size % page and not (_log(path, "-wal") or _log(path, "-journal")):
        raise damaged(path, "its last page is cut short")


def _log(path: Path, end: str) -> bool:
    """Check if SQLite's log with this ending holds anything, beside the file or a link's target."""
    path = path.resolve()
    log = path.with_name(path.name + end)
    return log.exists() and log.stat().st_size > 0


def _check_identities(path: Path, connection: sqlite3.Connection) -> None:
    """Raise if a specification has another hash than it had: its results would be another's."""
    for identity, text in connection.execute("SELECT id, json FROM specification"):
        if not (isinstance(text, str) and text.isascii() and digest(text) == identity):
            raise damaged(path, f"specification {identity} is not what it was")


def _connect_read_only(path: Path) -> sqlite3.Connection:
    real = path.resolve()
    mode = "mode=ro"
    if _log(path, "-journal"):
        # of a writer that is at work, or was killed: then its last, unfinished transaction must be
        # taken back before anything can be read
        mode = "mode=rw"
    elif not os.access(real.parent, os.W_OK) and not _log(path, "-wal"):
        # a reader of a write-ahead log must make shared memory beside it; where nothing can be
        # written and nobody left a log, nobody can be writing either
        mode = "mode=ro&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(real))}?{mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA query_only=ON")
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _create(connection: sqlite3.Connection) -> None:
    """All tables in one transaction, so that there is never half a store."""
    marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} {marks} COMMIT;")
    except BaseException:
        rollback(connection)
        raise


def rollback(connection: sqlite3.Connection) -> None:
    """End a transaction without its changes; SQLite may have ended it by itself."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def translated(path: Path, *, decoding: bool = False) -> Iterator[None]:
    """Raise SQLite's errors as `StoreError`s that name the file and say what to do.

    Args:
        path: The store.
        decoding: Whether the code also makes something of the values that were read; then a
            `TypeError`, `ValueError` or `KeyError` comes from a value that was never written.

    Raises:
        StoreError: In place of these errors.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(path, error) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (TypeError, ValueError, KeyError) as error:
        if decoding or isinstance(error, UnicodeDecodeError):  # SQLite quotes what it cannot read
            raise damaged(path, f"{type(error).__name__}: {error}") from error
        raise


def damaged(path: Path, reason: str) -> StoreError:
    """The error for a store whose content cannot be trusted."""
    return StoreError(
        f"{path} is damaged ({reason}). It was left as it is. Move it aside and run the study "
        f"again, or salvage it first: sqlite3 {path.name} .recover | sqlite3 repaired.sqlite"
    )


def _meaning(path: Path, error: sqlite3.Error) -> StoreError:
    """Translate a failure of SQLite into what it means for the user."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    # our statements are right for a sound schema: an error in one means that it is not sound
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return damaged(path, str(error))
    if primary == sqlite3.SQLITE_FULL:
        return StoreError(
            f"{path}: the disk is full, or a limit on file sizes was met. What was stored before "
            "is kept. Free some space and run the same command again: it goes on from there."
        )
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return StoreError(
            f"{path} cannot be read or written ({error}). What was stored before is kept. Check "
            "the folder's permissions and the disk (also for free space), then run again."
        )
    if primary in LOCKED:
        return StoreError(f"{path} is locked by another program ({error}). Close it, run again.")
    return StoreError(f"{path}: {error}.")
