"""A folder that cannot be written: what only reads still answers, the rest says so in one line."""

from __future__ import annotations

import csv
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from made_studies import fill

from etastar.cli import main
from etastar.study.specification import Study

TEXT = "[grid]\nwidth = [8, 16, 32]\ndepth = [1, 2]\nseeds = 2"


def etastar(*words: str) -> CompletedProcess[str]:
    """A command of a mere user, in a fork of this process, which has imported PyTorch already."""
    told = [os.memfd_create(name) for name in ("out", "err")]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads here
        child = os.fork()
    if child == 0:
        code = 70
        try:
            sys.stdout, sys.stderr = (os.fdopen(end, "w", encoding="utf-8") for end in told)
            code = as_a_mere_user(list(words))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for end in told:
        with os.fdopen(end, encoding="utf-8") as file:
            file.seek(0)
            texts.append(file.read())
    return CompletedProcess(words, code, *texts)


def as_a_mere_user(words: list[str]) -> int:
    if os.geteuid() == 0:  # root writes anywhere: capabilities 1 and 2 are what lets it
        prepare, libc = (ctypes.c_uint32 * 2)(0x20080522, 0), ctypes.CDLL(None)
        held = (ctypes.c_uint32 * 6)()
        assert libc.capget(prepare, held) == 0
        for kind in (0, 1):  # effective, and permitted, which is what access(2) asks
            held[kind] &= ~0b110
        assert libc.capset(prepare, held) == 0
    return main(words)


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
