"""The store: what goes in comes out, once; what cannot be trusted is refused and left alone."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_studies import content, fill, made_lr, made_sharpness, seed_rows

from etastar.errors import ConfigError, StoreError
from etastar.problem.trial import Outcome, Trial
from etastar.study.export import seed_columns, trial_columns
from etastar.study.filesystem import file_system
from etastar.study.plan import State
from etastar.study.runner import run_study
from etastar.study.schema import APPLICATION_ID, SCHEMA_VERSION
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

STUDY = Study.from_text(
    "sharpness = true\n[grid]\nwidth = [8, 16, 32]\ndepth = [1, 2]\nseeds = 4\nloss = 'mse'"
)
CELL = STUDY.cells[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def beside(path: Path) -> set[str]:
    return {found.name for found in path.parent.iterdir()}


def test_what_goes_in_comes_out(path: Path) -> None:
    fill(STUDY, path)
    lr, sharpness = made_lr(CELL), made_sharpness(CELL)
    with Store(path) as store:
        assert store.finished()[CELL.id] == {0, 1, 2, 3}
        assert store.resolved()[CELL.id] == lr.resolved
        assert store.failures() == {}
        rows = seed_rows(STUDY, store)
        trials = trial_columns(STUDY, store)
    assert len(rows) == 24
    for seed, row in enumerate(rows[:4]):
        bracket = lr.seeds[seed]
        assert (row["cell"], row["seed"], row["status"]) == (CELL.id, seed, "bracketed")
        # bit for bit: floats are stored as they are
        assert (row["eta_lo"], row["eta_hi"]) == (bracket.lo, bracket.hi)
        assert row["eta"] == pytest.approx(bracket.lo * 1.1**0.5)
        assert (row["trials"], row["steps"]) == (6, 24)
        found = (row["lambda1_preconditioned"], row["lambda1_gauss_newton"])
        assert found == sharpness.seeds[seed][:2]
        assert row["lambda1_plain"] == (None if seed == 0 else 1e300)
        assert row["lambda1_converged"] is (seed != 0)
        assert (row["train_size"], row["max_steps"], row["batch_size"]) == (10, 5, "full")
    assert trials["lr"][:6] == [trial.lr for trial in lr.trials if trial.seed == 0]
    assert set(trials["accuracy"]) == {0.1 + 0.2}
    assert set(trials["slow"]) == {False}
    assert len(trials["cell"]) == 24 * 6


def test_a_result_that_comes_again_changes_nothing(path: Path) -> None:
    fill(STUDY, path)
    before = content(path)
    fill(STUDY, path)
    assert content(path) == before
    with StoreWriter(path) as writer:  # not even a different one: the first stands
        key = writer.specify(CELL.id, "maximal-lr", CELL.specification)
        writer.add_results(key, made_lr(CELL, scale=3.0))
    assert content(path) == before


def test_results_of_some_seeds_are_joined_by_those_of_others(path: Path) -> None:
    with StoreWriter(path) as writer:
        key = writer.specify(CELL.id, "maximal-lr", CELL.specification)
        writer.add_results(key, made_lr(CELL, range(2)))
        writer.add_results(key, made_lr(CELL, range(1, 4), scale=2.0))
    rows = content(path)["seed"]
    assert [row[1] for row in rows] == [0, 1, 2, 3]
    assert [row[3] / rows[0][3] for row in rows] == [1, 1, 2, 2]
    assert len(content(path)["trial"]) == 4 * 6


def test_trials_of_an_unfinished_search_are_kept_until_it_ends(path: Path) -> None:
    trial, outcome = Trial.of(0, 0.7), Outcome("short", 5, 0.3, True)
    with StoreWriter(path) as writer:
        key = writer.specify(CELL.id, "maximal-lr", CELL.specification)
        writer.add_trial(key, trial, outcome)
        writer.add_trial(key, trial, outcome)
    with Store(path) as store:
        assert store.unfinished_trials(CELL.id) == {trial: outcome}
        assert trial_columns(STUDY, store)["cell"] == []
    with StoreWriter(path) as writer:
        writer.add_trial(key, Trial.of(0, 0.8), outcome)  # still in memory when the search ends
        writer.add_results(key, made_lr(CELL))
    with Store(path) as store:
        assert store.unfinished_trials(CELL.id) == {}
        assert not {0.7, 0.8} & set(trial_columns(STUDY, store)["lr"])


def test_trials_are_on_the_disk_within_a_second_of_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("etastar.study.store.time.monotonic", lambda: now)
    with StoreWriter(path) as writer:
        key = writer.specify(CELL.id, "maximal-lr", CELL.specification)
        for number, later in enumerate((0.0, 0.9, 1.1)):
            now = 100.0 + later
            writer.add_trial(key, Trial.of(0, 1.0 + number), Outcome("short", 5))
            assert len(content(path)["trial"]) == (0 if later < 1 else 3)


def test_readers_read_while_a_writer_writes(path: Path) -> None:
    with StoreWriter(path) as writer:
        key = writer.specify(CELL.id, "maximal-lr", CELL.specification)
        with Store(path) as store:
            assert store.finished() == {}
            writer.add_results(key, made_lr(CELL))
            assert store.finished() == {CELL.id: {0, 1, 2, 3}}
            with pytest.raises(StoreError, match="cannot be read or written"):
                store.rows("DELETE FROM seed")


def test_a_second_writer_is_refused_or_told_and_waits(path: Path) -> None:
    told: list[str] = []
    code = (
        "import sys, pathlib, time\n"
        "from etastar.study.store import StoreWriter\n"
        "with StoreWriter(pathlib.Path(sys.argv[1])):\n"
        "    print('mine', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    with other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(
            StoreError, match=f"being written by process {other.pid} on .*another store"
        ):
            StoreWriter(path, wait=False)

        def on_wait(holder: str) -> None:
            told.append(holder)
            other.stdin.close()  # type: ignore[union-attr]

        with StoreWriter(path, on_wait=on_wait):
            assert other.wait() == 0
    assert len(told) == 1
    assert told[0].startswith(f"process {other.pid} on ")


def test_the_lock_of_a_process_that_was_killed_is_free(path: Path) -> None:
    code = (
        "import sys, pathlib, os, signal\n"
        "from etastar.study.store import StoreWriter\n"
        "writer = StoreWriter(pathlib.Path(sys.argv[1]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    StoreWriter(path, wait=False).close()


def test_one_process_has_one_writer_also_through_a_link(path: Path) -> None:
    link = path.with_name("link.sqlite")
    link.symlink_to(path)
    with StoreWriter(path):
        for name in (path, link, path.parent / "." / path.name):
            with pytest.raises(StoreError, match="being written by this process already"):
                StoreWriter(name)
    fill(STUDY, link)
    assert len(content(path)["seed"]) == 24


# what cannot be trusted


def opened_by(path: Path) -> dict[str, Callable[[], Any]]:
    """Everything that opens a store."""

    def read() -> Any:
        with Store(path) as store:
            state = State.of(store)
            for cell in STUDY.cells:
                store.unfinished_trials(cell.id)
            return state, seed_columns(STUDY, store), trial_columns(STUDY, store)

    def write() -> None:
        with StoreWriter(path) as store:
            State.of(store)

    return {"read": read, "write": write, "run": lambda: run_study(STUDY, path)}


def check_refused(path: Path, says: str) -> None:
    """All refuse it, with its name, and leave the file as it is, without a lock beside it."""
    before = path.read_bytes()
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    for use in opened_by(path).values():
        with pytest.raises(StoreError, match=says) as caught:
            use()
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before
        assert f"{path.name}.lock" not in beside(path)


def refusal_of(use: Callable[[], Any]) -> str | None:
    try:
        use()
    except StoreError as error:
        return str(error)
    return None


def test_a_store_of_a_newer_schema(path: Path) -> None:
    fill(STUDY, path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    check_refused(path, f"written by a newer etastar: its schema is {SCHEMA_VERSION + 1}.*Upgrade")


def test_another_programs_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE holiday (photo BLOB)")
    connection.commit()
    connection.close()
    check_refused(path, "is a SQLite file, but not a store of etastar")


@pytest.mark.parametrize("text", [b"[grid]\nwidth = [8]\n" * 99, b"[grid]", b"x"])
def test_a_file_that_is_no_database(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    check_refused(path, "is a text file, and no store")


def test_an_empty_file_is_a_store_to_be(path: Path) -> None:
    path.touch()
    assert State.of_file(path) == State()
    with pytest.raises(StoreError, match="is empty: nothing has been computed yet"):
        Store(path)
    fill(STUDY, path)
    assert len(content(path)["seed"]) == 24


def test_no_file(path: Path) -> None:
    assert State.of_file(path) == State()
    with pytest.raises(StoreError, match="does not exist: nothing has been computed yet"):
        Store(path)
    assert beside(path) == set()


def test_truncated_stores_are_refused_wherever_they_end(path: Path) -> None:
    fill(STUDY, path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in [1, 50, 100, 4096, len(good) - 1, *rng.integers(1, len(good), 20).tolist()]:
        path.write_bytes(good[:length])
        for name, use in opened_by(path).items():
            if name != "run":  # which does `State.of_file` first
                with pytest.raises(StoreError, match=r"damaged \(.*left as it is"):
                    use()
                assert path.read_bytes() == good[:length]


def test_random_bytes_give_no_traceback_and_change_no_file(path: Path) -> None:
    """SQLite keeps no checksums, so bytes inside a number or in unused space go unnoticed; what is
    noticed is refused in words. Whole pages are always noticed."""
    fill(STUDY, path)
    good = path.read_bytes()
    expected = opened_by(path)["read"]()
    rng = np.random.default_rng(1)
    for trial in range(150):
        count = (1, 16, 4096)[trial % 3]
        at = int(rng.integers(0, len(good) - count))
        bad = good[:at] + rng.bytes(count) + good[at + count :]
        path.write_bytes(bad)
        refusal = refusal_of(opened_by(path)["read"])
        assert refusal is None or str(path) in refusal
        assert refusal or count < 4096
        assert path.read_bytes() == bad
    path.write_bytes(good)
    assert opened_by(path)["read"]() == expected


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE specification SET json = replace(json, '8', '9')", "is not what it was"),
        ("UPDATE specification SET resolved = '{'", "JSONDecodeError"),
        ("UPDATE specification SET resolved = '{}'", "KeyError"),
        ("UPDATE seed SET eta_lo = x'00'", "TypeError"),
        ("UPDATE seed SET eta_lo = -1.0", "ValueError: math domain error"),
        ("UPDATE seed SET re_entries = 'many'", "JSONDecodeError"),
        ("UPDATE seed SET status = CAST(x'ff' AS TEXT)", "decode"),
        ("DROP TABLE trial", "no such table: trial"),
        ("ALTER TABLE seed RENAME COLUMN status TO fate", "no such column: status"),
    ],
)
def test_values_that_were_never_written_are_damage(path: Path, statement: str, says: str) -> None:
    fill(STUDY, path)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=says) as caught:
        opened_by(path)["read"]()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_names_where_no_store_can_be(path: Path) -> None:
    (path.parent / "file").touch()
    for bad in (path.parent / "none" / "s.sqlite", path.parent / "file" / "s.sqlite"):
        with pytest.raises(ConfigError, match=r"the folder .* does not exist"):
            run_study(STUDY, bad)
        with pytest.raises(StoreError, match="does not exist"):
            Store(bad)
    with pytest.raises(ConfigError, match="is a folder; name a file as the store"):
        run_study(STUDY, path.parent)
    with pytest.raises(ConfigError, match="cannot be used as a store: File name too long"):
        run_study(STUDY, path.with_name("x" * 300))
    with pytest.raises(ConfigError, match=r"cannot be used as a store: .*null"):
        run_study(STUDY, path.with_name("\0"))
    assert beside(path) == {"file"}


def test_the_marks_of_a_store(path: Path) -> None:
    fill(STUDY, path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    notes = dict(connection.execute("SELECT name, value FROM note"))
    assert notes["sqlite_version"] == sqlite3.sqlite_version
    work = connection.execute("SELECT seeds, seconds, environment FROM work").fetchall()
    assert len(work) == 12
    assert json.loads(work[0][0]) == [0, 1, 2, 3]
    connection.close()
    assert beside(path) == {"store.sqlite", "store.sqlite.lock"}
    assert os.stat(path.with_name("store.sqlite.lock")).st_size == 0


MOUNTS = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/root rw
30 22 0:25 / /home rw - nfs4 host:/home rw
31 30 0:26 / /home/me/with\040space rw shared:1 - tmpfs tmpfs rw
32 22 0:27 / /data rw - ext4 /dev/sdb rw
33 22 0:28 / /data rw - fuse.sshfs me@host: rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/tmp", "ext4"),
        ("/homeless", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/with space/x", "tmpfs"),
        ("/data/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind


def test_on_a_network_file_system_there_is_no_write_ahead_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etastar.study.schema.is_network", lambda folder: True)
    with StoreWriter(path) as writer:
        assert writer.rows("PRAGMA journal_mode") == [("delete",)]
        assert writer.rows("PRAGMA synchronous") == [(2,)]
    fill(STUDY, path)
    assert len(content(path)["seed"]) == 24


def test_a_transaction_that_a_kill_left_in_a_journal_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a write-ahead log, a killed writer leaves a half-written file and what it was."""
    monkeypatch.setattr("etastar.study.schema.is_network", lambda folder: True)
    fill(STUDY, path)
    before = content(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 2")  # pages: the others go to the file at once
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE seed SET status = 'half'")
    connection.executemany(
        "INSERT INTO trial VALUES (1, ?, 0.1, 'half', 1, NULL, 0)", [(i,) for i in range(99, 999)]
    )
    for use in ("read", "write"):
        killed = path.with_name(f"{use}.sqlite")
        for end in ("", "-journal"):
            copied = path.with_name(path.name + end).read_bytes()
            killed.with_name(killed.name + end).write_bytes(copied)
        assert b"half" in killed.read_bytes()
        opened_by(killed)[use]()
        assert content(killed) == before
    connection.close()
