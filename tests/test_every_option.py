"""Every public option, drawn at random together with all others: what must hold whatever they are.

Draws are fixed (`derandomize`), so a failure repeats. A new option fails here until it is drawn.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import nn

import etastar
from etastar.cli import main
from etastar.lambda1 import measure_sharpness
from etastar.maximal import PLACES
from etastar.settings import Settings

repeatable = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def real(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats that the command line carries exactly, with their ends."""
    return st.floats(low, high, allow_subnormal=False)


OF_THE_NETWORK: dict[str, st.SearchStrategy[Any]] = {
    "width": st.integers(1, 24),
    "depth": st.integers(1, 4),
    "input_lr_ratio": st.sampled_from([0.0, 1.0]) | real(0.01, 4.0),
    "output_variance": st.sampled_from([0.0, 1.0]) | real(0.1, 4.0),
    "biases": st.booleans(),
    "norm": st.sampled_from(["none", "layer"]),
    "parametrization": st.sampled_from(["standard", "ntk", "mup"]),
}
OF_THE_DATA: dict[str, st.SearchStrategy[Any]] = {
    "dataset": st.sampled_from(["digits", "gaussians"]),
    "data_dir": st.none(),
    "train_size": st.integers(1, 300),
    "val_size": st.integers(1, 100),
}
OF_THE_SEARCH: dict[str, st.SearchStrategy[Any]] = {
    "optimizer": st.just("sgd"),
    "momentum": st.just(0.0) | real(0.1, 0.95),
    "batch_size": st.none() | st.just("full") | st.integers(1, 400),
    "threshold": real(0.51, 1.0),
    "epochs": st.none() | real(0.1, 4.0),
    "max_steps": st.integers(1, 15),
    "eval_every": st.none() | st.integers(1, 20),
    "criterion": st.sampled_from(["reach", "hold"]),
    "from_step": st.just(0) | st.integers(1, 4),
    "from_lr": real(1e-4, 0.1),
    "resolution": real(0.1, 3.0),
    "start_lr": real(1e-4, 1e-2),
    "end_lr": real(1e-1, 30.0),
    "strategy": st.sampled_from(["section", "bisection"]),
}
OF_THE_CURVE: dict[str, st.SearchStrategy[Any]] = {
    "precision": st.none() | real(0.01, 0.5),
    "trials": st.integers(1, 24),
    "budgets": st.none() | real(0.5, 6.0),
    "confirm": st.none() | st.integers(0, 3),
    "round_size": st.none() | st.integers(1, 9),
    "slow_edge": st.booleans(),
}
OF_BOTH: dict[str, st.SearchStrategy[Any]] = {
    "loss": st.sampled_from(["cross-entropy", "mse"]),
    "seeds": st.integers(1, 3),
    "first_seed": st.integers(0, 2**60 - 3),
    "device": st.just("cpu"),
    "dtype": st.sampled_from(["float32", "float64"]),
    "threads": st.none() | st.integers(1, 2),
}
OF_THE_BRACKETS = {"strategy", "resolution", "seeds"}
MEASURE = OF_THE_NETWORK | OF_THE_DATA | OF_THE_SEARCH | OF_BOTH
SHARPNESS: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["hessian", "gauss-newton"]),
    "samples": st.none() | st.just(1),
    "tol": real(1e-6, 1e-1),
    "max_iter": st.integers(1, 60),
}


def from_the_shell(command: str, options: dict[str, Any], capsys: Any) -> dict[str, Any]:
    """The record that the command writes for these options."""
    words = [command, "--json", "-"]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", str(value)]
    capsys.readouterr()
    code = main(words)
    found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    trained = "success" not in found or any(at["trained"] for at in found["success"])
    assert code == (0 if trained else 1)
    return found


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    record = json.loads(json.dumps(record, allow_nan=False))
    del record["cost"]["seconds"]
    return record


def measured(**options: Any) -> etastar.Result:
    """The result of a measurement; a threshold that one class meets is no draw."""
    try:
        return etastar.measure(**options)
    except etastar.ConfigError as refused:
        if "one class for all samples" not in str(refused):
            raise
        reject()


