"""The code of the pages in docs/ runs, block after block, in one namespace for each page.

A block of text below one of Python is what that prints.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if "```python" in page.read_text())


def blocks(text: str) -> list[tuple[int, str, str | None]]:
    """Line number and code of every block of Python, and the block of text below it, if any."""
    found = re.finditer(
        r"^```python\n(.*?)^```$(?:(?:(?!```).)*?^```text\n(.*?)^```$)?", text, re.M | re.S
    )
    return [(text[: match.start()].count("\n") + 1, match[1], match[2]) for match in found]


def told(printed: str) -> str:
    """What was printed, without the seconds that it took, which differ from run to run."""
    return re.sub(r"[\d.,]+ s$", "# s", printed, flags=re.M).strip()


def added(code: str) -> list[str] | None:
    """The lines between the marks of what etastar adds to a script; None without marks."""
    found = re.search(r"^# etastar begins\n(.*?)^# etastar ends$", code, re.M | re.S)
    return found and [line for line in found[1].splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace: dict[str, Any] = {}
    text = (DOCS / page).read_text()
    assert text.count("```python") == len(blocks(text))
    for line, code, printed in blocks(text):
        padded = "\n" * line + code  # errors then name the line of the page
        exec(compile(padded, str(DOCS / page), "exec"), namespace)
        out = capsys.readouterr().out
        if printed is not None:
            lines = told(out).splitlines()  # below it may come what a framework prints itself
            assert lines[: len(told(printed).splitlines())] == told(printed).splitlines(), page
    pyplot.close("all")


def test_pages_of_every_place_of_work_are_among_them() -> None:
    places = {"plain-loop.md", "lightning.md", "hugging-face.md"}
    assert {"index.md", "models.md", "warmup.md"} | places <= set(PAGES)


@pytest.mark.parametrize("page", ["lightning.md", "hugging-face.md"])
def test_a_trainer_needs_ten_lines_at_most(page: str) -> None:
    found = [added(code) for _, code, _ in blocks((DOCS / page).read_text())]
    assert [len(lines) <= 10 for lines in found if lines is not None] == [True]
