"""Options in messages, as the user gave them: `--end-lr 1` in a shell, `end_lr = 1` in a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from etastar.cli import main
from etastar.cli.model import ModelOptions
from etastar.cli.options import in_shell, in_study_file, parse
from etastar.cli.study import ACTIONS

NETS = """
import functools
import torch
from torch import nn


def build(seed, width=8, depth=1):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def fails(seed, width=8):
    raise LookupError("nothing there")


def raises(seed):
    raise LookupError("end_lr and `seeds=3`")


unnamed = functools.partial(fails, width=3)


def pairs():
    return torch.randn(20, 64), torch.randn(20, 10)
"""
STUDIES = {
    "far": '[base]\ndevice = "gpu"\n[grid]\nwidth = [8, 16]',
    "own": '[base]\nmodel = "nets:build"\nthreshold = 0.5\ntrain_size = 256\nseeds = 2\n'
    "resolution = 0.5\nepochs = 5\n[grid]\nwidth = [8, 16, 32, 64]",
    "fails": '[base]\nmodel = "nets:fails"\n[grid]\nwidth = [8, 16]',
    "twice": '[base]\nstrategy = "curve"\n[[grid]]\nwidth = 8\n'
    "[[grid]]\nwidth = 8\nprecision = 0.5",
    "λ1": 'sharpness = true\n[base]\nmodel = "nets:build"\n[grid]\nwidth = 8',
}
GPU = "cannot be used: PyTorch knows no device of that name. This machine has cpu"
FACTORY = (
    "the factory that was given as the model, called with the seed 0, raised LookupError: nothing "
    "there (in nets.py, line 12)"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    for name, text in STUDIES.items():
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("measure --device gpu", f"--device gpu {GPU}"),
        ("sharpness --device gpu", f"--device gpu {GPU}"),
        ("model nets:build --dataset digits --device gpu", f"--device gpu {GPU}"),
        ("study run far.toml", f'study file far.toml: device = "gpu" {GPU}'),
        ("measure --start-lr 5 --end-lr 1", "--start-lr must be below --end-lr, got 5 and 1"),
        ("sharpness --momentum 0.5", "--momentum: only the search for η* uses this; give --with-"),
        ("sharpness --momentum 0.5 --eval-every 3", "--eval-every, --momentum: only the search"),
        ("sharpness --from-step 3", "--from-step: λ1 is measured at initialisation"),
        ("model nets:unnamed --dataset digits", FACTORY),
        ("study run fails.toml", FACTORY),
        (
            "model nets:build --dataset digits --metric loss --threshold auto --budgets 1",
            "--budgets 1 leave no room to find --threshold auto, which",
        ),
        (
            "model nets:build --data nets:pairs --loss mse-mean",
            "Pass --metric loss with a threshold for the loss, or a callable, e.g. metric=lambda",
        ),
        ("model nets:build --dataset digits --workers 2", "--workers needs --executor dask."),
        (
            "study run own.toml --workers 2 --executor in-process",
            "--workers needs --executor dask.",
        ),
        (
            "study run own.toml --workers 2 --scheduler tcp://127.0.0.1:1",
            "--workers is for a cluster of our own, and --scheduler names one that runs: leave",
        ),
        ("study run own.toml --workers 0", "--workers must be greater than or equal to 1"),
        ("study run own.toml --hours -1", "--hours must be greater than 0"),
        ("study run twice.toml", "run them on one --store, which shares the trials."),
        ("predict --from twice.toml --width 8 --depth 1", "on one --store, which shares"),
        (
            "model nets:build --dataset digits --store no/train_size/x",
            "no/train_size/x: the folder",
        ),
        ("measure --data-dir no/batch_size --dataset mnist", "no/batch_size does not exist"),
        ("model nets:raises --dataset digits", "raised LookupError: end_lr and 'seeds=3' (in nets"),
        ("study run λ1.toml", "sharpness: λ1 of a model of your own is not measured by studies."),
        (
            "predict --from λ1.toml --width 8 --depth 1",
            "sharpness: λ1 of a model of your own is not measured by studies.",
        ),
    ],
)
def test_a_message_names_options_as_they_were_given(
    command: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "`" not in told
    assert told.count("\n") == 1


def test_a_remedy_that_only_python_has_is_told_as_python() -> None:
    """What `metric='accuracy'` says in the shell, where no function can be given."""
    text = "`metric='accuracy'` does not fit. Pass `metric=lambda a, b: ...`, or `step_fn`."
    parse(ModelOptions, ["nets:build"], prog="", description="", positional=("model",))
    assert in_shell(text) == (
        "--metric accuracy does not fit. Pass metric=lambda a, b: ... (in Python), or step_fn (in "
        "Python)."
    )
    parse(ACTIONS["run"][0], ["own.toml"], prog="", description="", positional=("study",))
    assert in_study_file("`strategy='section'`, `seeds=3`, `threads` or `metric='loss'`") == (
        "strategy = \"section\", seeds = 3, threads or metric='loss' (in Python)"
    )


def test_the_laws_of_a_users_model_say_which_form_is_not_for_them(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "run", "own.toml"]) == 0
    capsys.readouterr()
    assert main(["study", "fit", "own.toml"]) == 0
    told = capsys.readouterr().out
    assert "`" not in told
    assert (
        "gradient-norm: not fitted: the form gradient-norm is computed from the labels "
        "'input_lr_ratio' and 'inputs' of ReLU networks, and these cells have no"
    ) in told
    assert "(and to group_by (in Python), where that is given); else go by the other forms." in told
