"""Studies whose networks a function of the user builds."""

from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from etastar.cli import main
from etastar.errors import ConfigError
from etastar.study.factory import FactorySettings
from etastar.study.runner import Progress, run_study
from etastar.study.specification import Study

EXAMPLES = Path(__file__).parents[2] / "examples"

CODE = """
import torch
from torch import nn
from parts import activation

def build(seed, channels, blocks=1, gain=1.0):
    torch.manual_seed(seed)
    sizes = [64] + [channels] * blocks
    layers = []
    for i, o in zip(sizes, sizes[1:]):
        layers += [nn.Linear(i, o), activation()]
        nn.init.kaiming_normal_(layers[-2].weight)
        layers[-2].weight.data *= gain
    return nn.Sequential(*layers, nn.Linear(channels, 10))
"""
PARTS = "from torch import nn\n\ndef activation():\n    return nn.Tanh()\n"
TEXT = """
[base]
model = "nets:build"
dataset = "digits"
train_size = 200
val_size = 100
threshold = 0.3
max_steps = 10
batch_size = 32
start_lr = 0.05
end_lr = 20.0
seeds = 2
resolution = 0.5

[law]
width = "channels"
depth = "blocks"

[grid]
channels = [4, 8, 16]
blocks = [1, 2]
"""


def written(folder: Path, text: str = TEXT, code: str = CODE) -> Path:
    (folder / "nets.py").write_text(code)
    (folder / "parts.py").write_text(PARTS)
    (folder / "own.toml").write_text(text)
    return folder / "own.toml"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = written(tmp_path_factory.mktemp("own"))
    progress = run_study(Study.from_file(path))
    assert (progress.done, progress.failed) == (6, 0), progress.failures
    return path