def test_every_option_is_drawn() -> None:
    assert set(MEASURE) | set(OF_THE_CURVE) == set(Settings.model_fields)
    assert set(MAXIMAL_LR) | set(OF_THE_CURVE) | {
        "model",
        "train_data",
        "val_data",
        "progress",
        *PLACES,  # see test_places.py
    } == set(inspect.signature(etastar.maximal_lr).parameters)
    own = {"network", "dataset", "with_eta_star", "on_progress", "options"}
    assert set(SHARPNESS) | own == set(inspect.signature(measure_sharpness).parameters)


@repeatable
@given(st.fixed_dictionaries(MEASURE))
def test_a_measurement_with_any_options(
    capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    options = options | {"from_lr": options["from_lr"] if options["from_step"] else None}
    found = measured(**options)
    record = found.to_dict()
    assert without_time(record) == without_time(from_the_shell("measure", options, capsys))
    start, end = options["start_lr"], options["end_lr"]
    for seed, result in found.seeds.items():
        tried = {t.lr: o for t, o in found.trials.items() if t.seed == seed}
        trained = [lr for lr, outcome in tried.items() if outcome.kind == "trained"]
        assert all(start <= lr <= end for lr in tried)
        assert all(0 <= o.step <= options["max_steps"] for o in tried.values())
        assert result.lo == max(trained, default=None)
        if result.status == "bracketed":
            above = min(lr for lr in tried if lr > result.lo)
            assert (result.hi, result.hi_outcome) == (above, tried[above].kind)
            assert result.hi / result.lo <= (1 + options["resolution"]) * (1 + 1e-9)
        else:
            assert result.hi is None
            assert result.status == ("all-trained" if trained else "none-trained")
            assert not trained or max(trained) == end
    eta = found.eta_star
    if None not in (eta.median, eta.ci_low, eta.ci_high):
        assert eta.ci_low <= eta.median <= eta.ci_high
    assert eta.safe is None or eta.safe >= start
    rates = [at.lr for at in found.success]
    assert rates == sorted({t.lr for t in found.trials})
    for at in found.success:
        seen = at.trained + at.diverged + at.dead + at.short
        assert seen + at.inferred_trained + at.inferred_failed == options["seeds"]
        assert at.ci_low <= at.p <= at.ci_high


WITH_A_CURVE = {
    name: values for name, values in (MEASURE | OF_THE_CURVE).items() if name not in OF_THE_BRACKETS
}


@repeatable
@given(st.fixed_dictionaries(WITH_A_CURVE))
def test_a_curve_with_any_options(
    capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    options = options | {"from_lr": options["from_lr"] if options["from_step"] else None}
    found = measured(**options, strategy="curve")
    record = found.to_dict()
    from_shell = from_the_shell("measure", options | {"strategy": "curve"}, capsys)
    assert without_time(record) == without_time(from_shell)
    start, end = options["start_lr"], options["end_lr"]
    assert all(start <= t.lr <= end * (1 + 1e-12) for t in found.trials)
    assert len(found.trials) <= options["trials"] + 20 * (options["confirm"] or 20)
    eta = found.eta_star
    if None not in (eta.median, eta.ci_low, eta.ci_high):
        assert eta.ci_low <= eta.median <= eta.ci_high
    assert eta.safe is None or start <= eta.safe <= end
    for at in found.success:
        assert at.ci_low <= at.p <= at.ci_high


@repeatable
@given(st.fixed_dictionaries(OF_THE_NETWORK | OF_THE_DATA | OF_BOTH | SHARPNESS))
def test_the_sharpness_with_any_options(
    capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    found = measure_sharpness(**options)
    record = found.to_dict()
    assert without_time(record) == without_time(from_the_shell("sharpness", options, capsys))
    flat = options["input_lr_ratio"] == 1.0
    for rows in (found.seeds, found.gauss_newton_seeds):
        for row in rows.values():
            for value in (row.lambda1, row.preconditioned):
                assert value is None or math.isfinite(value)
            if flat and row.lambda1 is not None and row.preconditioned is not None:
                assert row.preconditioned == pytest.approx(row.lambda1, rel=0.2, abs=1e-6)
    for row in found.gauss_newton_seeds.values():
        assert row.lambda1 is None or row.lambda1 >= -1e-6
    top = found.preconditioned["median"]
    assert found.reference_rates == {f"{c}/λ1": c / top if top else None for c in (2, 4, 12)}


MAXIMAL_LR: dict[str, st.SearchStrategy[Any]] = {
    "loss_fn": st.sampled_from([nn.functional.cross_entropy, nn.CrossEntropyLoss()]),
    "optimizer": st.sampled_from([torch.optim.SGD, torch.optim.Adam]),
    "metric": st.sampled_from(
        ["accuracy", "loss", lambda out, y: (out.argmax(-1) == y).float().mean()]
    ),
    "threshold": real(0.3, 0.99),
    "epochs": real(0.1, 3.0),
    "batch_size": st.integers(10, 60),
    "eval_every": st.none() | st.integers(1, 10),
    "seeds": st.integers(1, 3) | st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True),
    "start_lr": real(1e-4, 1e-2),
    "end_lr": real(1e-1, 30.0),
    "resolution": real(0.2, 3.0),
    "step_fn": st.none() | st.just(lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])),
    "device": st.sampled_from([None, "cpu"]),
    "higher_is_better": st.booleans(),
    "engine": st.sampled_from(["auto", "loop"]),
    "from_checkpoint": st.booleans(),
    "strategy": st.sampled_from([None, "section", "bisection"]),
    "first_seed": st.integers(0, 2**40),
    "max_steps": st.none() | st.integers(1, 9),
    "eval_batch_size": st.none() | st.integers(1, 130),
    "eval_grad": st.booleans(),
    "scheduler": st.none() | st.just(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 1)),
}


