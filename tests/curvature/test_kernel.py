"""The tangent kernel and the exact gradient norm, against quadrature and drawn networks.

Every statistical test compares a mean of independent draws with its exact value at 4.5 standard
errors: a false alarm in 7 of 10⁶ comparisons were the draws normal; seeds are fixed.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from etastar.errors import ConfigError, CurvatureError
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.theory import expected_gradient_norm
from etastar.theory.kernel import MAX_SAMPLES, kernel, layer_kernels

SIGMAS = 4.5


def inputs(samples, dimension, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, dimension))


def tangent_kernels(net, x, outputs, draws, first=0):
    """Drawn kernels `[draws, m, C, m, C]`, by autograd."""
    params = net.init(range(first, first + draws), x.shape[1], outputs, dtype=torch.float64)
    params = [p.requires_grad_() for p in params]
    f = net.apply(params, torch.as_tensor(x))  # (R, m, C)
    rows = []
    for value in f.sum(0).flatten():
        grads = torch.autograd.grad(value, params, retain_graph=True)
        scaled = zip(grads, net.lr_ratios(), strict=True)
        rows.append(torch.cat([math.sqrt(ratio) * g.flatten(1) for g, ratio in scaled], 1))
    jacobian = torch.stack(rows, 1)
    shape = (draws, len(x), outputs, len(x), outputs)
    return (jacobian @ jacobian.transpose(1, 2)).reshape(shape).numpy()


def quadrature(q):
    """`2 E relu(z)relu(z')` and `2 P(z > 0, z' > 0)` for z ~ N(0, q), as integrals."""
    size = len(q)
    products, chances = np.empty_like(q), np.empty_like(q)
    for i in range(size):
        for j in range(size):
            angle = math.acos(min(1.0, q[i, j] / math.sqrt(q[i, i] * q[j, j])))
            low, high = angle - math.pi / 2, math.pi / 2
            mean = quad(lambda t, a=angle: math.cos(t) * math.cos(t - a), low, high)[0]
            products[i, j] = 2 * math.sqrt(q[i, i] * q[j, j]) * mean / math.pi
            chances[i, j] = (high - low) / math.pi
    return products, chances


@pytest.mark.parametrize("biases", [True, False])
def test_one_hidden_layer_is_the_integral(biases):
    net = MLP(width=48, depth=1, input_lr_ratio=0.3, output_variance=0.7, biases=biases)
    x = inputs(4, 5)
    q0 = x @ x.T / 5
    q1, chance = quadrature(q0)
    expected = 48 * q1 + biases + 0.3 * 0.35 * chance * (5 * q0 + biases)
    np.testing.assert_allclose(kernel(net, x), expected, rtol=1e-9)


def test_two_hidden_layers_iterate_the_integral():
    net = MLP(width=48, depth=2, input_lr_ratio=0.2, output_variance=1.6, biases=False)
    x = inputs(4, 5)
    q0 = x @ x.T / 5
    q1, first = quadrature(q0)
    q2, second = quadrature(q1)
    expected = 48 * q2 + 48 * q1 * 0.8 * second + 0.2 * 5 * q0 * 0.8 * second * first
    np.testing.assert_allclose(kernel(net, x), expected, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_both_routes_to_the_kernel_agree_and_hold_the_gradient_norm(depth):
    net = MLP(width=80, depth=depth, input_lr_ratio=0.1, output_variance=0.5)
    x = inputs(7, 9)
    parts = layer_kernels(net, x)
    np.testing.assert_allclose(parts.total, kernel(net, x), rtol=1e-12)
    assert len(parts.terms) == depth + 1
    np.testing.assert_allclose(np.diag(parts.total), expected_gradient_norm(net, x), rtol=1e-12)
    np.testing.assert_array_equal(kernel(net, torch.as_tensor(x)), kernel(net, x))


def test_the_last_layer_alone_trains_for_zero_output_weights():
    net = MLP(width=16, depth=3, output_variance=0.0)
    x = inputs(3, 4)
    np.testing.assert_allclose(expected_gradient_norm(net, x), 16 * (x**2).sum(1) / 4 + 1)
    np.testing.assert_allclose(np.diag(kernel(net, x)), expected_gradient_norm(net, x))


def test_an_input_of_zero_reaches_the_output_bias_only():
    net = MLP(width=8, depth=2)
    x = np.vstack([np.zeros(3), np.ones(3)])
    assert expected_gradient_norm(net, x)[0] == 1
    np.testing.assert_allclose(kernel(net, x)[0], [1, 1])
    drawn = tangent_kernels(net, x, 1, 3)[:, :, 0, :, 0]
    np.testing.assert_allclose(drawn[:, 0], 1.0)


CASES = [
    # width, depth, κ, v, biases; narrow ones, and one that is dead three times in four
    (16, 3, 1.0, 1.0, True),
    (16, 3, 0.1, 1.0, False),
    (8, 4, 0.0, 2.0, True),
    (12, 1, 0.3, 0.5, True),
    (24, 6, 0.5, 1.0, False),
    (1, 3, 0.7, 1.0, True),
]


@pytest.mark.parametrize(("n", "depth", "kappa", "v", "biases"), CASES)
def test_expected_gradient_norm_is_exact_at_any_width(n, depth, kappa, v, biases):
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v, biases=biases)
    x = inputs(1, 6)
    draws = 20_000 if n == 1 else 6_000
    norms = tangent_kernels(net, x, 1, draws)[:, 0, 0, 0, 0]
    error = norms.mean() - expected_gradient_norm(net, x)[0]
    assert abs(error) < SIGMAS * norms.std() / math.sqrt(draws)


@pytest.mark.parametrize("biases", [True, False])
def test_wide_networks_have_the_kernel(biases):
    net = MLP(width=256, depth=3, input_lr_ratio=0.4, output_variance=1.3, biases=biases)
    x = inputs(4, 5)
    draws = 40
    drawn = tangent_kernels(net, x, 2, draws)
    limit = kernel(net, x)
    for k in range(2):
        same = drawn[:, :, k, :, k]
        error = np.abs(same.mean(0) - limit)
        bias = net.depth / net.width * np.abs(limit)  # of order L/n off the diagonal
        assert (error < SIGMAS * same.std(0) / math.sqrt(draws) + bias).all()
    crossed = drawn[:, :, 0, :, 1]
    assert (np.abs(crossed.mean(0)) < SIGMAS * crossed.std(0) / math.sqrt(draws)).all()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.ones(3), "matrix of inputs"),
        (np.ones((0, 3)), "neither empty"),
        (np.array([[1.0, np.nan]]), "NaN or infinity"),
        (np.ones((MAX_SAMPLES + 1, 1)), "at most 5000 samples"),
    ],
)
def test_bad_inputs_are_refused(x, match):
    with pytest.raises(ConfigError, match=match):
        kernel(MLP(), x)


def test_other_architectures_are_refused():
    with pytest.raises(CurvatureError, match="plain ReLU MLPs only; got LayerNormMLP"):
        expected_gradient_norm(LayerNormMLP(), np.ones((1, 3)))
