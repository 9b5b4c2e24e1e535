"""Exports: one call of pandas reads them; they are whole or not there."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas
import pytest
from made_studies import export, fill, seed_rows

from etastar.cli import main
from etastar.errors import EtaStarError
from etastar.study.export import (
    FORMATS,
    SEED_COLUMNS,
    TRIAL_COLUMNS,
    Columns,
    seed_columns,
    trial_columns,
)
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

STUDY = Study.from_text(
    "sharpness = true\n[grid]\nwidth = [8, 16]\ndepth = [1, 2]\nseeds = 3\ninput_lr_ratio = 0.1"
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    fill(STUDY, path)
    return path


def test_pandas_reads_the_seeds_in_one_call(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    with Store(store) as opened:
        assert export(STUDY, opened, path) == 12
        rows = seed_rows(STUDY, opened)
    table = pandas.read_csv(path)
    assert list(table.columns) == SEED_COLUMNS
    for name in ("width", "depth", "seed", "trials", "steps", "re_entries", "train_size"):
        assert table[name].dtype == "int64", name
    for name in ("input_lr_ratio", "eta_lo", "eta_hi", "eta", "threshold", "momentum"):
        assert table[name].dtype == "float64", name
    for name in ("lambda1_preconditioned", "lambda1_plain", "lambda1_gauss_newton"):
        assert table[name].dtype == "float64", name
    for name in ("biases", "lambda1_converged"):
        assert table[name].dtype == "bool", name
    for name in ("status", "loss", "dataset", "hi_outcome", "norm", "cell"):
        assert isinstance(table[name][0], str), name
    for found, row in zip(table.to_dict("records"), rows, strict=True):
        for name, value in row.items():
            if value is None:
                assert math.isnan(found[name]), name
            elif not (name == "batch_size" and isinstance(found[name], int)):
                assert found[name] == value, name  # floats to the last bit


def test_pandas_reads_the_trials_in_one_call(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    with Store(store) as opened:
        assert export(STUDY, opened, path, table="trials") == 12 * 6
    table = pandas.read_csv(path)
    assert list(table.columns) == TRIAL_COLUMNS
    assert [str(table[name].dtype) for name in ("lr", "step", "accuracy", "slow")] == [
        *("float64", "int64", "float64", "bool")
    ]
    assert (table.groupby("cell").size() == 18).all()


def test_rows_are_in_the_order_of_the_study_whatever_was_computed_when(tmp_path: Path) -> None:
    exports = []
    for number, cells in enumerate((STUDY.cells, STUDY.cells[::-1])):
        path = tmp_path / f"{number}.sqlite"
        fill(Study(STUDY.path, STUDY.file, cells), path)
        with Store(path) as opened:
            export(STUDY, opened, path.with_suffix(".csv"))
        exports.append(path.with_suffix(".csv").read_bytes())
    assert exports[0] == exports[1]


def test_a_study_sees_only_its_own_cells_and_seeds(store: Path) -> None:
    part = Study.from_text("[grid]\nwidth = 16\ndepth = [2, 3]\nseeds = 2\ninput_lr_ratio = 0.1")
    with Store(store) as opened:
        rows = seed_rows(part, opened)
        assert [(row["width"], row["depth"], row["seed"]) for row in rows] == [
            *((16, 2, 0), (16, 2, 1))
        ]
        # the study did not ask for λ1, though the store has it
        assert {row["lambda1_preconditioned"] for row in rows} == {None}
        assert len(trial_columns(part, opened)["lr"]) == 12


def test_nothing_measured_gives_a_header_alone(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s.sqlite").close()
    with Store(tmp_path / "s.sqlite") as opened:
        assert export(STUDY, opened, tmp_path / "s.csv") == 0
        assert {len(column) for column in seed_columns(STUDY, opened).values()} == {0}
    assert (tmp_path / "s.csv").read_text() == ",".join(SEED_COLUMNS) + "\n"


def test_rows_and_columns_hold_the_same(store: Path) -> None:
    with Store(store) as opened:
        rows, columns = seed_rows(STUDY, opened), seed_columns(STUDY, opened)
    assert {name: [row[name] for row in rows] for name in columns} == columns


def test_a_failed_export_leaves_the_old_one_and_no_scraps(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "seeds.csv"
    path.parent.mkdir()
    path.write_text("the old one")

    def full(columns: Columns, partial: Path) -> None:
        partial.write_text("half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "csv", full)
    with Store(store) as opened, pytest.raises(EtaStarError, match=r"seeds\.csv.*No space left"):
        export(STUDY, opened, path)
    assert path.read_text() == "the old one"
    assert [found.name for found in path.parent.iterdir()] == ["seeds.csv"]


def test_places_where_nothing_can_be_written(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Store(store) as opened:
        for path in (tmp_path / "file" / "x.csv", tmp_path / "none" / "x.csv", tmp_path):
            with pytest.raises(EtaStarError, match=r"cannot be written: "):
                export(STUDY, opened, path)
    assert {found.name for found in tmp_path.iterdir()} <= {
        *("file", "store.sqlite", "store.sqlite.lock", "store.sqlite-wal", "store.sqlite-shm")
    }


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("format", "parkuet", "'csv' or 'parquet'"), ("table", "trial", "'seeds' or 'trials'")],
)
def test_unknown_formats_and_tables_are_refused_with_those_there_are(
    option: str, value: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text("[grid]\nwidth = 8\n")
    assert main(["study", "export", str(tmp_path / "s.toml"), f"--{option}", value]) == 2
    assert f"{option} must be {says}, got '{value}'" in capsys.readouterr().err


def test_parquet_says_what_it_needs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "seeds.parquet"
    with (
        Store(store) as opened,
        pytest.raises(EtaStarError, match=r"needs PyArrow: pip install 'etastar\[parquet\]"),
    ):
        export(STUDY, opened, path, format="parquet")
    assert not path.exists()


def test_parquet_holds_what_csv_holds(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "seeds.parquet"
    with Store(store) as opened:
        export(STUDY, opened, path, format="parquet")
        export(STUDY, opened, tmp_path / "seeds.csv")
    table = pandas.read_parquet(path)
    plain = pandas.read_csv(tmp_path / "seeds.csv", dtype={"batch_size": str})
    assert len(table) > 0
    pandas.testing.assert_frame_equal(table, plain, check_dtype=False)
