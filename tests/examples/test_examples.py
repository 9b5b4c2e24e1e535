"""The examples run as a reader would run them, and do what their docstrings say.

`five_lines.py` is run by tests/docs/test_printed.py.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run_here(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What an example prints when run in an empty folder; warnings are errors, as in all tests."""
    monkeypatch.chdir(folder)
    matplotlib.use("Agg")
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    pyplot.close("all")
    return capsys.readouterr().out


def number_after(words: str, text: str) -> float:
    found = re.search(re.escape(words) + r" *([0-9.e+-]+)", text)
    assert found, f"{words!r} is not in {text!r}"
    return float(found[1])


def test_warmup_trains_with_it_and_not_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run_here("warmup.py", tmp_path, monkeypatch, capsys)
    assert "warm-up to 0.04: found" in text
    assert number_after("with warm-up: best validation accuracy", text) >= 0.8
    assert number_after("without warm-up: best validation accuracy", text) < 0.8
    assert (tmp_path / "out" / "warmup.png").stat().st_size > 10_000


FRAMEWORKS = {"lightning_trainer.py": 0.9, "hugging_face_trainer.py": 0.6}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::lightning", "ignore:.*pin_memory")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_trainer_trains_at_the_recommended_rate_and_not_far_above(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = run_here(name, tmp_path, monkeypatch, capsys)
    threshold = FRAMEWORKS[name]
    assert number_after("Trainer at the recommended rate: validation accuracy", text) >= threshold
    assert number_after("Trainer at 8 × η*: validation accuracy", text) < threshold


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_trainer_takes_ten_lines_at_most(name: str) -> None:
    code = (EXAMPLES / name).read_text().split("# etastar begins\n")[1].split("# etastar ends")[0]
    assert 3 <= len([line for line in code.splitlines() if line.strip()]) <= 10


def test_tensorboard_gets_the_numbers_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = run_here("log_to_tensorboard.py", tmp_path, monkeypatch, capsys)
    log = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    log.Reload()
    assert {"eta_star/median", "trials/lr", "trials/trained", "p"} <= set(log.Tags()["scalars"])
    median = log.Scalars("eta_star/median")[0].value
    assert number_after("η* =", text.replace(",", " ")) == pytest.approx(median, rel=1e-3)
    assert log.Tags()["images"] == ["p(η)"]
