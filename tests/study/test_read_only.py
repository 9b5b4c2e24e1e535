"""A folder that cannot be written: what only reads still answers, the rest says so in one line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_studies import fill

from etastar.study.specification import Study

TEXT = "[grid]\nwidth = [8, 16, 32]\ndepth = [1, 2]\nseeds = 2"

AS_A_MERE_USER = """
import ctypes, sys
if sys.argv.pop(1) == "0":  # root writes anywhere: capabilities 1 and 2 are what lets it
    for capability in (1, 2):
        assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
import os
os.execv(sys.executable, [sys.executable, "-m", "etastar", *sys.argv[1:]])
"""


def etastar(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_A_MERE_USER, str(os.geteuid()), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "shared"
    folder.mkdir()
    file = folder / "study.toml"
    file.write_text(TEXT)
    fill(Study.from_file(file), file.with_suffix(".sqlite"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield file
    folder.chmod(0o755)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_reading_needs_no_writing(study: Path) -> None:
    assert "6 of 6 cells done" in etastar("study", "status", str(study)).stdout
    assert "region of validity" in etastar("study", "fit", str(study)).stdout
    rows = etastar("study", "export", str(study), "--output", "-").stdout
    assert len(list(csv.DictReader(rows.splitlines()))) == 12
    size = "--width 24 --depth 2 --loss cross-entropy --input-lr-ratio 1"
    assert "η* = " in etastar("predict", "--from", str(study), *size.split()).stdout


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["study", "run", "STUDY"], "study.sqlite.lock"),
        (["study", "export", "STUDY"], "study.csv"),
        (["study", "report", "STUDY"], "study.html"),
        (["study", "status", "STUDY", "--json", "FOLDER/status.json"], "status.json"),
        (["measure", "--plot", "FOLDER/picture.png"], "picture.png"),
        (["measure", "--json", "FOLDER/result.json"], "result.json"),
        (["sharpness", "--json", "FOLDER/result.json"], "result.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_writing_is_refused_in_one_line(study: Path, words: list[str], file: str) -> None:
    named = {"STUDY": str(study), "FOLDER": str(study.parent)}
    for name, path in named.items():
        words = [word.replace(name, path) for word in words]
    done = etastar(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.lower() == (
        f"etastar: {study.parent / file} cannot be written: permission denied.\n".lower()
    )
