"""What makes two results the same thing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from made_studies import TINY, content, tiny

import etastar
from etastar.errors import ConfigError
from etastar.settings import Settings
from etastar.study.cell import Cell, SharpnessSettings, canonical
from etastar.study.plan import State, costs, plan
from etastar.study.runner import run_study
from etastar.study.specification import Study
from etastar.study.store import Store

BASE = {"width": 8, "depth": 2, "dataset": "gaussians", "train_size": 500}

CHANGES = {
    "dataset": "digits",
    "train_size": 400,
    "val_size": 50,
    "width": 9,
    "depth": 3,
    "input_lr_ratio": 0.5,
    "output_variance": 2.0,
    "biases": False,
    "norm": "layer",
    "parametrization": "mup",
    "loss": "mse",
    "momentum": 0.5,
    "batch_size": 64,
    "threshold": 0.8,
    "epochs": 3.0,
    "max_steps": 7,
    "eval_every": 2,
    "criterion": "hold",
    "from_step": 10,
    "resolution": 0.1,
    "start_lr": 1e-2,
    "end_lr": 5.0,
    "strategy": "bisection",
    "device": "cuda",
    "dtype": "float64",
}
SAME = {"from_lr": 0.1, "seeds": 3, "first_seed": 5, "threads": 2, "data_dir": "elsewhere"}
OF_THE_CURVE = {
    "precision": 0.2,
    "trials": 10,
    "budgets": 5.0,
    "confirm": 3,
    "round_size": 4,
    "slow_edge": True,
}
OF_LAMBDA = {
    *("dataset", "width", "depth", "input_lr_ratio", "output_variance", "biases", "norm"),
    "parametrization",
    *("loss", "device", "dtype"),
}
"""Settings that λ1 depends on. Of the sample, its first `samples` only."""


def cell(**changes: object) -> Cell:
    return Cell(Settings.checked(**(BASE | changes)), SharpnessSettings(samples=100))


def test_the_tables_here_name_every_setting() -> None:
    named = CHANGES.keys() | SAME.keys() | OF_THE_CURVE.keys() | {"optimizer"}
    assert named == Settings.model_fields.keys()


@pytest.mark.parametrize("name", OF_THE_CURVE)
def test_a_search_per_seed_refuses_what_is_of_the_curve(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        cell(**{name: OF_THE_CURVE[name]}).fields  # noqa: B018


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_change_a_result_changes_the_hash(name: str) -> None:
    changed = cell(**{name: CHANGES[name]})
    assert changed.id != cell().id
    assert (changed.sharpness_id != cell().sharpness_id) == (name in OF_LAMBDA)


@pytest.mark.parametrize("name", SAME)
def test_what_cannot_does_not(name: str) -> None:
    changed = cell(**{name: SAME[name]})
    assert changed.id == cell().id
    assert changed.sharpness_id == cell().sharpness_id


def test_a_default_is_the_value_it_stands_for() -> None:
    assert cell(threshold=0.9, batch_size=128, epochs=1.0).id == cell().id
    assert cell(input_lr_ratio=1).id == cell().id
    assert cell(device="cuda:1").id == cell(device="cuda").id
    zero, minus = cell(input_lr_ratio=0.0), cell(input_lr_ratio=-0.0)
    assert (zero.id, zero.sharpness_id) == (minus.id, minus.sharpness_id)
    # the rate up to a step matters once there are such steps
    assert cell(from_step=10, from_lr=0.1).id != cell(from_step=10, from_lr=0.2).id
    # where the budget is given in steps, no default of epochs applies
    assert cell(max_steps=7).id != cell(max_steps=7, epochs=1.0).id


def test_sharpness_settings_change_lambda_alone() -> None:
    for changes in ({"samples": 99}, {"tol": 0.01}, {"max_iter": 7}):
        settings = {"samples": 100} | changes
        changed = Cell(cell().settings, SharpnessSettings.model_validate(settings))
        assert changed.sharpness_id != cell().sharpness_id
        assert changed.id == cell().id
    assert Cell(cell().settings).sharpness_id is None


def test_a_small_training_set_bounds_the_samples_of_lambda() -> None:
    few = Cell(Settings.checked(**(BASE | {"train_size": 80})), SharpnessSettings(samples=100))
    asked = Cell(Settings.checked(**BASE), SharpnessSettings(samples=80))
    assert few.sharpness_id == asked.sharpness_id


@pytest.mark.parametrize("dataset", ["digits", "gaussians"])
def test_the_first_samples_are_the_same_whatever_the_size(dataset: str) -> None:
    few, all_of_it = etastar.load(dataset, train_size=80), etastar.load(dataset)
    assert torch.equal(few.x_train, all_of_it.x_train[:80])
    assert torch.equal(few.y_train, all_of_it.y_train[:80])


def test_the_specification_is_canonical_json() -> None:
    text = cell().specification
    fields = json.loads(text)
    again = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert again == text
    assert " " not in text
    assert text.isascii()
    assert cell().id == hashlib.sha256(text.encode()).hexdigest()[:20]
    assert fields.keys() == {*CHANGES, "optimizer", "kind", "identity"} - {
        "from_step",
        "parametrization",
    }
    assert canonical({"b": 1, "a": "κ"}) == '{"a":"\\u03ba","b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("inf")})


def test_the_hash_of_today_is_the_hash_of_tomorrow() -> None:
    """Stores outlive versions: if this fails, raise `IDENTITY_VERSION` and keep the old apart."""
    known = Cell(Settings.checked(width=64, depth=4), SharpnessSettings.model_validate({}))
    assert (known.id, known.sharpness_id) == (KNOWN, KNOWN_LAMBDA)
    assert Cell(Settings.checked(width=64, depth=4, strategy="bisection")).id == KNOWN_BISECTION


KNOWN = "cd37aa17f75c4fa545ca"
KNOWN_LAMBDA = "f2eb3462965be3e6b18b"
KNOWN_BISECTION = "766e4a53a4b951e62af7"
"""What 0.1.0 made of them."""


def test_added_seeds_are_the_only_ones_computed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    run_study(tiny(path))
    first = content(path.with_suffix(".sqlite"))
    more = tiny(path, TINY.replace("seeds = 3", "seeds = 4"))
    with Store(more.default_store) as store:
        tasks = plan(more, costs(more), State.of(store))
    assert len(tasks) == 8
    assert {task.seeds for task, _ in tasks} == {(3,)}
    before = more.default_store.stat().st_ino
    run_study(more)
    second = content(more.default_store)
    assert more.default_store.stat().st_ino == before
    for table in ("seed", "trial", "sharpness"):
        assert [row for row in second[table] if row[1] < 3] == first[table]
        assert {row[1] for row in second[table]} == {0, 1, 2, 3}


def test_fewer_seeds_and_other_threads_compute_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    run_study(tiny(path))
    for old, new in (("seeds = 3", "seeds = 2"), ("threads = 1", "threads = 2")):
        study = tiny(path, TINY.replace(old, new))
        assert plan(study, costs(study), State.of_file(study.default_store)) == []
        assert run_study(study).trials == 0


def test_studies_share_a_store_and_each_result(tmp_path: Path) -> None:
    text = TINY.replace("width = [16, 24]", "width = {}")
    shared = tmp_path / "shared.sqlite"
    one = tiny(tmp_path / "one.toml", text.replace("{}", "[16]"))
    other = tiny(tmp_path / "other.toml", text.replace("{}", "[24, 16]"))
    run_study(one, shared)
    facts, state = costs(other), State.of_file(shared)
    assert {task.settings.width for task, _ in plan(other, facts, state)} == {24}
    run_study(other, shared)
    whole = tiny(tmp_path / "whole.toml")
    run_study(whole)
    assert content(shared) == content(whole.default_store)


def test_lambda_that_cells_share_is_one_task() -> None:
    study = Study.from_text(
        "sharpness = true\n[base]\nwidth = 8\n[[grid]]\nmax_steps = [5, 10]\nseeds = 2\n"
        "[[grid]]\nmax_steps = 20\nseeds = 3\nfirst_seed = 1"
    )
    assert len({cell.sharpness_id for cell in study.cells}) == 1
    tasks = [task for task, _ in plan(study, costs(study), State())]
    assert sorted(task.kind for task in tasks) == ["maximal-lr"] * 3 + ["sharpness"]
    assert [task.seeds for task in tasks if task.kind == "sharpness"] == [(0, 1, 2, 3)]


def test_the_longest_tasks_go_first() -> None:
    study = Study.from_text("[base]\nmax_steps = 100\n[grid]\nwidth = [8, 512, 64]\ndepth = [2, 8]")
    tasks = plan(study, costs(study), State())
    sizes = [(task.settings.width, task.settings.depth) for task, _ in tasks]
    assert sizes[0] == (512, 8)
    assert sizes[-1] == (8, 2)
    seconds = [expected for _, expected in tasks]
    assert seconds == sorted(seconds, reverse=True)
