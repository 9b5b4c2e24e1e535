"""η* against width and batch size: planted slopes are found."""

from __future__ import annotations

import re

import pytest
from planted_studies import plant

from etastar.report.chart import Line, Points
from etastar.report.collect import collect
from etastar.report.plots import FIGURES
from etastar.report.plots.eta_axes import slope

SLOPES = {"standard": -0.5, "ntk": 0.5, "mup": 0.0}


def drawings(folder, law, grid):
    options = {"kappas": (1.0,), "widths": (8, 16, 32, 64), "depths": (1, 4), "sharpness": False}
    study, store = plant(folder, law, grid=grid, **options)
    with store:
        return [FIGURES["eta-axes"].make(family) for family in collect(study, store).families]


def test_slopes_in_width_under_each_parametrisation(tmp_path):
    def law(cell):
        s = cell.settings
        return s.width ** SLOPES[s.parametrization] / s.depth

    first, *others = drawings(tmp_path, law, 'parametrization = ["standard", "ntk", "mup"]')
    (chart,) = first.charts
    assert not any(drawing.charts for drawing in others)
    names = [layer.label for layer in chart.layers if isinstance(layer, Points)]
    assert names == list(SLOPES)
    lines = [layer for layer in chart.layers if isinstance(layer, Line)]
    assert len(lines) == 6
    for line in lines:  # brackets of 5 %
        name, shown = re.fullmatch(r"(\w+), L = \d: n\^\{(.*) ± .*\}", line.label).groups()
        assert abs(float(shown.replace("−", "-")) - SLOPES[name]) < 0.03


def test_slopes_in_batch_size(tmp_path):
    def law(cell):
        return 0.02 * cell.settings.batch_size**0.5

    first, *others = drawings(tmp_path, law, "batch_size = [16, 64, 256]")
    (batch,) = first.charts
    assert batch.x_label == "batch size B"
    assert not any(drawing.charts for drawing in others)
    (points,) = [layer for layer in batch.layers if isinstance(layer, Points)]
    assert sorted(set(points.x)) == [16, 64, 256]
    assert len(points.x) == 24
    lines = [layer for layer in batch.layers if isinstance(layer, Line)]
    assert len(lines) == 8
    labels = [line.label for line in lines if line.label]
    assert len(labels) == 4
    for label in labels:
        exponents = [float(found) for found in re.findall(r"B\^\{(\S+?)\}", label)]
        assert 1 <= len(exponents) <= 2  # brackets of 5 %, a factor of four apart
        assert all(abs(found - 0.5) < 0.04 for found in exponents)
    assert all(list(line.x) == [16, 64, 256] for line in lines)


def test_a_depth_of_one_parametrisation_alone_is_drawn(tmp_path):
    cell = '[[cells]]\nwidth = 8\ndepth = 4\nparametrization = "mup"'
    study, store = plant(
        tmp_path,
        grid='parametrization = ["standard", "mup"]\n' + cell,
        **{"kappas": (1.0,), "widths": (8, 16), "depths": (1,), "sharpness": False},
    )
    with store:
        (chart,) = FIGURES["eta-axes"].make(collect(study, store).families[0]).charts
    sizes = [len(layer.x) for layer in chart.layers if isinstance(layer, Points)]
    assert sizes == [2, 3]


def test_a_slope_needs_two_abscissas():
    assert slope([4, 4], [1.0, 2.0]) is None
    assert slope([1, 10], [1.0, 100.0])[0] == pytest.approx(2)
