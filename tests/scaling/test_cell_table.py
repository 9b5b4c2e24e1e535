import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_laws import planted_rows
from scipy import integrate, stats

from etastar.errors import ConfigError
from etastar.scaling import CellTable, estimate_cells, fit_power_law
from etastar.scaling.estimates import (
    median_inefficiency,
    medians,
    seed_variances,
)


def exact_rows(**changes):
    return planted_rows(np.random.default_rng(0), seeds=3, **changes)


def one_cell(values, statuses=None):
    """Rows of one network, one seed per value, zero-width brackets."""
    statuses = statuses or ["bracketed"] * len(values)
    return [
        {
            "width": 8,
            "depth": 2,
            "input_lr_ratio": 1.0,
            "loss": "mse",
            "seed": i,
            "status": status,
            "eta_lo": value,
            "eta_hi": value,
        }
        for i, (value, status) in enumerate(zip(values, statuses, strict=True))
    ]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("width", 0, "row 3: width must be a whole number of at least 1; got 0"),
        ("width", 2.5, "row 3: width must be a whole number"),
        ("width", "wide", "row 3: width must be a number; got 'wide'"),
        ("depth", None, "row 3: depth must be a number; got None"),
        ("seed", -1, "row 3: seed must be a whole number of at least 0"),
        ("status", "fine", "row 3: status must be one of bracketed, all-trained, none-trained"),
        ("eta_lo", -0.1, "row 3: eta_lo must be positive and finite"),
        ("eta_lo", None, "row 3: eta_lo must be positive and finite"),
        ("eta_hi", float("inf"), "row 3: eta_hi must be positive and finite"),
        ("eta_hi", 1e-9, "row 3: eta_hi must be at least eta_lo"),
        ("lambda1", -2.0, "row 3: lambda1 must be positive and finite"),
        ("input_lr_ratio", -0.5, "row 3: input_lr_ratio must be finite and not negative"),
    ],
)
def test_a_bad_value_is_named_by_row_and_field(field, value, says):
    rows = exact_rows()
    rows[3][field] = value
    with pytest.raises(ConfigError, match=says):
        CellTable.from_rows(rows)


def test_missing_fields_and_rows_are_refused():
    rows = exact_rows()
    del rows[5]["depth"]
    with pytest.raises(ConfigError, match="row 5: depth"):
        CellTable.from_rows(rows)
    with pytest.raises(ConfigError, match="no field 'status'"):
        CellTable.from_rows([{k: v for k, v in r.items() if k != "status"} for r in exact_rows()])
    with pytest.raises(ConfigError, match="no rows"):
        CellTable.from_rows([])
    with pytest.raises(ConfigError, match=r"rows 0 and 108 hold the same seed 0"):
        CellTable.from_rows(exact_rows() + exact_rows()[:1])


def test_ends_that_mean_nothing_are_not_read():
    rows = one_cell([1.0, 2.0, 3.0], ["bracketed", "all-trained", "none-trained"])
    rows[1]["eta_hi"] = None
    rows[2].update(eta_lo=None, eta_hi=float("nan"))
    cells = CellTable.from_rows(rows)
    assert cells.status.tolist() == [0, 1, 2]
    assert np.isinf(cells.log_hi[1])
    assert np.isneginf(cells.log_lo[2])
    assert np.isneginf(cells.log_hi[2])


def test_cells_are_told_apart_by_every_string_and_by_kappa():
    rows = exact_rows() + exact_rows(loss="cross-entropy") + exact_rows(input_lr_ratio=1.0)
    cells = CellTable.from_rows(rows)
    assert len(cells) == 3 * 36
    groups = list(cells.groups())
    assert [(g["input_lr_ratio"], g["loss"]) for g, _ in groups] == [
        (0.1, "cross-entropy"),
        (0.1, "mse"),
        (1.0, "mse"),
    ]
    assert all(len(group) == 36 for _, group in groups)
    chosen = cells.select(loss="mse", input_lr_ratio=1.0)
    assert chosen.the_labels() == {"input_lr_ratio": 1.0, "loss": "mse", "dataset": "digits"}
    with pytest.raises(ConfigError, match=r"input_lr_ratio = 0\.3 was never measured; measured"):
        cells.select(input_lr_ratio=0.3)
    with pytest.raises(ConfigError, match="no cell has loss = 'cross-entropy', input_lr_ratio"):
        cells.select(loss="cross-entropy", input_lr_ratio=1.0)
    with pytest.raises(ConfigError, match="unknown label 'los'; did you mean 'loss'"):
        cells.select(los="mse")
    with pytest.raises(ConfigError, match=r"mix several values of .*cells\.groups"):
        fit_power_law(cells)


def test_numbers_tell_cells_apart_when_asked_to():
    rows = exact_rows(batch=64) + exact_rows(batch=128)
    with pytest.raises(ConfigError, match="group_by"):
        CellTable.from_rows(rows)
    cells = CellTable.from_rows(rows, group_by=["input_lr_ratio", "loss", "batch"])
    assert [g["batch"] for g, _ in cells.groups()] == [64.0, 128.0]


