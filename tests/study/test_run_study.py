"""Running a study: what is computed, what is reported, and what happens when something fails."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from made_studies import TINY, TINY_CELLS, content, seed_rows, tiny

import etastar
from etastar.errors import ConfigError, DataError, StoreError
from etastar.problem.trial import Outcome, Trial
from etastar.study.executors import EXECUTORS, InProcess, make_executor
from etastar.study.measuring import Task, run_task
from etastar.study.plan import State
from etastar.study.runner import ATTEMPTS, Progress, run_study
from etastar.study.specification import Study
from etastar.study.store import Store


class Ran(NamedTuple):
    """An uninterrupted run in this process."""

    study: Study
    summary: Progress
    seen: list[Progress]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    study, seen = tiny(tmp_path_factory.mktemp("reference") / "tiny.toml"), []
    return Ran(study, run_study(study, on_progress=seen.append), seen)


@pytest.fixture(scope="module")
def reference(whole: Ran) -> dict[str, list[Any]]:
    return content(whole.study.default_store)


def test_every_cell_is_what_measure_finds(whole: Ran) -> None:
    study, summary = whole.study, whole.summary
    assert summary.store == study.path.parent / "tiny.sqlite"
    assert (summary.failures, summary.out_of_budget) == ({}, False)
    assert (summary.cells, summary.done) == (TINY_CELLS, TINY_CELLS)
    with Store(summary.store) as store:
        rows = seed_rows(study, store)
    assert len(rows) == 3 * TINY_CELLS
    for cell in study.cells[::3]:
        options = cell.settings.model_dump(exclude_unset=True)
        expected = etastar.measure(**options)
        for row in rows:
            if row["cell"] == cell.id:
                bracket = expected.seeds[row["seed"]]
                assert (row["status"], row["eta_lo"]) == (bracket.status, bracket.lo)
                assert (row["eta_hi"], row["hi_outcome"]) == (bracket.hi, bracket.hi_outcome)
                assert row["lambda1_preconditioned"] > 0


def test_what_is_done_is_not_done_again(tmp_path: Path, whole: Ran) -> None:
    study = tiny(tmp_path / "tiny.toml")
    shutil.copy(whole.study.default_store, study.default_store)
    before = study.default_store.read_bytes()
    summary = run_study(study)
    assert (summary.done, summary.trials) == (TINY_CELLS, 0)
    assert len(study.default_store.read_bytes()) == len(before)


def test_progress_only_grows_and_says_what_happened(whole: Ran) -> None:
    seen = whole.seen
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert [p.trials for p in seen] == sorted(p.trials for p in seen)
    told = [p for p in seen if p.latest]
    assert len(told) == 2 * TINY_CELLS  # η* and λ1 of each
    assert sum(p.latest.startswith("η* of 16×1 κ=0.1 cross-entropy digits, 3") for p in told) == 1
    assert len(seen) - len(told) == seen[-1].trials > 3 * TINY_CELLS
    assert seen[0].seconds_left is None
    assert seen[-1].seconds_left == pytest.approx(0, abs=1e-6)


def test_a_budget_starts_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_a_second(progress: Progress) -> None:
        nonlocal now
        now += bool(progress.latest)

    def clock() -> float:
        nonlocal now
        now += 1e-6
        return now

    monkeypatch.setattr("etastar.study.runner.time.perf_counter", clock)
    study = tiny(tmp_path / "tiny.toml", TINY + f"[budget]\nhours = {2.5 / 3600}\n")
    summary = run_study(study, on_progress=pass_a_second)
    assert summary.out_of_budget
    results = content(study.default_store)
    assert len({row[0] for row in results["seed"] + results["sharpness"]}) == 3
    assert run_study(study, hours=0.0).out_of_budget
    assert content(study.default_store) == results
    assert not run_study(study, hours=1.0, on_progress=pass_a_second).out_of_budget
    assert len(content(study.default_store)["seed"]) == 3 * TINY_CELLS


def test_an_interrupted_run_goes_on_from_its_last_trial(
    tmp_path: Path, reference: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny(tmp_path / "tiny.toml")
    ran = 0

    def interrupt(progress: Progress) -> None:
        if progress.trials == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, on_progress=interrupt)
    kept = len(content(study.default_store)["trial"])
    assert kept == 10
    known: list[int] = []

    def spy(task: Task, on_outcome: Any = None) -> Any:
        nonlocal ran
        known.append(len(task.known))
        ran += 1
        return run_task(task, on_outcome)

    monkeypatch.setattr("etastar.study.runner.run_task", spy)
    run_study(study)
    assert sum(known) == 10
    assert content(study.default_store) == reference


def test_a_cell_that_does_not_fit_the_data_is_refused_before_anything_runs(tmp_path: Path) -> None:
    study = tiny(
        tmp_path / "bad.toml",
        "[[cells]]\nwidth = 8\nmax_steps = 5\n[[cells]]\nwidth = 8\nthreshold = 0.05\n",
    )
    with pytest.raises(
        ConfigError, match=r"study file .*bad\.toml: cell 8×4 .*threshold must be above 1/classes"
    ):
        run_study(study)
    assert not study.default_store.exists()


def test_missing_data_and_devices_are_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    study = tiny(tmp_path / "m.toml", f"[grid]\ndataset = 'mnist'\ndata_dir = '{folder}'\n")
    with pytest.raises(DataError, match="mnist"):
        run_study(study)
    study = tiny(tmp_path / "d.toml", "[grid]\ndevice = ['cpu', 'quantum']\nmax_steps = 3\n")
    with pytest.raises(
        ConfigError,
        match=r"study file .*: `device='quantum'` cannot be used: .*: use `device='cpu'`",
    ):
        run_study(study)
    study = tiny(tmp_path / "s.toml", "[grid]\ndevice = 'meta'\nmax_steps = 3\n")
    with pytest.raises(ConfigError, match="`device='meta'` cannot be used: it holds shapes"):
        run_study(study)
    assert not list(tmp_path.glob("*.sqlite*"))


# executors


class Failing:
    """Fails some tasks, as often as it is told."""

    def __init__(self, fails: Callable[[Task], bool], times: float = float("inf")) -> None:
        self.fails, self.times = fails, times
        self.counts: dict[str, int] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        task = args[0]
        count = self.counts[task.id] = self.counts.get(task.id, 0) + 1
        if self.fails(task) and count <= self.times:
            future.set_exception(MemoryError(f"no room, attempt {count}"))
        else:
            future.set_result(fn(*args))
        return future


def wide(task: Task) -> bool:
    return task.settings.width == 24 and task.settings.depth == 2


def test_a_failure_is_tried_again(tmp_path: Path, reference: dict[str, list[Any]]) -> None:
    executor = Failing(wide, times=ATTEMPTS - 1)
    study = tiny(tmp_path / "tiny.toml")
    seen: list[Progress] = []
    summary = run_study(study, executor=executor, on_progress=seen.append)
    assert summary.failures == {}
    assert content(study.default_store) == reference
    assert any("attempt 2 of 3 failed: η* of 24×2" in p.latest for p in seen)
    assert seen[-1].trials == len(reference["trial"])


def test_what_always_fails_is_recorded_and_the_rest_completes(
    tmp_path: Path, reference: dict[str, list[Any]]
) -> None:
    executor = Failing(wide)
    study = tiny(tmp_path / "tiny.toml")
    summary = run_study(study, executor=executor)
    assert summary.failures == {
        "24×2 κ=0.1 cross-entropy digits": "MemoryError: no room, attempt 3"
    }
    assert (summary.done, summary.failed) == (TINY_CELLS - 1, 1)
    bad = {c.id for c in study.cells if (c.settings.width, c.settings.depth) == (24, 2)}
    assert {executor.counts[identity] for identity in bad} == {ATTEMPTS}
    found = content(study.default_store)
    assert found["seed"] == [row for row in reference["seed"] if row[0] not in bad]
    connection = sqlite3.connect(study.default_store)
    assert connection.execute("SELECT attempts FROM failure").fetchall() == [(ATTEMPTS,)] * 2
    connection.close()
    # left alone by the next run, unless it is told to try again
    again = run_study(study, executor=executor)
    assert again.failures == summary.failures
    assert {executor.counts[identity] for identity in bad} == {ATTEMPTS}
    assert again.failed == 1
    mended = run_study(study, retry_failed=True)
    assert (mended.failures, mended.done, mended.failed) == ({}, TINY_CELLS, 0)
    assert content(study.default_store) == reference


def test_an_error_of_the_task_itself_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(task: Task, on_outcome: Any) -> Any:
        raise RuntimeError("not enough memory: you tried to allocate 1 TB")

    monkeypatch.setattr("etastar.study.measuring.measure_lr", broken)
    summary = run_study(tiny(tmp_path / "tiny.toml"))
    assert len(summary.failures) == TINY_CELLS
    assert set(summary.failures.values()) == {
        "RuntimeError: not enough memory: you tried to allocate 1 TB"
    }
    assert len(content(summary.store)["sharpness"]) == 3 * TINY_CELLS


def test_an_error_of_the_store_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, key: int, trial: Trial, outcome: Outcome) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("etastar.study.store.StoreWriter.add_trial", full)
    with pytest.raises(StoreError, match="the disk is full"):
        run_study(tiny(tmp_path / "tiny.toml"))


def test_a_thread_pool_gives_the_same(tmp_path: Path, reference: dict[str, list[Any]]) -> None:
    study = tiny(tmp_path / "tiny.toml")
    with ThreadPoolExecutor(3) as pool:
        summary = run_study(study, executor=pool)
    assert summary.done == TINY_CELLS
    assert content(study.default_store) == reference


def test_a_result_that_comes_twice_is_stored_once(
    tmp_path: Path, reference: dict[str, list[Any]]
) -> None:
    class Twice(InProcess):
        def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
            super().submit(fn, *args).result()
            return super().submit(fn, *args)

    study = tiny(tmp_path / "tiny.toml")
    run_study(study, executor=Twice())
    assert content(study.default_store) == reference


def test_no_more_tasks_are_submitted_than_the_executor_has_slots(tmp_path: Path) -> None:
    class Slots(ThreadPoolExecutor):
        slots, waiting, most = 2, 0, 0
        guard, full = threading.Lock(), threading.Event()

        def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
            with self.guard:
                self.waiting += 1
                self.most = max(self.most, self.waiting)
                if self.waiting == self.slots:
                    self.full.set()
            future = super().submit(self.once_full, fn, *args)
            future.add_done_callback(self.ended)
            return future

        def once_full(self, fn: Callable[..., Any], *args: Any) -> Any:
            assert self.full.wait(60)  # the first task is not over before the second is submitted
            return fn(*args)

        def ended(self, future: Future[Any]) -> None:
            with self.guard:
                self.waiting -= 1

    with Slots(1) as pool:
        run_study(tiny(tmp_path / "tiny.toml"), executor=pool)
        assert pool.most == 2


def test_executors_by_name() -> None:
    assert set(EXECUTORS) == {"in-process", "dask"}
    with make_executor("in-process") as executor:
        assert executor.submit(sum, [1, 2]).result() == 3
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result()
        with pytest.raises(KeyboardInterrupt):
            executor.submit(interrupt)
    with pytest.raises(ConfigError, match="unknown executor 'dsak'; did you mean 'dask'"):
        make_executor("dsak")
    with (
        pytest.raises(ConfigError, match="`workers` needs `executor='dask'`"),
        make_executor("in-process", workers=2),
    ):
        pass


def interrupt() -> None:
    raise KeyboardInterrupt


# two processes

CODE = """
import sys
from etastar.errors import EtaStarError
from etastar.study.runner import run_study
from etastar.study.specification import Study
try:
    summary = run_study(
        Study.from_file(sys.argv[1]),
        wait_for_store=sys.argv[2] == "wait",
        on_wait=lambda who: print("waiting for", who, flush=True),
        on_progress=lambda p: p.trials == 1 and not p.latest and print("begun", flush=True),
    )
    print("trials", summary.trials, "done", summary.done)
