"""The solver on matrices whose spectrum is known."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etastar.curvature.eigenpairs import largest_eigenpairs
from etastar.errors import ConfigError, CurvatureError

CLUSTERED = [5.0, 5.0, 5.0, 3.0, 3.0, *np.linspace(-0.5, 2.0, 195)]


def symmetric(spectrum, seed=0):
    """A symmetric matrix with this spectrum and random eigenvectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return (basis * torch.tensor(spectrum, dtype=torch.float64)) @ basis.T


def solve(matrix, **settings):
    settings = {"dtype": matrix.dtype, "dense_size": 0, **settings}
    return largest_eigenpairs(lambda v: matrix @ v, len(matrix), **settings)


SPECTRA = {
    "random": np.random.default_rng(0).normal(size=200).tolist(),
    "negative": np.linspace(-3.0, -1.0, 200).tolist(),
    "clustered": CLUSTERED,
    "tiny": [1e-20 * v for v in CLUSTERED],
    "rank one": [2.0] + [0.0] * 199,
    "larger below": [-100.0, 1.0, *np.linspace(-1, 0.9, 198)],
    "two outliers, hardly apart": [1.0, 1.0 - 1e-5, *np.linspace(0, 0.5, 198)],
}


@pytest.mark.parametrize("dense_size", [0, 500], ids=["lanczos", "dense"])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("name", SPECTRA)
def test_finds_the_largest_algebraic_values_with_multiplicity(name, k, dense_size):
    spectrum = SPECTRA[name]
    found = solve(symmetric(spectrum), k=k, tol=1e-6, dense_size=dense_size)
    scale = max(abs(v) for v in spectrum)
    true = sorted(spectrum, reverse=True)[:k]
    assert found.converged
    assert list(found.values) == sorted(found.values, reverse=True)
    np.testing.assert_allclose(found.values, true, rtol=1e-5, atol=1e-12 * scale)
    assert found.lambda_min == pytest.approx(min(spectrum), abs=1e-5 * scale)
    assert found.values[0] <= true[0] + 1e-13 * scale  # a lower bound, to rounding


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=40),
    st.integers(1, 3),
    st.sampled_from([1e-1, 1e-3, 1e-8]),
    st.integers(0, 10),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_an_eigenvalue_lies_within_each_residual(spectrum, k, tol, seed):
    matrix = symmetric(spectrum, seed)
    found = solve(matrix, k=k, tol=tol, seed=seed)
    true = np.array(spectrum)
    rounding = 1e-13 * max(1e-300, np.abs(true).max())
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(true - value).min() <= residual + rounding
    assert found.values[0] <= true.max() + rounding
    assert np.abs(true - found.lambda_min).min() <= found.lambda_min_residual + rounding
    assert found.lambda_min >= true.min() - rounding


def test_residuals_belong_to_the_vectors():
    matrix = symmetric(CLUSTERED)
    found = solve(matrix, k=4, tol=1e-3)
    vectors = found.vectors
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(4, dtype=torch.float64))
    residuals = (vectors @ matrix - torch.tensor(found.values)[:, None] * vectors).norm(dim=1)
    torch.testing.assert_close(residuals, torch.tensor(found.residuals, dtype=torch.float64))


def test_restarts_when_the_basis_is_full():
    spectrum = (1 + 1e-2 * np.random.default_rng(1).random(300)).tolist()
    whole, short = (solve(symmetric(spectrum), tol=1e-6, basis_size=b) for b in (None, 24))
    assert short.converged
    assert short.iterations > whole.iterations > 24
    assert short.values[0] == pytest.approx(max(spectrum), rel=1e-9)


def test_the_second_start_finds_what_the_first_one_could_not():
    # the first start has no component along the largest eigenvector, so no power of A shows it
    diagonal = torch.linspace(0, 1, 200, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 200, generator=generator, dtype=torch.float64)[0]
    direction = torch.zeros(200, dtype=torch.float64)
    direction[:2] = torch.stack([hidden[1], -hidden[0]])  # orthogonal to the start
    direction /= direction.norm()
    diagonal[:2] = 0
    matrix = torch.diag(diagonal) + 5 * torch.outer(direction, direction)
    found = solve(matrix, seed=0)
    assert found.values[0] == pytest.approx(5)
    assert found.converged


def test_agrees_with_arpack():
    matrix = symmetric(SPECTRA["random"])
    oracle = scipy.sparse.linalg.eigsh(matrix.numpy(), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(solve(matrix, k=3, tol=1e-8).values, oracle[::-1], rtol=1e-10)


def test_zero_is_exactly_zero():
    found = solve(torch.zeros(300, 300), k=2)
    assert found.values == found.residuals == (0.0, 0.0)
    assert found.lambda_min == 0.0
    assert found.converged


def test_the_same_seed_gives_the_same_numbers():
    matrix = symmetric(SPECTRA["random"])
    first, again, other = (solve(matrix, seed=s) for s in (3, 3, 4))
    assert first.values == again.values
    assert first.values != other.values


def test_single_precision():
    matrix = symmetric(SPECTRA["clustered"]).float()
    found = solve(matrix, tol=1e-4)
    assert found.converged
    assert found.values[0] == pytest.approx(5.0, rel=1e-5)


def test_a_spent_budget_is_said():
    matrix = symmetric(SPECTRA["negative"])
    found = solve(matrix, max_iter=5, tol=1e-8)
    assert not found.converged
    assert found.residuals[0] > 1e-8 * abs(found.values[0])
    assert np.abs(np.array(SPECTRA["negative"]) - found.values[0]).min() <= found.residuals[0]


def test_any_budget_gives_an_answer_also_one_that_ends_with_the_first_start():
    matrix = symmetric(SPECTRA["random"])
    for budget in range(30, 40):  # the first start takes 35 steps, the second as many
        assert not solve(matrix, max_iter=budget).converged
    assert solve(matrix, max_iter=70).converged


def test_fewer_steps_than_values_is_still_an_answer():
    found = solve(symmetric(SPECTRA["random"]), k=5, max_iter=3)
    assert not found.converged
    assert len(found.values) == 3


def test_bad_settings():
    matrix = torch.eye(3)
    with pytest.raises(ConfigError, match="k must lie between 1 and the number of parameters, 3"):
        solve(matrix, k=4)
    with pytest.raises(ConfigError, match="tol must be above 0 and below 1, got 0"):
        solve(matrix, tol=0)
    with pytest.raises(ConfigError, match="max_iter must be at least 1"):
        solve(matrix, max_iter=0)
    with pytest.raises(CurvatureError, match="not finite"):
        solve(matrix * float("nan"))
