"""The run killed 20 times, and its workers 20 times: is the result the same, is any trial lost?

    OMP_NUM_THREADS=1 python benchmarks/kills.py --json benchmarks/results/kills.json

A measurement of a small CNN on digits with a store is ended by SIGKILL after a random time of up to
half of what it takes unbroken, again and again, until it has ended by itself; then anew with
another store, until 20 kills have hit. Before each kill and after the next start the store is read:
a row that was there must be there. Of a Dask cluster of two that trains, a worker is killed after
up to twice that time, again and again, while measurements begin and end. Every measurement that
ends must give the answer of the unbroken one, digit for digit. What the file has already, of the
run or of workers, is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import etastar

KILLS = 20
ALWAYS_OTHER = ("cost", "environment", "engine_reason")
"""Keys of a result that tell of the run."""


def build(seed: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


def measured(store: Path | None = None, **options: Any) -> str:
    """Measure; return what does not depend on the machine, as JSON."""
    found = etastar.maximal_lr(
        build,
        etastar.load("digits"),
        threshold=0.8,
        epochs=3,
        batch_size=32,
        trials=60,
        progress=False,
        store=store,
        **options,
    )
    return json.dumps({k: v for k, v in found.to_dict().items() if k not in ALWAYS_OTHER})


def rows(store: Path) -> set[tuple[Any, ...]]:
    """Every trial that the store holds; none where it is still being made."""
    if not store.exists():
        return set()
    with (
        closing(sqlite3.connect(store, timeout=60)) as connection,
        suppress(sqlite3.OperationalError),
    ):
        return set(connection.execute("SELECT * FROM run"))
    return set()


def killed_runs(moments: random.Random, folder: Path, expected: str, seconds: float) -> dict:
    """Kill the run; tell of kills, measurements that ended, wrong answers and lost rows."""
    told = {"kills": 0, "measurements": 0, "other answers": 0, "rows before kills": [], "lost": 0}
    while told["kills"] < KILLS:
        store, known = folder / f"{told['measurements']}.sqlite", set()
        while True:
            command = [sys.executable, "-W", "ignore", __file__, "--store", str(store)]
            run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                out, _ = run.communicate(timeout=moments.uniform(0, seconds / 2))
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.communicate()
                told["kills"] += 1
                told["rows before kills"].append(len(known))
            now = rows(store)
            told["lost"] += len(known - now)
            known = now
            if run.returncode == 0:
                break
            if told["kills"] >= KILLS:  # the last one is left alone
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                told["lost"] += len(known - rows(store))
                break
        told["measurements"] += 1
        told["other answers"] += out.strip() != expected
    return told


def killed_workers(moments: random.Random, folder: Path, expected: str, seconds: float) -> dict:
    """Kill workers of a Dask cluster that repeats their trials."""
    import dask
    import distributed

    told = {"kills": 0, "measurements": 0, "other answers": 0, "lost": 0}
    over = threading.Event()
    # the cluster would give up a worker that happens to be starting 15 s after its last death
    patient = {"distributed.deploy.lost-worker-timeout": "1 hour"}
    with (
        dask.config.set(patient),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill() -> None:
            while told["kills"] < KILLS and not over.wait(moments.uniform(0, 2 * seconds)):
                with suppress(OSError, IndexError):
                    # a nanny does not replace a worker that dies while it is still starting
                    up = [n for n in cluster.workers.values() if n.status.name == "running"]
                    os.kill(moments.choice(up).pid, signal.SIGKILL)
                    told["kills"] += 1
                    print(told, flush=True)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while told["kills"] < KILLS:
                store = folder / f"workers-{told['measurements']}.sqlite"
                told["other answers"] += measured(store, executor=client) != expected
                found = len(rows(store))
                told["lost"] += max(0, len(json.loads(expected)["trials"]) - found)
                told["measurements"] += 1
        finally:
            over.set()
            killer.join()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path, help="measure with this store, and print the answer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.store:
        print(measured(args.store))
        return
    moments = random.Random(args.seed)
    told = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--store", f"{folder}/unbroken.sqlite"]
        began = time.perf_counter()
        expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds = time.perf_counter() - began
        for name, killed in (("the run", killed_runs), ("workers", killed_workers)):
            if name not in told:
                told[name] = killed(moments, Path(folder), expected.strip(), seconds)
                if args.json:
                    args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
