"""`etastar study` and `etastar predict`, from the file to the numbers, on a real small study."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from etastar.cli import main

STUDY = """
title = "small"
[base]
dataset = "digits"
epochs = 3.0
threshold = 0.6
seeds = 2
resolution = 0.3
[sharpness]
samples = 60
[grid]
width = [8, 16, 32]
depth = [1, 2]
filter = "width >= 8 * depth"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "small.toml"
    path.write_text(STUDY)
    assert main(["study", "run", str(path)]) == 0
    return path


def test_a_second_run_has_nothing_to_do(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = study.with_suffix(".sqlite").read_bytes()
    assert main(["study", "run", str(study)]) == 0
    assert "5 of 5 cells done, 0 failed; 0 trials" in capsys.readouterr().out
    assert main(["study", "run", str(study), "--dry-run"]) == 0
    assert "5 cells, all done" in capsys.readouterr().out
    assert study.with_suffix(".sqlite").stat().st_size == len(before)


def test_a_dry_run_needs_no_device(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = tmp_path / "far.toml"
    far.write_text(STUDY.replace("[base]", '[base]\ndevice = "cuda:99"'))
    assert main(["study", "run", str(far), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "tasks to do. How long they take cannot be measured here: study file" in told
    assert 'far.toml: device = "cuda:99" cannot be used' in told
    assert main(["study", "run", str(far)]) == 2
    assert 'use device = "cpu".' in capsys.readouterr().err


def test_no_resume_refuses_a_used_store(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "run", str(study), "--no-resume"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_status_counts_what_is_missing(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "status", str(study), "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["cells"], record["done"], record["seeds_missing"]) == (5, 5, 0)
    more = study.with_name("more.toml")
    more.write_text(STUDY.replace("seeds = 2", "seeds = 3"))
    store = ["--store", str(study.with_suffix(".sqlite"))]
    assert main(["study", "status", str(more), *store]) == 0
    assert "results missing (η* and λ1, by seed): 10" in capsys.readouterr().out


def test_fit_prints_laws_and_strict_json(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "fit", str(study)]) == 0
    assert "4 of 5 cells used; 1 below" in capsys.readouterr().out
    assert main(["study", "fit", str(study), "--response", "lambda1", "--json", "-"]) == 0
    text = capsys.readouterr().out
    record = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert "product" in record["groups"][0]["forms"]


def test_predict_warns_outside_and_refuses_when_strict(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["predict", "--from", str(study), "--width", "512", "--depth", "1"]
    assert main([*wanted, "--json", "-"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["low"] < record["value"] < record["high"]
    assert not record["in_region"]
    assert any("512" in warning for warning in record["warnings"])
    assert main([*wanted, "--strict"]) == 2
    assert "no prediction for width 512" in capsys.readouterr().err
    assert main([*wanted, "--loss", "mse"]) == 2
    assert "was never measured" in capsys.readouterr().err


def test_export_has_a_row_per_network_and_seed(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    assert main(["study", "export", str(study), "--format", "csv", "--output", str(file)]) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 10
    assert {"width", "depth", "input_lr_ratio", "loss", "seed", "status"} <= set(rows[0])
    bracketed = [row for row in rows if row["status"] == "bracketed"]
    assert len(bracketed) > 5
    assert all(float(row["eta_lo"]) < float(row["eta_hi"]) for row in bracketed)
    assert all(float(row["lambda1_preconditioned"]) > 0 for row in rows)


def test_report_writes_the_page(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["study", "report", str(study), "--output", str(page)]) == 0
    assert "<html" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study"], None),
        (["study", "rum", "x.toml"], "did you mean 'run'"),
        (["study", "run"], "required: STUDY"),
        (["study", "run", "nothing.toml"], "nothing.toml cannot be read"),
        (["study", "run", "bad.toml"], "base.widht"),
        (["study", "fit", "good.toml"], "nothing has been computed yet"),
        (["study", "export", "good.toml", "--format", "xls"], "format must be"),
        (["study", "run", "good.toml", "--workers", "2", "--executor", "in-process"], "workers"),
        (["predict", "--from", "good.toml"], "width"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.toml").write_text("[base]\nwidht = 3\n[grid]\ndepth = [1]\n")
    (tmp_path / "good.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    code = main(arguments)
    out, err = capsys.readouterr()
    if message is None:
        assert code == 0
        assert "export" in out
        return
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.toml", "good.toml"]


def test_predict_names_networks_outside_the_region(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five cells leave one cutoff: nothing tells from which n/L on the law holds."""
    wanted = ["predict", "--from", str(study), "--width", "16", "--depth", "1"]
    assert main([*wanted, "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["warnings"]
    assert not record["in_region"]
    assert main([*wanted, "--strict"]) == 2
    assert "Leave out --strict, or choose a --cutoff" in capsys.readouterr().err


def test_predict_takes_any_condition(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["predict", "--from", str(study), "--width", "16", "--depth", "1"]
    assert main([*wanted, "--where", "loss=cross-entropy, inputs=64"]) == 0
    capsys.readouterr()
    for where, says in (
        ("los=mse", "did you mean 'loss'"),
        ("loss", "expected NAME=VALUE"),
        ("inputs=x", "expected a number"),
        ("inputs=3", "was never measured"),
    ):
        assert main([*wanted, "--where", where]) == 2
        assert says in capsys.readouterr().err