except EtaStarError as error:
    print("refused:", error)
"""


def start(file: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(file), mode], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_on_one_store_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, reference: dict[str, list[Any]]
) -> None:
    study = tiny(tmp_path / "tiny.toml")
    with start(study.path, "wait") as one, start(study.path, "wait") as two:
        said = [one.communicate()[0], two.communicate()[0]]
    assert content(study.default_store) == reference
    assert State.of_file(study.default_store).failures == {}
    assert sum(f"done {TINY_CELLS}" in text for text in said) == 2
    assert sorted("begun" in text for text in said) == [False, True]
    assert sum("trials 0 " in text for text in said) == 1
    connection = sqlite3.connect(study.default_store)
    work = connection.execute("SELECT cell, count(*) FROM work GROUP BY cell").fetchall()
    connection.close()
    assert len(work) == 2 * TINY_CELLS
    assert {count for _, count in work} == {1}


def test_a_process_that_will_not_wait_is_told(tmp_path: Path) -> None:
    study = tiny(tmp_path / "tiny.toml", TINY.replace("max_steps = 40", "max_steps = 4000"))
    with start(study.path, "wait") as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "begun\n"
        with pytest.raises(StoreError, match=rf"being written by process {one.pid} on "):
            run_study(study, wait_for_store=False)
        one.kill()
