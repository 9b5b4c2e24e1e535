"""Seeds that train nowhere are below every rate: in medians, their variances, laws and messages."""

import math

import numpy as np
import pytest
from planted_laws import DEPTHS, planted_rows
from scipy.special import ndtri

from etastar.errors import ConfigError
from etastar.scaling import CellTable, estimate_cells, extrapolate, fit_cell_slope, fit_power_law
from etastar.scaling.estimates import loss_inflation
from etastar.search.base import SeedResult
from etastar.search.estimate import eta_star


def lose(row):
    row.update(status="none-trained", eta_lo=None, eta_hi=None)


def with_losses(seed, shares, *, seeds=5, seed_sd=0.2, **planted):
    """A study with a planted law of the median over all seeds, of which a share trains nowhere.

    The seeds that train are moved up, so that the median over all of them is the law's.

    Args:
        seed: Of everything.
        shares: The share that trains nowhere, by depth.
    """
    rng = np.random.default_rng(seed)
    rows = planted_rows(rng, seeds=seeds, seed_sd=seed_sd, **planted)
    for row in rows:
        q = shares[row["depth"]]
        up = math.exp(-seed_sd * ndtri((0.5 - q) / (1 - q)))
        row["eta_lo"], row["eta_hi"] = row["eta_lo"] * up, row["eta_hi"] * up
        if rng.random() < q:
            lose(row)
    return rows


