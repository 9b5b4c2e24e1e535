"""The store: results keyed by specification, on the disk as soon as they are known.

`Store` reads, also while another process writes. `StoreWriter` writes; there is one at a time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from etastar.errors import ConfigError, StoreError
from etastar.problem.trial import Outcome, Start, Trial
from etastar.search.base import SeedResult
from etastar.study.cell import Cell, TaskKind
from etastar.study.lock import POLL, lock_of, locked
from etastar.study.results import CurveFound, Results, SharpnessRow
from etastar.study.schema import (
    check,
    connect_reader,
    connect_writer,
    lost_log,
    mark_open,
    patient,
    rollback,
    translated,
)

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

    def records(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of a query as mappings from the names of its columns: see `rows`."""
        with translated(self.path):
            cursor = self._connection.cursor()
            cursor.row_factory = sqlite3.Row
            return [dict(row) for row in cursor.execute(query, values)]

    def decoded(self) -> AbstractContextManager[None]:
        """Give a context for code that makes something of rows: what fails there is damage.

        Raises:
            StoreError: On leaving, in place of a `TypeError`, `ValueError` or `KeyError`.
        """
        return translated(self.path, decoding=True)

    @property
    def has_curves(self) -> bool:
        """Whether there are tables of success curves: a store of 0.1.0 has none."""
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = 'curve'"))

    def finished(self) -> dict[str, set[Any]]:
        """What has a result, of every specification, by its hash: see `study.cell.Task`."""
        done: dict[str, set[Any]] = {}
        tables = {"seed": "seed", "sharpness": "seed"}
        if self.has_curves:
            tables["curve"] = "asked"
        with self.decoded():
            for table, column in tables.items():
                query = f"SELECT id, {column} FROM {table} JOIN specification ON key = cell"
                for identity, one in self.rows(query):
                    done.setdefault(identity, set()).add(one)
        return done

    @property
    def log_missing(self) -> bool:
        """Whether results are missing since the log beside the store is: it was copied alone."""
        with translated(self.path):
            return lost_log(self.path, self._connection)

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

    def curve(self, cell: Cell) -> CurveFound | None:
        """The result of a curve; None if it is not there."""
        if not self.has_curves:
            return None
        query = (
            "SELECT found FROM curve JOIN specification ON key = cell WHERE id = ? AND asked = ?"
        )
        with self.decoded():
            rows = self.rows(query, (cell.id, *cell.wanted))
            found: list[CurveFound] = [json.loads(text) for (text,) in rows]
            return found[0] if found else None

    def runs(self, identity: str) -> dict[Trial, Outcome]:
        """Every trial of a curve."""
        query = (
            "SELECT seed, lr, steps, to_end, outcome FROM run JOIN specification ON key = cell "
            "WHERE id = ?"
        )
        with self.decoded():
            return {
                Trial(Start(seed, seed), lr, steps or None, bool(end)): Outcome(**json.loads(text))
                for seed, lr, steps, end, text in self.rows(query, (identity,))
            }

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
        raise ConfigError(f"{path} is a folder; name a file as the store.")


