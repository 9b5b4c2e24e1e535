"""Success curves in studies: one result per network, computed again from trials that are kept."""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_studies import content, seed_rows, tiny

import etastar
from etastar.cli import main
from etastar.errors import ConfigError
from etastar.settings import Settings
from etastar.study.cell import Cell
from etastar.study.export import CURVE, error_of_median, trial_columns
from etastar.study.measuring import run_task
from etastar.study.plan import State
from etastar.study.runner import run_study
from etastar.study.specification import Study
from etastar.study.store import Store

BASE = """
[base]
dataset = "digits"
train_size = 300
val_size = 100
max_steps = 40
threshold = 0.5
batch_size = 32
threads = 1
strategy = "curve"
"""
COARSE = "precision = 0.5\ntrials = 48\nconfirm = 4\n"
GRID = "[grid]\nwidth = 16\ndepth = 2\n"
TEXT = BASE + COARSE + GRID


def rows_of(study: Study) -> list[dict[str, Any]]:
    with Store(study.default_store) as store:
        return seed_rows(study, store)


def curves(study: Study) -> dict[str, Any]:
    """Results and trials, read without our own code."""
    with sqlite3.connect(study.default_store) as connection:
        return {
            "curve": connection.execute("SELECT asked, found FROM curve ORDER BY asked").fetchall(),
            "run": connection.execute("SELECT * FROM run ORDER BY seed, lr, to_end").fetchall(),
        }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = tiny(tmp_path_factory.mktemp("done") / "curve.toml", TEXT)
    assert run_study(study).done == 1
    return study


def cell(**options: Any) -> Cell:
    return Cell(Settings.checked(width=8, depth=2, **options))


def test_a_study_without_a_strategy_or_with_seeds_measures_brackets() -> None:
    grid = "[grid]\nwidth = 8\ndepth = 2\n"
    for text in (grid, "[base]\nseeds = 3\n" + grid, '[base]\nstrategy = "section"\n' + grid):
        (only,) = Study.from_text(text).cells
        assert only.fields["strategy"] == "section"
        assert only.id == cell(strategy="section").id
    for wrong in ("seeds = 3", "resolution = 0.1"):
        with pytest.raises(ConfigError, match=wrong.split()[0]):
            Study.from_text(f'[base]\nstrategy = "curve"\n{wrong}\n' + grid)
    with pytest.raises(ConfigError, match="precision"):
        Study.from_text("[base]\nprecision = 0.2\n" + grid)


def test_a_curve_has_an_identity_of_its_own() -> None:
    plain = cell(strategy="curve")
    assert plain.id not in {cell(strategy=name).id for name in ("section", "bisection")}
    fields = json.loads(plain.specification)
    assert fields["strategy"] == "curve"
    assert not fields.keys() & {"seeds", "resolution", "first_seed", "precision", "trials"}
    how = {"precision": 0.2, "trials": 9, "budgets": 5.0, "confirm": 3, "round_size": 4}
    for name, value in {**how, "first_seed": 7, "slow_edge": True}.items():
        other = cell(strategy="curve", **{name: value})
        assert other.id == plain.id, name
        assert other.wanted != plain.wanted, name
    assert cell(strategy="curve", precision=0.1).wanted == plain.wanted  # the default
    assert cell(strategy="curve", start_lr=0.01).id != plain.id


def test_one_network_with_two_precisions_in_one_study_is_refused() -> None:
    text = TEXT.replace("precision = 0.5\n", "") + "precision = [0.5, 0.2]\n"
    with pytest.raises(ConfigError, match="there already with another `precision`"):
        Study.from_text(text)


def test_a_study_gives_what_measure_gives(done: Study) -> None:
    (row,) = rows_of(done)
    options = done.cells[0].settings.model_dump(exclude_none=True)
    found = etastar.measure(**options)
    assert found.curve is not None
    assert found.found is not None
    assert row["seed"] is None
    assert row["eta_lo"] is None
    assert row["eta"] == found.lr
    assert (row["eta_ci_low"], row["eta_ci_high"]) == found.interval
    assert (row["eta_95"], row["safe"]) == (found.curve.eta_95, found.safe_lr)
    assert row["p_max"] == found.curve.p_max.p  # type: ignore[union-attr]
    assert (row["trials"], row["steps"]) == (found.cost.trials, found.cost.steps)
    for cause in ("diverged", "dead", "collapsed", "slow"):
        above = [getattr(at, cause) for at in found.curve.points if at.lr > row["eta"]]
        assert row[f"above_{cause}"] == sum(above)
    assert (row["status"], row["strategy"]) == ("bracketed", "curve")
    with Store(done.default_store) as store:
        columns = trial_columns(done, store)
    told = {(t.seed, t.lr): o.kind for t, o in found.trials.items()}
    keys = zip(columns["seed"], columns["lr"], strict=True)
    assert dict(zip(keys, columns["outcome"], strict=True)) == told