@given(st.permutations(range(36)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_rows_changes_nothing(order):
    rows = exact_rows(depths=(2, 4), widths=(8, 16, 32, 64, 128, 256))
    shuffled = [rows[i] for i in order]
    first, second = (fit_power_law(CellTable.from_rows(r)) for r in (rows, shuffled))
    assert first.coefficients == second.coefficients


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_medians_equal_numpy_cell_by_cell(sizes, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for i, m in enumerate(sizes):
        for row in one_cell(np.exp(rng.normal(size=m))):
            rows.append({**row, "width": i + 1})
    cells = CellTable.from_rows(rows)
    cell, lo, hi = cells.values()
    got = medians(cell, 0.5 * (lo + hi), np.array(sizes))
    expected = [np.median(0.5 * (lo + hi)[cell == i]) for i in range(len(sizes))]
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("statuses", "used", "median"),
    [
        (["bracketed"] * 3, True, 2.0),
        (["bracketed", "bracketed", "all-trained"], True, 2.0),
        (["bracketed", "all-trained", "all-trained"], False, None),
        (["bracketed", "bracketed", "none-trained"], True, 1.0),
        (["bracketed", "none-trained", "all-trained"], True, 1.0),
        (["bracketed", "none-trained", "none-trained"], False, None),
        (["none-trained"] * 3, False, None),
        (["all-trained"] * 3, False, None),
    ],
)
def test_censored_seeds_enter_the_median_as_what_they_say(statuses, used, median):
    estimates = estimate_cells(CellTable.from_rows(one_cell([1.0, 2.0, 4.0], statuses)))
    assert estimates.used.tolist() == [used]
    counts = estimates.bracketed[0], estimates.all_trained[0], estimates.none_trained[0]
    assert counts == tuple(statuses.count(s) for s in ("bracketed", "all-trained", "none-trained"))
    if used:
        assert estimates.value[0] == pytest.approx(np.log(median), abs=1e-12)
    else:
        assert np.isnan(estimates.value[0])
    assert np.isfinite(estimates.bound[0]) == (statuses.count("all-trained") >= 2)


def test_median_inefficiency_against_exact_order_statistics():
    for m in (3, 5, 9, 21):
        k = (m + 1) / 2

        def density(z, k=k):
            return z * z * stats.beta.pdf(stats.norm.cdf(z), k, k) * stats.norm.pdf(z)

        exact = m * integrate.quad(density, -8, 8)[0]
        assert float(median_inefficiency(m)) == pytest.approx(exact, rel=0.02)
    rng = np.random.default_rng(0)
    for m in (1, 2, 4, 6, 10, 20):
        # 2·10⁵ draws: relative standard error 0.3 % of a variance
        simulated = m * np.var(np.median(rng.normal(size=(200_000, m)), axis=1))
        assert float(median_inefficiency(m)) == pytest.approx(simulated, rel=0.03)


def test_seed_variances_are_pooled_when_equal_and_kept_apart_when_not():
    rng = np.random.default_rng(1)

    def variances(planted, m):
        rows = []
        for i, s in enumerate(planted):
            for row in one_cell(np.exp(s * rng.normal(size=m))):
                rows.append({**row, "width": i + 1})
        cells = CellTable.from_rows(rows)
        return seed_variances(cells.values(), len(cells))

    equal = variances(np.full(200, 0.2), 4)
    # 600 degrees of freedom: relative standard error of the pooled variance 6 %
    assert equal == pytest.approx(np.full(200, 0.04), rel=0.3)
    assert np.ptp(np.log(equal)) < 0.6  # the raw variances spread by e^3 and more
    planted = np.where(np.arange(200) % 2, 0.05, 0.5)
    apart = variances(planted, 20)
    assert np.median(np.abs(np.log(apart / planted**2))) < 0.4
    assert np.all(variances(np.full(5, 0.2), 1) == 0)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("width", 0, "row 3: width must be a whole number of at least 1; got 0."),
        ("width", float("inf"), "row 3: width must be a whole number of at least 1; got inf."),
        ("depth", None, "row 3: depth must be a number; got None."),
        ("depth", "deep", "row 3: depth must be a number; got 'deep'."),
        ("seed", 0.5, "row 3: seed must be a whole number of at least 0; got 0.5."),
        (
            "status",
            "fine",
            "row 3: status must be one of bracketed, all-trained, none-trained; got 'fine'.",
        ),
        ("eta_lo", 0.0, "row 3: eta_lo must be positive and finite; got 0.0."),
        ("eta_hi", None, "row 3: eta_hi must be positive and finite; got None."),
        ("lambda1", 0, "row 3: lambda1 must be positive and finite; got 0."),
        (
            "input_lr_ratio",
            float("inf"),
            "row 3: input_lr_ratio must be finite and not negative; got inf.",
        ),
    ],
)
def test_a_bad_value_word_by_word(field, value, says):
    rows = exact_rows()
    rows[3][field] = value
    with pytest.raises(ConfigError) as refused:
        CellTable.from_rows(rows)
    assert str(refused.value) == says


