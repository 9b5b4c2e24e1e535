"""A full disk: a clear error, nothing lost, and the same command goes on once there is space."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_studies import content, fill

from etastar.study.specification import Study

TEXT = "[grid]\nwidth = [8, 16, 32, 64]\ndepth = [1, 2, 3, 4]\nseeds = 6\nloss = 'mse'"

CODE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from made_studies import made_lr
from etastar.errors import EtaStarError
from etastar.study.specification import Study
from etastar.study.store import StoreWriter
from etastar.problem.trial import Outcome, Trial

limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
done = 0
try:
    with StoreWriter(Path(sys.argv[2])) as writer:
        for cell in Study.from_file(sys.argv[1]).cells:
            key = writer.specify(cell.id, "maximal-lr", cell.specification)
            for seed in range(100, 140):
                writer.add_trial(key, Trial.of(seed, 0.1), Outcome("short", 5))
            writer.add_results(key, made_lr(cell))
            done += 1
except EtaStarError as error:
    print(type(error).__name__, error)
print(done)
"""


def write(study: Path, store: Path, limit: int) -> tuple[str, int]:
    """Fill a store in a process whose files cannot grow beyond `limit` bytes."""
    here = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(study), str(store), str(limit), here],
        capture_output=True,
        text=True,
        check=True,
    )
    *said, done = run.stdout.splitlines()
    return "\n".join(said), int(done)


@pytest.mark.parametrize("kilobytes", [0, 20, 90, 300])
def test_what_was_stored_before_is_kept(tmp_path: Path, kilobytes: int) -> None:
    file, store = tmp_path / "study.toml", tmp_path / "store.sqlite"
    file.write_text(TEXT)
    study = Study.from_file(file)
    whole = tmp_path / "whole.sqlite"
    fill(study, whole, sharpness=False)
    expected = content(whole)
    said, done = write(file, store, kilobytes * 1024)
    assert said.startswith(f"StoreError {store}")
    assert "What was stored before is kept" in said
    assert "\n" not in said
    assert 0 <= done < len(study.cells)
    if kilobytes >= 90:
        kept = content(store)
        assert len(kept["seed"]) == 6 * done > 0
        assert set(kept["seed"]) <= set(expected["seed"])
    fill(study, store, sharpness=False)
    assert content(store)["seed"] == expected["seed"]
