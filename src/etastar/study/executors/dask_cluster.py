"""Dask distributed: worker processes here, or a cluster that runs already.

Dask may run a task more than once: when a worker dies, results that were still held there are
computed again. That is harmless, since results are keyed by specification, and rare, since a
future is dropped as soon as its result is stored.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from etastar.errors import ConfigError
from etastar.study.executors.in_process import Executor

ALLOWED_FAILURES = 3
"""Deaths of workers that a task may be near to in one attempt, Dask's own default. All tasks
assigned to a dead worker count as suspects (distributed #5234); those that did not cause it end
well in a further attempt. With ten, a task that kills was not given up within five minutes."""

CONNECT_SECONDS = 30
"""For a scheduler to answer, and again for its first worker."""


@contextmanager
def make_dask(workers: int | None, scheduler: str | None) -> Iterator[Executor]:
    """Start worker processes on this machine, one core each, or join the cluster of a scheduler.

    Raises:
        ConfigError: Dask is not installed, the cluster cannot start, the scheduler does not answer,
            has no workers, or they have another version of etastar.
    """
    try:
        dask: Any = import_module("dask")
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise ConfigError(
            f"`executor='dask'` needs Dask ({error}): pip install 'etastar[cluster]'."
        ) from None
    if scheduler and workers:
        raise ConfigError(
            "`workers` is for a cluster of our own, and `scheduler` names one that runs: leave "
            "one out."
        )
    with ExitStack() as stack:
        stack.enter_context(
            dask.config.set(
                {
                    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
                    # one that is starting again at the wrong moment would be given up for good
                    "distributed.deploy.lost-worker-timeout": "1 hour",
                }
            )
        )
        # what ends a run is raised as one line; the client would log its own traceback before that
        logger = logging.getLogger("distributed.client")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)
        try:
            where = scheduler or stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers or os.cpu_count() or 1,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",  # the usual port may be another's
                    memory_limit=0,  # the engine plans its memory; Dask would pause or kill
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(distributed.Client(where, timeout=CONNECT_SECONDS))
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            what = f"`scheduler={scheduler!r}`: no scheduler with a worker answered within"
            if not scheduler:
                what = "`executor='dask'`: no cluster could be started on this machine within"
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{what} {CONNECT_SECONDS} s ({reason}).") from None
        _check_versions(client)
        executor = client.get_executor(pure=False)
        # twice what can run: no core waits for a task, and few are lost with a scheduler
        known = client.scheduler_info(n_workers=-1)["workers"].values()
        executor.slots = 2 * sum(worker["nthreads"] for worker in known)
        executor.threads_per_task = 1  # a thread is a core to Dask; workers have OMP_NUM_THREADS=1
        yield executor


def _check_versions(client: Any) -> None:
    """Raise if a worker has another version: it might compute something else."""
    from etastar import __version__

    for worker, version in client.run(_version).items():
        if version != __version__:
            raise ConfigError(
                f"worker {worker} has etastar {version or 'not installed'}; expected "
                f"{__version__}, as here. Install the same version on all workers."
            )


def _version() -> str | None:
    """Return the version that a worker has; runs there."""
    try:
        from etastar import __version__
    except ImportError:
        return None
    return __version__
