"""Make tables of outcomes: what every seed does at every rate, task by task.

    python benchmarks/tables.py benchmarks/tables --data-dir DATA

A table NAME.npz is what `benchmarks/replay.py` reads (its docstring has the format); its rows lie
on the lattice of rates that a measurement asks: close to each other over the edges of the window,
farther apart between and outside of them. A few seeds at far rates say where the edges are. Seeds
are trained a chunk at a time and each chunk is kept, so a run that was killed goes on where it was.
NAME.double.npz has the same starts and rates with twice the budget: only runs that were short are
trained again, since all others end as before; its `final_metric` is not a number but for those.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from replay import CAUSES, KINDS
from tables_tasks import TASKS, Task

from etastar.engines import Engine, StackEngine, choose, train_all
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial
from etastar.search.curve import LOCATING
from etastar.search.curve_options import NEIGHBOURS
from etastar.search.lattice import Lattice

SCOUTS, STRIDE = 10, 8
"""Seeds that look for the edges, at every so many points of the lattice."""
BETWEEN, OUTSIDE, ROWS_OUTSIDE = 6, 16, 2
"""Lattice steps between rows inside the window and outside of it, and how many rows those are."""
CHUNK = 50
"""Seeds that are trained before they are kept."""
SLOTS = 64
"""Replicas of a stack: more than the engine takes, which need not be idle at the end of a chunk."""

Arrays = dict[str, np.ndarray]


def rows_of(problem: Problem, engine: Engine, lattice: Lattice, fine: int) -> list[int]:
    """Lattice points of a table's rows, from what a few seeds do at far rates."""
    points = list(range(0, lattice.cells + 1, STRIDE))
    trials = {i: [Trial.of(seed, lattice.rate(i)) for seed in range(SCOUTS)] for i in points}
    found = train_all(engine, problem, [trial for each in trials.values() for trial in each])
    p = [sum(found[t].kind == "trained" for t in trials[i]) / SCOUTS for i in points]
    print(
        "  scouted",
        [f"{lattice.rate(i):.2g}: {x:.1f}" for i, x in zip(points, p, strict=True) if x],
    )
    some = [k for k, x in enumerate(p) if x > 0]
    full = [k for k, x in enumerate(p) if x >= max(p) - 0.05]
    slow, low = points[max(some[0] - 1, 0)], points[full[0]]
    high, top = points[full[-1]], points[min(some[-1] + 1, len(p) - 1)]
    fast_edge, slow_edge = max(high - STRIDE, 0), max(low - STRIDE, 0)
    between, outside = BETWEEN * min(fine, 2), [OUTSIDE * k for k in range(1, ROWS_OUTSIDE + 1)]
    rows = [
        *(slow - distance for distance in outside),
        *range(slow, slow_edge, between),
        *range(slow_edge, low, 3 * fine),
        *range(low, fast_edge, between),
        *range(fast_edge, top + 1, fine),
        *(top + distance for distance in outside),
    ]
    return sorted({i for i in rows if 0 <= i <= lattice.cells})


def trained(
    problem: Problem, engine: Engine, rates: Sequence[float], seeds: Sequence[int]
) -> Arrays:
    """Train every seed at every rate to the end of the budget; the columns of a table."""
    part = max(1, math.ceil(LOCATING * problem.max_steps))
    trials = [Trial(Start(s, s), lr, to_end=True) for lr in rates for s in seeds]
    found = train_all(engine, problem, trials)
    alive = [t for t in trials if not gone(found[t], part)]
    partial = train_all(engine, problem, [Trial(t.start, t.lr, part) for t in alive])
    early = {(t.lr, t.seed): o.last_loss for t, o in partial.items() if o.kind == "partial"}
    outcomes = [found[t] for t in trials]
    ended = [o.kind == "diverged" or o.given_up is not None or o.metric is None for o in outcomes]
    losses = [
        [early.get((t.lr, t.seed), math.nan), math.nan if end else o.last_loss]
        for t, o, end in zip(trials, outcomes, ended, strict=True)
    ]
    columns: dict[str, tuple[Any, Any]] = {
        "kind": (np.uint8, [KINDS.index(o.kind) for o in outcomes]),
        "cause": (np.uint8, [CAUSES.index(o.cause) for o in outcomes]),
        "step": (np.int16, [o.step for o in outcomes]),
        "given_up": (np.int16, [taken(o, problem.max_steps) for o in outcomes]),
        "first_loss": (
            np.float32,
            [math.nan if o.first_loss is None else o.first_loss for o in outcomes],
        ),
        "losses": (np.float16, np.clip(np.array(losses, dtype=float), -6e4, 6e4)),
        "final_metric": (
            np.float32,
            [math.nan if e else o.metric for o, e in zip(outcomes, ended, strict=True)],
        ),
    }
    shape = len(rates), len(seeds)
    table = {
        name: np.array(values, dtype=kind).reshape(*shape, *np.shape(values)[1:])
        for name, (kind, values) in columns.items()
    }
    return table | {"seeds": np.array(seeds), "loss_steps": np.array([part, problem.max_steps])}


