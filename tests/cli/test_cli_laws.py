"""What `study fit` says of seeds that train nowhere."""

from __future__ import annotations

import pytest

from etastar.cli.fit import fit_records, print_laws
from etastar.errors import ConfigError
from etastar.scaling import CellTable
from etastar.scaling.laws import fit_laws


@pytest.mark.parametrize("lost", [0, 1])
def test_seeds_that_train_nowhere_are_told(lost: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "width": width,
            "depth": depth,
            "input_lr_ratio": 1.0,
            "loss": "mse",
            "seed": seed,
            "status": "bracketed",
            "eta_lo": (1 + 0.1 * seed) / (width * depth),
            "eta_hi": 1.05 * (1 + 0.1 * seed) / (width * depth),
        }
        for width in (8, 16, 32)
        for depth in (2, 4)
        for seed in range(3)
    ]
    for row in rows[: 3 * lost : 3]:
        row |= {"status": "none-trained", "eta_lo": None, "eta_hi": None}
    print_laws(fit_records(CellTable.from_rows(rows), "eta_star", None))
    said = capsys.readouterr().out
    assert "6 of 6 cells used; 0 below the range, 0 above it, 0 below the cutoff" in said
    line = (
        "  1 of 18 seeds train at no rate: each counts as below every rate in the median of its "
        "cell\n"
    )
    assert said.count(line) == lost


def test_what_a_law_cannot_be_of_is_named_with_its_remedy() -> None:
    rows = [
        {
            **{"width": width, "depth": depth, "input_lr_ratio": 1.0, "loss": "mse", "seed": 0},
            **{"status": "bracketed", "eta_lo": 1 / width, "eta_hi": 1.05 / width},
        }
        for width in (8, 16, 32)
        for depth in (2, 4)
    ]
    cells = CellTable.from_rows(rows)
    with pytest.raises(
        ConfigError, match=r"unknown form 'foo'\. Known: process, product, separate"
    ):
        fit_laws(cells, form="foo")
    with pytest.raises(ConfigError, match="measures it whose file sets sharpness to true"):
        fit_laws(cells, response="lambda1")
