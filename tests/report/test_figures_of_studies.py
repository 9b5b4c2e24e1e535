"""Every figure: what is drawn is what was measured, on paper and in the page alike."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from planted_studies import plant, power_law

from etastar.data import load
from etastar.problem.networks import MLP
from etastar.problem.trial import Outcome
from etastar.report.chart import Chart, Line, Points
from etastar.report.collect import collect
from etastar.report.draw_matplotlib import draw, save_charts
from etastar.report.draw_plotly import interactive
from etastar.report.plots import FIGURES
from etastar.report.plots.base import medians
from etastar.report.plots.lambda1_law import MOST as MOST_BOUNDS
from etastar.report.plots.success import KINDS, MOST, curves
from etastar.scaling import residual_map
from etastar.search.base import SeedResult
from etastar.search.estimate import success_curve
from etastar.theory.sharpness_bounds import sharpness_bounds

PANELS = {
    "eta-law": ["cross-entropy", "mse"],
    "eta-axes": [
        "cross-entropy, κ = 0.1",
        "cross-entropy, κ = 1",
        "mse, κ = 0.1",
        "mse, κ = 1",
    ],
    "success": [
        "cross-entropy, κ = 0.1",
        "cross-entropy, κ = 1",
        "mse, κ = 0.1",
        "mse, κ = 1",
    ],
    "residuals": [
        "cross-entropy, κ = 0.1",
        "cross-entropy, κ = 1",
        "mse, κ = 0.1",
        "mse, κ = 1",
    ],
    "lambda1-law": ["cross-entropy", "mse"],
    "eta-lambda1": ["cross-entropy", "mse"],
    "prediction": [
        "cross-entropy: Gaussian process around a·n^{b}L^{c}",
        "cross-entropy: one exponent, a·(nL)^{b}",
        "cross-entropy: separate exponents, a·n^{b}L^{c}",
        "mse: Gaussian process around a·n^{b}L^{c}",
        "mse: one exponent, a·(nL)^{b}",
        "mse: separate exponents, a·n^{b}L^{c}",
    ],
    "cost": ["cross-entropy", "mse"],
}
"""A new figure is a row here: its panels for a study of two losses and two κ."""


def family_of(folder, *arguments, **options):
    study, store = plant(folder, *arguments, **options)
    with store:
        return collect(study, store).families[0]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    losses = ("cross-entropy", "mse")
    return family_of(folder, power_law(-0.5, -0.7), seed_sd=0.1, losses=losses)


def test_every_figure_has_its_row_here() -> None:
    assert list(PANELS) == list(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_panels_caption_and_rows_with_their_cells(family, name) -> None:
    drawing = FIGURES[name].make(family)
    assert [chart.title for chart in drawing.charts] == PANELS[name]
    assert len(drawing.caption) > 100
    known = {cell.id for group in family.groups for cell in group.cells}
    assert drawing.rows["cell"]
    assert set(drawing.rows["cell"]) <= known
    assert len({len(column) for column in drawing.rows.values()}) == 1
    for column in ("width", "depth", "input_lr_ratio", "loss", "dataset"):
        assert column in drawing.rows
    for chart in drawing.charts:
        for layer in chart.layers:
            if isinstance(layer, Points):
                assert len(layer.hover) == len(layer.x)
                # a bound names its cell too
                assert all(re.search("[0-9a-f]{20}$", text) for text in layer.hover)


@pytest.mark.parametrize("name", FIGURES)
def test_paper_and_page_show_the_same_numbers(family, name) -> None:
    figure = FIGURES[name]
    for panel, chart in enumerate(figure.make(family).charts):
        ax, twin = figure.draw(family, panel=panel), figure.interactive(family, panel=panel)
        assert ax.get_xlabel() == chart.x_label
        assert len(twin.data) == len(chart.layers)
        offsets = [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets())]
        drawn = {tuple(point) for part in offsets for point in np.atleast_2d(part).tolist()}
        for layer, trace in zip(chart.layers, twin.data, strict=True):
            if isinstance(layer, Points):
                np.testing.assert_array_equal(trace.x, layer.x)
                np.testing.assert_array_equal(trace.y, layer.y)
                assert set(zip(layer.x.tolist(), layer.y.tolist(), strict=True)) <= drawn
            elif isinstance(layer, Line):
                lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]
                assert (list(layer.x), list(layer.y)) in lines
                np.testing.assert_array_equal(trace.y, layer.y)
            else:
                np.testing.assert_array_equal(np.array(trace.z, dtype=float), layer.values.T)
                np.testing.assert_array_equal(ax.images[0].get_array(), layer.values.T)
        if chart.legend:
            shown = [text.get_text() for text in ax.get_legend().get_texts()]
            assert len(shown) == len(chart.legend)
            assert [t.name for t in twin.data if t.showlegend] == [
                re.sub(r"\^\{([^}]*)\}", r"<sup>\1</sup>", text) for text in chart.legend
            ]


def test_files_for_papers(family, tmp_path) -> None:
    files = FIGURES["eta-law"].save(family, tmp_path / "a")
    assert [path.name for path in files] == ["a.png", "a.pdf", "a.svg"]
    starts = [path.read_bytes()[:5] for path in files]
    assert starts == [b"\x89PNG\r", b"%PDF-", b"<?xml"]
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_the_same_results_give_the_same_bytes(family, tmp_path) -> None:
    charts = FIGURES["eta-law"].make(family).charts[:1]
    first, second = (save_charts(charts, tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_eta_law_draws_medians_and_a_line_of_the_fitted_slope(family) -> None:
    chart = FIGURES["eta-law"].make(family).charts[0]
    for group, points in zip(family.of_loss("cross-entropy"), _points(chart), strict=True):
        found = medians(group)
        np.testing.assert_allclose(np.sort(points.y), np.sort(np.exp(found.value)))
        exponent = group.law()["product"]
        shown = f"{exponent.value:.2f}".replace("-", "−")
        assert f"(nL)^{{{shown}}} [" in points.label
        assert f"R² {group.law().r2:.2f}" in points.label
    for group, line in zip(family.of_loss("cross-entropy"), _lines(chart), strict=True):
        slope = np.diff(np.log(line.y)) / np.diff(np.log(line.x))
        assert slope == pytest.approx(group.law()["product"].value)


def test_bounds_of_eta_star_and_what_the_budget_decided_are_marked(tmp_path) -> None:
    def law(cell):
        s = cell.settings
        return np.inf if s.width == 8 else None if s.width == 16 else 0.5

    drawing = FIGURES["eta-law"].make(family_of(tmp_path, law, kappas=(1.0,)))
    measured, bounded = _points(drawing.charts[0])
    assert len(measured.x) == 6
    assert len(bounded.x) == 3
    np.testing.assert_allclose(bounded.y, 10.0)
    assert bounded.hollow.all()
    assert "at least this (3 networks)" in bounded.label
    assert drawing.missing.startswith("3 networks whose median seed trains nowhere")
    assert not measured.hollow.any()


def test_success_curves_are_those_of_a_single_measurement(tmp_path) -> None:
    """The vectorised counts against `search.estimate.success_curve`, seed by seed."""
    group = family_of(tmp_path, seed_sd=0.4, seeds=5).groups[0]
    assert len(curves(group)) == 12
    for own, curve in curves(group).items():
        results, tried = [], []
        for i, cell in enumerate(group.rows["cell"]):
            if cell == own:
                row = {name: column[i] for name, column in group.rows.items()}
                results.append(
                    SeedResult(row["status"], row["eta_lo"], row["eta_hi"], row["hi_outcome"], ())
                )
                tried.append(_tried(group.trials, cell, row["seed"]))
        expected = success_curve(results, tried)
        for i, point in enumerate(expected):
            assert curve["lr"][i] == point.lr
            for name in (*KINDS, "inferred_trained", "inferred_failed"):
                assert curve[name][i] == getattr(point, name)
            assert curve["p"][i] == pytest.approx(point.p)
            found = (curve["p_low"][i], curve["p_high"][i])
            assert found == pytest.approx((point.ci_low, point.ci_high))


def _tried(trials, cell, seed):
    wanted = zip(trials["cell"], trials["seed"], trials["lr"], trials["outcome"], strict=True)
    return {lr: Outcome(kind, 1) for c, s, lr, kind in wanted if (c, s) == (cell, seed)}


def test_no_more_curves_than_can_be_read_and_the_rest_is_said_and_kept(family) -> None:
    drawing = FIGURES["success"].make(family)
    assert all(len(chart.layers) == MOST for chart in drawing.charts)
    assert drawing.missing.startswith("24 of 48 networks are drawn")
    assert len(set(drawing.rows["cell"])) == 48
    raw = drawing.charts[0].views[0]
    for scaled, plain in zip(drawing.charts[0].layers, raw.layers, strict=True):
        ratio = plain.x / scaled.x
        np.testing.assert_allclose(ratio, ratio[0])
        np.testing.assert_array_equal(scaled.y, plain.y)
    buttons = interactive(drawing.charts[0]).layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["η ÷ η*", "η"]
    np.testing.assert_array_equal(buttons[1].args[0]["x"][2], raw.layers[2].x)


def test_nothing_trains_beyond_the_edge_of_a_success_panel(family) -> None:
    for chart in FIGURES["success"].make(family).charts:
        for view in (chart, *chart.views):
            for layer in view.layers:
                assert not layer.y[layer.x > view.x_range[1]].any()


def test_residuals_stand_at_their_width_and_depth(family) -> None:
    group = family.groups[0]
    (heat,) = FIGURES["residuals"].make(family).charts[0].layers
    _, _, expected, _ = residual_map(group.law())
    np.testing.assert_array_equal(heat.values, expected)
    assert heat.columns == ["8", "16", "32", "64"]
    assert heat.rows == ["1", "2", "4"]
    i, j = 3, 2
    share = 100 * np.expm1(expected[i, j])
    assert float(heat.text[i][j].replace("−", "-")) == pytest.approx(share, abs=0.5)
    assert group.cell_id(64, 4) in heat.hover[i][j]


def test_the_slope_against_sharpness_stands_beside_minus_one(family) -> None:
    chart = FIGURES["eta-lambda1"].make(family).charts[0]
    *own, reference = _lines(chart)
    assert np.diff(np.log(reference.y)) / np.diff(np.log(reference.x)) == pytest.approx(-1)
    assert reference.dash == "dot"
    for group, points, line in zip(family.groups[:2], _points(chart), own, strict=True):
        fit = group.slope
        slope = np.diff(np.log(line.y)) / np.diff(np.log(line.x))
        assert slope == pytest.approx(fit.corrected.value)
        verdict = "−1 excluded" if fit.excludes(-1) else "−1 not excluded"
        assert verdict in points.label


@pytest.mark.parametrize(("power", "verdict"), [(-0.5, "−1 excluded"), (-1.0, "−1 not excluded")])
def test_slopes_are_judged_against_minus_one(tmp_path, power, verdict) -> None:
    """η* ∝ λ1^power planted; 95 % intervals: a wrong verdict at −1 has a chance of 5 %."""
    family = family_of(
        tmp_path, seed_sd=0.1, seeds=5, kappas=(1.0,), lambda1=lambda eta: 2 * eta ** (1 / power)
    )
    (points,) = _points(FIGURES["eta-lambda1"].make(family).charts[0])
    assert verdict in points.label


def test_predictions_lie_against_what_was_measured(family) -> None:
    process, chart = FIGURES["prediction"].make(family).charts[:2]
    for form, panel in (("process", process), ("product", chart)):
        (line,) = _lines(panel)
        np.testing.assert_array_equal(line.x, line.y)
        for group, points in zip(family.of_loss("cross-entropy"), _points(panel), strict=True):
            found = group.held_out(form)
            np.testing.assert_array_equal(points.x, np.exp(found.log_measured))
            np.testing.assert_array_equal(points.y, np.exp(found.log_predicted))
            np.testing.assert_array_equal(points.y_high, np.exp(found.log_predicted + found.half))


def test_captions_speak_of_curves_where_curves_were_measured(family) -> None:
    curves = replace(family, settings={**family.settings, "strategy": "curve"})
    for name, figure in FIGURES.items():
        drawing = figure.make(curves)
        told = drawing.caption + "".join(chart.y_label for chart in drawing.charts)
        for word in ("bracket", "median over its seeds", "η*, median", "$"):
            assert word not in told, name
        if name in ("eta-law", "eta-axes", "eta-lambda1"):
            assert drawing.charts[0].y_label == "η₅₀, where half of fresh seeds train"
            assert figure.make(family).charts[0].y_label == "η*, median over seeds"


def test_cost_is_that_of_the_tasks(family) -> None:
    """Every task of η* is planted with 1.5 seconds, every one of λ1 with 0.5."""
    drawing = FIGURES["cost"].make(family)
    rows = drawing.rows
    assert set(rows["seconds_per_seed"]) == {1.5 / 3}
    assert set(rows["lambda1_seconds_per_seed"]) == {0.5 / 3}
    assert sum(rows["trials"]) == sum(len(group.trials["lr"]) for group in family.groups)
    assert sum(rows["steps"]) == sum(sum(group.rows["steps"]) for group in family.groups)
    hollow = [points.hollow.all() for points in _points(drawing.charts[0])]
    assert hollow == [False, True, False, True]
    for group in family.groups:
        assert group.cost == {
            "networks": 12,
            "seeds": 36,
            "trials": len(group.trials["lr"]),
            "steps": sum(group.rows["steps"]),
            "seconds": 12 * (1.5 + 0.5),
        }


def test_bounds_are_those_of_the_theory_on_the_samples_of_the_study(family) -> None:
    """λ₁ is planted as 2/η*, so that some networks are outside, and counted so."""
    drawing = FIGURES["lambda1-law"].make(family)
    data = load("digits")
    place = drawing.rows["cell"].index(family.groups[0].cell_id(8, 1))
    loss = drawing.rows["loss"][place]
    expected = sharpness_bounds(
        MLP(width=8, depth=1, input_lr_ratio=0.1),
        data.x_train[:10],
        10,
        loss=loss,
        kind="gauss-newton",
    )
    assert drawing.rows["lower"][place] == expected.lower
    assert drawing.rows["upper"][place] == expected.upper
    assert drawing.rows["upper_label"][place] == expected.upper_label
    known = [
        cell
        for cell, low in zip(drawing.rows["cell"], drawing.rows["lower"], strict=True)
        if low is not None
    ]
    assert len(known) == MOST_BOUNDS
    assert (
        drawing.missing == f"Bounds are computed for {MOST_BOUNDS} of 48 networks, spread "
        "evenly over n·L."
    )
    inside = 0
    for cell in known:
        i = drawing.rows["cell"].index(cell)
        group = next(g for g in family.groups if cell in g.ids.values())
        rows = zip(group.rows["cell"], group.rows["lambda1_gauss_newton"], strict=True)
        mean = np.mean([value for identity, value in rows if identity == cell])
        inside += drawing.rows["lower"][i] <= mean <= drawing.rows["upper"][i]
    assert f"lies within for {inside} of {MOST_BOUNDS} networks" in drawing.caption


def test_networks_that_theory_does_not_cover_are_drawn_without_bounds(tmp_path) -> None:
    family = family_of(tmp_path, base='norm = "layer"', kappas=(1.0,))
    drawing = FIGURES["lambda1-law"].make(family)
    assert drawing.missing.startswith("Drawn without bounds: cross-entropy, κ = 1: ")
    (points,) = [layer for layer in drawing.charts[0].layers if isinstance(layer, Points)]
    assert len(points.x) == 12
    assert set(drawing.rows["lower"]) == {None}


@pytest.mark.parametrize("name", ["lambda1-law", "eta-lambda1"])
def test_a_study_without_sharpness_says_so(tmp_path, name) -> None:
    drawing = FIGURES[name].make(family_of(tmp_path, sharpness=False))
    assert not drawing.charts
    assert "has not measured λ1" in drawing.missing


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_measured_or_nothing_bracketed_is_said_and_not_drawn(tmp_path, name) -> None:
    empty = family_of(tmp_path, only=lambda cell: False)
    assert FIGURES[name].make(empty).missing
    assert not FIGURES[name].make(empty).charts
    assert FIGURES[name].save(empty, tmp_path / name) == []
    lost = family_of(tmp_path, lambda cell: None)
    if name not in ("cost", "lambda1-law"):
        assert FIGURES[name].make(lost).missing
        assert not FIGURES[name].make(lost).charts


def test_hollow_marks_are_white_on_paper_and_in_the_page() -> None:
    hollow = np.array([True, False])
    points = Points(np.array([1.0, 2.0]), np.array([1.0, 2.0]), "#0072B2", "two", hollow=hollow)
    chart = Chart("x", "y", [points])
    faces = [to_hex(face) for face in draw(chart).collections[0].get_facecolor()]
    assert faces == ["#ffffff", "#0072b2"]
    assert list(interactive(chart).data[0].marker.color) == ["#ffffff", "#0072B2"]


def _points(chart) -> list[Points]:
    return [layer for layer in chart.layers if isinstance(layer, Points) and layer.label]


def _lines(chart) -> list[Line]:
    return [layer for layer in chart.layers if isinstance(layer, Line)]
