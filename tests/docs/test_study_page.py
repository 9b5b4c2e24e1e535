"""docs/reference/study-files.md and docs/studies.md against the product.

The reference's tables are those of the schema, and what it says is refused is refused; the
tutorial's files and commands, taken from the page, run in its order and print what it shows.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from etastar.cli import main
from etastar.cli.predict import PredictOptions
from etastar.cli.study import ACTIONS
from etastar.data import DATASETS
from etastar.scaling.forms import FORMS
from etastar.scaling.process import Process
from etastar.settings import DEFAULTS, OneOf, Settings
from etastar.study.cell import SharpnessSettings
from etastar.study.plan import State
from etastar.study.specification import Budget, StudyFile

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "study-files.md").read_text(encoding="utf-8")
TUTORIAL = (DOCS / "studies.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """What stands below a heading, up to the next of the same level."""
    level = heading.split(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", REFERENCE, re.M | re.S
    )
    assert found, f"docs/reference/study-files.md has no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without the tables' heads."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line] for line in lines]
    heads = [i - 1 for i, line in enumerate(cells) if set("".join(line)) <= set("-:")]
    return [line for i, line in enumerate(cells) if i not in heads and i - 1 not in heads]


def kind(schema: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    """A type of the JSON schema as the page writes it, e.g. `integer ≥ 1`."""
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(kind(part, names) for part in parts)
    options = names or schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if options:
        return ", ".join(f"`{json.dumps(option)}`" for option in options)
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    shown = [f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema]
    return f"{schema['type']} {', '.join(shown)}".strip().replace("1.15292e+18", "2⁶⁰")


def expected(model: type[BaseModel], *, flags: bool = False) -> list[list[str]]:
    """Name, type and default of every field; None where the default is told in words."""
    found = []
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        shown = field.alias or name
        names = next((tuple(m.names) for m in field.metadata if isinstance(m, OneOf)), ())
        required = field.is_required()
        given = not required and field.default is not None
        default = f"`{json.dumps(field.default)}`" if given else ""
        word = kind(properties[shown], names)
        if flags:
            dashed = shown.replace("_", "-")
            shown = shown.upper() if name == "study" else f"--{dashed}"
            if field.annotation is bool:
                shown, word = f"--{dashed}`, `--no-{dashed}", "–"
                default = "yes" if field.default else "no"
            word, default = word.replace('"', ""), default.replace('"', "")
        found.append([f"`{shown}`", word, "required" if required else default])
    return found


MODELS: dict[str, tuple[type[BaseModel], bool]] = {
    "## Settings": (Settings, False),
    "## Sharpness": (SharpnessSettings, False),
    "## Budget": (Budget, False),
    **{f"### etastar study {name}": (action[0], True) for name, action in ACTIONS.items()},
    "### etastar predict": (PredictOptions, True),
}


@pytest.mark.parametrize("heading", MODELS)
def test_a_table_of_the_reference_is_that_of_the_schema(heading: str) -> None:
    model, flags = MODELS[heading]
    text = section(heading).split("### Defaults by data set")[0]
    shown, wanted = rows(text), expected(model, flags=flags)
    assert [row[:2] for row in shown] == [row[:2] for row in wanted]
    for (name, _, default, meaning), (*_, want) in zip(shown, wanted, strict=True):
        assert meaning, name
        if want:
            assert default == want, name
        else:  # told in words: the schema's None
            assert default, name


def test_the_reference_names_every_key_of_the_top_level() -> None:
    assert [row[0] for row in rows(section("## Top level"))] == [
        f"`{name}`" for name in StudyFile.model_fields
    ]


def test_the_reference_has_the_defaults_of_every_data_set() -> None:
    wanted = [
        [f"`{name}`", *(f"{x:g}" for x in (d.threshold, d.batch_size, *d.epochs.values()))]
        for name, d in DEFAULTS.items()
    ]
    assert [list(d.epochs) for d in DEFAULTS.values()] == [["cross-entropy", "mse"]] * len(wanted)
    assert rows(section("### Defaults by data set")) == wanted


def test_the_reference_names_every_form_and_data_set() -> None:
    dataset = next(row for row in rows(section("## Settings")) if row[0] == "`dataset`")
    form = next(row for row in rows(section("### etastar predict")) if row[0] == "`--form`")
    assert set(re.findall("`(.*?)`", dataset[3])) == set(DATASETS)
    assert set(re.findall("`(.*?)`", form[3])) == {Process.form, *FORMS}


@pytest.mark.parametrize(
    ("written", "message"),
    [row[:2] for row in rows(section("## Values that are refused, and remedies"))],
    ids=lambda text: text if text.startswith("`") else "",
)
def test_what_the_reference_says_is_refused(
    written: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = written.strip("`")
    if not re.search(r"\b(grid|cells)\b", text):
        text += "\ngrid.width = [32, 64]"
    study = tmp_path / "refused.toml"
    study.write_text(text)
    assert main(["study", "run", str(study), "--dry-run"]) == 2
    assert message in capsys.readouterr().err


class Tutorial:
    """The commands of docs/studies.md, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.background: list[subprocess.Popen[str]] = []
        self.port = free_port()

    def run(self, command: str, shown: str) -> str:
        """Run a command as the page says; what it printed."""
        program, *arguments = shlex.split(command.replace("first:8786", self.address))
        if program == "dask":
            self.start(arguments)
            return ""
        assert program == "etastar", f"the page runs {program}, which this test does not know"
        if "^C" in shown:
            return self.interrupted(arguments)
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            assert main(arguments) == 0, out.getvalue()
        return out.getvalue()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, arguments: list[str]) -> None:
        """Start a scheduler, or its workers: on this machine, with one worker each."""
        options = {
            "scheduler": ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"],
            "worker": ["--host", "127.0.0.1", "--nworkers", "1", "--no-dashboard"],
        }[arguments[0]]
        self.background.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, *options],
                cwd=self.folder,
                env=os.environ | {"DASK_TEMPORARY_DIRECTORY": str(self.folder)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        )

    def interrupted(self, arguments: list[str]) -> str:
        """Run a study in a process of its own, and press Ctrl-C when its first task has ended."""
        with subprocess.Popen(
            [sys.executable, "-m", "etastar", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a shell that runs the tests in the background has Ctrl-C ignored, by its children too
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            store = (self.folder / arguments[2]).with_suffix(".sqlite")
            while not State.of_file(store).done and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            printed = process.communicate(timeout=60)[0]
        assert process.returncode == 130, printed
        return "^C\n" + printed

    def close(self) -> None:
        for process in self.background:
            # its workers too: one that is asked while its scheduler goes may wait for it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def masked(line: str) -> str:
    """A line without what differs from machine to machine: numbers, durations, and spaces."""
    line = re.sub(r"-?\d[\d,.]*(e[+-]\d+)?", "#", line)
    return " ".join(re.sub(r"# (h # )?(min|s)\b", "# s", line).split())


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```$", TUTORIAL, re.M | re.S)
    assert TUTORIAL.count("```") == 2 * len(found)
    tutorial = Tutorial(tmp_path)
    try:
        for kind_of_block, title, text in found:
            if kind_of_block == "toml":
                (tmp_path / title).write_text(text)
            elif kind_of_block == "diff":
                before, after = (
                    "".join(line[1:] for line in text.splitlines(True) if line[0] in marks)
                    for marks in (" -", " +")
                )
                content = (tmp_path / title).read_text()
                assert content.count(before) == 1
                (tmp_path / title).write_text(content.replace(before, after))
            else:
                assert kind_of_block == "console"
                for block in re.split(r"^\$ ", text, flags=re.M)[1:]:
                    command, shown = block.split("\n", 1)
                    printed = [masked(line) for line in tutorial.run(command, shown).splitlines()]
                    for line in shown.splitlines():
                        assert line == "..." or masked(line) in printed, (command, line, printed)
    finally:
        tutorial.close()
    page = (tmp_path / "mine.html").read_text(encoding="utf-8")
    reading = TUTORIAL.split("From above:")[1].split("\n## ")[0].replace("\\*", "*")
    for heading in re.findall(r"\*\*(.+?)\*\*(?!\*)", reading):
        assert re.search(f"<h[23] id=[^>]*>{re.escape(heading)}", page), heading
