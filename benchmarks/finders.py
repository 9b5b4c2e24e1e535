r"""Ways to a learning rate, side by side: which train, how fast, how far, and what finding costs.

    pip install -c constraints.txt -r requirements-benchmarks.txt
    python benchmarks/finders.py --workers 2 --data-dir DATA
    python benchmarks/finders.py --report      # table, figure, docs/finders.md and README

A task is a model on a data set with an optimizer (`finders_tasks.SUITE`). Per task: etastar's
recommended rate, half of the η* of 0.1.0 (brackets of three seeds), pytorch-lr-finder, Lightning's
finder, and the best rates of a grid with factor √2. Per model and data set, whatever the optimizer
of the task: Prodigy, schedule-free, AdamW at 1e-3, SGD at 0.1. All are measured in the same way:
20 fresh seeds are trained through a whole budget in a plain PyTorch loop, evaluated 40 times.

Every job (a way on a task) runs on one thread and is one line of the file of results, appended as
it ends; a rerun goes on with what is missing. Jobs go by the importance of the way, longest first.
A job that raises is told and left out. `--minutes M` starts nothing new after M minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from finders_tasks import MILLISECONDS, SUITE, Problem
from finders_ways import OF_A_PROBLEM, OF_A_TASK, ORDER, threshold

RESULTS = Path(__file__).parent / "results" / "finders.jsonl"


@dataclass(frozen=True)
class Job:
    """A way on a problem, with the optimizer of the task if the way keeps that."""

    way: str
    problem: Problem
    optimizer: str | None

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others; another threshold or budget makes another row."""
        problem = {"problem": self.problem.name, **asdict(self.problem)}
        return {"way": self.way, "optimizer": self.optimizer, **problem}

    @property
    def name(self) -> str:
        """In words."""
        return ", ".join(filter(None, (self.way, self.problem.name, self.optimizer)))

    def row(self, deadline: float) -> dict[str, Any] | None:
        """Measure it, in a worker; None after the deadline."""
        if time.time() > deadline:
            return None
        torch.set_num_threads(1)
        began = time.process_time()
        if self.optimizer is None:
            found = OF_A_PROBLEM[self.way](self.problem)
        else:
            found = OF_A_TASK[self.way](self.problem, self.optimizer)
        seconds = round(time.process_time() - began, 2)
        return self.key | {"torch": torch.__version__, "seconds": seconds} | found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing new after these")
    parser.add_argument("--data-dir", help="with mnist/ and fashion-mnist/, or ETASTAR_DATA_DIR")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines, added to")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="problems with all these words")
    parser.add_argument("--ways", nargs="+", choices=ORDER, metavar="WAY", help=", ".join(ORDER))
    parser.add_argument("--thresholds", action="store_true", help="print the thresholds anew")
    parser.add_argument("--report", action="store_true", help="write tables and figure, no runs")
    args = parser.parse_args()
    if args.data_dir:
        os.environ["ETASTAR_DATA_DIR"] = args.data_dir
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    torch.set_num_threads(1)
    if args.report:
        from finders_report import report

        report(rows(args.results))
    elif args.thresholds:
        for problem in {job.problem: None for job in jobs(args)}:
            print(f"{problem.name}: {threshold(problem, SUITE[problem]):.2f}", flush=True)
    else:
        measure(args)


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Yield what was asked for, by importance of the way, then longest first."""
    problems = [p for p in SUITE if all(word in p.name for word in args.only or ())]
    if not os.environ.get("ETASTAR_DATA_DIR"):
        problems = [p for p in problems if "mnist" not in p.data]
        print("mnist and fashion-mnist are left out: set --data-dir to the folder that holds them.")
    problems.sort(key=lambda p: -p.budget * MILLISECONDS[p.model])
    for way in args.ways or ORDER:
        for problem in problems:
            for optimizer in SUITE[problem] if way in OF_A_TASK else (None,):
                yield Job(way, problem, optimizer)


def rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows; a last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def measure(args: argparse.Namespace) -> None:
    """Run what the file lacks, in a pool of processes, and append it."""
    began, old, asked = time.time(), rows(args.results), list(jobs(args))
    if args.results.exists():  # without a last line that was cut off
        args.results.write_text(re.sub(r"[^\n]+\Z", "", args.results.read_text()))
    missing = [job for job in asked if not any(job.key.items() <= row.items() for row in old)]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with (
        args.results.open("a") as file,
        ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool,
    ):
        futures = {pool.submit(job.row, began + 60 * args.minutes): job for job in missing}
        for future in as_completed(futures):
            name, error = futures[future].name, future.exception()
            if error:
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            elif row := future.result():
                file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")
                file.flush()
                written += 1
                trained = sum(run["step"] is not None for run in row["runs"])
                print(
                    f"{time.time() - began:.0f} s, {written} of {len(missing)}: {name}: "
                    f"{trained} of {len(row['runs'])} train, {row['seconds']:.0f} s",
                    flush=True,
                )
    print(f"{len(asked) - len(missing) + written} of {len(asked)} jobs are in {args.results}.")


if __name__ == "__main__":
    main()
