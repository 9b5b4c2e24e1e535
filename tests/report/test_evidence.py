"""Cells sorted into groups of one law and families of one chapter."""

from __future__ import annotations

import numpy as np
import pytest
from planted_studies import plant, power_law

from etastar.report.collect import collect
from etastar.report.criterion import criterion_text
from etastar.report.plots.base import ends, medians
from etastar.scaling import extrapolate


def collected(folder, *arguments, **options):
    study, store = plant(folder, *arguments, **options)
    with store:
        return collect(study, store)


def test_kappa_and_loss_share_a_family_though_their_default_budgets_differ(tmp_path) -> None:
    evidence = collected(tmp_path, losses=("cross-entropy", "mse"), base="")
    (family,) = evidence.families
    assert [group.name for group in family.groups] == [
        "cross-entropy, κ = 0.1",
        "cross-entropy, κ = 1",
        "mse, κ = 0.1",
        "mse, κ = 1",
    ]
    assert sum(group.measured for group in evidence.groups) == 4 * 12 * 3


def test_default_epochs_follow_from_the_loss_and_split_nothing(tmp_path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('[grid]\nloss = ["cross-entropy", "mse"]\nwidth = [8, 16]\n')
    from etastar.study.specification import Study
    from etastar.study.store import Store, StoreWriter

    study = Study.from_file(path)
    StoreWriter(study.default_store).close()
    with Store(study.default_store) as store:
        (family,) = collect(study, store).families
    text = criterion_text(family)
    assert "within 40 epochs for cross-entropy and within 80 epochs for mse" in text


@pytest.mark.parametrize(
    ("grid", "families", "groups"),
    [
        ("threshold = [0.8, 0.9]", 2, 4),
        ("batch_size = [32, 64]", 2, 4),
        # the same networks twice, told apart by the search alone
        ('strategy = ["section", "bisection"]', 2, 4),
    ],
)
def test_everything_else_that_varies_makes_laws_of_its_own(
    tmp_path, grid, families, groups
) -> None:
    evidence = collected(tmp_path, grid=grid)
    assert len(evidence.families) == families
    assert len(evidence.groups) == groups
    assert {group.measured for group in evidence.groups} == {12 * 3}
    name = grid.split(" = ")[0].replace("_", " ")
    assert all(name in family.name for family in evidence.families)


def test_networks_whose_ranges_differ_still_share_a_law(tmp_path) -> None:
    study, store = plant(tmp_path, kappas=(1.0,))
    store.close()
    text = study.path.read_text()
    study.path.write_text(text + "\n[[cells]]\nwidth = 128\nend_lr = 50.0\n")
    from etastar.study.specification import Study
    from etastar.study.store import Store

    with Store(study.default_store) as store:
        evidence = collect(Study.from_file(study.path), store)
    (group,) = evidence.groups
    assert len(group.cells) == 13
    assert "rates from 0.001 to 50" in criterion_text(evidence.families[0])


def test_a_planted_law_comes_back_with_its_exponents(tmp_path) -> None:
    group = collected(tmp_path, power_law(-0.6, -0.6), seed_sd=0.05).groups[0]
    fit = group.law("product")
    assert fit["product"].low < -0.6 < fit["product"].high
    assert fit["product"].value == pytest.approx(-0.6, abs=0.05)
    separate = group.law("separate")
    assert separate["width"].value == pytest.approx(-0.6, abs=0.05)
    assert group.law("product", "lambda1")["product"].value == pytest.approx(0.6, abs=0.05)
    assert group.slope.corrected.value == pytest.approx(-1, abs=0.05)


def test_held_out_networks_are_those_that_extrapolate_judges(tmp_path) -> None:
    group = collected(tmp_path, power_law(-0.4, -0.9), seed_sd=0.1).groups[0]
    for form in ("product", "separate"):
        found = group.held_out(form)
        summary = extrapolate(group.table, form=form)
        error = np.abs(np.expm1(found.log_predicted - found.log_measured))
        assert np.median(error) == pytest.approx(summary.median_error)
        inside = np.abs(found.log_predicted - found.log_measured) <= found.half
        assert inside.mean() == pytest.approx(summary.coverage)
        assert len(error) == summary.test == 3
        assert np.median(np.exp(2 * found.half)) == pytest.approx(summary.median_width)


def test_medians_are_those_of_the_seeds(tmp_path) -> None:
    group = collected(tmp_path, seed_sd=0.3).groups[0]
    found = medians(group)
    low, high = ends(found)
    for i, (n, d) in enumerate(zip(found.width, found.depth, strict=True)):
        identity = group.cell_id(n, d)
        own = [
            eta
            for eta, cell in zip(group.rows["eta"], group.rows["cell"], strict=True)
            if cell == identity
        ]
        assert np.exp(found.value[i]) == pytest.approx(np.median(own))
        assert low[i] < np.exp(found.value[i]) < high[i]
        assert group.ids[int(n), int(d)] == identity


def test_fits_that_cannot_be_made_say_why(tmp_path) -> None:
    evidence = collected(tmp_path, lambda cell: None, sharpness=False)
    group = evidence.groups[0]
    assert "needs at least 3 cells" in group.law("product")
    assert "lambda1" in group.slope
    assert isinstance(group.comparison, str)
    assert isinstance(group.region, str)
    assert "no cell can be used: none is bracketed" in group.held_out("product")
    empty = collected_empty(tmp_path / "empty")
    assert "nothing has been measured" in empty.groups[0].law("product")


def collected_empty(folder):
    folder.mkdir()
    return collected(folder, only=lambda cell: False)


def test_large_networks_alone_are_fitted_but_not_held_out(tmp_path) -> None:
    """Where no network is small enough to predict from, the other fits stand."""

    def large(cell):
        return cell.settings.width * cell.settings.depth >= 128

    group = collected(tmp_path, only=large).groups[0]
    assert group.comparison["product"].extrapolated is None
    assert "nothing to predict from" in group.held_out("product")


def test_the_criterion_names_all_that_a_number_depends_on(tmp_path) -> None:
    (family,) = collected(tmp_path, base="batch_size = 64\nmomentum = 0.5").families
    text = criterion_text(family)
    for part in (
        "Criterion (reach): validation accuracy touches 0.9 within 100 steps, evaluated every 2",
        "Data: digits, 1438 training and 359 validation samples",
        "SGD with momentum 0.5 at a constant rate, batch 64",
        "cross-entropy (mean over samples)",
        "κ, the input layer's share of the learning rate: 0.1 and 1",
        "3 seeds per network, brackets within 5 %, rates from 0.001 to 10",
    ):
        assert part in text
    (family,) = collected(tmp_path, base='criterion = "hold"').families
    assert "is, when the budget ends, at least 0.9" in criterion_text(family)