EVEN = dict.fromkeys(DEPTHS, 0.2)
DEEPER = dict(zip(DEPTHS, (0.0, 0.0, 0.1, 0.2, 0.25, 0.3), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_median_of_a_cell_is_that_of_a_measurement(seed):
    """`search.estimate.eta_star` on the same seeds, of which any number is at either end."""
    rng = np.random.default_rng(seed)
    rows, results = [], []
    for k in range(int(rng.integers(1, 8))):
        row = planted_rows(rng, widths=(8,), depths=(2,), seeds=1)[0] | {"seed": k}
        row["status"] = str(rng.choice(["bracketed", "all-trained", "none-trained"]))
        lo = None if row["status"] == "none-trained" else row["eta_lo"]
        hi = row["eta_hi"] if row["status"] == "bracketed" else None
        rows.append(row | {"eta_lo": lo, "eta_hi": hi})
        results.append(SeedResult(row["status"], lo, hi, None, ()))
    found = estimate_cells(CellTable.from_rows(rows))
    expected = eta_star(results).median
    assert found.used[0] == (expected is not None)
    if expected is not None:
        assert found.value[0] == pytest.approx(math.log(expected))


def test_lost_seeds_inflate_the_variance_of_a_median_as_simulated():
    assert loss_inflation(np.zeros(2)).tolist() == [1.0, 1.0]
    assert np.isinf(loss_inflation(np.array([0.5, 0.8]))).all()
    rng = np.random.default_rng(0)
    for q in (0.1, 0.2, 0.3):
        m = 201
        values = rng.normal(size=(20_000, m))
        values[rng.random(values.shape) < q] = -np.inf
        # relative standard error of a variance of 20,000 draws: 1 %; the factor is asymptotic
        simulated = m * np.var(np.sort(values, 1)[:, m // 2]) / (np.pi / 2)
        assert float(loss_inflation(np.array([q]))[0]) == pytest.approx(simulated, rel=0.08)


def test_a_cell_that_lost_seeds_counts_for_less():
    rows = with_losses(0, dict.fromkeys(DEPTHS, 0.0))
    for row in rows:
        if (row["width"], row["depth"]) == (64, 4) and row["seed"] < 2:
            lose(row)
    fit = fit_power_law(CellTable.from_rows(rows))
    mine = (fit.width == 64) & (fit.depth == 4)
    assert fit.variance[mine][0] > 5 * np.median(fit.variance)
    assert fit.noise[mine][0] == pytest.approx(
        float(loss_inflation(np.array([0.4]))[0]) * fit.noise[~mine][0]
    )


def test_exponents_where_seeds_are_lost_everywhere_alike():
    """With a fifth of all seeds lost, 97 and 96 of 100 other studies covered: nominal 95 %."""
    values, inside = [], 0
    for k in range(60):
        fit = fit_power_law(CellTable.from_rows(with_losses(k, EVEN)), form="separate")
        values.append(fit.beta[1:])
        inside += sum(fit[n].low <= v <= fit[n].high for n, v in (("width", -0.5), ("depth", -1)))
    # standard errors of the means 0.003 and 0.005; 105 or fewer of 120 at 95 %: rate 1e-3
    assert np.mean(values, 0) == pytest.approx([-0.5, -1], abs=0.02)
    assert inside > 105


def test_exponents_where_deep_networks_lose_more_seeds():
    """Up to 30 % lost at the largest depth: what the rule gains, and what is left.

    In 200 other studies the exponent of L was −0.975 ± 0.037 and its 95 % interval covered the
    planted −1 in 95 %; −0.967 and 93 % with the cells left out whose median is lost by chance,
    and which enter as bounds. In 100 others, over the seeds that train, −0.935 ± 0.029.
    """
    ours, trained, inside, covered = [], [], 0, []
    for k in range(60):
        rows = with_losses(k, DEEPER)
        cells = CellTable.from_rows(rows)
        fit = fit_power_law(cells, form="separate")
        ours.append(fit["depth"].value)
        inside += fit["depth"].low <= -1 <= fit["depth"].high
        covered.append(extrapolate(cells, "separate").coverage)
        rest = CellTable.from_rows([row for row in rows if row["status"] != "none-trained"])
        trained.append(fit_power_law(rest, form="separate")["depth"].value)
    # standard errors of both means 0.005
    assert abs(np.mean(ours) + 1) < 0.05 < abs(np.mean(trained) + 1) + 0.005
    assert abs(np.mean(ours) + 1) < 0.75 * abs(np.mean(trained) + 1)
    assert inside >= 51  # of 60 at 95 %: false-alarm rate 3e-3
    # nominal 90 %; 0.93 in 40 other studies, standard error 0.015
    assert np.mean(covered) >= 0.86


def test_what_is_below_the_range_is_counted_and_said():
    rows = planted_rows(
        np.random.default_rng(0), widths=(8, 16, 32), depths=(2,), top=0.15, seed_sd=0.05
    )
    for row in rows:
        if row["width"] == 32:
            lose(row)
    with pytest.raises(ConfigError) as refused:
        fit_power_law(CellTable.from_rows(rows))
    assert str(refused.value) == (
        "the form a (nL)^b needs at least 3 cells for an interval; got 1 that are bracketed, of 3 "
        "(of the range: 1 with η* below it, 1 with η* above it). Measure more networks, widen "
        "their range of learning rates."
    )


@pytest.mark.parametrize("name", ["lambda1", "lambda1_preconditioned"])
def test_sharpness_is_read_under_both_of_its_names(name):
    rows = planted_rows(np.random.default_rng(0))
    renamed = [{name if k == "lambda1" else k: v for k, v in row.items()} for row in rows]
    cells = CellTable.from_rows(renamed)
    np.testing.assert_array_equal(cells.log_lambda1, CellTable.from_rows(rows).log_lambda1)
    assert list(cells.labels) == ["input_lr_ratio", "loss", "dataset"]
    renamed[3][name] = -1.0
    with pytest.raises(ConfigError, match=f"row 3: {name} must be positive"):
        CellTable.from_rows(renamed)


def test_lost_seeds_keep_their_sharpness():
    """λ1 needs no training: the median of λ1 is over all seeds, that of η* too."""
    rows = planted_rows(np.random.default_rng(0), seeds=5)
    whole = estimate_cells(CellTable.from_rows(rows), "lambda1")
    for row in rows:
        if row["seed"] == 0:
            lose(row)
    found = estimate_cells(CellTable.from_rows(rows), "lambda1")
    np.testing.assert_array_equal(found.value, whole.value)
    assert fit_cell_slope(CellTable.from_rows(rows)).n == 36
