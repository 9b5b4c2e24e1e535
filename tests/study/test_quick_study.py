"""`studies/quick.toml` as it is shipped: run, law, prediction, page, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etastar.cli import main

STUDY = Path(__file__).parents[2] / "studies" / "quick.toml"


@pytest.mark.slow
def test_quick_study_gives_a_law_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, store = str(STUDY), str(tmp_path / "quick.sqlite")
    assert main(["study", "run", study, "--store", store]) == 0
    assert "44 of 44 cells done, 0 failed" in capsys.readouterr().out
    assert main(["study", "fit", study, "--store", store, "--json", "-"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert len(groups) == 4
    for group in groups:  # η* falls with n·L under both losses and both κ
        # so few widths and depths leave the interval open
        assert group["forms"]["product"]["exponents"]["product"][0] < 0
    wanted = ["predict", "--from", study, "--store", store, "--width", "96", "--depth", "4"]
    assert main([*wanted, "--loss", "mse", "--input-lr-ratio", "1", "--json", "-"]) == 0
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["low"] < predicted["value"] < predicted["high"]
    page = tmp_path / "quick.html"
    assert main(["study", "report", study, "--store", store, "--output", str(page)]) == 0
    assert page.stat().st_size > 1_000_000
    assert len(list((tmp_path / "quick-figures").glob("*.pdf"))) >= 7
