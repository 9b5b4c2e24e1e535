"""The store: results keyed by specification, on the disk as soon as they are known.

`Store` reads, also while another process writes. `StoreWriter` writes; there is one at a time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from etastar.errors import ConfigError
from etastar.problem.trial import Outcome, Trial
from etastar.search.base import SeedResult
from etastar.study.cell import TaskKind
from etastar.study.lock import locked
from etastar.study.results import LambdaResult, LrResult, Results
from etastar.study.schema import connect_reader, connect_writer, decoded, rollback, translated

FLUSH_EVERY = 1.0
"""Seconds of trials that a sudden death may cost; committing each alone would slow short ones."""


class Store:
    """A store, for reading.

    Raises:
        StoreError: There is no such store, or it is damaged, newer, or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        return connect_reader(self.path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
            StoreError: The store turns out to be damaged.
        """
        with translated(self.path):
            return self._connection.execute(query, values).fetchall()

    def decoded(self) -> AbstractContextManager[None]:
        """A context for code that makes something of rows: what fails there is damage.

        Raises:
            StoreError: On leaving, in place of a `TypeError`, `ValueError` or `KeyError`.
        """
        return decoded(self.path)

    def seeds_done(self) -> dict[str, set[int]]:
        """Finished seeds of every specification, by its hash."""
        done: dict[str, set[int]] = {}
        with self.decoded():
            for table in ("seed", "sharpness"):
                query = f"SELECT id, seed FROM {table} JOIN specification ON key = cell"
                for identity, seed in self.rows(query):
                    done.setdefault(identity, set()).add(seed)
        return done

    def failures(self) -> dict[str, str]:
        """Specifications that were given up, with the last error."""
        return dict(self.rows("SELECT id, error FROM failure JOIN specification ON key = cell"))

    def resolved(self) -> dict[str, dict[str, Any]]:
        """The record of every specification on its data: recipe, criterion and provenance."""
        query = "SELECT id, resolved FROM specification WHERE resolved IS NOT NULL"
        with self.decoded():
            return {identity: json.loads(text) for identity, text in self.rows(query)}

    def keys(self) -> dict[str, int]:
        """The integer by which the tables refer to every specification."""
        return dict(self.rows("SELECT id, key FROM specification"))

    def unfinished_trials(self, identity: str) -> dict[Trial, Outcome]:
        """Trials that ended before a search was interrupted, so that it can go on from there."""
        query = (
            "SELECT t.seed, lr, outcome, step, accuracy, slow FROM trial t "
            "JOIN specification ON key = t.cell LEFT JOIN seed s USING (cell, seed) "
            "WHERE id = ? AND s.seed IS NULL"
        )
        return {
            Trial.of(seed, lr): Outcome(kind, step, accuracy, bool(slow))
            for seed, lr, kind, step, accuracy, slow in self.rows(query, (identity,))
        }


def check_place(path: Path) -> None:
    """Raise if a name is none that a store can have.

    Raises:
        ConfigError: Its folder does not exist, or it is a folder, or not a name for a file.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be used as a store: {reason}.") from None
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give --store the name of a file.")


class StoreWriter(Store):
    """A store, for writing; made if there is none.

    Args:
        path: The file.
        wait: Wait for another process that is writing it; otherwise raise.
        on_wait: Called once before waiting, with who is writing.

    Raises:
        StoreError: Another process is writing and `wait` is false; or as `Store`.
        ConfigError: The folder does not exist.
    """

    def __init__(
        self, path: Path, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
    ) -> None:
        check_place(path)
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, wait=wait, on_wait=on_wait))
        self._writing = threading.RLock()
        self._buffer: list[tuple[Any, ...]] = []
        self._flushed = time.monotonic()
        try:
            super().__init__(path)
        except BaseException:
            self._lock.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        return connect_writer(self.path)

    def close(self) -> None:
        """Store what is buffered, close the file, let others write."""
        try:
            self.flush()
        finally:
            super().close()
            self._lock.close()

    def specify(self, identity: str, kind: TaskKind, specification: str) -> int:
        """Record a specification; returns its key."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO specification (id, kind, json) VALUES (?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (identity, kind, specification),
            )
            found = connection.execute("SELECT key FROM specification WHERE id = ?", (identity,))
            return int(found.fetchone()[0])

    def add_trial(self, key: int, trial: Trial, outcome: Outcome) -> None:
        """Take in a trial that has ended; on the disk within `FLUSH_EVERY` of the next call."""
        with self._writing:
            self._buffer.append(_trial_row(key, trial, outcome))
            if time.monotonic() - self._flushed > FLUSH_EVERY:
                self.flush()

    def flush(self) -> None:
        """Put the buffered trials on the disk."""
        with self._writing:
            self._flushed = time.monotonic()
            if self._buffer:
                with self._transaction() as connection:
                    _insert_trials(connection, self._buffer)
                self._buffer = []

    def add_results(self, key: int, results: Results) -> None:
        """Store a finished task as one transaction: all of its seeds, or none.

        A seed that is there already stays as it is.
        """
        insert = _INSERT[type(results)]
        with self._transaction() as connection:
            insert(connection, key, results)
            connection.execute(
                "UPDATE specification SET resolved = ? WHERE key = ? AND resolved IS NULL",
                (json.dumps(results.resolved), key),
            )
            connection.execute("DELETE FROM failure WHERE cell = ?", (key,))
            connection.execute(
                "INSERT INTO work (cell, seeds, ended, seconds, environment) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    key,
                    json.dumps(list(results.seeds)),
                    _now(),
                    results.seconds,
                    json.dumps(results.environment),
                ),
            )
        # the finished search has said which of its trials it used
        self._buffer = [row for row in self._buffer if row[0] != key]

    def add_failure(self, key: int, attempts: int, error: str) -> None:
        """Record that a specification was given up."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?)",
                (key, attempts, error, _now()),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                rollback(self._connection)
                raise


