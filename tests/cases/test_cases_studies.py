"""Studies in the hands of people: files edited, stores moved, copied, locked, pipes closed."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from etastar.cli import main
from etastar.errors import StoreError
from etastar.study.runner import Progress, run_study
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

BASE = """[base]
dataset = "digits"
train_size = 300
val_size = 100
max_steps = 20
threshold = 0.4
batch_size = 32
resolution = 0.5
threads = 1
"""
TEXT = BASE + "seeds = 2\n[grid]\nwidth = [8, 16]\ndepth = [1, 2]\n"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file beside its finished store."""
    file = tmp_path_factory.mktemp("finished") / "s.toml"
    file.write_text(TEXT)
    run_study(Study.from_file(file))
    return file


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    for name in ("s.toml", "s.sqlite"):
        shutil.copy(finished.with_name(name), tmp_path)
    return tmp_path / "s.toml"


def words(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return told.out + told.err


@pytest.mark.parametrize("change", ["threshold = 0.4", "max_steps = 20"])
@pytest.mark.parametrize("command", ["export", "export --table trials", "report", "fit"])
def test_an_edited_file_never_overwrites_results_with_nothing(
    copy: Path, change: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, value = change.split()
    outputs = [copy.with_suffix(end) for end in (".csv", ".html")]
    for output in outputs:
        output.write_text("what was measured")
    edited = "0.45" if "." in value else "30"
    copy.write_text(TEXT.replace(change, f"{name} = {edited}"))
    assert main(["study", *command.split(), str(copy)]) == 2
    told = words(capsys)
    assert "holds no η* of this study yet" in told
    assert f"{name} = {value} (in the study file {edited})" in told
    assert "4 networks" in told
    for output in outputs:
        assert output.read_text() == "what was measured"
    assert main(["study", "status", str(copy)]) == 0
    assert f"{name} = {value}" in words(capsys)


def test_predict_of_an_edited_file_says_so_too(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.write_text(TEXT.replace("threshold = 0.4", "threshold = 0.45"))
    assert main(["predict", "--from", str(copy), "--width", "8", "--depth", "1"]) == 2
    assert "threshold = 0.4 (in the study file 0.45)" in words(capsys)


def test_what_is_missing_is_said_before_a_law(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.write_text(TEXT.replace("seeds = 2", "seeds = 5"))
    for command in (
        ["study", "fit", str(copy)],
        ["study", "fit", str(copy), "--json", "-"],
        ["study", "export", str(copy), "--output", os.devnull],
        ["predict", "--from", str(copy), "--width", "8", "--depth", "1"],
    ):
        assert main(command) == 0
        assert "12 of 20 results" in words(capsys), command
    copy.write_text(TEXT)
    assert main(["study", "fit", str(copy)]) == 0
    assert "missing" not in words(capsys)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_vanishes_ends_the_run(tmp_path: Path, replaced: bool) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TEXT)
    study = Study.from_file(file)

    def vanish(now: Progress) -> None:
        if now.trials == 3:
            for end in ("", "-wal", "-shm"):
                study.default_store.with_name(f"s.sqlite{end}").unlink(missing_ok=True)
            if replaced:
                sqlite3.connect(study.default_store).close()
                study.default_store.touch()

    with pytest.raises(StoreError, match=r"s\.sqlite was removed or replaced"):
        run_study(study, on_progress=vanish)


def test_a_store_that_vanishes_at_the_very_end_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TEXT)
    study = Study.from_file(file)

    def vanish(now: Progress) -> None:
        if now.done == now.cells:
            study.default_store.unlink()

    with pytest.raises(StoreError, match="removed or replaced"):
        run_study(study, on_progress=vanish)


LOCKER = """
import sqlite3, sys, time
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
other.execute("ROLLBACK")
"""


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_foreign_lock_is_waited_for_with_a_word(copy: Path, when: str) -> None:
    store = copy.with_name("s.sqlite")
    told: list[str] = []
    lock = [sys.executable, "-c", LOCKER, str(store), "7"]  # SQLite itself gives up after 5
    if when == "before":
        with subprocess.Popen(lock, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            StoreWriter(store, on_wait=told.append).close()
    else:
        with (
            StoreWriter(store, on_wait=told.append) as writer,
            subprocess.Popen(lock, stdout=subprocess.PIPE) as other,
        ):
            assert other.stdout is not None
            other.stdout.readline()
            assert writer.specify("id", "maximal-lr", "{}") > 0
    assert told == ["another program, which has locked it"]


def test_without_waiting_a_foreign_lock_is_refused(copy: Path) -> None:
    store = copy.with_name("s.sqlite")
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(store), "20"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StoreError, match="locked by another program"):
            StoreWriter(store, wait=False)
        other.kill()


def test_a_copy_without_its_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TEXT.replace("max_steps = 20", "max_steps = 2000"))
    run = subprocess.Popen(
        [sys.executable, "-m", "etastar", "study", "run", str(file)],
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    log = tmp_path / "s.sqlite-wal"
    while not (log.exists() and log.stat().st_size):
        assert run.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    assert main(["study", "status", str(file)]) == 0
    assert "WARNING" not in words(capsys)  # while it runs
    run.send_signal(signal.SIGKILL)
    run.wait()
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder, names in (
        (alone, ("s.toml", "s.sqlite")),
        (both, ("s.toml", "s.sqlite", log.name)),
    ):
        folder.mkdir()
        for name in names:
            shutil.copy(tmp_path / name, folder)
    assert main(["study", "status", str(both / "s.toml")]) == 0
    assert "WARNING" not in words(capsys)
    assert main(["study", "status", str(alone / "s.toml")]) == 0
    assert "s.sqlite-wal, which holds what it computed last, is not beside it" in words(capsys)


def test_a_store_that_was_closed_needs_no_log(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(copy.with_name("s.sqlite")) as store:
        assert not store.log_missing
    assert main(["study", "status", str(copy)]) == 0
    assert "WARNING" not in words(capsys)


READ_BY_NOBODY = [
    "study status {0}",
    "study fit {0}",
    "study fit {0} --json -",
    "study export {0} --output -",
    "predict --from {0} --width 8 --depth 1 --json -",
    "sharpness --width 8 --depth 2 --samples 20 --seeds 1",
    "measure --width 8 --depth 1 --train-size 200 --max-steps 2 --seeds 1",
]


@pytest.mark.parametrize("command", READ_BY_NOBODY)
def test_a_reader_that_goes_away_is_no_error(
    finished: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # before anything is printed
    with open(writer, "w", encoding="utf-8") as nowhere:
        monkeypatch.setattr(sys, "stdout", nowhere)
        assert main(command.format(finished).split()) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["study status {0}", "--help"])
def test_nor_when_the_program_ends(finished: Path, command: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "etastar", *command.format(finished).split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, told = process.communicate()
    assert told == b""
    assert process.returncode == 141


def test_paths_of_any_bytes(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"f\xe9 \xff\n'.toml")
    file.write_text(TEXT.replace("[8, 16]", "8"))
    for command in (
        ["run", file],
        ["status", file, "--json", "-"],
        ["export", file],
        ["report", file],
        ["fit", file, "--json", tmp_path / os.fsdecode(b"\xfe.json")],
    ):
        # a report of pytest with such names in it cannot be sent
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert main(["study", *map(str, command)]) == 0
    told = subprocess.run(
        [sys.executable, "-m", "etastar", "study", "status", file],
        capture_output=True,
        env=ENVIRONMENT,
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert file.with_suffix(".csv").read_text().count("\n") == 5
    assert (tmp_path / os.fsdecode(b"\xfe.json")).stat().st_size
