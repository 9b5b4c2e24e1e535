"""Trials kept in a store and trained by an executor: the same result whatever ends a run."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import etastar
from etastar.cli import main
from etastar.errors import ConfigError, ExecutorError, StoreError
from etastar.problem.trial import Outcome, Trial
from etastar.result import Result
from etastar.search.curve import Curve
from etastar.study.store import StoreWriter

DIGITS = etastar.load("digits")
TRAIN = DIGITS.x_train[:640], DIGITS.y_train[:640]
VAL = DIGITS.x_val[:200], DIGITS.y_val[:200]
OPTIONS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "threshold": 0.8,
    "trials": 8,
    "confirm": 2,
    "progress": False,
}
ALWAYS_OTHER = ("cost", "environment", "engine_reason")
"""Keys of a result that tell of the run."""


def build(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))


def wider(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 14), nn.Tanh(), nn.Linear(14, 10))


def measured(model: Any = build, **options: Any) -> Result:
    return etastar.maximal_lr(model, TRAIN, VAL, **(OPTIONS | options))


def answer(found: Result) -> dict[str, Any]:
    return {k: v for k, v in found.to_dict().items() if k not in ALWAYS_OTHER}


def kept(store: Path) -> dict[str, int]:
    """Trials by the hash of what they depend on."""
    query = "SELECT id, count(lr) FROM specification LEFT JOIN run ON key = cell GROUP BY id"
    if not store.exists():
        return {}
    with closing(sqlite3.connect(store)) as connection, suppress(sqlite3.OperationalError):
        return dict(connection.execute(query).fetchall())
    return {}  # it is being made


@pytest.fixture(scope="module")
def whole() -> Result:
    return measured()


# kept


def test_a_store_goes_on_and_changes_nothing(whole: Result, tmp_path: Path) -> None:
    store = tmp_path / "trials.sqlite"
    measured(store=store, trials=4)
    (few,) = kept(store).values()
    assert answer(measured(store=store)) == answer(whole)
    (more,) = kept(store).values()
    assert few < more
    measured(store=store)
    assert list(kept(store).values()) == [more]


def test_seeds_with_other_orders_are_kept_apart(tmp_path: Path) -> None:
    store = tmp_path / "trials.sqlite"
    options = {"seeds": 2, "trials": None, "confirm": None, "store": store}
    first = measured(**options)
    trials = sum(kept(store).values())
    again = measured(**options)
    assert answer(again) == answer(first)
    assert trials == sum(kept(store).values()) >= len(first.trials)


def test_another_model_data_or_setting_stands_beside(whole: Result, tmp_path: Path) -> None:
    store = tmp_path / "trials.sqlite"
    measured(store=store)
    for options in ({"model": wider}, {"epochs": 2}, {"threshold": 0.75}):
        before = len(kept(store))
        measured(store=store, **options)
        assert len(kept(store)) == before + 1, options
    other = (TRAIN[0] + 0.01, TRAIN[1])
    etastar.maximal_lr(build, other, VAL, store=store, **OPTIONS)
    assert len(kept(store)) == 5
    assert answer(measured(store=store)) == answer(whole)


SCRIPT = """
import json, sys, time
import torch, etastar
from torch import nn
from tests.test_places import build, TRAIN, VAL, OPTIONS, answer

def step(model, batch):
    time.sleep({pause})
    return {loss}nn.functional.cross_entropy(model(batch[0]), batch[1])

if __name__ == "__main__":
    found = etastar.maximal_lr(build, TRAIN, VAL, step_fn=step, store={store!r}, **OPTIONS)
    print(json.dumps(answer(found)))
"""


def script(folder: Path, store: Path | None, loss: str = "", pause: float = 0.0005) -> list[str]:
    file = folder / "train.py"
    text = SCRIPT.format(loss=loss, pause=pause, store=store and str(store))
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return [sys.executable, "-W", "ignore", str(file)]


def ran_here(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints; its code is new each time, as in a process, and PyTorch is there."""
    with warnings.catch_warnings(action="ignore"):
        runpy.run_path(command[-1], run_name="__main__")
    return capsys.readouterr().out


def environment() -> dict[str, str]:
    root = Path(__file__).parent.parent
    return os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("file", ["/tmp/ipykernel_1/{}.py", "<ipython-input-{}-ab>"])
