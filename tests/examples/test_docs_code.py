"""The code of the pages in docs/ runs, block after block, in one namespace for each page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if "```python" in page.read_text())


def blocks(text: str) -> list[tuple[int, str]]:
    """Line number and code of every block of Python."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start()].count("\n") + 1, match[1]) for match in found]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace: dict[str, Any] = {}
    text = (DOCS / page).read_text()
    assert text.count("```python") == len(blocks(text))
    for line, code in blocks(text):
        padded = "\n" * line + code  # errors then name the line of the page
        exec(compile(padded, str(DOCS / page), "exec"), namespace)
    pyplot.close("all")


def test_pages_of_models_and_warmup_are_among_them() -> None:
    assert {"models.md", "warmup.md"} <= set(PAGES)