class StoreWriter(Store):
    """A store, for writing; made if there is none.

    Args:
        path: The file.
        wait: Wait for another process that is writing it, or for another program that holds a lock
            on it; otherwise raise.
        on_wait: Called once before waiting, with who is writing.

    Raises:
        StoreError: Another process is writing and `wait` is false; or as `Store`. Later: the file
            has been removed or replaced.
        ConfigError: The folder does not exist.
    """

    def __init__(
        self, path: Path, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
    ) -> None:
        check_place(path)
        if path.is_file() and not lock_of(path).exists():
            check(path)  # what is none is left as it is, without a lock beside it
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, wait=wait, on_wait=on_wait))
        self._writing = threading.RLock()
        self._buffer: list[tuple[str, tuple[Any, ...]]] = []
        self._flushed = time.monotonic()
        self._wait, self._on_wait = wait, on_wait
        try:
            super().__init__(path)
            self._file = _identity(path)
        except BaseException:
            self._lock.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        return connect_writer(self.path, self._busy)

    def _busy(self, error: sqlite3.OperationalError) -> None:
        """Wait a moment for another program that holds a lock; tell of it once."""
        if not self._wait:
            raise error
        if self._on_wait:
            self._on_wait("another program, which has locked it")
            self._on_wait = None
        time.sleep(POLL)

    def verify(self) -> None:
        """Raise if the file that is written is not the one of that name any more.

        Raises:
            StoreError: It was removed or replaced.
        """
        if _identity(self.path) != self._file:
            raise StoreError(
                f"{self.path} was removed or replaced while it was being written. What was written "
                "to it is lost, unless it was moved: then move it back. Run the same command again."
            )

    def close(self) -> None:
        """Store what is buffered, close the file, let others write."""
        try:
            self.flush()
            if _identity(self.path) == self._file:
                with self._transaction() as connection:
                    mark_open(connection, False)
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
        self._add(_ADD_TRIAL, _trial_row(key, trial, outcome))

    def add_run(self, key: int, trial: Trial, outcome: Outcome) -> None:
        """Take in a trial of a curve: see `add_trial`."""
        self._add(_ADD_RUN, _run_row(key, trial, outcome))

    def _add(self, statement: str, row: tuple[Any, ...]) -> None:
        with self._writing:
            self._buffer.append((statement, row))
            if time.monotonic() - self._flushed > FLUSH_EVERY:
                self.flush()

    def flush(self) -> None:
        """Put the buffered trials on the disk."""
        with self._writing:
            self._flushed = time.monotonic()
            if self._buffer:
                with self._transaction() as connection:
                    for statement, row in self._buffer:
                        connection.execute(statement, row)
                self._buffer = []

    def add_results(self, key: int, results: Results) -> None:
        """Store a finished task as one transaction: all of its seeds, or none.

        A seed that is there already stays as it is.
        """
        resolved, environment = json.dumps(results.resolved), json.dumps(results.environment)
        work = (key, json.dumps(list(results.seeds)), _now(), results.seconds, environment)
        with self._transaction() as connection:
            _insert(connection, key, results)
            connection.execute(
                "UPDATE specification SET resolved = ? WHERE key = ? AND resolved IS NULL",
                (resolved, key),
            )
            connection.execute("DELETE FROM failure WHERE cell = ?", (key,))
            connection.execute(
                "INSERT INTO work (cell, seeds, ended, seconds, environment) "
                "VALUES (?, ?, ?, ?, ?)",
                work,
            )
        self._buffer = [entry for entry in self._buffer if entry[1][0] != key]

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
            self.verify()
            patient(lambda: self._connection.execute("BEGIN IMMEDIATE"), self._busy)
            try:
                yield self._connection
                patient(lambda: self._connection.execute("COMMIT"), self._busy)
            except BaseException:
                rollback(self._connection)
                raise


def _insert(connection: sqlite3.Connection, key: int, results: Results) -> None:
    """Insert what is not there: λ1, a curve, or brackets with their trials."""
    if curves := [(key, k, json.dumps(f)) for k, f in results.seeds.items() if isinstance(f, dict)]:
        connection.executemany(_ADD_RUN, [_run_row(key, *run) for run in results.trials.items()])
        connection.executemany(_ADD_CURVE, curves)
        return
    there = {s for (s,) in connection.execute("SELECT seed FROM seed WHERE cell = ?", (key,))}
    trials: dict[int, list[tuple[Any, ...]]] = {seed: [] for seed in results.seeds}
    for trial, outcome in results.trials.items():
        trials[trial.seed].append(_trial_row(key, trial, outcome))
    for seed, found in results.seeds.items():
        if isinstance(found, SharpnessRow):
            connection.execute(_ADD_SHARPNESS, (key, seed, *found))
        elif isinstance(found, SeedResult) and seed not in there:
            # the finished search has said which of its trials it used
            connection.execute("DELETE FROM trial WHERE cell = ? AND seed = ?", (key, seed))
            connection.executemany(_ADD_TRIAL, trials[seed])
            bracket = (found.status, found.lo, found.hi, found.hi_outcome)
            more = (json.dumps(list(found.re_entries)), len(trials[seed]))
            steps = sum(row[_STEP] for row in trials[seed])
            connection.execute(_ADD_SEED, (key, seed, *bracket, *more, steps))


_ADD_SEED = "INSERT INTO seed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_TRIAL = "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_ADD_RUN = "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_ADD_CURVE = "INSERT INTO curve VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_ADD_SHARPNESS = "INSERT INTO sharpness VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_STEP = 4
"""Where a trial's row has its number of steps."""


def _trial_row(key: int, trial: Trial, o: Outcome) -> tuple[Any, ...]:
    return key, trial.seed, trial.lr, o.kind, o.step, o.metric, int(o.slow)


def _run_row(key: int, trial: Trial, outcome: Outcome) -> tuple[Any, ...]:
    told = {name: value for name, value in vars(outcome).items() if value is not None}
    return key, trial.seed, trial.lr, trial.steps or 0, int(trial.to_end), json.dumps(told)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file that has this name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
