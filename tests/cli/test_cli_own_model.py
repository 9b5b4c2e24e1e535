"""`etastar model`: a stranger's module from the shell, in a folder of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from etastar.cli import main

MODULE = """
import torch
from sklearn.datasets import load_digits
from torch import nn

def build(seed):
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

def build_once():
    torch.manual_seed(7)
    return build(0)

given = nn.Linear(64, 10)

def broken(seed):
    raise RuntimeError("no weights\\nhere")

def load():
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
    y = torch.tensor(digits.target)
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])

def load_named():
    train, val = load()
    return {"train": train, "val": val}

def load_train_only():
    return load()[0]

def load_wrong():
    return {"training": load()[0]}

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_module.py").write_text(MODULE)
    (tmp_path / "wont_import.py").write_text("import torch\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_module", "wont_import"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


SHORT = ["--epochs", "4", "--threshold", "0.8", "--seeds", "2", "--start-lr", "0.01"]


def test_result_is_that_of_maximal_lr(folder: Path) -> None:
    import etastar

    wanted = ["model", "my_module:build", "--data", "my_module:load", *SHORT]
    assert main([*wanted, "--json", "found.json", "--plot", "found.png"]) == 0
    record = json.loads((folder / "found.json").read_text())
    import my_module  # type: ignore[import-not-found]

    train, val = my_module.load()
    found = etastar.maximal_lr(
        my_module.build, train, val, threshold=0.8, epochs=4, seeds=2, start_lr=0.01
    )
    assert record["eta_star"]["median"] == found.lr
    assert [(s["lo"], s["hi"]) for s in record["seeds"]] == [
        (s.lo, s.hi) for s in found.seeds.values()
    ]
    for key in ("schema_version", "network", "data", "criterion", "cost", "environment"):
        assert record[key]
    tried = {(t["seed"], t["lr"]): t["outcome"] for t in record["trials"]}
    for seed in record["seeds"]:
        assert tried[seed["seed"], seed["lo"]] == "trained"
        assert tried[seed["seed"], seed["hi"]] != "trained"
    assert set(record["trials"][0]) >= {"seed", "lr", "outcome", "step", "accuracy"}
    assert record["network"]["architecture"] == "my_module:build"
    assert (folder / "found.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("my_module:build_once", "my_module:load_named"),
        ("my_module:given", "my_module:load_train_only"),
        ("my_module.py:build", "my_module.py:load"),
        ("my_module:build", None),
    ],
)
def test_forms_of_models_and_data(
    folder: Path, model: str, data: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--data", data] if data else ["--dataset", "digits", "--train-size", "1000"]
    assert main(["model", model, *source, *SHORT, "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)  # standard output holds JSON alone
    assert all(seed["lo"] > 0.01 for seed in record["seeds"])
    varies = "initialisation" in record["varies"]
    assert varies == model.endswith("build")


def test_loss_as_metric_and_adamw(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["model", "my_module:build", "--data", "my_module:load", *SHORT]
    wanted += ["--optimizer", "adamw", "--metric", "loss", "--end-lr", "1", "--json", "-"]
    assert main(wanted) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["criterion"]["metric"] == "loss"
    assert all(t["accuracy"] is None for t in record["trials"])
    trained = [t["metric"] for t in record["trials"] if t["outcome"] == "trained"]
    assert trained
    assert max(trained) <= 0.8


DATA = ("--data", "my_module:load")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("my_module",), "expected MODULE:NAME"),
        (("my_modul:build",), "no module 'my_modul'"),
        (("nowhere.py:build",), "model nowhere.py:build: there is no file nowhere.py."),
        (("my_module:buld",), "did you mean 'build'"),
        (("my_module:broken",), "raised RuntimeError: no weights here (in my_module.py, line 16)"),
        (("my_module:number",), "is a int; expected a function"),
        (
            ("wont_import:build",),
            "raised ZeroDivisionError: division by zero (in wont_import.py, line 2)",
        ),
        (("--width", "32"), "--width does not apply to a model of your own"),
        (("--max-steps=9", "--epochs=2"), "give the budget in --epochs or in --max-steps"),
        (("--no-biases",), "--no-biases does not apply"),
        (("--dataset", "digits"), "from --dataset; got both"),
        (("--val-size", "9"), "goes with --dataset"),
        (("--metric", "loss"), "--threshold is missing"),
        (("--optimizer", "adam", "--momentum", "0.9"), "--momentum is for sgd"),
        (("--seeds", "0"), "seeds"),
        (("--executor", "dask", "--threads", "2"), "--threads has no effect with --executor dask"),
        (("--start-lr", "1", "--end-lr", "0.1"), "--start-lr must be below --end-lr"),
        (("--optimiser", "sgd"), "did you mean --optimizer?"),
        (("--json", "nowhere/x.json"), "does not exist"),
        (("--threshold", "1.5"), "threshold of an accuracy"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = set(folder.iterdir())
    model = () if ":" in arguments[0] or arguments[0] == "my_module" else ("my_module:build",)
    assert main(["model", *model, *arguments, *DATA]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert {p for p in folder.iterdir() if p.name != "__pycache__"} == before


def test_data_must_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "my_module:build"]) == 2
    assert "got neither" in capsys.readouterr().err
    assert main(["model", "my_module:build", "--data", "my_module:load_wrong"]) == 2
    assert "also 'training'" in capsys.readouterr().err


def test_help_says_that_code_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["model"],
        ["model", "x:y"],
        ["measure", "--model"],
        ["measure", "--model", "x:y"],
    ):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([*words, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
    assert "this code is imported and run" in shown
    assert "PydanticUndefined" not in shown


def test_nothing_trains_is_a_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [
        "model",
        "my_module:build",
        *DATA,
        "--epochs",
        "1",
        "--end-lr",
        "1e-4",
        "--seeds",
        "1",
    ]
    assert main([*wanted, "--json", "-"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["eta_star"]["median"] is None
    assert "Lengthen the budget (--epochs)" in " ".join(said.err.split())
    assert torch.get_num_threads() >= 1


def test_the_old_command_still_works_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With PyTorch's mean over outputs where it said mse; mse itself is ours, as everywhere."""
    import etastar
    from etastar.problem.losses import half_squared_distance

    sys.path.insert(0, str(folder))
    import my_module

    (x, y), _ = my_module.load()
    targets = torch.nn.functional.one_hot(y, 10).float()
    quick = {"epochs": 4, "threshold": 0.08, "seeds": 1, "metric": "loss", "resolution": 0.5}
    words = [f"--{key}={value}" for key, value in quick.items()]
    (folder / "floats.py").write_text(
        "import my_module, torch\n"
        "def load():\n"
        "    (x, y), _ = my_module.load()\n"
        "    return x, torch.nn.functional.one_hot(y, 10).float()\n"
    )
    old = ["measure", "--model", "my_module:build", "--data", "floats:load", "--loss", "mse"]
    assert main([*old, *words, "--json", "-"]) == 0
    said = capsys.readouterr()
    assert "is now a command of its own: etastar model my_module:build" in said.err
    assert "now called mse-mean" in " ".join(said.err.split())
    expected = etastar.maximal_lr(
        my_module.build, (x, targets), loss_fn=torch.nn.functional.mse_loss, **quick
    )
    assert json.loads(said.out)["eta_star"]["median"] == expected.lr
    new = ["model", "my_module:build", "--data", "floats:load", "--loss", "mse"]
    words[1] = "--threshold=0.4"
    assert main([*new, *words, "--json", "-"]) == 0
    ours = etastar.maximal_lr(
        my_module.build, (x, targets), loss_fn=half_squared_distance, **(quick | {"threshold": 0.4})
    )
    assert json.loads(capsys.readouterr().out)["eta_star"]["median"] == ours.lr
    assert ours.lr == pytest.approx(expected.lr / 5, rel=0.5)  # ½ · 10 outputs