def test_changed_code_of_a_cell_is_refused_and_named(file: str, tmp_path: Path) -> None:
    def built(number: int, hidden: int) -> Any:
        names: dict[str, Any] = {"__name__": "__main__", "nn": nn}
        model = f"nn.Sequential(nn.Linear(64, {hidden}), nn.Linear({hidden}, 10))"
        text = f"def build(seed):\n return {model}"
        exec(compile(text, file.format(number), "exec"), names)
        return names["build"]

    few: dict[str, Any] = {"store": tmp_path / "trials.sqlite", "trials": 1, "confirm": 0}
    with _quiet():
        measured(built(1, 4), **few)
        measured(built(2, 4), **few)
        assert len(kept(few["store"])) == 1
        with pytest.raises(StoreError, match=r"__main__\.build was changed since"):
            measured(built(3, 5), **few)


def test_changed_code_under_the_same_name_is_refused_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "trials.sqlite"
    ran_here(script(tmp_path, store, pause=0), capsys)
    before = kept(store)
    with pytest.raises(StoreError) as changed:
        ran_here(script(tmp_path, store, loss="2 * ", pause=0), capsys)
    assert "train.step" in str(changed.value)
    assert "store of its own" in str(changed.value)
    assert "\n" not in str(changed.value)
    assert kept(store) == before


