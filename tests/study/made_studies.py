"""Studies that take a second, and results that took none."""

from __future__ import annotations

import math
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from etastar.cli.output import write_results
from etastar.problem.trial import Outcome, Trial
from etastar.search.base import SeedResult
from etastar.study.cell import Cell
from etastar.study.export import FORMATS, TABLES, seed_columns
from etastar.study.measuring import Task
from etastar.study.results import Results, SharpnessRow
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

TINY_BASE = """
[base]
dataset = "digits"
train_size = 300
val_size = 100
max_steps = 40
threshold = 0.5
batch_size = 32
resolution = 0.5
threads = 1
"""

TINY = f"""
sharpness = {{ samples = 50 }}
{TINY_BASE}
[grid]
width = [16, 24]
depth = [1, 2]
input_lr_ratio = 0.1
seeds = 3
"""
"""Four cells; less than a second in all."""

TINY_CELLS = 4


def tiny(path: Path, text: str = TINY) -> Study:
    """A study file on the disk, read back."""
    path.write_text(text, encoding="utf-8")
    return Study.from_file(path)


RESOLVED: dict[str, Any] = {
    "recipe": {"criterion": {"max_steps": 5, "eval_every": 1}, "batch_size": "full"},
    "inputs": 4,
    "classes": 3,
    "data": {"train_size": 10, "val_size": 3},
}
"""What the tables read of a resolved specification."""


def made_lr(cell: Cell, seeds: range | None = None, scale: float = 1.0) -> Results:
    """A result as a search gives it, without a search: brackets near 2/sqrt(n·L)."""
    seeds = seeds or cell.seeds
    lo = scale * 2 / math.sqrt(cell.fields["width"] * cell.fields["depth"])
    rates = [lo * 1.1**i for i in range(-3, 3)]
    outcomes = {r: Outcome("trained" if r <= lo else "short", 4, 0.1 + 0.2, False) for r in rates}
    return Results(
        seeds={s: SeedResult("bracketed", lo, lo * 1.1, "short", ()) for s in seeds},
        trials={Trial.of(s, r): o for s in seeds for r, o in outcomes.items()},
        resolved=RESOLVED,
        seconds=1.5,
        environment={"made": True},
    )


def made_sharpness(cell: Cell) -> Results:
    """λ1 = 1/3, and one seed of which a matrix was not finite."""
    values = {
        s: SharpnessRow(1 / 3, 0.25, None if s == 0 else 1e300, 1e-9, s != 0) for s in cell.seeds
    }
    return Results(values, {**RESOLVED, "samples": 7}, 0.5, {"made": True})


def fill(study: Study, path: Path, *, sharpness: bool = True) -> None:
    """A store in which all of a study is done."""
    with StoreWriter(path) as writer:
        for cell in study.cells:
            key = writer.specify(cell.id, "maximal-lr", cell.specification)
            writer.add_results(key, made_lr(cell))
            if sharpness and cell.sharpness_id and cell.sharpness_specification:
                key = writer.specify(cell.sharpness_id, "sharpness", cell.sharpness_specification)
                writer.add_results(key, made_sharpness(cell))


def lr_task(cell: Cell, seeds: tuple[int, ...] | None = None) -> Task:
    """The task of a cell's η*."""
    wanted = tuple(cell.seeds) if seeds is None else seeds
    return Task("maximal-lr", cell.id, cell.specification, cell.settings, wanted)


QUERIES = {
    "seed": "SELECT id, seed, status, eta_lo, eta_hi, hi_outcome, re_entries, trials, steps "
    "FROM seed JOIN specification ON key = cell ORDER BY id, seed",
    "trial": "SELECT id, seed, lr, outcome, step, accuracy, slow "
    "FROM trial JOIN specification ON key = cell ORDER BY id, seed, lr",
    "sharpness": "SELECT id, seed, lambda1, lambda1_gauss_newton, lambda1_plain, residual, "
    "converged FROM sharpness JOIN specification ON key = cell ORDER BY id, seed",
    "failure": "SELECT id, error FROM failure JOIN specification ON key = cell ORDER BY id",
}


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All results of a store, read without our own code, free of keys and times."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {name: connection.execute(query).fetchall() for name, query in QUERIES.items()}
    finally:
        connection.close()


def seed_rows(study: Study, store: Store) -> list[dict[str, Any]]:
    """One mapping per network and seed."""
    columns = seed_columns(study, store)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def export(
    study: Study, store: Store, path: Path, *, format: str = "csv", table: str = "seeds"
) -> int:
    """What `etastar study export` does; returns the number of rows."""
    columns = TABLES[table](study, store)
    write_results([(str(path), partial(FORMATS[format], columns))])
    return len(columns["cell"])
