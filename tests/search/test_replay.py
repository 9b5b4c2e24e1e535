"""`benchmarks/replay.py` on tables of planted curves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from planted_curves import PlantedCurve, table_of

from etastar.problem.trial import Start, Trial

ROOT = Path(__file__).parent.parent.parent
RATES = 0.02 * 1.08 ** np.arange(52)


@pytest.fixture(scope="module")
def replay() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import replay

        return replay


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables")
    slow = PlantedCurve("logistic", 0.1, cause="slow")
    longer = PlantedCurve("logistic", 0.1, eta=0.9, cause="slow")
    np.savez_compressed(out / "slow.npz", **table_of(slow, RATES, 120))
    np.savez_compressed(out / "slow.double.npz", **table_of(longer, RATES, 120))
    return out


def test_a_table_gives_the_planted_outcomes(replay: ModuleType, folder: Path) -> None:
    planted = PlantedCurve("logistic", 0.1, cause="slow")
    table = replay.load(folder / "slow.npz")
    assert table.spacing == pytest.approx(1.08)
    for k in (0, 20, 40, 43, 51):
        for seed in range(20):
            start, lr = Start(seed, seed), float(RATES[k])
            for trial in (Trial(start, lr), Trial(start, lr, 50), Trial(start, lr, to_end=True)):
                seen, planned = table.outcome(trial, seed), planted.run(trial)
                assert (seen.kind, seen.step) == (planned.kind, planned.step)
                assert (seen.cause, seen.held) == (planned.cause, planned.held)
                if trial.steps is not None and seen.kind == "partial":
                    assert seen.last_loss == pytest.approx(planned.last_loss, rel=1e-5)


def test_one_of_the_two_rows_answers_in_proportion(replay: ModuleType) -> None:
    rates, parts = np.array([1.0, 2.0, 4.0]), (np.arange(100) + 0.5) / 100
    for lr, mean in ((0.1, 0), (1.0, 0), (2**0.3, 0.3), (2.0, 1), (2**1.5, 1.5), (4.0, 2), (99, 2)):
        rows = [replay.row_of(rates, lr, part) for part in parts]
        assert np.mean(rows) == pytest.approx(mean)
        assert max(rows) - min(rows) <= 1


def test_the_truth_rises_to_a_peak_and_falls(replay: ModuleType, folder: Path) -> None:
    assert replay.falling(np.array([1.0, 0.5, 0.7, 0.0])).tolist() == [1.0, 0.6, 0.6, 0.0]
    planted = PlantedCurve("logistic", 0.1, cause="slow")
    truth = replay.Truth.of(replay.load(folder / "slow.npz"))
    assert truth.rate(0.5) == pytest.approx(planted.rate(0.5), rel=0.06)
    assert truth.at(0.1) > 0.95
    peak = int(truth.p.argmax())
    assert (np.diff(truth.p[: peak + 1]) >= 0).all()
    assert (np.diff(truth.p[peak:]) <= 0).all()
    assert truth.rate(1.1) is None


def test_a_table_of_the_wrong_shape_is_refused(replay: ModuleType) -> None:
    table = table_of(PlantedCurve("logistic", 0.1), RATES[:3], 2)
    with pytest.raises(ValueError, match="step must have the shape"):
        replay.Table.of(table | {"step": table["step"][:2]})
    with pytest.raises(ValueError, match="losses must have the shape"):
        replay.Table.of(table | {"loss_steps": table["loss_steps"][:1]})


def test_the_script_scores_a_folder(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/replay.py", str(folder), "--measurements", "6"]
    command += ["--precision", "0.15", "--confirm", "10", "--json", str(tmp_path / "scores.json")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "logistic 0.1" in run.stdout
    row = json.loads((tmp_path / "scores.json").read_text())["tasks"][0]
    assert row["measurements"] == 6
    assert row["covers"] >= 4 / 6
    assert row["said"] == 6
    assert row["moved_where_said"] == 1.0
    assert row["search"] < row["budgets"]
