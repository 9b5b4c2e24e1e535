"""The bounds on E λ1(G), against drawn networks, most of them far from wide.

Bounds are compared with a mean over draws at 4.5 standard errors: a false alarm in 3 of 10⁶
comparisons were the mean normal and the bound tight; seeds are fixed.
"""

import math

import numpy as np
import pytest
import torch

from etastar.curvature import stack_sharpness
from etastar.errors import ConfigError, CurvatureError
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.theory import sharpness_bounds
from etastar.theory.kernel import kernel
from etastar.theory.lower import layers_bound
from etastar.theory.moments import block_bound, block_second_moment, trace_bound

SIGMAS = 4.5
CASES = [
    # width, depth, κ, v, biases, C
    (6, 1, 1.0, 1.0, True, 3),
    (32, 1, 0.0, 1.0, False, 10),
    (6, 3, 0.4, 1.5, True, 3),
    (8, 5, 1.0, 0.5, False, 4),
    (32, 2, 0.1, 1.0, True, 10),
    (24, 4, 0.3, 2.0, True, 2),
]


def network(case):
    n, depth, kappa, v, biases, _ = case
    return MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v, biases=biases)


def inputs(samples=12, dimension=5, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, dimension)) + 0.3


def measured(net, x, classes, loss, draws):
    labels = torch.arange(len(x)) % classes
    found = stack_sharpness(
        net,
        net.init(range(draws), x.shape[1], classes, dtype=torch.float64),
        torch.as_tensor(x),
        labels,
        loss=loss,
        kind="gauss-newton",
        lr_ratios=net.lr_ratios(),
    )
    return np.array(found.values)


def sample_blocks(net, x, classes, draws):
    """K(x, x) of one input, `[draws, C, C]`, by autograd."""
    blocks = []
    for first in range(0, draws, 250):  # the gradients of so many fit into the cache
        seeds = range(first, min(first + 250, draws))
        params = net.init(seeds, x.shape[1], classes, dtype=torch.float64)
        params = [p.requires_grad_() for p in params]
        outputs = net.apply(params, torch.as_tensor(x)).sum((0, 1))
        grads = [torch.autograd.grad(value, params, retain_graph=True) for value in outputs]
        block = 0.0
        for ratio, *of_one in zip(net.lr_ratios(), *grads, strict=True):
            jacobian = torch.stack([g.flatten(1) for g in of_one], 1)
            block = block + ratio * jacobian @ jacobian.transpose(1, 2)
        blocks.append(block)
    return torch.cat(blocks).numpy()


@pytest.mark.parametrize("case", CASES)
def test_second_moment_of_a_block_is_exact(case):
    net, classes, x, draws = network(case), case[-1], inputs(1), 5000
    squares = (sample_blocks(net, x, classes, draws) ** 2).sum((1, 2))
    error = squares.mean() - block_second_moment(net, x, classes)[0]
    assert abs(error) < SIGMAS * squares.std() / math.sqrt(draws)


def test_second_moment_of_one_output_and_one_layer_by_hand():
    # L = 1, κ = 0, no biases, C = 1: K = ‖h‖², E ‖h‖⁴ = (n q)² (1 + 5/n)
    net = MLP(width=7, depth=1, input_lr_ratio=0.0, biases=False)
    x = inputs(3)
    q = (x**2).mean(1)
    np.testing.assert_allclose(block_second_moment(net, x, 1), (7 * q) ** 2 * (1 + 5 / 7))


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("case", CASES)
def test_proved_bounds_hold_at_every_width(case, loss):
    net, classes, x, draws = network(case), case[-1], inputs(), 400
    bounds = sharpness_bounds(net, x, classes, loss=loss, kind="gauss-newton")
    values = measured(net, x, classes, loss, draws)
    allowance = SIGMAS * values.std() / math.sqrt(draws)
    assert bounds.upper_proved is not None
    assert values.mean() - allowance < bounds.upper_proved <= bounds.upper_trace
    assert 0 < bounds.lower_proved < values.mean() + allowance


def test_trace_bound_is_the_trace():
    case = CASES[2]
    net, classes, x, draws = network(case), case[-1], inputs(1), 5000
    traces = np.trace(sample_blocks(net, x, classes, draws), axis1=1, axis2=2)
    error = traces.mean() - trace_bound(net, x, classes)
    assert abs(error) < SIGMAS * traces.std() / math.sqrt(draws)


def test_constant_vector_is_proved_at_depth_one_only():
    x = inputs()
    shallow = sharpness_bounds(MLP(width=8, depth=1), x, 3, loss="mse", kind="gauss-newton")
    assert shallow.lower <= shallow.lower_proved
    assert shallow.lower_label == "proved"
    deep = sharpness_bounds(MLP(width=8, depth=2), x, 3, loss="mse", kind="gauss-newton")
    assert deep.lower_label == "asymptotic"


def test_lower_bound_is_exact_on_one_input():
    # every correlation is 1, so that all layers are exact
    net = MLP(width=9, depth=4, input_lr_ratio=0.3)
    x = np.ones((1, 5))
    assert layers_bound(net, x) == pytest.approx(kernel(net, x).mean(), rel=0.01)


def test_block_bound_is_below_the_trace_by_the_root_of_the_classes_at_large_width():
    net, x = MLP(width=10**6, depth=3), inputs()
    assert trace_bound(net, x, 10) / block_bound(net, x, 10) == pytest.approx(10**0.5, rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_nothing_is_proved_of_the_hessian(loss):
    net, x = MLP(width=16, depth=1), inputs()
    hessian = sharpness_bounds(net, x, 3, loss=loss, kind="hessian")
    gauss_newton = sharpness_bounds(net, x, 3, loss=loss, kind="gauss-newton")
    assert hessian.lower_label == hessian.upper_label == "asymptotic"
    assert (hessian.upper_proved, hessian.lower_proved, hessian.upper_trace) == (None,) * 3
    assert hessian.kernel_prediction == gauss_newton.kernel_prediction


def test_a_proved_bound_below_the_estimate_is_the_upper_one():
    # a network so narrow that the predicted spread is absurd
    bounds = sharpness_bounds(MLP(width=1, depth=9), inputs(3), 1, loss="mse", kind="gauss-newton")
    assert bounds.upper == bounds.upper_proved
    assert bounds.upper_label == "proved"


@pytest.mark.parametrize(
    ("network", "arguments", "error", "match"),
    [
        (MLP(), {"loss": "mae"}, ConfigError, "unknown loss 'mae'"),
        (MLP(), {"kind": "gauss_newton"}, ConfigError, "did you mean 'gauss-newton'"),
        (MLP(), {"classes": 0}, ConfigError, "at least 1 for mse; got 0"),
        (MLP(), {"classes": 1, "loss": "cross-entropy"}, ConfigError, "at least 2"),
        (LayerNormMLP(), {}, CurvatureError, "got LayerNormMLP"),
    ],
)
def test_bad_arguments_are_refused(network, arguments, error, match):
    settings = {"classes": 3, "loss": "mse", "kind": "gauss-newton"} | arguments
    with pytest.raises(error, match=match):
        sharpness_bounds(network, inputs(), **settings)
