"""What the README says is printed is what is printed; seconds apart.

The rest: blocks of text in docs/ below code by tests/examples/test_docs_code.py, docs/studies.md by
test_study_page.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def told(printed: str) -> str:
    """The text without the seconds, and the line breaks that hang on their number of digits."""
    return " ".join(re.sub(r"[\d.,]+\s+s\b", "# s", printed).split())


def run(command: list[str], folder: Path) -> str:
    (folder / "out").mkdir()
    env = {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | env | {"MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_five_lines_print_what_the_readme_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("digits it prints:\n\n```\n")[1].split("```")[0]
    assert told(run([str(ROOT / "examples" / "five_lines.py")], tmp_path)) == told(shown)
