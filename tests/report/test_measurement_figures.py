"""Figures of one measurement: p(η) above the trials."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from etastar.data import load
from etastar.problem.trial import Outcome, Trial
from etastar.report.figures import COLOURS, save_measurement, success_figure, trials_figure
from etastar.result import Cost, Result
from etastar.search.base import bracket
from etastar.search.estimate import Spread, eta_star, success_curve
from etastar.settings import Settings


@pytest.fixture
def found() -> Result:
    """Three seeds with brackets at 0.4, 0.5 and 0.8; not every rate was tried by every seed."""
    kinds = {
        0: {0.2: "trained", 0.4: "trained", 0.5: "diverged", 1.0: "diverged"},
        1: {0.4: "trained", 0.5: "trained", 0.8: "dead", 1.0: "diverged"},
        2: {0.4: "short", 0.5: "trained", 0.8: "trained", 1.0: "short"},
    }
    tried = {
        seed: {lr: Outcome(kind, 5) for lr, kind in outcomes.items()}
        for seed, outcomes in kinds.items()
    }
    seeds = {seed: bracket(outcomes) for seed, outcomes in tried.items()}
    settings = Settings.model_validate({"width": 16, "depth": 2})
    return Result(
        eta_star=eta_star(list(seeds.values())),
        seeds=seeds,
        trials={Trial.of(s, lr): o for s, outcomes in tried.items() for lr, o in outcomes.items()},
        success=success_curve(list(seeds.values()), list(tried.values())),
        network=settings.network(),
        recipe=settings.recipe(load("digits")),
        data={"name": "digits"},
        search={"end_lr": 1.0},
        heading="mlp 16×2 on digits",
        varies="initialisation and order of the data",
        spread=Spread(None, None, None),
        groups=(),
        ratios=(),
        engine="stack",
        engine_reason="",
        settings={"factory": True},
        notes=(),
        cost=Cost(12, 60, 1.0, 3.0),
        environment={},
    )


def test_dots_are_hollow_exactly_where_seeds_were_inferred_and_the_legend_says_so(found) -> None:
    ax = success_figure(found)
    dots = next(c for c in ax.collections if len(c.get_offsets()) == len(found.success))
    for point, at, face in zip(
        found.success, dots.get_offsets(), dots.get_facecolor(), strict=True
    ):
        assert tuple(at) == (point.lr, point.p)
        inferred = point.inferred_trained + point.inferred_failed > 0
        assert to_hex(face) == ("#ffffff" if inferred else COLOURS["trained"].lower())
    handles, labels = ax.get_legend_handles_labels()
    faces = {
        label: to_hex(handle.get_facecolor()[0])
        for handle, label in zip(handles, labels, strict=True)
        if label.startswith("trained")
    }
    assert faces == {
        "trained": COLOURS["trained"].lower(),
        "trained, some seeds inferred": "#ffffff",
    }


def test_no_hollow_entry_where_nothing_was_inferred(found) -> None:
    full = [point for point in found.success if not point.inferred_trained + point.inferred_failed]
    assert full
    found.success[:] = full
    assert (
        "trained, some seeds inferred" not in success_figure(found).get_legend_handles_labels()[1]
    )


def test_trials_are_marked_by_outcome_at_their_rate_and_seed(found) -> None:
    ax = trials_figure(found)
    drawn = {c.get_label(): {tuple(at) for at in c.get_offsets().tolist()} for c in ax.collections}
    for kind in ("trained", "diverged", "dead", "short"):
        expected = {(t.lr, float(t.seed)) for t, o in found.trials.items() if o.kind == kind}
        assert drawn[kind] == expected
    bars = [line.get_xdata() for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert [0.4, 0.5] in [list(np.asarray(bar)) for bar in bars]


def test_failures_are_shaded_by_cause_up_to_the_whole(found) -> None:
    ax = success_figure(found)
    labels = ax.get_legend_handles_labels()[1]
    assert {"short", "dead", "diverged"} <= set(labels)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_picture_can_be_saved_and_repeats(found, ending, tmp_path) -> None:
    first, second = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    save_measurement(found, first)
    save_measurement(found, second)
    assert first.stat().st_size > 5000
    if ending != "pdf":  # which carries its time of making
        assert first.read_bytes() == second.read_bytes()
