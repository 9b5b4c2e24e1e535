"""Trials in other processes: an engine that hands them to an executor, one a worker.

The problem is pickled once, checked, and sent with every trial; a worker unpickles it once. Each
trial trains there alone, on one thread. A queue asks in rounds whose trials do not depend on when
others of the round end, so the result is the same on any number of workers.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from importlib import import_module
from typing import Any

from etastar.checking import is_ratio
from etastar.engines.base import Engine, Queue, train_all
from etastar.errors import ConfigError, EtaStarError, ExecutorError, ModelError
from etastar.machine import use_threads
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Trial

POLL = 0.2
"""Seconds between looks at whether running trials are still wanted."""
ATTEMPTS = 5
"""Times that a trial is sent again whose workers died more often than Dask allows."""
MANY = 64
"""Trials to have submitted at once where an executor does not tell its workers."""
THREADS = (
    "`executor`: {} runs trials in threads of one process, which share the global random streams "
    "that trials use. Expected processes: concurrent.futures.ProcessPoolExecutor, or Dask workers "
    "with one thread each (processes=True, threads_per_worker=1)."
)


class WorkersEngine(Engine):
    """Hands the trials of a queue to an executor; `over` says what trains them there.

    Args:
        executor: Dask's client, or any object with `submit(fn, spec) -> Future`.
        resources: What each trial takes of a Dask worker, e.g. `{"GPU": 1}`.

    Raises:
        ConfigError: It is none, it runs threads, or resources are not Dask's.
    """

    inner: Engine
    """What trains the trials there."""

    def __init__(self, executor: Any, resources: Mapping[str, float] | None = None) -> None:
        super().__init__(1)
        self.client = client = getattr(executor, "_client", executor)
        dask = hasattr(client, "scheduler_info") and hasattr(client, "get_executor")
        if not callable(getattr(executor, "submit", None)):
            raise ConfigError(
                "executor must be Dask's client or an object with submit(fn, spec) -> Future, got "
                f"{executor!r:.60}."
            )
        if isinstance(executor, ThreadPoolExecutor):
            raise ConfigError(THREADS.format(type(executor).__name__))
        if resources is not None and not dask:
            raise ConfigError("`resources` needs Dask's client as `executor`: leave it out.")
        if resources is not None and not (
            isinstance(resources, Mapping) and all(map(is_ratio, resources.values()))
        ):
            raise ConfigError(
                f"resources must map names to numbers, such as {{'GPU': 1}}, got {resources!r:.60}."
            )
        self.dask, self._resources = dask, dict(resources or {})
        self._submit = executor.submit
        if dask:
            self._check_dask()
            how = {"resources": self._resources} if self._resources else {}
            if how or executor is client:  # its own futures are not of `concurrent.futures`
                self._submit = client.get_executor(pure=False, **how).submit

    def over(self, inner: Engine) -> WorkersEngine:
        """Return an engine of the same workers, which has taken no step yet.

        Args:
            inner: What trains there.
        """
        own = copy.copy(self)
        own.inner, own.name, own.why = inner, inner.name, inner.why  # type: ignore[misc]
        own.steps_taken = 0
        return own

    def _check_dask(self) -> None:
        """Raise if a worker of a cluster has threads, or none has what a trial takes."""
        workers = self._dask_workers()
        for address, worker in workers.items():
            if worker["nthreads"] > 1 or address.startswith("inproc"):
                raise ConfigError(THREADS.format(f"Dask's worker {address}"))
        able = [w for w in workers.values() if self._room(w)]
        if workers and not able:
            raise ConfigError(
                f"`resources={self._resources}`: none of the {len(workers)} workers has them. "
                "Start workers with them, e.g. dask worker ADDRESS --nthreads 1 --resources GPU=1."
            )

    def _dask_workers(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
        except Exception as error:
            raise gone(error) from error
        return found

    def _room(self, worker: dict[str, Any]) -> bool:
        has = worker.get("resources") or {}
        return all(has.get(name, 0) >= wanted for name, wanted in self._resources.items())

    @property
    def workers_now(self) -> int | None:
        """See `Engine`; None, too, where an executor does not tell."""
        if self.dask:
            return len([w for w in self._dask_workers().values() if self._room(w)])
        found = getattr(self.client, "_max_workers", None)
        return found if isinstance(found, int) else None

    def submit(self, spec: Any) -> Future[Outcome]:
        """Send a trial.

        Raises:
            ExecutorError: The executor is gone.
            ConfigError: It returns no future.
        """
        try:
            future: Future[Outcome] = self._submit(train_there, spec)
        except EtaStarError:
            raise
        except Exception as error:
            raise gone(error) from error
        if not all(hasattr(future, name) for name in ("done", "result", "cancel")):
            raise ConfigError(
                "`executor`: its submit must return a future with done(), result() and cancel(), "
                f"got {type(future).__name__}."
            )
        return future

    def refusal(self, problem: Problem) -> str | None:
        """See `Engine`."""
        return self.inner.refusal(problem)

    def run(self, problem: Problem, queue: Queue) -> None:
        """See `Engine`.

        Raises:
            ModelError: Something cannot be pickled.
            ExecutorError: The executor is gone, or a worker cannot train.
        """
        payload = pickled(problem)
        key = hashlib.sha256(payload).hexdigest()
        here = os.getpid(), threading.get_ident()
        flying: dict[Future[Outcome], tuple[Trial, int]] = {}

        def send(trial: Trial, attempt: int = 1) -> None:
            spec = (self.inner.name, key, payload, trial, here)
            flying[self.submit(spec)] = trial, attempt

        try:
            while True:
                for trial in queue.take(MANY - len(flying), self.workers_now or 1):
                    send(trial)
                if not flying:
                    return
                for future in _ended(flying):
                    trial, attempt = flying.pop(future)
                    outcome = _outcome(future, last=attempt == ATTEMPTS)
                    if outcome is None:
                        send(trial, attempt + 1)
                        continue
                    self.steps_taken += outcome.steps_taken(problem.max_steps)
                    queue.put(trial, outcome)
                for future, (trial, _) in list(flying.items()):
                    if not queue.wanted(trial):
                        future.cancel()
                        del flying[future]
        finally:
            for future in flying:
                future.cancel()


def _ended(flying: Collection[Future[Outcome]]) -> list[Future[Outcome]]:
    """Return the trials that have ended; waits a moment for one."""
    if all(isinstance(future, Future) for future in flying):
        return list(wait(flying, POLL, FIRST_COMPLETED).done)
    if not any(future.done() for future in flying):  # of another kind: one can only look
        time.sleep(POLL / 20)
    return [future for future in flying if future.done()]


def _outcome(future: Future[Outcome], last: bool) -> Outcome | None:
    """Return what a worker found; None where Dask gave a trial up since its workers died.

    Raises:
        ExecutorError: The executor is gone, or a worker could not train.
    """
    try:
        return future.result()
    except EtaStarError:
        raise
    except (BrokenExecutor, CancelledError) as error:
        raise gone(error) from error
    except Exception as error:
        if type(error).__name__ == "KilledWorker" and not last:
            return None
        raise ExecutorError(
            f"a worker could not train a trial ({type(error).__name__}: {error}). What had ended "
            "is kept where a store was given. Workers need the same packages, and the modules that "
            "model and data come from."
        ) from error


def gone(error: BaseException) -> ExecutorError:
    """Return the error for an executor that is gone.

    Args:
        error: What it raised.
    """
    return ExecutorError(
        f"the executor is gone ({type(error).__name__}: {error}). What had ended is kept where a "
        "store was given: start the executor again and run the same with that store."
    )


def pickled(problem: Problem) -> bytes:
    """Pickle a problem, by cloudpickle where that is installed, which takes more.

    Args:
        problem: Of a user's model.

    Raises:
        ModelError: Something cannot be pickled; names it.
    """
    dumps, loads = _pickler(), pickle.loads
    try:
        payload = dumps(problem)
        loads(payload)
    except Exception as whole:
        name, error = "what was given", whole
        for part, value in _parts(problem).items():
            try:
                loads(dumps(value))
            except Exception as own:
                name, error = part, own
                break
        raise ModelError(
            f"`executor`: {name} cannot be pickled ({type(error).__name__}: {error}), and trials "
            "are sent to other processes. Define functions and classes at the top of a module, "
            "without open files, locks or generators, or leave `executor` out."
        ) from error
    return payload


def _pickler() -> Callable[[Any], bytes]:
    try:
        dumps: Callable[[Any], bytes] = import_module("cloudpickle").dumps
    except ImportError:
        return pickle.dumps
    return dumps


def _parts(problem: Problem) -> dict[str, Any]:
    """Return what a problem is made of, by the names of arguments."""
    objective = problem.objective
    return {
        "model": problem.origin,
        "train_data": problem.train,
        "val_data": problem.val,
        "step_fn": objective.step_fn,
        "loss_fn": objective.loss_fn,
        "metric": objective.metric,
        "optimizer": problem.optimizer,
        "scheduler": problem.scheduler,
    }


# in a worker

_alone = threading.Lock()
_known: dict[str, tuple[Problem, Engine]] = {}
"""The last problem, with its engine, which keeps what is worked out once for a problem."""


def train_there(spec: tuple[str, str, bytes, Trial, tuple[int, int]]) -> Outcome:
    """Train a trial, in whatever process this is.

    Args:
        spec: Engine, hash of the pickled problem, the problem, the trial, and who sent it.

    Returns:
        The outcome.

    Raises:
        ConfigError: Another thread of this process may be training, too.
    """
    from etastar.engines import ENGINES

    engine, key, payload, trial, (process, thread) = spec
    in_thread = os.getpid() == process and threading.get_ident() != thread
    if in_thread or not _alone.acquire(blocking=False):
        raise ConfigError(THREADS.format("it"))
    try:
        if key not in _known:
            _known.clear()
            _known[key] = pickle.loads(payload), ENGINES[engine](1)
        problem, trainer = _known[key]
        with use_threads(1):
            return train_all(trainer, problem, [trial])[trial]
    finally:
        _alone.release()