def table(path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    target = path.with_name("rows.csv")
    assert main(["study", "export", str(path), "--output", str(target)]) == 0
    capsys.readouterr()
    with target.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_carry_the_keys_and_the_code(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(done, capsys)
    assert len(rows) == 12
    assert {(r["channels"], r["blocks"]) for r in rows} == {
        (c, b) for c in ("4", "8", "16") for b in ("1", "2")
    }
    assert all(r["width"] == r["channels"] and r["depth"] == r["blocks"] for r in rows)
    assert {r["model"] for r in rows} == {"nets:build"}
    assert len({r["code"] for r in rows}) == 1
    assert {r["output_variance"] for r in rows} == {""}  # of the paper's networks only


def test_the_row_is_what_maximal_lr_gives(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import functools

    import torch

    import etastar

    cell = next(c for c in Study.from_file(done).cells if c.fields["channels"] == 8)
    assert isinstance(cell.settings, FactorySettings)
    data = etastar.load("digits", train_size=200, val_size=100)
    found = etastar.maximal_lr(
        cell.settings.factory(),
        data,
        optimizer=functools.partial(torch.optim.SGD, momentum=0.0),
        threshold=0.3,
        max_steps=10,
        batch_size=32,
        start_lr=0.05,
        end_lr=20.0,
        seeds=2,
        resolution=0.5,
        strategy="section",
        progress=False,
    )
    rows = [r for r in table(done, capsys) if r["cell"] == cell.id]
    for row in rows:
        if row["eta_lo"]:  # the scans differ, so that brackets overlap without being equal
            bracket = found.seeds[int(row["seed"])]
            assert bracket.lo is not None
            assert float(row["eta_lo"]) <= (bracket.hi or 20.0) * 1.5
            assert float(row["eta_hi"]) >= bracket.lo / 1.5


def test_predict_takes_the_keys_as_options(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "--from", str(done), "--form", "product", "--json", "-"]
    assert main([*command, "--channels", "32", "--blocks=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["depth"]) == (32, 2)
    assert found["low"] < found["value"] < found["high"]
    assert main([*command, "--chanels", "32", "--blocks=2"]) == 2
    assert "--chanels" in capsys.readouterr().err


def test_status_fit_and_page(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "status", str(done)]) == 0
    assert "6 of 6" in capsys.readouterr().out
    page = done.with_name("page.html")
    assert main(["study", "report", str(done), "--output", str(page)]) == 0
    assert "nets:build" in page.read_text(encoding="utf-8")


def test_a_second_run_and_a_worker_process(done: Path, tmp_path: Path) -> None:
    assert run_study(Study.from_file(done)).trials == 0
    path = written(tmp_path, TEXT.replace("[4, 8, 16]", "[4]").replace("[1, 2]", "[1]"))
    with ProcessPoolExecutor(1) as pool:
        progress = run_study(Study.from_file(path), executor=pool)
    assert (progress.done, progress.failed) == (1, 0), progress.failures


@pytest.mark.parametrize("file", ["nets.py", "parts.py"])
def test_changed_code_is_refused_and_kept_apart(done: Path, tmp_path: Path, file: str) -> None:
    for name in ("nets.py", "parts.py", "own.toml", "own.sqlite"):
        shutil.copy(done.with_name(name), tmp_path / name)
    before = Study.from_file(tmp_path / "own.toml")
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\nCHANGED = True\n")
    study = Study.from_file(tmp_path / "own.toml")
    assert not {c.id for c in study.cells} & {c.id for c in before.cells}
    with pytest.raises(ConfigError, match="the code of nets:build has changed"):
        run_study(study)


def test_the_law_is_no_part_of_the_identity(tmp_path: Path) -> None:
    study = Study.from_file(written(tmp_path))
    without = TEXT.replace('[law]\nwidth = "channels"\ndepth = "blocks"\n', "")
    again = Study.from_file(written(tmp_path, without))
    assert [c.id for c in study.cells] == [c.id for c in again.cells]


WRONG = {
    "keyword": ("gain = 1.0\nchanels = 3", "takes no 'chanels'; did you mean 'channels'"),
    "setting": ("thresold = 0.5", "takes no 'thresold'; did you mean 'threshold'"),
    "checkpoint": ("from_step = 5", "from initialisation"),
    "type": ('dtype = "float64"', "own type"),
    "table": ("gain = {a = 1}", "a number, string or boolean"),
    "batch": ("", "the number of samples"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_says_nothing_to_a_factory_is_refused(tmp_path: Path, what: str) -> None:
    more, message = WRONG[what]
    text = TEXT.replace('dataset = "digits"', f'dataset = "digits"\n{more}')
    if what == "batch":
        text = text.replace("batch_size = 32", 'batch_size = "full"')
    with pytest.raises(ConfigError, match=message):
        run_study(Study.from_file(written(tmp_path, text)))


def test_other_refusals_name_the_place(tmp_path: Path) -> None:
    for text, message in {
        TEXT.replace("nets:build", "nots:build"): "there is no module 'nots'",
        TEXT.replace("nets:build", "nets"): "expected MODULE:NAME",
        "sharpness = true\n" + TEXT: "sharpness",
        TEXT.replace('"blocks"\n', '"block"\n'): "law.depth",
        TEXT.replace('dataset = "digits"', 'data = "nets:load"'): "no effect beside `data`",
    }.items():
        with pytest.raises(ConfigError, match=message):
            Study.from_file(written(tmp_path, text))


def test_a_curve_where_nothing_varies_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = TEXT.replace("[4, 8, 16]", "[4]").replace("[1, 2]", "[1]")
    brackets = "seeds = 2\nresolution = 0.5"
    one = one.replace(brackets, 'strategy = "curve"').replace("= 32", "= 500")  # a full batch
    code = CODE.replace("manual_seed(seed)", "manual_seed(0)")
    study = Study.from_file(written(tmp_path, one, code))
    progress = run_study(study)
    (reason,) = progress.failures.values()
    assert progress.done == 0
    assert reason.startswith("ConfigError: nothing varies between trials")
    assert "`strategy='section'`" in reason
    assert main(["study", "status", str(study.path)]) == 0
    assert 'or set strategy = "section".' in capsys.readouterr().out


def test_the_example_runs(tmp_path: Path) -> None:
    for name in ("cnn_study.py", "cnn_study.toml"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    study = Study.from_file(tmp_path / "cnn_study.toml")
    progress = run_study(study)
    assert (progress.done, progress.failed) == (6, 0), progress.failures


def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT.replace("[4, 8, 16]", "[4]").replace("[1, 2]", "[1]"))
    whole = run_study(Study.from_file(path), tmp_path / "whole.sqlite").trials
    seen = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress.trials)
        if progress.trials >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(Study.from_file(path), on_progress=interrupt)
    again = run_study(Study.from_file(path))
    assert again.done == 1
    assert 0 < again.trials <= whole - 5
