"""Several studies at once on one device, in processes of their own: what a GPU needs to be busy.

    python benchmarks/studies.py studies/curves-*.toml --workers 8 --minutes 8 --out OUT

A network's search asks for a few trials at a time, too few for a large GPU; so several networks are
measured side by side. Stores go on where they are. After `--minutes` nothing new is started.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import multiprocessing
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from etastar.errors import EtaStarError
from etastar.study.runner import Progress, run_study
from etastar.study.specification import Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("studies"))
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ends = time.monotonic() + 60 * args.minutes
    with ProcessPoolExecutor(args.workers, mp_context=spawn) as pool:
        line = Line(pool, args.workers)
        threads = [
            threading.Thread(target=run, args=(path, args.out, Place(line, i), ends))
            for i, path in enumerate(args.studies)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and time.monotonic() < ends:
            time.sleep(1)
        line.close()
        for thread in threads:
            thread.join()


class Line:
    """Tasks that wait for a worker, those of the studies named first in front."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int) -> None:
        self.pool, self.workers, self.idle, self.closed = pool, workers, workers, False
        self.waiting: list[tuple[int, int, Future[Any], Any]] = []
        self.lock, self.number = threading.RLock(), itertools.count()

    def put(self, place: int, call: Any) -> Future[Any]:
        """Return the future of a call that waits for its turn."""
        future: Future[Any] = Future()
        with self.lock:
            heapq.heappush(self.waiting, (place, next(self.number), future, call))
        self.start()
        return future

    def start(self) -> None:
        """Give idle workers what is in front."""
        with self.lock:
            while self.idle and self.waiting and not self.closed:
                *_, future, call = heapq.heappop(self.waiting)
                self.idle -= 1
                self.pool.submit(*call).add_done_callback(partial(self.end, future))

    def end(self, future: Future[Any], done: Future[Any]) -> None:
        """Pass on what a worker returned."""
        with self.lock:
            self.idle += 1
        if done.exception():
            future.set_exception(done.exception())
        else:
            future.set_result(done.result())
        self.start()

    def close(self) -> None:
        """Start nothing more; give up what waits once all that runs has ended."""
        self.closed = True
        while self.idle < self.workers:
            time.sleep(0.1)
        time.sleep(2)  # for the studies to store it
        with self.lock:
            for *_, future, _ in self.waiting:
                future.cancel()
                future.set_running_or_notify_cancel()
            self.waiting = []


class Place:
    """A study's place in the line, as the executor of its run."""

    def __init__(self, line: Line, place: int) -> None:
        self.line, self.place, self.slots = line, place, 2 * line.workers

    def submit(self, function: Any, task: Any) -> Future[Any]:
        """See `etastar.study.executors.Executor`."""
        return self.line.put(self.place, (function, task))


def run(path: Path, out: Path, place: Place, ends: float) -> None:
    started, told = time.perf_counter(), Progress(path, 0)

    def follow(progress: Progress) -> None:
        nonlocal told
        told = progress

    try:
        hours = max(0.0001, (ends - time.monotonic()) / 3600)
        store = out / f"{path.stem}.sqlite"
        told = run_study(
            Study.from_file(path), store, executor=place, hours=hours, on_progress=follow
        )
    except EtaStarError as error:  # its time is over: what had ended is stored
        print(error)
    seconds = time.perf_counter() - started
    print(f"{path.stem}: {told.done} of {told.cells} networks, {seconds:.0f} s")
    for network, why in list(told.failures.items())[:3]:
        print(f"  {network}: {why}", flush=True)


if __name__ == "__main__":
    main()
