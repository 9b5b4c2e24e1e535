"""The distributed engine: the same results, also when workers are killed in the middle."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killing_tasks import deadly
from made_studies import TINY_CELLS, content, tiny

import etastar
from etastar.errors import ConfigError, ExecutorError
from etastar.study.executors import make_executor
from etastar.study.runner import Progress, run_study


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with make_executor("dask", workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    study = tiny(tmp_path_factory.mktemp("reference") / "tiny.toml")
    run_study(study)
    return content(study.default_store)


def busy_process(cluster: Any) -> int:
    """A worker that has tasks; asked itself, one that is just dying would never answer."""
    there = cluster._client.cluster
    busy = {address for address, worker in there.scheduler.workers.items() if worker.processing}
    return next(n.pid for n in there.workers.values() if n.worker_address in busy)


def test_a_worker_that_is_killed_changes_nothing(
    cluster: Any, tmp_path: Path, reference: dict[str, list[Any]]
) -> None:
    assert (cluster.slots, cluster.threads_per_task) == (4, 1)
    study = tiny(tmp_path / "tiny.toml")
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed:
            killed.append(busy_process(cluster))
            os.kill(killed[0], signal.SIGKILL)

    summary = run_study(study, executor=cluster, on_progress=kill)
    assert len(killed) == 1
    assert (summary.failures, summary.done) == ({}, TINY_CELLS)
    assert content(study.default_store) == reference
    connection = sqlite3.connect(study.default_store)
    work = connection.execute("SELECT cell FROM work").fetchall()
    connection.close()
    assert len(work) == len(set(work)) == 2 * TINY_CELLS


@pytest.mark.slow  # two deaths in each of three attempts
def test_a_task_that_kills_its_workers_is_given_up_and_the_rest_completes(
    cluster: Any,
    tmp_path: Path,
    reference: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("etastar.study.runner.run_task", deadly)
    # twelve deaths take a minute: a worker that is started again imports PyTorch again
    monkeypatch.setattr(cluster._client.cluster.scheduler, "allowed_failures", 1)
    study = tiny(tmp_path / "tiny.toml")
    summary = run_study(study, executor=cluster)
    assert list(summary.failures) == ["24×2 κ=0.1 cross-entropy digits"]
    assert "KilledWorker" in summary.failures["24×2 κ=0.1 cross-entropy digits"]
    assert (summary.done, summary.failed) == (TINY_CELLS - 1, 1)
    monkeypatch.undo()
    mended = run_study(study, executor=cluster, retry_failed=True)
    assert (mended.failures, mended.done) == ({}, TINY_CELLS)
    assert content(study.default_store) == reference


SCHEDULER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    options = dict(threads_per_worker=1, dashboard_address="127.0.0.1:0", processes=False)
    with LocalCluster(n_workers=int(sys.argv[1]), protocol="tcp://", **options) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def start_scheduler(folder: Path, workers: int) -> subprocess.Popen[str]:
    script = folder / "scheduler.py"
    script.write_text(SCHEDULER)
    return subprocess.Popen(
        [sys.executable, str(script), str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_scheduler_that_is_killed_ends_the_run_and_condemns_no_cell(
    tmp_path: Path, reference: dict[str, list[Any]]
) -> None:
    study = tiny(tmp_path / "tiny.toml")
    with start_scheduler(tmp_path, workers=1) as scheduler:
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().strip()
        with (
            pytest.raises(ExecutorError, match=r"the executor is gone .*run the same command"),
            make_executor("dask", scheduler=address) as executor,
        ):
            run_study(study, executor=executor, on_progress=lambda _: scheduler.kill())
    found = content(study.default_store)
    assert found["failure"] == []
    assert found["seed"] + found["sharpness"]
    run_study(study)
    assert content(study.default_store) == reference


def test_two_clusters_on_one_machine_do_not_clash(cluster: Any) -> None:
    with make_executor("dask", workers=1) as other:  # a port in use would be a warning, an error
        assert other.submit(sum, [1, 2]).result() == 3
        assert cluster.submit(sum, [3, 4]).result() == 7


def test_a_cluster_that_cannot_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**options: Any) -> None:
        raise RuntimeError("Cluster failed to start: [Errno 24] Too many open files")

    monkeypatch.setattr("distributed.LocalCluster", failing)
    with (
        pytest.raises(
            ConfigError, match=r"`executor='dask'`: no cluster .*Too many open"
        ) as caught,
        make_executor("dask", workers=1),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_what_cannot_be_had_is_told(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter(**options: Any) -> None:
        with make_executor("dask", **options):
            pass

    monkeypatch.setattr("etastar.study.executors.dask_cluster.CONNECT_SECONDS", 1)
    with pytest.raises(ConfigError, match=r"`scheduler='tcp://127\.0\.0\.1:1'`: no scheduler with"):
        enter(scheduler="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="`scheduler='nonsense://x'`: no scheduler"):
        enter(scheduler="nonsense://x")
    with pytest.raises(ConfigError, match="`workers` is for a cluster of our own"):
        enter(scheduler="tcp://127.0.0.1:1", workers=2)
    with start_scheduler(tmp_path, workers=0) as scheduler:
        assert scheduler.stdout is not None
        with pytest.raises(ConfigError, match="no scheduler with a worker answered within 1 s"):
            enter(scheduler=scheduler.stdout.readline().strip())
        scheduler.kill()
    address = cluster._client.scheduler_info()["address"]
    enter(scheduler=address)
    monkeypatch.setattr(etastar, "__version__", "9.9")
    with pytest.raises(ConfigError, match=r"worker tcp://.* has etastar .*; expected 9\.9"):
        enter(scheduler=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"needs Dask .*: pip install 'etastar\[cluster\]'"):
        enter()