def _insert_lr(connection: sqlite3.Connection, key: int, results: LrResult) -> None:
    """Brackets, and the trials behind them in place of those of the unfinished search."""
    there = {s for (s,) in connection.execute("SELECT seed FROM seed WHERE cell = ?", (key,))}
    fresh = {s: bracket for s, bracket in results.seeds.items() if s not in there}
    connection.executemany(
        "DELETE FROM trial WHERE cell = ? AND seed = ?", [(key, seed) for seed in fresh]
    )
    used = [(t, o) for t, o in results.trials.items() if t.seed in fresh]
    _insert_trials(connection, [_trial_row(key, trial, outcome) for trial, outcome in used])
    count = dict.fromkeys(fresh, 0)
    steps = dict.fromkeys(fresh, 0)
    for trial, outcome in used:
        count[trial.seed] += 1
        steps[trial.seed] += outcome.step
    connection.executemany(
        "INSERT INTO seed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (key, seed, *_bracket_columns(bracket), count[seed], steps[seed])
            for seed, bracket in fresh.items()
        ],
    )


def _insert_lambda(connection: sqlite3.Connection, key: int, results: LambdaResult) -> None:
    connection.executemany(
        "INSERT INTO sharpness VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(key, seed, *values) for seed, values in results.seeds.items()],
    )


_INSERT: dict[type, Callable[[sqlite3.Connection, int, Any], None]] = {
    LrResult: _insert_lr,
    LambdaResult: _insert_lambda,
}


def _insert_trials(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    connection.executemany(
        "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
    )


def _trial_row(key: int, trial: Trial, outcome: Outcome) -> tuple[Any, ...]:
    result = (outcome.kind, outcome.step, outcome.metric, int(outcome.slow))
    return (key, trial.seed, trial.lr, *result)


def _bracket_columns(bracket: SeedResult) -> tuple[Any, ...]:
    re_entries = json.dumps(list(bracket.re_entries))
    return bracket.status, bracket.lo, bracket.hi, bracket.hi_outcome, re_entries


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