def test_killed_at_random_moments_it_gives_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = ran_here(script(tmp_path, None), capsys)
    assert expected
    store, moments = tmp_path / "trials.sqlite", random.Random(3)
    command, ended = script(tmp_path, store), 0
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        deadline = time.monotonic() + 60
        wanted = ended + moments.randint(1, 3)
        while process.poll() is None and time.monotonic() < deadline:
            now = sum(kept(store).values())
            if now >= wanted:
                break
            time.sleep(moments.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = sum(kept(store).values())
        assert now >= ended  # no trial that had ended is lost
        ended = now
    assert ran_here(command, capsys) == expected
    assert sum(kept(store).values()) > ended > 0


def test_a_warmup_is_kept_too(tmp_path: Path) -> None:
    store = tmp_path / "trials.sqlite"
    how: dict[str, Any] = {"threshold": 0.8, "epochs": 3, "batch_size": 32, "progress": False}
    how |= {"target_lr": 2.5, "ladder": (0, 10), "seeds": 1, "resolution": 0.5}
    with _quiet():
        expected = etastar.warmup(build, TRAIN, VAL, **how)
        found = etastar.warmup(build, TRAIN, VAL, store=store, **how)
        trials = kept(store)
        again = etastar.warmup(build, TRAIN, VAL, store=store, **how)
    assert found == again == expected
    assert kept(store) == trials
    assert len(trials) > 1
    assert {one.cost.trials for one in (expected, found, again)} == {sum(trials.values())}
    assert found.at_start is not None
    budget, along = found.at_start.settings["max_steps"], found.ladder[-1].step
    assert along == 10
    with StoreWriter(store) as there:
        outcomes = [outcome for key in trials for outcome in there.runs(key).values()]
    steps = sum(outcome.steps_taken(budget) for outcome in outcomes) + along
    assert {one.cost.steps for one in (expected, found, again)} == {steps}


def test_a_warmup_goes_the_road_of_every_entry() -> None:
    how: dict[str, Any] = {"threshold": 0.8, "max_steps": 30, "batch_size": 10**6, "seeds": 2}
    how |= {"resolution": 0.5, "progress": False}
    with _quiet():
        found = etastar.warmup(build, TRAIN, VAL, target_lr=9.0, ladder=(0, 10), **how)
        bracketed = etastar.maximal_lr(build, TRAIN, VAL, **how)
    assert found.at_start is not None
    assert found.at_start.seeds == bracketed.seeds == found.ladder[0].seeds
    assert found.at_start.settings == bracketed.settings
    assert found.at_start.environment == bracketed.environment
    assert any("every step takes all of them" in note for note in found.notes)
    assert found.warnings == found.notes
    assert "budget (`max_steps`)" in found.notes[0]
    own, record = json.loads(found.to_json()), found.at_start.to_dict()
    assert own == found.to_dict()
    assert own.keys() > record.keys()
    differ = {name for name in record if own[name] != record[name]}
    assert differ == {"status", "cost", "notes", "warnings"}
    assert own["cost"]["steps"] == found.cost["steps"] > found.at_start.cost.steps
    for name in ("lr", "bracket", "interval", "seeds", "success", "trials", "history", "settings"):
        assert getattr(found, name) == getattr(found.at_start, name)
    assert pickle.loads(pickle.dumps(found)) == copy.copy(found) == found
    with pytest.raises(AttributeError, match="has no attribute 'lrs'"):
        _ = found.lrs


# ended early


def test_ctrl_c_returns_what_is_known(tmp_path: Path) -> None:
    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(0.01):
            if sum(kept(store).values()) > 5:
                os.kill(os.getpid(), signal.SIGINT)
                break

    def slow(model: nn.Module, batch: Any) -> torch.Tensor:
        time.sleep(0.001)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    store = tmp_path / "trials.sqlite"
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with _quiet():
            found = measured(step_fn=slow, store=store, trials=60, precision=0.01)
    finally:
        over.set()
        interrupter.join()
    assert found.interrupted
    assert found.to_dict()["interrupted"] is True
    assert found.notes[0].startswith("interrupted by Ctrl-C")
    assert "interrupted by Ctrl-C" in str(found)
    assert found.cost.steps > 0


def test_ctrl_c_in_the_final_computation_is_marked(
    whole: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = Curve.result

    def interrupted(curve: Curve) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return computed(curve)

    monkeypatch.setattr(Curve, "result", interrupted)
    found = measured()
    assert found.interrupted
    assert found.notes[0].startswith("interrupted by Ctrl-C")
    assert found.trials == whole.trials
    assert found.eta_star == whole.eta_star
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Counting:
    """An executor that keeps the trials it was sent, with their outcomes to come."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool, self.sent = pool, list[tuple[Trial, Future[Outcome]]]()

    def submit(self, fn: Any, spec: Any) -> Future[Outcome]:
        self.sent.append((spec[3], self.pool.submit(fn, spec)))
        return self.sent[-1][1]


def test_an_executor_takes_the_runs_that_find_a_threshold_and_all_are_paid() -> None:
    options: dict[str, Any] = {"threshold": "auto", "trials": 4, "confirm": 0, "start_lr": 0.01}
    with ProcessPoolExecutor(1) as pool, _quiet():
        there = Counting(pool)
        found = measured(executor=there, **options)
        assert answer(found) == answer(measured(**options))
    assert len([trial for trial, _ in there.sent if trial.steps]) >= 2 * 5  # threshold, location
    budget = OPTIONS["epochs"] * 20
    steps = sum(ran.result().steps_taken(trial.steps or budget) for trial, ran in there.sent)
    assert found.cost.steps == steps
    assert found.cost.budgets == pytest.approx(steps / budget, rel=1e-12)


def test_minutes_end_the_search_of_a_threshold() -> None:
    with pytest.raises(ConfigError, match=r"`minutes=0.001` have passed before `threshold='auto'`"):
        measured(minutes=0.001, threshold="auto", epochs=50)


@pytest.mark.parametrize("place", [{"minutes": 1}, {"executor": None}, {"resources": {"GPU": 1}}])
def test_a_warmup_says_what_has_no_effect(place: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(place))}` has no effect on a warm-up"):
        etastar.warmup(build, TRAIN, VAL, target_lr=1.0, **place)


def test_minutes_end_with_what_is_known() -> None:
    began = time.monotonic()
    with _quiet():
        found = measured(minutes=0.03, trials=400, precision=0.02, engine="loop", confirm=0)
    assert time.monotonic() - began < 20
    assert found.interrupted
    assert "`minutes=0.03` have passed" in found.notes[0]
    with pytest.raises(ConfigError, match="minutes must be finite and above 0"):
        measured(minutes=0)


def _quiet() -> Any:
    return warnings.catch_warnings(action="ignore", category=etastar.NotBracketedWarning)


# elsewhere


def test_any_number_of_workers_gives_the_same_result(whole: Result) -> None:
    for number in (1, 2):
        with ProcessPoolExecutor(number) as executor:
            assert answer(measured(executor=executor)) == answer(whole)


class Unlike:
    """A future that is none of Python's own."""

    def __init__(self, future: Future[Outcome]) -> None:
        self.done, self.result, self.cancel = future.done, future.result, future.cancel


def test_futures_of_another_kind_serve_and_what_is_none_is_refused(whole: Result) -> None:
    class Mine:
        def submit(self, fn: Any, spec: Any) -> Any:
            return Unlike(pool.submit(fn, spec))

    class Wrong:
        def submit(self, fn: Any, spec: Any) -> Any:
            return 4

    with ProcessPoolExecutor(1) as pool:
        assert answer(measured(executor=Mine())) == answer(whole)
    with pytest.raises(ConfigError, match=r"future with done\(\), result\(\) and cancel.*got int"):
        measured(executor=Wrong())


def test_threads_are_refused() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(ConfigError, match="ThreadPoolExecutor runs"):
        measured(executor=pool)

    class Mine:
        pool = ThreadPoolExecutor(1)

        def submit(self, fn: Any, spec: Any) -> Any:
            return self.pool.submit(fn, spec)

    with pytest.raises(ConfigError, match="threads of one process"):
        measured(executor=Mine())


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"object with submit\(fn, spec\)"):
        measured(executor=4)
    with pytest.raises(ConfigError, match="`resources` has no effect"):
        measured(resources={"GPU": 1})
    with ProcessPoolExecutor(1) as pool, pytest.raises(ConfigError, match="needs Dask's client"):
        measured(executor=pool, resources={"GPU": 1})


def test_what_cannot_be_pickled_is_refused_by_name() -> None:
    lock = threading.Lock()

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        with lock:
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(ConfigError, match="`executor`: step_fn cannot be pickled"),
    ):
        measured(step_fn=step, executor=pool)


