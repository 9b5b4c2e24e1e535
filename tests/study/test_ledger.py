"""The tables of the ledger are those that the committed rows give."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_follow_from_the_rows() -> None:
    command = [sys.executable, "benchmarks/reproduction.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_row_file_has_its_study() -> None:
    rows = {p.stem for p in (ROOT / "studies" / "results").glob("*.csv")}
    assert rows
    assert rows <= {p.stem for p in (ROOT / "studies").glob("*.toml")}
