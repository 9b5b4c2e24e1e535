"""A million trials: opened, read and fitted in seconds."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_studies import RESOLVED, seed_rows

from etastar.scaling import CellTable, fit_power_law
from etastar.study.cell_rows import labels_of
from etastar.study.export import seed_columns, trial_columns
from etastar.study.plan import State
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

SEEDS, TRIALS = 100, 10
SECONDS = 10.0
"""Of one core, for each step; measured: at most 3, for the fit, and less than 2 for the others."""


def build(study: Study, path: Path) -> None:
    """10⁶ trials of a planted law, by bare SQL."""
    StoreWriter(path).close()
    noise = np.random.default_rng(0).normal(0, 0.1, (len(study.cells), SEEDS))
    lo = [
        (key, seed, 3 * (c.settings.width * c.settings.depth) ** -0.6 * math.exp(noise[key, seed]))
        for key, c in enumerate(study.cells)
        for seed in range(SEEDS)
    ]
    resolved = json.dumps(RESOLVED)
    connection = sqlite3.connect(path)
    connection.executemany(
        "INSERT INTO specification VALUES (?, ?, 'maximal-lr', ?, ?)",
        [(key, c.id, c.specification, resolved) for key, c in enumerate(study.cells)],
    )
    connection.executemany(
        "INSERT INTO seed VALUES (?, ?, 'bracketed', ?, ?, 'short', '[]', 10, 100)",
        [(key, seed, rate, rate * 1.05) for key, seed, rate in lo],
    )
    connection.executemany(
        "INSERT INTO trial VALUES (?, ?, ?, 'short', 10, 0.5, 0)",
        ((k, s, rate * 1.05**i) for k, s, rate in lo for i in range(-5, TRIALS - 5)),
    )
    connection.commit()
    connection.close()


def timed(times: dict[str, float], name: str, function: Callable[[], Any]) -> Any:
    started = time.process_time()
    result = function()
    times[name] = time.process_time() - started
    return result


@pytest.mark.slow
def test_a_million_trials(tmp_path: Path) -> None:
    widths, depths = [8 * i for i in range(1, 51)], list(range(1, 21))
    study = Study.from_text(f"[grid]\nwidth = {widths}\ndepth = {depths}\nseeds = {SEEDS}")
    path = tmp_path / "large.sqlite"
    build(study, path)
    times: dict[str, float] = {}
    state = timed(times, "state", lambda: State.of_file(path))
    assert sum(map(len, state.done.values())) == 1000 * SEEDS
    assert all(state.is_done(cell) for cell in study.cells)
    timed(times, "writer", lambda: StoreWriter(path).close())
    with timed(times, "reader", lambda: Store(path)) as store:
        columns = timed(times, "seed columns", lambda: seed_columns(study, store))
        rows = timed(times, "seed rows", lambda: seed_rows(study, store))
        trials = timed(times, "trial columns", lambda: trial_columns(study, store))
    assert len(columns["seed"]) == len(rows) == 1000 * SEEDS
    assert len(trials["lr"]) == 10**6
    table = timed(times, "table", lambda: CellTable.from_rows(rows, group_by=labels_of(study)))
    fit = timed(times, "fit", lambda: fit_power_law(table))
    assert len(table) == 1000
    exponent = fit.coefficients[1]
    assert exponent.value == pytest.approx(-0.6, abs=0.005)
    assert max(times.values()) < SECONDS, times
    print({name: round(seconds, 2) for name, seconds in times.items()})
