"""From a store to the cells of its laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_studies import fill

from etastar.errors import ConfigError
from etastar.scaling import fit_power_law
from etastar.study.cell_rows import ALWAYS, cell_table, labels_of
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

TEXT = "[grid]\nwidth = [8, 16, 32, 64]\ndepth = [1, 2, 4]\nseeds = 3\n"


def test_a_law_is_what_the_study_varies_beside_size_and_search(tmp_path: Path) -> None:
    study = Study.from_text(
        TEXT + "input_lr_ratio = [1.0, 0.1]\nbiases = [true, false]\n"
        "momentum = [0.0, 0.5]\nresolution = [0.1, 0.2]\nfilter = 'resolution < 0.15'\n"
    )
    assert labels_of(study) == [*ALWAYS, "biases", "momentum"]
    fill(study, tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as store:
        table = cell_table(study, store)
    assert len(table) == len(study.cells) == 96
    groups = [labels for labels, _ in table.groups()]
    assert {group["biases"] for group in groups} == {"True", "False"}
    assert len(table.select(input_lr_ratio=0.1, biases="True")) == 24


@pytest.mark.parametrize("sharpness", ["true", "false"])
def test_the_planted_law_comes_back(tmp_path: Path, sharpness: str) -> None:
    study = Study.from_text(f"sharpness = {sharpness}\n{TEXT}")
    fill(study, tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as store:
        table = cell_table(study, store)
    exponent = fit_power_law(table).coefficients[1]
    assert exponent.value == pytest.approx(-0.5, abs=1e-9)
    if sharpness == "true":
        assert np.allclose(table.log_lambda1, np.log(1 / 3))
    else:
        assert np.isnan(table.log_lambda1).all()


def test_nothing_measured_is_told(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s.sqlite").close()
    with (
        Store(tmp_path / "s.sqlite") as store,
        pytest.raises(ConfigError, match=r"holds no η\* of this study yet. Run: etastar study run"),
    ):
        cell_table(Study.from_text(TEXT), store)