def test_the_export_has_one_row_per_network(
    done: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "export", str(done.path), "--output", "-"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["seed"] == ""
    for name in ("eta", *CURVE, "trials", "steps"):
        assert name in row, name
    assert float(row["eta_ci_low"]) < float(row["eta"]) < float(row["eta_ci_high"])


def test_more_trials_and_precision_go_on_from_what_is_there(done: Study, tmp_path: Path) -> None:
    fine = TEXT.replace("precision = 0.5\ntrials = 48", "precision = 0.12\ntrials = 160")
    whole = tiny(tmp_path / "whole.toml", fine)
    from_nothing = run_study(whole)
    grown = tiny(tmp_path / "grown.toml", TEXT)
    grown.default_store.write_bytes(done.default_store.read_bytes())
    changed = tiny(grown.path, fine)
    assert not State.of_file(changed.default_store).is_done(changed.cells[0])
    went_on = run_study(changed)
    assert 0 < went_on.trials < from_nothing.trials
    assert rows_of(changed) == rows_of(whole)
    # what was asked before is still there, and nothing is trained for it
    assert rows_of(tiny(grown.path, TEXT)) == rows_of(done)
    assert run_study(tiny(grown.path, TEXT)).trials == 0


def test_a_lost_result_is_computed_again_without_training(done: Study, tmp_path: Path) -> None:
    copy = tiny(tmp_path / "copy.toml", TEXT)
    copy.default_store.write_bytes(done.default_store.read_bytes())
    with sqlite3.connect(copy.default_store) as connection:
        connection.execute("DELETE FROM curve")
    assert run_study(copy).trials == 0
    assert curves(copy) == curves(done)


KILLED = """
import os, signal, sys
from etastar.study import store
from etastar.study.runner import run_study
from etastar.study.specification import Study

store.FLUSH_EVERY = 0.0
left = int(sys.argv[2])


def kill(progress):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


run_study(Study.from_file(sys.argv[1]), on_progress=kill)
"""


def test_kills_change_nothing(done: Study, tmp_path: Path) -> None:
    study = tiny(tmp_path / "killed.toml", TEXT)
    known: list[int] = []
    for trials in (2, 9, 20):  # while locating, in a round, in a later one
        killed = subprocess.run([sys.executable, "-c", KILLED, str(study.path), str(trials)])
        assert killed.returncode == -signal.SIGKILL
        assert not State.of_file(study.default_store).is_done(study.cells[0])
        with Store(study.default_store) as store:
            known.append(len(store.runs(study.cells[0].id)))
    assert known == sorted(set(known))
    assert known[0] >= 2
    assert run_study(study).done == 1
    assert curves(study) == curves(done)


def test_a_worker_elsewhere_gives_all_trials_back(done: Study) -> None:
    (only,) = done.cells
    with Store(done.default_store) as store:
        known = store.runs(only.id)
        task = replace(_task(only), known=dict(list(known.items())[: len(known) // 2]))
        assert run_task(task).trials == known


def _task(only: Cell) -> Any:
    (task,) = only.tasks
    return task


def test_a_store_of_brackets_takes_curves(tmp_path: Path) -> None:
    text = TEXT.replace('strategy = "curve"\n', "").replace(COARSE, "resolution = 0.5\nseeds = 2\n")
    study = tiny(tmp_path / "both.toml", text)
    run_study(study)
    with sqlite3.connect(study.default_store) as connection:  # as 0.1.0 left it
        connection.execute("DROP TABLE run")
        connection.execute("DROP TABLE curve")
    before = content(study.default_store)
    also = tiny(study.path, TEXT)
    assert not State.of_file(also.default_store).is_done(also.cells[0])
    assert run_study(also).done == 1
    assert content(study.default_store) == before
    assert len(rows_of(also)) == 1


def test_lambda1_of_a_curve_is_the_median_over_seeds(tmp_path: Path) -> None:
    study = tiny(tmp_path / "both.toml", "sharpness = {samples = 50}\n" + TEXT)
    run_study(study)
    (row,) = rows_of(study)
    found = sorted(value for _, _, value, *_ in content(study.default_store)["sharpness"])
    assert len(found) == 8
    assert row["lambda1_preconditioned"] == (found[3] + found[4]) / 2
    assert row["lambda1_error"] == pytest.approx(error_of_median(found))
    assert row["lambda1_converged"] is True


def test_laws_take_a_curve_with_its_interval(done: Study) -> None:
    from etastar.scaling import estimate_cells
    from etastar.study.cell_rows import cell_table

    with Store(done.default_store) as store:
        cells = cell_table(done, store)
    (row,) = rows_of(done)
    found = estimate_cells(cells)
    assert found.value[0] == pytest.approx(math.log(row["eta"]))
    half = math.log(row["eta_ci_high"] / row["eta_ci_low"]) / 2
    assert 1.959964 * math.sqrt(found.variance[0]) == pytest.approx(half)
