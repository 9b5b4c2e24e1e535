"""The notebook executes from top to bottom, and is stored with the pictures that it draws."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "maximal_lr.ipynb"
EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


def pictures(book: Any) -> list[bool]:
    """For every cell of code, whether it shows a picture."""
    outputs = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    return [any("image/png" in o.get("data", {}) for o in of_cell) for of_cell in outputs]


@pytest.mark.slow
def test_notebook_executes_and_is_stored_with_its_pictures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(tmp_path / "done.ipynb")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    stored = nbformat.read(NOTEBOOK, as_version=4)
    executed = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert pictures(stored) == pictures(executed)
    assert sum(pictures(stored)) == 2