def test_bad_tables_word_by_word():
    def refusal(rows, **options):
        with pytest.raises(ConfigError) as refused:
            CellTable.from_rows(rows, **options)
        return str(refused.value)

    rows = exact_rows()
    assert refusal([]) == "no rows to fit: expected at least one seed of one network, got 0."
    low, high = rows[2]["eta_lo"], rows[2]["eta_lo"] / 2
    assert refusal([*rows[:2], {**rows[2], "eta_hi": high}]) == (
        f"row 2: eta_hi must be at least eta_lo = {low}; got {high}."
    )
    ragged = [*rows[:5], {k: v for k, v in rows[5].items() if k != "depth"}]
    assert refusal(ragged) == "row 5: depth must be a value, as in row 0; got no such field."
    short = [{"width": 8, "depth": 2}]
    assert refusal(short) == (
        "the rows have no field 'input_lr_ratio'; expected width, depth, input_lr_ratio, loss, "
        "seed, status, eta_lo and eta_hi, got width, depth."
    )
    assert refusal([*rows, rows[4]]) == (
        f"rows 4 and {len(rows)} hold the same seed {rows[4]['seed']} of the same cell (width "
        f"{rows[4]['width']}, depth {rows[4]['depth']}); expected one row per cell and seed. Name "
        "what tells them apart in group_by, now: input_lr_ratio, loss, dataset."
    )
    assert refusal(rows, group_by=["los"]).startswith("unknown field in group_by 'los'; did you")
    same = {**rows[0], "eta_hi": rows[0]["eta_lo"]}
    assert len(CellTable.from_rows([same])) == 1  # a bracket may be a point


def test_groups_and_labels_word_by_word():
    cells = CellTable.from_rows(exact_rows() + exact_rows(input_lr_ratio=1.0))
    with pytest.raises(ConfigError) as refused:
        cells.the_labels()
    assert str(refused.value) == (
        "the cells mix several values of input_lr_ratio: 0.1, 1.0. A law is fitted to one group: "
        "choose with cells.select(input_lr_ratio=...), or loop over cells.groups()."
    )
    with pytest.raises(ConfigError) as refused:
        cells.select(loss="hinge")
    assert str(refused.value) == "loss = 'hinge' was never measured; measured: mse."
    both = CellTable.from_rows(
        exact_rows(loss="hinge") + exact_rows(input_lr_ratio=1.0), group_by=["loss", "dataset"]
    )
    assert [labels for labels, _ in both.groups()] == [
        {"loss": "hinge", "dataset": "digits"},
        {"loss": "mse", "dataset": "digits"},
    ]
    with pytest.raises(ConfigError) as refused:
        cells.select(input_lr_ratio=1.0).subset(np.zeros(36, dtype=bool)).values("eta")
    assert str(refused.value).startswith("unknown response 'eta'")
    bare = CellTable.from_rows(exact_rows(), group_by=[])
    ((labels, whole),) = bare.groups()
    assert labels == {}
    assert len(whole) == 36
    with pytest.raises(ConfigError) as refused:
        CellTable.from_rows([{**r, "lambda1": None} for r in exact_rows()]).values("lambda1")
    assert str(refused.value) == (
        "lambda1 needs the field 'lambda1_preconditioned', and no row has it: a study "
        "measures it whose file sets sharpness to true."
    )


def test_columns_need_no_lambda_and_leave_other_numbers_alone():
    rows = [{k: v for k, v in r.items() if k != "lambda1"} for r in exact_rows(batch=64)]
    cells = CellTable.from_columns({name: [r[name] for r in rows] for name in rows[0]})
    assert np.isnan(cells.log_lambda1).all()
    assert list(cells.labels) == ["input_lr_ratio", "loss", "dataset"]
    repeated = CellTable.from_rows(rows, group_by=["loss", "batch", "loss"])
    assert list(repeated.labels) == ["loss", "batch"]


@pytest.mark.parametrize(
    ("known", "bound"),
    [
        ({"eta_ci_low": 0.4, "eta_95": 0.3}, 0.4),  # the interval has a lower end
        ({}, 10.0),  # p stays above 0.95 up to the top of the range
        ({"eta_95": 0.169}, 0.001),  # p falls, yet no rate is known where it is ½
    ],
)
def test_a_curve_without_eta_50_is_bounded_by_what_it_says(known, bound):
    row = {
        **{"width": 32, "depth": 2, "input_lr_ratio": 0.1, "loss": "mse", "seed": None},
        **{"status": "all-trained", "eta_lo": None, "eta_hi": None, "eta": None},
        **dict.fromkeys(("eta_ci_low", "eta_ci_high", "eta_95")),
        **{"start_lr": 0.001, "end_lr": 10.0},
    }
    found = estimate_cells(CellTable.from_rows([row | known]))
    assert not found.used[0]
    assert np.exp(found.bound[0]) == pytest.approx(bound)