def gone(outcome: Outcome, step: int) -> bool:
    """Whether a run had ended, without training, by so many steps."""
    return outcome.kind in ("diverged", "dead") and outcome.step <= step


def taken(outcome: Outcome, max_steps: int) -> int:
    """Steps of a run that ends when it is decided, from the same run to the end."""
    return outcome.step if outcome.kind == "trained" else outcome.steps_taken(max_steps)


def again(problem: Problem, engine: Engine, table: Arrays, seeds: Sequence[int]) -> Arrays:
    """Train the short runs of some columns of a table with a longer budget."""
    at = [int(np.flatnonzero(table["seeds"] == seed)[0]) for seed in seeds]
    fields = ("kind", "cause", "step", "given_up", "first_loss", "losses", "final_metric")
    new = {name: table[name][:, at].copy() for name in fields}
    hopeless = new["given_up"] < table["max_steps"]
    short = (new["kind"] == KINDS.index("short")) & ~hopeless
    cells = {
        Trial(Start(seeds[c], seeds[c]), float(table["rates"][r])): (r, c)
        for r, c in np.argwhere(short)
    }
    new["final_metric"][~short] = np.nan
    for name in ("step", "given_up"):
        new[name][(new["kind"] == KINDS.index("short")) & hopeless & (name == "step")] = (
            problem.max_steps
        )
    for trial, outcome in train_all(engine, problem, cells).items():
        where = cells[trial]
        new["kind"][where] = KINDS.index(outcome.kind)
        new["cause"][where] = CAUSES.index(outcome.cause)
        new["step"][where] = outcome.step
        new["given_up"][where] = outcome.steps_taken(problem.max_steps)
        new["final_metric"][where] = math.nan if outcome.metric is None else outcome.metric
    return new | {"seeds": np.array(seeds), "loss_steps": table["loss_steps"]}


def save(path: Path, table: Arrays) -> None:
    """Write a table whole or not at all."""
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez_compressed(file, **table)  # type: ignore[arg-type]
    os.replace(part, path)


def joined(one: Arrays, other: Arrays) -> Arrays:
    """A table with the columns of both."""
    wide = {k: np.concatenate([one[k], other[k]], axis=1) for k in other if np.ndim(other[k]) > 1}
    return {**one, **wide, "seeds": np.concatenate([one["seeds"], other["seeds"]])}


def load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def make(
    name: str, task: Task, folder: Path, data_dir: str | None, seeds: int, budgets: int
) -> None:
    """Make, or go on with, a table."""
    problem = task.make(data_dir, budgets)
    engine, _ = choose(problem, threads=1)
    if isinstance(engine, StackEngine):
        engine = StackEngine(1, slots=SLOTS)
    single = folder / f"{name}.npz"
    path = single if budgets == 1 else folder / f"{name}.double.npz"
    lattice = Lattice(task.options["start_lr"], task.options["end_lr"], NEIGHBOURS)
    table = load(path) if path.is_file() else None
    told = {
        "max_steps": np.array(problem.max_steps),
        "eval_every": np.array(problem.eval_every),
        "threshold": np.array(problem.objective.threshold),
        "task": np.array(json.dumps({"name": name, **task.options})),
    }
    if table is not None and any(table[k] != told[k] for k in told):
        raise SystemExit(f"{path} is of another task: remove it to make it anew.")
    if budgets == 1 and table is None:
        rates = [lattice.rate(i) for i in rows_of(problem, engine, lattice, task.fine)]
    else:
        rates = load(single)["rates"].tolist()
    known = 0 if table is None else len(table["seeds"])
    most = min(seeds, task.seeds if budgets == 1 else task.doubled)
    for first in range(known, most, CHUNK):
        some, began = range(first, min(first + CHUNK, most)), time.perf_counter()
        if budgets == 1:
            columns = trained(problem, engine, rates, some)
        else:
            columns = again(problem, engine, load(single), some)
        fresh = columns | told | {"rates": np.array(rates)}
        table = fresh if table is None else joined(table, fresh)
        save(path, table)
        print(
            f"  {path.name}: {len(rates)} rates, {len(table['seeds'])} seeds, "
            f"{path.stat().st_size / 1024:.0f} KiB, {time.perf_counter() - began:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", default=os.environ.get("ETASTAR_DATA_DIR"))
    parser.add_argument("--only", nargs="+", choices=TASKS, help="names of tasks")
    parser.add_argument("--seeds", type=int, default=10**6, help="no more than so many for now")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, task in TASKS.items():
        if args.only and name not in args.only:
            continue
        print(name, flush=True)
        for budgets in (1, 2) if task.doubled else (1,):
            make(name, task, args.folder, args.data_dir, args.seeds, budgets)


if __name__ == "__main__":
    main()
