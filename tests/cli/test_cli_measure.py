"""The command: exit codes, one-line errors, and files that are whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from interrupting import interrupted

from etastar.cli import main

QUICK = ["measure", "--width", "32", "--depth", "2", "--seeds", "2", "--resolution", "0.3"]
QUICK += ["--epochs", "10", "--train-size", "400", "--val-size", "200", "--threshold", "0.7"]


def test_json_on_standard_output_is_json_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert [seed["status"] for seed in record["seeds"]] == ["bracketed"] * 2
    assert "η*" in err


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_picture_and_json_are_written(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, record = tmp_path / f"p.{suffix}", tmp_path / "r.json"
    assert main([*QUICK, "--plot", str(picture), "--json", str(record)]) == 0
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert picture.read_bytes().startswith(magic)
    assert json.loads(record.read_text())["network"]["width"] == 32
    assert sorted(os.listdir(tmp_path)) == sorted([picture.name, record.name])
    assert "re-entries" in capsys.readouterr().out


def test_the_same_command_twice_writes_the_same_svg(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, second):
        assert main([*QUICK, "--plot", str(path)]) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mesure"], "unknown command 'mesure'; did you mean 'measure'"),
        (["measure", "--widht", "3"], "unknown option --widht; did you mean --width"),
        (["measure", "--wid", "3"], "unknown option --wid"),
        (["measure", "--width"], "argument --width: expected one argument"),
        (["measure", "--width", "0"], "width must be greater than or equal to 1, got '0'"),
        (["measure", "--width", "ten"], "width must be a valid integer"),
        (["measure", "--loss", "hinge"], "loss must be 'cross-entropy' or 'mse', got 'hinge'"),
        (["measure", "--batch-size", "half"], "--batch-size must be"),
        (["measure", "--threshold", "0.05"], "threshold must be above 1/classes"),
        (["measure", "--threshold", "nan"], "threshold must be"),
        (["measure", "--threshold", "1.5"], "(guessing) and at most 1, got 1.5.\n"),
        (["measure", "--threshold", "92"], "got 92. For 92 % write 0.92."),
        (["measure", "--start-lr", "1", "--end-lr", "1"], "--start-lr must be below --end-lr"),
        (["measure", "--dataset", "cifar"], "did you mean 'cifar10'"),
        (["measure", "--plot", "x.jpg"], "must end in .png, .svg, .pdf"),
        (["measure", "--json", "no/such/folder/x.json"], "does not exist"),
        (["measure", "--dataset", "mnist", "--data-dir", "no/such"], "no/such"),
        (["measure", "--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["measure", "--json", "x/"], "x/ is a folder; give the name of a file."),
        (["measure", "--json", ""], "the name of the file to write is empty (''); give one."),
        (["measure", "--plot", ""], "the name of the file to write is empty (''); give one."),
        (
            ["measure", "--device", "meta"],
            "shapes, not numbers. This machine has cpu: use --device cpu.\n",
        ),
        (
            ["measure", "--device", "nonsense"],
            "--device nonsense cannot be used: PyTorch knows no device of that name. "
            "This machine has cpu",
        ),
        (["measure", "--device", "xla"], "this build of PyTorch does not support it. This machine"),
        (["measure", "stray"], "unknown option stray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert main(arguments) == 2
    finally:
        os.chdir(before)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("etastar: ")
    assert err.count("\n") == 1
    assert message in err
    assert os.listdir(tmp_path) == []


def test_unbracketed_seeds_are_a_result_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--end-lr", "0.1", "--start-lr", "0.05", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["eta_star"]["median"] is None
    assert "Raise --end-lr" in " ".join(err.split())


def test_help_names_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["measure", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    options = (
        "dataset data-dir train-size val-size width depth input-lr-ratio output-variance biases "
        "no-biases norm loss optimizer momentum batch-size threshold epochs max-steps eval-every "
        "criterion seeds first-seed resolution start-lr end-lr strategy device dtype threads plot "
        "json"
    )
    for option in options.split():
        assert f"--{option}" in text
    assert "[default: 0.05]" in text


def test_interrupt_tells_what_was_done_and_leaves_no_file(tmp_path: Path) -> None:
    record = tmp_path / "r.json"
    arguments = ["--seeds", "500", "--width", "64", "--json", str(record)]
    code, err = interrupted("measure", *arguments)
    assert code == 130
    assert "interrupted" in err
    assert "of 500 seeds" in err
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