@repeatable
@given(st.fixed_dictionaries(MAXIMAL_LR), st.sampled_from(["relu", "dropout", "factory"]))
@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_the_maximal_lr_with_any_options(options: dict[str, Any], kind: str) -> None:
    if options["step_fn"] is not None:
        options["loss_fn"] = nn.functional.cross_entropy  # another has no effect, and is refused
    if options["max_steps"] is not None:
        options["epochs"] = None  # the budget is one of them
    if options["step_fn"] is not None and callable(options["metric"]):
        options["metric"] = lambda m, b: (m(b[0]).argmax(-1) == b[1]).float().mean()

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        middle = nn.Dropout(0.2) if kind == "dropout" else nn.ReLU()
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), middle, nn.Linear(8, 3))

    generator = torch.Generator().manual_seed(0)
    if not isinstance(options["seeds"], int):
        options["first_seed"] = 0  # the seeds are named
    # said or left to the default, and a checkpoint or none
    up = options["metric"] != "loss"
    options["higher_is_better"] = up if options["higher_is_better"] else None
    options["from_checkpoint"] = made(1).state_dict() if options["from_checkpoint"] else None
    x = torch.randn(120, 4, generator=generator)
    y = (x[:, :3]).argmax(1)
    given_model = made if kind == "factory" else made(0)
    kept = copy.deepcopy(made(0).state_dict() if kind == "factory" else given_model.state_dict())
    drawn, x_kept = torch.get_rng_state(), x.clone()
    try:
        found = etastar.maximal_lr(given_model, (x, y), (x, y), progress=False, **options)
    except etastar.errors.EtaStarError as refused:
        if "threshold" not in str(refused):
            raise
        reject()  # met before any step: the one combination that has no answer
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(x, x_kept)
    if kind != "factory":
        assert all(torch.equal(v, kept[k]) for k, v in given_model.state_dict().items())
    record = found.to_dict()
    json.dumps(record, allow_nan=False)
    start, end = options["start_lr"], options["end_lr"]
    assert all(start <= t.lr <= end * (1 + 1e-12) for t in found.history)
    for result in found.seeds.values():
        if result.status == "bracketed":
            assert result.hi / result.lo <= (1 + options["resolution"]) * (1 + 1e-9)
    if found.status == "bracketed":
        low, high = found.bracket
        assert found.lr == pytest.approx(math.sqrt(low * high))
    else:
        assert found.lr is None
