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
def calibration() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import calibration

        return calibration


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


def test_the_script_scores_a_folder(replay: ModuleType, folder: Path, tmp_path: Path) -> None:
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
    assert 0 < row["reference_error"] < 0.1  # twice the width over the root of 120 seeds: 0.018
    assert row["source"] == replay.source()
    truth, doubled = (
        replay.Truth.of(replay.load(folder / name)) for name in ("slow.npz", "slow.double.npz")
    )
    table = replay.load(folder / "slow.npz")
    options = replay.options_of(table, {"precision": 0.15, "confirm": 10})
    assert row["first"] == replay.scored(table, options, truth, doubled, 0)


def test_the_committed_replays_are_of_this_code(replay: ModuleType) -> None:
    """The first measurement of the cheapest tasks comes out as it is in the file."""
    kept = json.loads((ROOT / "benchmarks/results/replay.json").read_text())
    rows = [row for row in kept["tasks"] if "first" in row]
    for row in sorted(rows, key=lambda row: row["first"]["trials"])[:4]:
        table = replay.load(ROOT / "benchmarks/tables" / f"{row['task']}.npz")
        truth = replay.Truth.of(table)
        found = replay.scored(table, replay.options_of(table, kept["options"]), truth, None, 0)
        wanted = row["first"] | {"moved": None}
        assert {k for k, v in found.items() if v is None} == {
            k for k in wanted if wanted[k] is None
        }
        for name in (k for k, v in wanted.items() if isinstance(v, (int, float))):
            assert found[name] == pytest.approx(wanted[name], rel=1e-9), name
        assert found["set_by"] == wanted["set_by"]


def test_the_page_judges_what_it_prints_and_says_of_how_many(
    calibration: ModuleType, tmp_path: Path
) -> None:
    shares = {name: 0.95 for _, name, _ in calibration.COLUMNS} | {
        "p_at_eta": 0.5,
        "eta_null": 0.0,
        "safe_below_90": 0.03,
        "safe_null": 0.1,
        "recommended_below_90": 0.0,
        "recommended_null": 1 - 196 / 200,  # in floats more than 0.02
        "moved_where_not_said": None,
    }
    row = {"task": "one", "seeds": 50, "measurements": 200, "search": 41.3, "said": 12}
    row |= {"covers_error": 0.0154, "reference_error": 0.0223, "not_said": 0}
    (tmp_path / "page.md").write_text(f"before {calibration.BEGIN} old {calibration.END} after")
    (tmp_path / "replay.json").write_text(json.dumps({"tasks": [row | shares]}))
    calibration.write(tmp_path / "replay.json", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before ")
    assert page.endswith(" after")
    assert page.splitlines()[4] == (
        "| one | 50 | 0.022 | 200 | 0.950 ±0.015 | 0.50 | 0.950 (180) | **0.030** (180) | "
        "**0.100** | 0.950 (196) | 0.000 (196) | 0.020 | 0.950 (12) | – | 41 |"
    )
