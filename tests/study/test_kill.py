"""SIGKILL at twenty random moments: every cell once, everything as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from made_studies import TINY, content, tiny

from etastar.study.plan import State
from etastar.study.runner import run_study
from etastar.study.store import Store

TEXT = TINY.replace("width = [16, 24]", "width = [8, 12]").replace(
    "input_lr_ratio = 0.1", "input_lr_ratio = [1.0, 0.1]"
)
KILLS = 20

NURSERY = """
import os, sys
import torch
from etastar.study import measuring, store
from etastar.study.runner import run_study
from etastar.study.specification import Study
import etastar.curvature, etastar.engines.stack, etastar.search

def tell(progress):
    os.write(1, b"." if not progress.latest else b"!")

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        store.FLUSH_EVERY = float(line)
        run_study(Study.from_file(sys.argv[1]), on_progress=tell)
        os._exit(0)
    os.write(1, b"%d\\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(1, b"\\n%d\\n" % status)
"""
"""Forks a process per run, so that importing torch is paid for once. It has not used torch itself.
"""


class Nursery:
    """Runs of one study in processes that may be killed."""

    def __init__(self, study: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(study)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(self, flush_every: float, events: float, delay: float) -> int:
        """One run, killed so many seconds after so many trials and tasks; its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{flush_every}\n".encode())
        pid = int(self.process.stdout.readline())
        seen = 0
        while seen < events:
            told = self.process.stdout.read(1)
            assert told, "the nursery is gone"
            if told == b"\n":
                return int(self.process.stdout.readline())
            seen += 1
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)  # its parent has not read its status yet: the id is still its
        self.process.stdout.readline()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        with self.process:
            pass


def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    whole = tiny(tmp_path / "whole.toml", TEXT)
    run_study(whole)
    expected = content(whole.default_store)
    study = tiny(tmp_path / "killed.toml", TEXT)
    rng = random.Random(0)
    nursery = Nursery(study.path)
    done: list[int] = []
    partly = 0
    try:
        for _ in range(KILLS):
            flush_every = rng.choice([0.0, 0.05, 1.0])
            status = nursery.run(flush_every, rng.randrange(16), rng.uniform(0, 0.02))
            assert status == signal.SIGKILL
            state = State.of_file(study.default_store)
            done.append(sum(map(len, state.done.values())))
            if study.default_store.exists() and done[-1]:
                with Store(study.default_store) as store:
                    partly += any(store.unfinished_trials(cell.id) for cell in study.cells)
        assert nursery.run(1.0, float("inf"), 0) == 0
    finally:
        nursery.close()
    assert done == sorted(done)
    assert 0 < done[-1] < len(expected["seed"]) + len(expected["sharpness"])
    assert partly  # searches were interrupted in the middle, too
    assert content(study.default_store) == expected
    connection = sqlite3.connect(study.default_store)
    finished = connection.execute("SELECT cell, seeds FROM work").fetchall()
    connection.close()
    assert len(finished) == len(set(finished)) == 2 * len(study.cells) == 16
