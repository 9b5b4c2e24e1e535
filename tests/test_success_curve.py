"""The strategy `curve` through the entries: contracts of options and JSON, both engines."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import etastar
from etastar.cli import main
from etastar.errors import ConfigError

QUICK: dict[str, Any] = {
    **{"width": 16, "depth": 2, "train_size": 400, "val_size": 200, "batch_size": 32},
    **{"epochs": 3.0, "threshold": 0.6, "precision": 0.3, "confirm": 6, "threads": 1},
}


@functools.cache
def measured(**changes: Any) -> etastar.Result:
    return etastar.measure(**(QUICK | changes))


def test_the_record_has_every_block() -> None:
    record = json.loads(measured().to_json())
    assert record["eta_star"].keys() == {"median", "ci_low", "ci_high", "safe", "set_by"}
    assert record["curve"].keys() == {
        *("eta_50", "eta_95", "eta_95_low", "p_max", "points", "band"),
    }
    assert record["curve"]["p_max"].keys() == {"lr", "p", "ci_low", "ci_high"}
    assert record["curve"]["points"][0].keys() == {
        *("lr", "tried", "trained", "diverged", "dead", "collapsed", "slow", "p"),
        *("ci_low", "ci_high", "median_steps"),
    }
    assert record["curve"]["band"][0].keys() == {"lr", "p", "low", "high"}
    assert record["window"].keys() == {"low", "high", "low_status"}
    assert record["recommended"].keys() == {
        *("lr", "tried", "trained", "held", "p_low", "confidence", "median_steps", "attempts"),
    }
    assert record["recommended"]["attempts"][-1].keys() == {"lr", "tried", "trained"}
    assert record["cost"].keys() == {"trials", "steps", "seconds", "budgets"}
    assert record["seeds"] == []
    assert record["success"] == record["curve"]["points"]
    assert record["window"]["low_status"] == "not looked for"
    assert record["window"]["low"] is None
    assert record["located"]


def test_the_record_agrees_with_itself() -> None:
    found = measured()
    record = found.to_dict()
    star, curve = record["eta_star"], record["curve"]
    assert star["median"] == curve["eta_50"] == found.lr
    assert star["safe"] == curve["eta_95_low"] == found.safe_lr
    assert record["window"]["high"] == curve["eta_95"]
    assert star["ci_low"] < star["median"] < star["ci_high"]
    assert star["ci_high"] / star["median"] <= 1.3 * 1.001
    rates = [point["lr"] for point in curve["points"]]
    assert rates == sorted(set(rates))
    for point in curve["points"]:
        failed = sum(point[cause] for cause in ("diverged", "dead", "collapsed", "slow"))
        assert point["tried"] == point["trained"] + failed
        assert point["ci_low"] <= point["p"] <= point["ci_high"]
    assert sum(point["tried"] for point in curve["points"]) == len(found.trials)
    assert record["cost"]["trials"] == len(found.trials)
    partial = sum(run["steps"] for run in record["located"])
    max_steps = record["criterion"]["max_steps"]
    whole = sum(outcome.steps_taken(max_steps) for outcome in found.trials.values())
    assert record["cost"]["steps"] == partial + whole
    assert record["cost"]["budgets"] == record["cost"]["steps"] / max_steps
    advice = record["recommended"]
    assert advice["lr"] == found.recommended_lr <= star["safe"]
    assert advice["held"] <= advice["trained"] <= advice["tried"] == 6
    starts = [trial.start for trial in found.trials]
    assert len(set(starts)) == len(starts)  # every whole trial has a fresh seed


def test_threads_and_engines_change_nothing() -> None:
    """In float64, where rounding does not reach the outcomes of so few steps."""
    exact = {"dtype": "float64", "confirm": 3, "precision": 0.5}
    one, two = measured(**exact), measured(**exact, **{"threads": 2})
    assert one.curve == two.curve
    assert one.recommended == two.recommended


def test_a_longer_measurement_goes_on_from_the_shorter_one() -> None:
    short, long = measured(trials=16, confirm=0), measured(trials=32, confirm=0)
    assert {t: o.kind for t, o in short.trials.items()}.items() <= {
        t: o.kind for t, o in long.trials.items()
    }.items()
    assert len(short.trials) == 16
    assert any("would need about" in note for note in short.notes)


def test_no_confirmation_and_a_cap_of_budgets() -> None:
    found = measured(confirm=0)
    assert found.recommended is not None
    assert f"recommended rate: {found.recommended.lr:.4g}, not tried on fresh seeds" in str(found)
    told = found.to_dict()["recommended"]
    assert told["tried"] == 0
    assert [told[k] for k in ("trained", "held", "p_low", "confidence")] == [None] * 4
    capped = measured(budgets=12.0)
    assert capped.cost.budgets <= 12.0


def test_what_ended_the_runs_above_is_said() -> None:
    found = measured(confirm=0)
    (note,) = (note for note in found.notes if note.startswith("above η*"))
    assert found.lr is not None
    above = [point for point in found.success if point.lr > found.lr]
    words = {"diverged": "diverged", "dead": "died", "slow": "were too slow"}
    for cause, said in (words | {"collapsed": "collapsed"}).items():
        count = sum(getattr(point, cause) for point in above)
        assert (f"{said} ({count})" in note) == (count > 0)
    assert f"η* is set by {found.set_by}" in note.replace("the budget", "budget")


def test_the_slow_edge_is_told_where_it_was_looked_for() -> None:
    own = {"threshold": 0.75, "end_lr": 100.0, "precision": 0.1, "max_steps": 60}
    found = measured(**own, slow_edge=True, confirm=0)
    assert found.window is not None
    text = str(found)
    if found.window.low and found.window.high and found.safe_lr:
        assert f"p ≥ 0.95 from {found.window.low:.4g} up to {found.window.high:.4g}" in text
    else:
        assert "slow edge: " in text
    assert "slow edge: not looked for" in str(measured(slow_edge=True, trials=8, confirm=0))
    assert "slow edge: " not in str(measured(trials=8, confirm=0))


def test_what_the_other_strategies_say_of_it() -> None:
    found = measured(precision=None, confirm=None, seeds=2, resolution=0.5)
    record = found.to_dict()
    assert (record["curve"], record["window"], record["recommended"]) == (None, None, None)
    assert record["located"] == []
    assert record["eta_star"]["safe"] is None
    assert any("`strategy='curve'`" in note for note in found.notes)
    assert record["search"]["strategy"] == "section"
    assert found.cost.budgets == found.cost.steps / record["criterion"]["max_steps"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"strategy": "curve", "seeds": 3}, ("seeds", "curve")),
        ({"strategy": "curve", "resolution": 0.1}, ("resolution", "curve")),
        ({"strategy": "section", "precision": 0.1}, ("precision", "section")),
        ({"strategy": "bisection", "trials": 10}, ("trials", "bisection")),
        ({"strategy": "section", "confirm": 5}, ("confirm", "section")),
        ({"seeds": 2, "confirm": 0}, ("confirm", "seeds")),
        ({"strategy": "section", "round_size": 5}, ("round_size", "section")),
        ({"strategy": "section", "slow_edge": True}, ("slow_edge", "section")),
        ({"seeds": 3, "precision": 0.1}, ("precision", "seeds")),
        ({"resolution": 0.1, "confirm": 3}, ("confirm", "resolution")),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(
    options: dict[str, Any], named: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for call in (
        lambda: etastar.measure(**options),
        lambda: etastar.maximal_lr(nn.Linear(64, 10), etastar.load("digits"), **options),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert all(name in str(caught.value) for name in named)
    words = [
        f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in options.items()
    ]
    for command in (["measure"], ["model", "nowhere:build", "--dataset", "digits"]):
        assert main([*command, *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        if command == ["measure"]:
            assert all(f"--{name.replace('_', '-')}" in said or name in said for name in named)


@pytest.mark.parametrize(
    "word",
    ["--precision=0", "--precision=-1", "--trials=0", "--round-size=0", "--confirm=-1"],
)
def test_numbers_out_of_range_end_with_code_2(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", word]) == 2
    assert main(["model", "nowhere:build", "--dataset", "digits", word]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(192, 8, generator=g)
    return x, (x[:, :3] + 0.3 * x[:, 3:6]).argmax(1)


def build(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


OWN: dict[str, Any] = {
    **{"epochs": 3, "batch_size": 16, "threshold": 0.8, "end_lr": 1e3, "progress": False},
    "eval_batch_size": 192,
}


def test_a_model_of_ones_own() -> None:
    found = etastar.maximal_lr(build, data(), eval_every=4, **OWN)
    assert found.curve is not None
    assert found.lr is not None
    assert found.recommended is not None
    assert found.recommended.tried == 10
    assert "recommended rate" in str(found)
    assert "Sequential" in str(found)
    assert found.history
    axes = found.plot()
    assert axes.get_xlabel() == "learning rate η"
    assert f"safe: {found.safe_lr:.3g}" in axes.get_legend_handles_labels()[1]
    again = etastar.maximal_lr(build, data(), eval_every=4, **OWN)
    assert again.to_dict() | {"cost": 0} == found.to_dict() | {"cost": 0}


def test_a_module_varies_the_order_only_and_the_promise_says_so() -> None:
    found = etastar.maximal_lr(build(0), data(), eval_every=4, **OWN)
    assert any("Only the order" in note for note in found.notes)
    assert found.recommended_lr
    assert "fresh seeds" not in str(found)
    assert "of 10 fresh orders of the data: p ≥" in str(found)
    assert found.varies == "order of the data"


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_nothing_varies() -> None:
    """A module and a full batch: one section, and the result says so, bracketed or not."""
    found = etastar.maximal_lr(build(0), data(), **(OWN | {"batch_size": 192, "epochs": 60}))
    assert found.curve is None
    assert len(found.seeds) == 1
    note = next(note for note in found.notes if "nothing varies" in note)
    assert "`trials`, `budgets` and the other options of the curve have no effect" in note
    assert not any("use `strategy='curve'`" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "interval", "status"),
    [
        (["--budgets", "2"], "95 % interval not known", "interrupted"),
        (["--trials", "4", "--slow-edge"], "95 % interval from", "interrupted"),
        (["--seeds", "1"], "one seed has no interval", "bracketed"),
    ],
)
def test_what_is_not_known_is_told_as_that(
    arguments: list[str],
    interval: str,
    status: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also in the picture, which may have no run."""
    picture, record = tmp_path / "p.svg", tmp_path / "r.json"
    quick = ["--width", "16", "--depth", "2", "--epochs", "8", "--batch-size", "32"]
    files = ["--plot", str(picture), "--json", str(record)]
    main(["measure", *quick, *arguments, *files])
    text = " ".join(capsys.readouterr().out.split())
    assert interval in text
    assert "interval –" not in text
    assert picture.stat().st_size > 1000
    assert json.loads(record.read_text())["status"] == status
    if "--slow-edge" in arguments:
        assert "slow edge: not looked for: the cap ended the search before" in text


