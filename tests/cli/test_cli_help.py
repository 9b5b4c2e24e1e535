"""`--help` of every command: it ends well, and shows options and defaults as a user writes them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from etastar.cli import COMMANDS, main
from etastar.cli.study import ACTIONS

STUDY = Path(__file__).parents[2] / "studies" / "quick.toml"

EVERY = [[], *([name] for name in COMMANDS), *(["study", name] for name in ACTIONS)]


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_help_shows_nothing_of_how_it_is_made(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*command, "--help"])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: " + " ".join(["etastar", *command]))
    assert err == ""
    assert not re.search(r"Undefined|None\b|True|False|<class|factory|_file\b", out)
    options = re.findall(r"^  (--[\w-]+)", out, re.MULTILINE)
    assert options == sorted(set(options), key=options.index)
    assert not any("_" in option for option in options)


def test_required_options_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--width N [^\[]+\[required\]", out)
    assert main(["predict", "--from", str(STUDY)]) == 2
    assert capsys.readouterr().err == (
        "etastar: --width is missing; it has no default. See etastar predict --help.\n"
    )
    with pytest.raises(SystemExit):
        main(["study", "fit", "--help"])
    assert "STUDY The study file, *.toml. options:" in " ".join(capsys.readouterr().out.split())


def test_options_are_described_without_docstrings_too() -> None:
    command = [sys.executable, "-OO", "-m", "etastar", "study", "run", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Compute what the store does not hold yet." in shown
    assert "Print the cells and a time estimate; run nothing." in " ".join(shown.split())


@pytest.mark.parametrize("command", ["measure", "study", "predict"])
def test_help_does_not_wait_for_torch(command: str) -> None:
    code = f"""
import sys
from etastar.cli import main
try:
    main(["{command}", "--help"])
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
