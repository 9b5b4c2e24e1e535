"""A few hundred damaged inputs of each kind; `run.py` makes thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import CASES, warm_up
from run import fuzz, good_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    content = good_store(Path(tmp_path_factory.mktemp("good")))
    warm_up()
    return content


@pytest.mark.parametrize("kind", CASES)
def test_damaged_inputs_end_right_or_in_one_line(kind: str, store: bytes) -> None:
    counts, broken = fuzz(kind, 120, 0, store)
    assert not broken, broken[0]
    assert counts["right"] + counts["refused"] == 120
    assert counts["right"]
    assert counts["refused"]