def test_advice_names_the_option_that_binds() -> None:
    changes: dict[str, Any] = {"max_steps": 20, "trials": 40, "confirm": 0}
    for more, named in (({}, "`max_steps`"), ({"epochs": 1.0, "max_steps": None}, "`epochs`")):
        notes = " ".join(measured(**changes | more).notes)
        (other,) = {"`max_steps`", "`epochs`"} - {named}
        assert named in notes
        assert other not in notes


def test_a_batch_of_more_than_all_samples_is_noted() -> None:
    found = measured(batch_size=500, max_steps=30, trials=16, confirm=0)
    assert "`batch_size=500` is more than the 400 samples: each step takes all of them." in (
        found.notes
    )


def test_the_runs_that_find_a_threshold_count_towards_the_budgets() -> None:
    options: dict[str, Any] = OWN | {"threshold": "auto"}
    with pytest.raises(ConfigError, match="`budgets=1` leave no room to find `threshold='auto'`"):
        etastar.maximal_lr(build, data(), **options, budgets=1)
    found = etastar.maximal_lr(build, data(), **options, budgets=30, confirm=0)
    assert 20 < found.cost.budgets <= 30
    assert found.search["budgets"] == 30


def test_an_unreachable_threshold() -> None:
    with pytest.warns(etastar.NotBracketedWarning):
        found = etastar.maximal_lr(build, data(), **(OWN | {"threshold": 1.0, "epochs": 1}))
    record = found.to_dict()
    assert record["eta_star"]["median"] is None
    assert record["recommended"] is None
    assert record["curve"]["p_max"] is None or record["curve"]["p_max"]["p"] < 0.5
    assert found.status == "none-trained"
    assert "η* = –" in str(found)


def test_where_a_curve_cannot_be_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="`precision` has no effect on a warm-up"):
        etastar.warmup(build, data(), target_lr=1.0, precision=0.1)