def dying(model: nn.Module, batch: Any) -> torch.Tensor:
    """A step whose process dies after so many; the environment is no state that trials reset."""
    left = os.environ.get("STEPS_LEFT")
    if left is not None and os.environ["NOT_IN"] != str(os.getpid()):
        os.environ["STEPS_LEFT"] = str(int(left) - 1)
        if int(left) <= 0:
            os._exit(1)
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_of_a_broken_executor_the_store_keeps_what_had_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "trials.sqlite"
    monkeypatch.setenv("NOT_IN", str(os.getpid()))
    monkeypatch.setenv("STEPS_LEFT", "120")
    with ProcessPoolExecutor(1) as pool, pytest.raises(ExecutorError, match="executor is gone"):
        measured(step_fn=dying, executor=pool, store=store)
    assert sum(kept(store).values()) > 0
    monkeypatch.delenv("STEPS_LEFT")
    assert answer(measured(step_fn=dying, store=store)) == answer(measured(step_fn=dying))


@contextmanager
def dask_cluster(workers: int) -> Iterator[Any]:
    import dask  # not above: programs of these tests import this module, too
    import distributed

    how = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    # the cluster would give up a worker that happens to be starting 15 s after its last death
    patient = {"distributed.deploy.lost-worker-timeout": "1 hour"}
    with dask.config.set(patient), distributed.LocalCluster(n_workers=workers, **how) as cluster:
        yield cluster


def test_dask_repeats_what_a_killed_worker_trained(tmp_path: Path) -> None:
    store = tmp_path / "trials.sqlite"
    expected = answer(measured(step_fn=sleepy))
    with dask_cluster(2) as cluster, cluster.get_client() as client:
        moments = random.Random(5)
        over = threading.Event()

        def kill() -> None:
            for _ in range(2):
                if over.wait(moments.uniform(1, 3)):
                    return
                # asking the workers themselves would wait for ever for one that is just dying, and
                # a nanny does not replace one that dies while it is still starting
                nannies = cluster.workers.values()
                pids = [nanny.pid for nanny in nannies if nanny.status.name == "running"]
                if pids:
                    os.kill(moments.choice(pids), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            found = measured(step_fn=sleepy, executor=client, store=store)
        finally:
            over.set()
            killer.join()
    assert answer(found) == expected
    assert sum(kept(store).values()) >= len(found.trials)


def sleepy(model: nn.Module, batch: Any) -> torch.Tensor:
    time.sleep(0.005)
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_the_command_keeps_trials_and_takes_dask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])  # of the workers
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build(seed):\n    return nn.Linear(64, 10)\n",
        encoding="utf-8",
    )
    base = ["model", "net.py:build", "--dataset", "digits"]
    base += ["--trials", "8", "--confirm", "0", "--epochs", "3", "--threshold", "0.8"]
    base += ["--store", "trials.sqlite", "--json", "-"]

    def called(*more: str) -> dict[str, Any]:
        code, told = main([*base, *more]), capsys.readouterr()
        assert code == 0, told.err
        return dict(json.loads(told.out))

    there = called("--executor", "dask", "--workers", "1")
    count = kept(tmp_path / "trials.sqlite")
    here = called()
    assert kept(tmp_path / "trials.sqlite") == count
    with dask_cluster(1) as cluster:
        address = cluster.scheduler_address
        joined = called("--executor", "dask", "--scheduler", address, "--store", "joined.sqlite")
        client = cluster.get_client()
        with pytest.raises(ConfigError, match=r"must map names to numbers.*'x'"):
            measured(executor=client, resources={"GPU": "x"})
        client.close()
    with pytest.raises(ExecutorError, match="executor is gone"):
        measured(executor=client)
    assert kept(tmp_path / "joined.sqlite") == count
    assert there["trials"] == here["trials"] == joined["trials"]
    assert there["lr"] == here["lr"] == joined["lr"]
    early = called("--minutes", "0.0001", "--trials", "40")
    assert early["interrupted"] is True


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```py\n(.*?)```", page, re.S)
    head = "import etastar\nfrom tests.test_places import build, TRAIN as train, VAL as val\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(etastar, "maximal_lr", partial(etastar.maximal_lr, trials=4))
    for number, block in enumerate(blocks):
        file = tmp_path / f"page{number}.py"
        file.write_text(head + block, encoding="utf-8")
        with warnings.catch_warnings(action="ignore"):
            runpy.run_path(file.name, run_name="__main__")
