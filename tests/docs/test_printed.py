"""What README.md and docs/quickstart.md say is printed is what is printed; seconds apart.

The rest: blocks of text in docs/ below code by tests/examples/test_docs_code.py, docs/studies.md by
test_study_page.py.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest
import torch
from matplotlib import pyplot

from etastar.cli import main

matplotlib.use("Agg")

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"^```console\n(.*?)^```$", QUICKSTART, re.M | re.S)


def told(printed: str) -> str:
    """The text without the seconds, and the line breaks that hang on their number of digits."""
    return " ".join(re.sub(r"[\d.,]+\s+s\b", "# s", printed).split())


@contextmanager
def reader(folder: Path) -> Iterator[io.StringIO]:
    """What is printed here in a folder by one thread, as on a terminal of 80 columns."""
    out = io.StringIO()
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        torch.set_num_threads(1)
        try:
            with redirect_stdout(out), redirect_stderr(out):
                yield out
        finally:
            torch.set_num_threads(threads)
            pyplot.close("all")


def run(command: list[str], folder: Path) -> str:
    """What a command prints; it need not start Python and PyTorch anew."""
    with reader(folder) as out:
        assert main(command) == 0, out.getvalue()
    return out.getvalue()


@pytest.mark.slow
def test_the_five_lines_print_what_the_readme_says(tmp_path: Path) -> None:
    shown = README.split("digits it prints:\n\n```\n")[1].split("```")[0]
    with reader(tmp_path) as out:
        runpy.run_path(str(ROOT / "examples" / "five_lines.py"), run_name="__main__")
    assert told(out.getvalue()) == told(shown)
    assert "Only the order of the data varied" in shown
    middle, advised = (
        float(re.search(words + r" ([\d.]*\d)", shown)[1])  # type: ignore[index]
        for words in (r"η\* =", "recommended rate:")
    )
    assert 0.3 < middle < 2
    assert advised < middle
    assert (tmp_path / "out" / "five_lines.png").stat().st_size > 10_000


class Quickstart(NamedTuple):
    """The page's commands, run once in its order, and where."""

    folder: Path
    printed: dict[str, str]
    shown: dict[str, str]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "out").mkdir()
    (folder / "studies").mkdir()
    shutil.copy(ROOT / "studies" / "quick.toml", folder / "studies")
    blocks = re.findall(r"^```py\n(.*?)^```$", QUICKSTART, re.M | re.S)
    (module,) = (block for block in blocks if "def build" in block)
    (folder / "my_module.py").write_text(module, encoding="utf-8")
    page = Quickstart(folder, {}, {})
    for part in re.split(r"^\$ ", "".join(CONSOLE), flags=re.M)[1:]:
        command, shown = part.split("\n", 1)
        if command == "make demo":
            continue  # the first command below it, after an installation
        program, *arguments = shlex.split(command)
        assert program == "etastar", f"the page runs {program}, which this test does not know"
        page.shown[command] = shown
        page.printed[command] = run(arguments, folder)
    return page


@pytest.mark.slow
def test_the_quickstart_prints_what_it_shows(quickstart: Quickstart) -> None:
    assert len(quickstart.shown) == 5
    for command, shown in quickstart.shown.items():
        printed, place = told(quickstart.printed[command]), 0
        for part in shown.split("..."):
            place = printed.find(told(part), place)
            assert place >= 0, f"{command} printed\n{printed}\nwithout\n{told(part)}"
        assert "..." in shown or printed == told(shown)


@pytest.mark.slow
def test_the_numbers_that_the_quickstart_speaks_of_were_printed(quickstart: Quickstart) -> None:
    text = re.sub(r"^```console\n.*?^```$", "", QUICKSTART, flags=re.M | re.S)
    spoken = set(re.findall(r"\b\d\.\d{3,}\b", text))
    assert len(spoken) == 5
    assert spoken <= set(re.findall(r"[\d.]*\d", "".join(quickstart.printed.values())))
    low, high = re.findall(r"interval ([\d.e-]+) – ([\d.e-]+)\)", QUICKSTART)[-1]
    (factor,) = re.findall(r"A factor of ([\d.]+) between the ends", QUICKSTART)
    assert float(high) / float(low) == pytest.approx(float(factor), rel=0.03)


@pytest.mark.slow
def test_the_quick_study_gives_a_law_and_a_page(quickstart: Quickstart) -> None:
    folder, study = quickstart.folder, "studies/quick.toml"
    assert "16 of 16 cells done, 0 failed" in quickstart.printed[f"etastar study run {study}"]
    fitted = run(["study", "fit", study, "--json", "-"], folder)
    groups = json.loads(fitted)["groups"]
    assert len(groups) == 2
    for group in groups:  # η* falls with n·L under both κ
        # so few widths and depths leave the interval open
        assert group["forms"]["product"]["exponents"]["product"][0] < 0
    wanted = ["predict", "--from", study, "--width", "96", "--depth", "4", "--input-lr-ratio", "1"]
    found = run([*wanted, "--json", "-"], folder)
    predicted = json.loads(found)
    assert predicted["low"] < predicted["value"] < predicted["high"]
    run(["study", "report", study], folder)
    assert (folder / "studies" / "quick.html").stat().st_size > 1_000_000
    assert len(list((folder / "studies" / "quick-figures").glob("*.pdf"))) >= 7
