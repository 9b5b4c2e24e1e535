"""`etastar sharpness`: its keys, and λ1 against a dense Hessian of a network built by hand."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import interrupted
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

import etastar
import etastar.lambda1
from etastar.cli import main
from etastar.errors import ConfigError

SMALL = ["--width", "5", "--depth", "2", "--seeds", "3", "--train-size", "40", "--dtype", "float64"]


def record_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["sharpness", *arguments, "--json", "-"]) == 0
    text = capsys.readouterr().out
    found: dict[str, object] = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    return found


def dense(loss: str, seed: int, kappa: float) -> tuple[float, float]:
    """λ1 of H and of D^½ H D^½ by autograd over a network that shares only its weights."""
    data = etastar.load("digits", train_size=40)
    params = etastar.MLP(width=5, depth=2).init([seed], data.inputs, 10, dtype=torch.float64)
    layers: list[nn.Module] = []
    for w, b in zip(params[::2], params[1::2], strict=True):
        layer = nn.Linear(*w.shape[1:]).double()
        layer.load_state_dict({"weight": w[0].T, "bias": b[0].reshape(-1)})
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]
    x, y = data.x_train.double(), data.y_train

    def objective(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split(sizes)
        values = {n: part.view_as(p) for (n, p), part in zip(named.items(), parts, strict=True)}
        out = functional_call(model, values, (x,))
        if loss == "mse":
            return 0.5 * (out - nn.functional.one_hot(y, 10)).square().sum(1).mean()
        return nn.functional.cross_entropy(out, y)

    matrix = hessian(objective, torch.cat([p.detach().flatten() for p in named.values()]))
    root = torch.ones(len(matrix), dtype=torch.float64)
    root[: sizes[0] + sizes[1]] = kappa**0.5
    scaled = root[:, None] * matrix * root
    return float(torch.linalg.eigvalsh(matrix)[-1]), float(torch.linalg.eigvalsh(scaled)[-1])


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_lambda1_is_that_of_the_dense_hessian(
    loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--loss", loss, "--input-lr-ratio", "0.1", "--tol", "1e-8"]
    record = record_of([*SMALL, *options], capsys)
    seeds: list[dict[str, float]] = record["seeds"]  # type: ignore[assignment]
    for row in seeds:
        plain, scaled = dense(loss, int(row["seed"]), 0.1)
        assert row["lambda1"] == pytest.approx(plain, rel=1e-6)
        assert row["preconditioned"] == pytest.approx(scaled, rel=1e-6)
        assert row["converged"]


OF_THE_THEOREM = {  # lower | upper
    "mse": "product,gradient,layers,depth,constant vector,kernel"
    "|kernel,gradient,blocks,trace,product",
    "cross-entropy": "sample,output layer,depth,contrast"
    "|softmax trace,kernel,gradient,blocks,trace,product",
}


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_keys_and_order_of_the_bounds(
    loss: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--width", "64", "--depth", "2", "--seeds", "8", "--train-size", "200"]
    record = record_of([*options, "--loss", loss, "--kind", kind], capsys)
    assert {"lambda1", "seeds", "bounds", "conventions"} <= set(record)
    median: dict[str, float] = record["lambda1"]  # type: ignore[assignment]
    assert median["ci_low"] <= median["median"] <= median["ci_high"]
    assert median["ci_level"] == 1 - 2.0**-7  # from the least to the largest of eight
    bounds: dict[str, float] = record["bounds"]  # type: ignore[assignment]
    expected = {"lower", "upper", "upper_proved", "kernel_prediction", "kernel_infinite_width"}
    assert expected <= set(bounds)
    assert bounds["lower"] < bounds["kernel_prediction"] < bounds["upper"]
    theorem: list[dict[str, float]] = record["theorem"]  # type: ignore[assignment]
    assert all({"name", "side", "label", "value", "per_nl"} == set(e) for e in theorem)
    sides = [[e["name"] for e in theorem if e["side"] == side] for side in ("lower", "upper")]
    assert "|".join(map(",".join, sides)) == OF_THE_THEOREM[loss]
    assert all(e["label"] in ("proved", "asymptotic") for e in theorem)
    assert all(e["per_nl"] == pytest.approx(e["value"] / 128) for e in theorem)
    if kind == "gauss-newton":
        assert bounds["lower"] < median["median"] < bounds["upper_proved"]
    else:
        assert bounds["upper_proved"] is None


def test_gauss_newton_stands_beside_the_hessian(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--loss", "mse", "--input-lr-ratio", "0.1"]
    both = record_of(options, capsys)
    alone = record_of([*options, "--kind", "gauss-newton"], capsys)
    rows: list[dict[str, object]] = both["seeds"]  # type: ignore[assignment]
    of_g: list[dict[str, object]] = alone["seeds"]  # type: ignore[assignment]
    for row, twin in zip(rows, of_g, strict=True):
        assert row["gauss_newton"] == twin["gauss_newton"]
        assert row["lambda1"] != twin["lambda1"]
    assert both["gauss_newton"] == alone["gauss_newton"]
    names = ("lambda1_plain", "lambda1_preconditioned", "lambda1", "preconditioned", "bounds")
    assert alone["gauss_newton"] == {k: alone[k] for k in names}
    assert main(["sharpness", *options]) == 0
    table = capsys.readouterr().out
    assert "λ1(H)" in table
    assert "λ1(G)" in table
    assert "kinks" in table


def test_mean_and_proved_bounds_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--loss", "mse"]
    record = record_of(options, capsys)
    of_g: dict[str, dict[str, float]] = record["gauss_newton"]  # type: ignore[assignment]
    rows: list[dict[str, dict[str, float]]] = record["seeds"]  # type: ignore[assignment]
    values = torch.tensor([row["gauss_newton"]["preconditioned"] for row in rows])
    mean, bounds = of_g["preconditioned"]["mean"], of_g["bounds"]
    assert mean == pytest.approx(float(values.mean()))
    error = of_g["preconditioned"]["mean_standard_error"]
    assert error == pytest.approx(float(values.std()) / 3**0.5)
    assert main(["sharpness", *options]) == 0
    lines = capsys.readouterr().out.splitlines()

    def label_of(value: float) -> str:
        return next(line for line in lines if f"{value:.4g}" in line.split())

    assert "measured" in label_of(mean)
    for name in ("lower_proved", "upper_proved", "upper_trace"):
        assert "proved" in label_of(bounds[name])
    assert "estimate" in label_of(bounds["kernel_prediction"])


def test_bounds_on_a_part_of_the_samples_say_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etastar.lambda1.MOST_SAMPLES", 15)
    options = [*SMALL, "--loss", "mse", "--samples", "40"]
    record = record_of(options, capsys)
    conventions: dict[str, object] = record["conventions"]  # type: ignore[assignment]
    assert (conventions["samples"], conventions["bounds_samples"]) == (40, 15)
    assert "drawn at random (seed 0)" in str(conventions["bounds_samples_are"])
    of_g: dict[str, dict[str, object]] = record["gauss_newton"]  # type: ignore[assignment]
    assert of_g["bounds"]["upper_trace"] is None
    assert main(["sharpness", *options]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "bounds and kernel are of 15 of the 40 samples (drawn at random" in out


def test_what_it_took_and_on_which_machine(capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of([*SMALL, "--loss", "mse", "--threads", "1"], capsys)
    assert record["schema_version"] == 1
    cost: dict[str, float] = record["cost"]  # type: ignore[assignment]
    assert cost["products"] >= 3
    assert cost["seconds"] > 0
    found = etastar.measure(width=5, depth=2, seeds=1, train_size=40, max_steps=1, threads=1)
    environment: dict[str, object] = record["environment"]  # type: ignore[assignment]
    assert environment == found.environment | {"dtype": "float64"}
    assert environment["device_name"]
    assert environment["threads"] == 1


def test_with_eta_star_measures_the_same_networks(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--width", "16", "--depth", "1", "--seeds", "2", "--resolution", "0.3"]
    assert main(["sharpness", *options, "--with-eta-star", "--json", "-"]) == 0
    told = capsys.readouterr()
    record, table = json.loads(told.out), told.err  # the table makes way for the record
    found = etastar.measure(width=16, depth=1, seeds=2, resolution=0.3)
    expected = found.to_dict()
    assert record["eta_star"] == expected["eta_star"]
    rows = record["seeds"]
    assert [{"seed": row["seed"], **row["eta_star"]} for row in rows] == expected["seeds"]
    assert table.count("bracketed") == 2
    assert "lo (trains)" in table


def test_progress_is_shown_on_a_terminal_and_in_the_message_of_an_interrupt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[str, int]] = []
    etastar.lambda1.measure_sharpness(
        width=5, depth=2, seeds=3, train_size=40, on_progress=lambda *now: stages.append(now)
    )
    assert stages[0] == ("λ1 (hessian), product 1", 0)
    assert ("bounds", 3) in stages
    assert max(done for stage, done in stages if "gauss-newton" in stage) == 3

    assert main(["sharpness", *SMALL]) == 0
    assert capsys.readouterr().err == ""  # no terminal, no bar
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal is shown no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("etastar.lambda1._bounds", lambda *_: interrupt())
    assert main(["sharpness", *SMALL]) == 130
    err = capsys.readouterr().err
    assert "seeds" in err.split("etastar:")[0]
    assert "interrupted: bounds, 3 of 3 seeds finished. Nothing was written." in err


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_network_without_theory_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of(["--norm", "layer", "--seeds", "1", "--train-size", "50"], capsys)
    bounds: dict[str, object] = record["bounds"]  # type: ignore[assignment]
    assert bounds["lower"] is None
    assert record["bounds_note"]


def test_both_lambda1_go_by_names_that_say_what_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [*SMALL, "--loss", "mse", "--input-lr-ratio", "0.1"]
    record = record_of(options, capsys)
    rows: list[dict[str, object]] = record["seeds"]  # type: ignore[assignment]
    parts = [record, record["gauss_newton"], *rows, *(row["gauss_newton"] for row in rows)]
    for part in parts:
        assert isinstance(part, dict)
        assert part["lambda1_plain"] == part["lambda1"] != part["lambda1_preconditioned"]
        assert part["lambda1_preconditioned"] == part["preconditioned"]
    found = etastar.lambda1.measure_sharpness(
        width=5, depth=2, seeds=3, train_size=40, dtype="float64", loss="mse", input_lr_ratio=0.1
    )
    assert found.lambda1_plain == found.lambda1 == record["lambda1"]
    assert found.lambda1_preconditioned == found.preconditioned == record["preconditioned"]
    row = found.seeds[0]
    assert (row.lambda1_plain, row.lambda1_preconditioned) == (row.lambda1, row.preconditioned)


OF_THE_SEARCH = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "batch_size": 32,
    "threshold": 0.8,
    "epochs": 2.0,
    "max_steps": 5,
    "eval_every": 3,
    "criterion": "hold",
    "resolution": 0.1,
    "start_lr": 0.01,
    "end_lr": 1.0,
    "strategy": "bisection",
}


@pytest.mark.parametrize("name", OF_THE_SEARCH)
def test_an_option_of_the_search_alone_is_refused_without_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=f"^`{name}`: only the search .* give `with_eta_star`"):
        etastar.lambda1.measure_sharpness(**{name: OF_THE_SEARCH[name]})
    option = "--" + name.replace("_", "-")
    assert main(["sharpness", option, str(OF_THE_SEARCH[name])]) == 2
    assert f"etastar: {option}: only the search for η* uses this; give --with-eta-star" in (
        capsys.readouterr().err
    )


def test_validation_samples_are_not_used_and_that_is_said() -> None:
    options: dict[str, Any] = {"width": 4, "depth": 1, "train_size": 30, "val_size": 10, "seeds": 1}
    found = etastar.lambda1.measure_sharpness(max_iter=5, **options)
    assert "`val_size` has no effect: λ1 is of the loss on training samples." in found.warnings
    assert json.loads(found.to_json()) == found.to_dict()
    lines = str(found).splitlines()
    assert lines[0] == found.heading
    median = found.lambda1_plain["median"]
    assert median is not None
    assert lines[1].startswith(f"λ1 = {median:.4g} (median; interval")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 10}, "`train_size`: the data set was given as an object; set this on it"),
        ({"val_size": 10}, "`val_size`: the data set was given as an object"),
        ({"data_dir": "x"}, "`data_dir`: the data set was given as an object"),
        ({"width": 3}, "`width`: the network was given as an object; set this on it"),
        ({"norm": "layer"}, "`norm`: the network was given as an object"),
        ({"from_lr": 0.1}, "`from_lr`: λ1 is measured at initialisation; leave it out"),
    ],
    ids=str,
)
def test_an_option_that_an_object_makes_meaningless_is_refused(
    options: dict[str, object], message: str
) -> None:
    data = etastar.load("digits", train_size=30)
    with pytest.raises(ConfigError, match=message):
        etastar.lambda1.measure_sharpness(etastar.MLP(width=4, depth=1), data, **options)  # type: ignore[arg-type]


def test_advice_names_arguments_in_python_and_options_on_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = etastar.lambda1.measure_sharpness(
        width=5, depth=2, seeds=1, train_size=40, max_iter=1, tol=1e-6
    )
    assert any("Raise `max_iter` or `tol`." in note for note in found.warnings)
    arguments = ["--width", "5", "--depth", "2", "--seeds", "1", "--train-size", "40"]
    assert main(["sharpness", *arguments, "--max-iter", "1", "--tol", "1e-6"]) == 0
    assert "Raise --max-iter or --tol." in " ".join(capsys.readouterr().out.split())


def test_what_is_no_network_or_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset must be the name of a data set"):
        etastar.lambda1.measure_sharpness(dataset=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="network must be an architecture"):
        etastar.lambda1.measure_sharpness("mlp")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "fisher"], "kind must be"),
        (["--samples", "0"], "samples must be"),
        (["--tol", "2"], "tol must be"),
        (["--width", "0"], "width must be"),
        (["--with-eta"], "did you mean --with-eta-star"),
        (["--samples", "99999"], "samples must be from 1 to the 1438"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--json", "x/"], "x/ is a folder; give the name of a file."),
        (["--json", ""], "the name of the file to write is empty (''); give one."),
        (
            ["--device", "meta"],
            "--device meta cannot be used: it holds shapes, not numbers. This machine has cpu",
        ),
        (["--from-step", "10", "--from-lr", "0.1"], "λ1 is measured at initialisation"),
        (["--with-eta-star", "--threshold", "0.05"], "threshold must be above 1/classes"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sharpness", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_interrupt_ends_all_threads(tmp_path: Path) -> None:
    """The pool would wait for every replica: minutes, where Ctrl-C should take a product."""
    arguments = ["--seeds", "3000", "--width", "128", "--threads", "2"]
    code, err = interrupted("sharpness", *arguments, "--json", str(tmp_path / "r.json"))
    assert code == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_a_network_without_curvature_has_no_reference_rates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--width", "1", "--depth", "12", "--no-biases", "--seeds", "3", "--samples", "20"]
    record = record_of([*options, "--loss", "mse"], capsys)
    assert record["lambda1"]["median"] == 0  # type: ignore[index]
    assert record["reference_rates"] == {"2/λ1": None, "4/λ1": None, "12/λ1": None}
    assert any("below 16 times the depth" in note for note in record["warnings"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_moments_beyond_float64_leave_the_trace_bound(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--width 2 --depth 700 --seeds 1 --samples 5 --max-iter 2 --loss mse"
    record = record_of([*options.split(), "--kind", "gauss-newton"], capsys)
    bounds: dict[str, float] = record["bounds"]  # type: ignore[assignment]
    assert bounds["upper_proved"] == bounds["upper_trace"]
    theorem: list[dict[str, object]] = record["theorem"]  # type: ignore[assignment]
    assert [e["value"] for e in theorem if e["name"] == "blocks"] == [None]


def test_a_network_that_no_memory_holds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("sharpness", "measure"):
        assert main([command, "--width", "10000000"]) == 2
        said = capsys.readouterr().err
        assert "GiB of memory is free on cpu: choose a smaller width" in said
        assert said.count("\n") == 1


def test_seeds_beyond_memory_come_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values, whatever number of networks is held at once."""
    from etastar.curvature import initialisations

    data, network = etastar.load("digits", train_size=60), etastar.MLP(width=6, depth=2)
    whole = initialisations.initial_sharpness(network, data, range(7), loss="mse", tol=1e-6)
    monkeypatch.setattr(
        initialisations,
        "_groups",
        lambda network, data, seeds, *rest: [seeds[:3], seeds[3:4], seeds[4:]],
    )
    done: list[int] = []
    parts = initialisations.initial_sharpness(
        network, data, range(7), loss="mse", tol=1e-6,
        on_progress=lambda matrix, seeds, products: done.append(seeds),
    )  # fmt: skip
    assert list(parts) == list(whole)
    for seed, row in parts.items():
        assert row.lambda1 == pytest.approx(whole[seed].lambda1, rel=1e-5)
    assert max(done) == 7
