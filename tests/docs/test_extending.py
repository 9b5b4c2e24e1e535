"""The changes of docs/extending.md, made to a copy of the code: they apply, their tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    kind: str
    path: str
    text: str


BLOCKS = [
    Block(*found)
    for found in re.findall(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', PAGE, re.M | re.S)
]
TESTS = [block.path for block in BLOCKS if block.path.startswith("tests/") and block.kind == "py"]


def patched(text: str, diff: str) -> str:
    """`text` with one hunk applied: lines begin with a space, `+` or `-`."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"the page's context does not stand there once:\n{before}"
    return text.replace(before, after)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code with every change of the page."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for block in BLOCKS:
        path = copy / block.path
        if block.kind == "diff":
            path.write_text(patched(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
        else:
            assert not path.exists(), f"{block.path} is there already: not a new file"
            path.write_text(block.text, encoding="utf-8")
    return copy


def test_every_kind_of_extension_is_shown_with_its_test() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)
    rooms = {path.split("/")[1] for path in TESTS}
    assert rooms == {"data", "problem", "engines", "search", "study", "report"}


@pytest.mark.slow
def test_the_changes_pass_their_tests(changed: Path) -> None:
    figures = "tests/report/test_figures_of_studies.py::"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS),
            f"{figures}test_figures_have_panels_caption_and_rows_with_their_cells",
            f"{figures}test_every_figure_has_its_row_here",
        ],
        cwd=changed,
        env={**os.environ, "PYTHONPATH": str(changed / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_the_changes_are_clean(changed: Path) -> None:
    files = dict.fromkeys(block.path for block in BLOCKS)
    for command in (["check"], ["format", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, *files]
        run = subprocess.run(ruff, cwd=changed, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
