"""Runs a study: hands tasks to an executor, stores what comes back, survives what goes wrong."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from etastar.errors import ConfigError, ExecutorError, StoreError
from etastar.machine import device_named
from etastar.problem.trial import Outcome, Trial
from etastar.study.cell import Cell, Task
from etastar.study.cost import Cost
from etastar.study.executors import Executor, InProcess
from etastar.study.factory import FactorySettings
from etastar.study.measuring import run_task
from etastar.study.plan import State, costs, plan
from etastar.study.results import Results
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter, check_place

ATTEMPTS = 3
"""Failures after which a task is recorded with its error, and the study goes on without it."""


@dataclass(frozen=True)
class Progress:
    """The state of a study's run: how far it is, and in the end what it did.

    Attributes:
        store: Where the results are.
        cells: Cells of the study.
        done: Of these, finished; those of earlier runs included.
        failed: Given up.
        trials: Whole trials that this run has ended.
        seconds: Since this run began.
        seconds_left: Expected; None before anything is known.
        latest: What happened last, in words; empty for a trial.
        failures: Once the run has ended, the cells that were given up, with the error.
        out_of_budget: Whether the budget ended the run before all was done.
    """

    store: Path
    cells: int
    done: int = 0
    failed: int = 0
    trials: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    latest: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)
    out_of_budget: bool = False


def run_study(
    study: Study,
    store: str | Path | None = None,
    *,
    executor: Executor | None = None,
    hours: float | None = None,
    retry_failed: bool = False,
    wait_for_store: bool = True,
    on_wait: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Compute what is missing of a study; results that are stored already stay as they are.

    Args:
        study: The study.
        store: The store's file; beside the study file if None. Studies may share one.
        executor: Where tasks run: anything with `submit(function, task) -> Future`. In this
            process, one task after another with all cores, if None.
        hours: Start nothing new after so long; the study's own budget if None.
        retry_failed: Try again what was given up in earlier runs.
        wait_for_store: Wait for another process that is writing the store; otherwise raise.
        on_wait: Called once before waiting, with who is writing.
        on_progress: Called after every trial of this process and every task.

    Returns:
        What was done.

    Raises:
        ConfigError: A setting does not fit the data or the machine.
        DataError: A data set cannot be read.
        StoreError: The store cannot be used, or the disk is full.
        ExecutorError: The executor is gone.
        KeyboardInterrupt: On Ctrl-C; all that had ended is stored.
    """
    hours = study.file.budget.hours if hours is None else hours
    path = Path(store or study.default_store)
    # an unsound store is a reason not to read data for minutes first
    check_place(path)
    State.of_file(path)
    known = costs(study)
    executor = executor or InProcess()
    if isinstance(executor, InProcess):
        check_devices(study)  # told before anything is computed
    with StoreWriter(path, wait=wait_for_store, on_wait=on_wait) as writer:
        _check_code(study, writer)
        run = _Run(study, writer, executor, on_progress)
        return run.all(known, None if hours is None else hours * 3600, retry_failed)


def check_devices(study: Study) -> None:
    """Check that this machine has every device that a study names.

    Raises:
        ConfigError: It lacks one.
    """
    for name in sorted({cell.settings.device for cell in study.cells}):
        try:
            device_named(name)
        except ConfigError as error:
            raise ConfigError(f"study file {study.path}: {error}") from None


@dataclass
class _Run:
    """One run: tasks waiting, tasks in flight, attempts, counts."""

    study: Study
    store: StoreWriter
    executor: Executor
    on_progress: Callable[[Progress], None] | None

    def __post_init__(self) -> None:
        self.state = State.of(self.store)
        self.started = time.perf_counter()
        self.attempts: dict[str, int] = {}
        self.in_flight: dict[Future[Results], Task] = {}
        self.seconds: dict[str, float] = {}  # expected, by task
        self.spent = self.left = 0.0  # expected costs of what this run has done, and of the rest
        self.cells_of: dict[str, list[Cell]] = {}
        cells = self.study.cells
        for cell in cells:
            for task in cell.tasks:
                self.cells_of.setdefault(task.id, []).append(cell)
        self.done = {cell.id for cell in cells if self.state.is_done(cell)}
        self.failed = {c.id for c in cells if self.state.error(c)} - self.done
        self.progress = Progress(self.store.path, len(cells), len(self.done), len(self.failed))

    def all(self, known: Mapping[str, Cost], limit: float | None, retry_failed: bool) -> Progress:
        """Do everything that is missing, until the limit in seconds."""
        planned = plan(self.study, known, self.state, retry_failed=retry_failed)
        waiting = deque(task for task, _ in planned)
        self.seconds = {task.id: seconds for task, seconds in planned}
        self.left = sum(self.seconds.values())
        slots = getattr(self.executor, "slots", None) or 2 * (os.cpu_count() or 1)
        over = False
        try:
            while waiting or self.in_flight:
                over = limit is not None and time.perf_counter() - self.started > limit
                while waiting and not over and len(self.in_flight) < slots:
                    task = waiting.popleft()
                    self.in_flight[self._submit(task)] = task
                if not self.in_flight:
                    break
                for future in wait(self.in_flight, return_when=FIRST_COMPLETED).done:
                    # a distributed engine keeps results, and repeats them after a worker's
                    # death, as long as their future lives
                    self._settle(future, self.in_flight.pop(future), waiting)
        finally:
            for future in self.in_flight:
                future.cancel()
        self.store.verify()
        failures = {
            cell.settings.title: self.state.error(cell) or ""
            for cell in self.study.cells
            if cell.id in self.failed
        }
        return replace(self.progress, failures=failures, out_of_budget=bool(waiting))

    def _submit(self, task: Task) -> Future[Results]:
        """Start a task; one in this process reports and stores its trials as they end."""
        read = self.store.runs if task.curve else self.store.unfinished_trials
        task = replace(task, known=read(task.id))
        threads = getattr(self.executor, "threads_per_task", None)
        if threads and task.settings.threads is None:
            settings = task.settings.model_copy(update={"threads": threads})
            task = replace(task, settings=settings)
        function = run_task
        if isinstance(self.executor, InProcess):
            key = self.store.specify(task.id, task.kind, task.specification)

            add = self.store.add_run if task.curve else self.store.add_trial

            def on_outcome(trial: Trial, outcome: Outcome) -> None:
                add(key, trial, outcome)
                self._report("", trials=_whole([trial]))

            function = partial(run_task, on_outcome=on_outcome)
        try:
            return self.executor.submit(function, task)
        except Exception as error:
            raise _gone(error) from error

    def _settle(self, future: Future[Results], task: Task, waiting: deque[Task]) -> None:
        """Store a result, or count a failure."""
        try:
            results = future.result()
        except StoreError:
            raise
        except (BrokenExecutor, CancelledError) as error:
            raise _gone(error) from error
        except Exception as error:
            self._fail(task, f"{type(error).__name__}: {error}", waiting)
            return
        key = self.store.specify(task.id, task.kind, task.specification)
        self.store.add_results(key, results)
        self.state.done.setdefault(task.id, set()).update(results.seeds)
        self.state.failures.pop(task.id, None)
        self.spent += self.seconds[task.id]
        told = isinstance(self.executor, InProcess)
        trials = 0 if told else _whole(results.trials.keys() - task.known.keys())
        self._ended(task, f"{_title(task)}: {results.seconds:.1f} s", trials)

    def _fail(self, task: Task, error: str, waiting: deque[Task]) -> None:
        """Put a task at the end of the queue, or give it up."""
        attempts = self.attempts[task.id] = self.attempts.get(task.id, 0) + 1
        if attempts < ATTEMPTS:
            waiting.append(task)
            self._report(f"attempt {attempts} of {ATTEMPTS} failed: {_title(task)}: {error}")
            return
        key = self.store.specify(task.id, task.kind, task.specification)
        self.store.add_failure(key, attempts, error)
        self.state.failures[task.id] = error
        self._ended(task, f"given up after {attempts} attempts: {_title(task)}: {error}")

    def _ended(self, task: Task, latest: str, trials: int = 0) -> None:
        """Bring the counts of a task's cells up to date: it needs no further attempt."""
        self.left -= self.seconds[task.id]
        for cell in self.cells_of[task.id]:
            self.failed.discard(cell.id)
            if self.state.is_done(cell):
                self.done.add(cell.id)
            elif self.state.error(cell):
                self.failed.add(cell.id)
        self._report(latest, trials=trials)

    def _report(self, latest: str, *, trials: int = 0) -> None:
        seconds = time.perf_counter() - self.started
        self.progress = replace(
            self.progress,
            done=len(self.done),
            failed=len(self.failed),
            trials=self.progress.trials + trials,
            seconds=seconds,
            seconds_left=seconds * max(self.left, 0.0) / self.spent if self.spent else None,
            latest=latest,
        )
        if self.on_progress:
            self.on_progress(self.progress)


def _gone(error: BaseException) -> ExecutorError:
    """The error for an executor that is gone: no task is to blame, so no failure is recorded."""
    return ExecutorError(
        f"the executor is gone ({type(error).__name__}: {error}). What had ended is stored. Start "
        "it again and run the same command: it goes on from there."
    )


def _whole(trials: Iterable[Trial]) -> int:
    """How many are no partial runs of a curve: the trials that `study export` counts."""
    return sum(trial.steps is None for trial in trials)


def _title(task: Task) -> str:
    what = "η*" if task.kind == "maximal-lr" else "λ1"
    seeds = "its curve" if task.curve else f"{len(task.seeds)} seeds"
    return f"{what} of {task.settings.title}, {seeds}"


def _check_code(study: Study, store: Store) -> None:
    """Raise if the store holds results of other code under the name of one of the models.

    Raises:
        ConfigError: The code has changed since; the results are left as they are.
    """
    ours = {
        s.model: s.code for cell in study.cells if isinstance(s := cell.settings, FactorySettings)
    }
    if not ours:
        return
    done = store.finished()
    for identity, text in store.rows("SELECT id, json FROM specification"):
        known = json.loads(text)
        name = known.get("model")
        if name in ours and done.get(identity) and known["code"] != ours[name]:
            raise ConfigError(
                f"the code of {name} has changed since results in {store.path} were measured "
                "(or that of its data, or of what either imports): they are not of this network. "
                "They were left as they are. Name another store, or undo the change."
            )
