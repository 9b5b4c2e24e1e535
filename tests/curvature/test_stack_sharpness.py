"""λ1 of stacks against the dense matrix, replica by replica, in float64."""

import functools
import math

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from etastar.curvature import sharpness, stack_sharpness, stack_solver
from etastar.curvature.stack_inputs import fewer_inputs
from etastar.curvature.stack_products import AutogradProducts, MLPProducts
from etastar.errors import ConfigError
from etastar.problem.losses import stacked_loss
from etastar.problem.networks import MLP, LayerNormMLP

INPUTS, OUTPUTS = 6, 3
NETWORKS = {
    "mlp": MLP(width=7, depth=3, input_lr_ratio=0.1),
    "no biases": MLP(width=7, depth=2, biases=False, input_lr_ratio=0.3),
    "one hidden layer": MLP(width=9, depth=1, input_lr_ratio=0.0),
    "layer norm": LayerNormMLP(width=7, depth=2, input_lr_ratio=0.1),
}
LOSSES = ["cross-entropy", "mse"]
KINDS = ["hessian", "gauss-newton"]


def data(samples=24, inputs=INPUTS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(OUTPUTS, (samples,), generator=generator)


def drawn(network, replicas, inputs=INPUTS, dtype=torch.float64):
    params = network.init(range(replicas), inputs, OUTPUTS, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for p in params:  # biases away from zero, so that nothing is special about them
        p += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
    return params


def dense(network, params, x, labels, loss, kind):
    """The matrix of every replica, `[R, P, P]`, by nested functional Jacobians."""
    shapes = [p.shape[1:] for p in params]
    flat = torch.cat([p.flatten(1) for p in params], 1)

    def outputs(vector):
        pieces = vector.split([s.numel() for s in shapes])
        weights = [p.view(1, *s) for p, s in zip(pieces, shapes, strict=True)]
        return network.apply(weights, x)

    def of_outputs(z):
        return stacked_loss(loss, z, labels).sum()

    def matrix(vector):
        if kind == "hessian":
            return jacrev(jacrev(lambda v: of_outputs(outputs(v))))(vector)
        z = outputs(vector)
        bend = jacrev(jacrev(of_outputs))(z).reshape(z.numel(), z.numel())
        jacobian = jacrev(outputs)(vector).reshape(z.numel(), -1)
        return jacobian.T @ bend @ jacobian

    return vmap(matrix)(flat)


def largest(matrices):
    return torch.linalg.eigvalsh(matrices)[:, -1].tolist()


def preconditioned(matrix, params, ratios):
    roots = torch.cat(
        [
            torch.full((p[0].numel(),), r**0.5, dtype=p.dtype)
            for p, r in zip(params, ratios, strict=True)
        ]
    )
    return roots[:, None] * matrix * roots


@functools.cache
def drawn_matrices(name, loss, kind):
    """Those of three replicas, with and without ratios the same."""
    network = NETWORKS[name]
    return dense(network, drawn(network, 3), *data(), loss, kind)


@pytest.mark.parametrize("with_ratios", [False, True], ids=["plain", "ratios"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_dense_matrix(name, loss, kind, with_ratios):
    network, (x, labels) = NETWORKS[name], data()
    params = drawn(network, 3)
    ratios = network.lr_ratios() if with_ratios else None
    found = stack_sharpness(
        network, params, x, labels, loss=loss, kind=kind, lr_ratios=ratios, tol=1e-5
    )
    assert all(found.converged)
    losses = stacked_loss(loss, network.apply(params, x), labels)
    np.testing.assert_allclose(found.losses, losses)
    matrices = drawn_matrices(name, loss, kind)
    if ratios is not None:
        matrices = preconditioned(matrices, params, ratios)
    for row, true in enumerate(largest(matrices)):
        assert found.values[row] == pytest.approx(true, rel=1e-6)
        assert abs(found.values[row] - true) <= found.residuals[row] + 1e-13 * true
        assert found.values[row] <= true * (1 + 1e-13)
        assert found.residuals[row] <= 1e-5 * true


SPECIAL = {
    "narrow layer norm": LayerNormMLP(width=4, depth=4),
    "saturated": MLP(width=7, depth=2, output_variance=1000.0),
}


@functools.cache
def exact_values(name, loss, kind):
    """Of six replicas in float64, at the weights and inputs of float32; whatever the tolerance."""
    network, (x, labels) = (NETWORKS | SPECIAL)[name], data(dtype=torch.float32)
    params = [p.double() for p in network.init(range(6), INPUTS, OUTPUTS)]
    return largest(dense(network, params, x.double(), labels, loss, kind))


@pytest.mark.parametrize("tol", [1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [*NETWORKS, *SPECIAL])
def test_in_float32_the_residual_bounds_the_error(name, loss, kind, tol):
    """Against float64 at the weights and inputs of float32; rounding is largest in the last two."""
    network = (NETWORKS | SPECIAL)[name]
    x, labels = data(dtype=torch.float32)
    params = network.init(range(6), INPUTS, OUTPUTS)
    found = stack_sharpness(network, params, x, labels, loss=loss, kind=kind, tol=tol)
    for row, true in enumerate(exact_values(name, loss, kind)):
        assert abs(found.values[row] - true) <= found.residuals[row]
        assert found.converged[row]
        if tol >= 1e-3:
            assert found.residuals[row] <= 1.1 * tol * true


def test_an_underflowing_residual_has_the_rounding_added():
    """One sample: the matrix of a linear-in-output loss has few directions, soon exhausted."""
    network, (x, labels) = MLP(width=7, depth=2), data(samples=1, dtype=torch.float32)
    params = network.init(range(8), INPUTS, OUTPUTS)
    settings = {"loss": "mse", "kind": "gauss-newton", "tol": 1e-7}
    found = stack_sharpness(network, params, x, labels, **settings)
    exact = [p.double() for p in params]
    matrices = dense(network, exact, x.double(), labels, "mse", "gauss-newton")
    for row, true in enumerate(largest(matrices)):
        error = abs(found.values[row] - true)
        assert 0 < error <= found.residuals[row]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["mlp", "no biases", "one hidden layer"])
def test_the_written_out_product_equals_autograd(name, loss, kind):
    network, (x, labels) = NETWORKS[name], data()
    params = drawn(network, 5)
    routes = [
        MLPProducts(network, params, x, labels, loss, kind),
        AutogradProducts(network, params, x, labels, loss, kind),
        MLPProducts(network, params, x, labels, loss, kind, block=7),
    ]
    vectors = torch.randn(5, sum(routes[0].sizes), dtype=torch.float64)
    # as the solver drops replicas: 0 and then the second of those that are left
    stages = [(list(range(5)), None), ([4, 1, 2, 3], [(0, 4)]), ([4, 3], [(1, 3)])]
    for rows, moves in stages:
        if moves is not None:
            for route in routes:
                route.drop(moves, len(rows))
        expected, *others = (route(vectors[rows]).clone() for route in routes)
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-9, atol=1e-11)
    for route in routes:
        torch.testing.assert_close(route.losses, routes[0].losses)


@pytest.mark.parametrize("name", NETWORKS)
def test_does_not_touch_its_inputs(name):
    network, (x, labels) = NETWORKS[name], data()
    params = drawn(network, 4)
    copies = [t.clone() for t in (*params, x, labels)]
    rng = torch.get_rng_state()
    stack_sharpness(network, params, x, labels, loss="mse")
    assert all(torch.equal(a, b) for a, b in zip(copies, (*params, x, labels), strict=True))
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mlp", "layer norm"])
def test_a_replica_does_not_depend_on_its_neighbours(name, kind):
    network, (x, labels) = NETWORKS[name], data()
    params = drawn(network, 7)
    whole = stack_sharpness(network, params, x, labels, loss="mse", kind=kind)
    for chunk in (1, 3):
        chunked = stack_sharpness(network, params, x, labels, loss="mse", kind=kind, chunk=chunk)
        np.testing.assert_allclose(chunked.values, whole.values, rtol=1e-12)
        np.testing.assert_allclose(chunked.residuals, whole.residuals, rtol=1e-6)
        assert chunked.iterations == whole.iterations
    order = [5, 2, 0]
    some = stack_sharpness(network, [p[order] for p in params], x, labels, loss="mse", kind=kind)
    np.testing.assert_allclose(some.values, np.array(whole.values)[order], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_single_precision(loss, kind):
    network = MLP(width=20, depth=4)
    x, labels = data(100, 30)
    truth = stack_sharpness(
        network, drawn(network, 20, 30), x, labels, loss=loss, kind=kind, tol=1e-9
    )
    found = stack_sharpness(
        network,
        drawn(network, 20, 30, torch.float32),
        x.float(),
        labels,
        loss=loss,
        kind=kind,
    )
    assert all(truth.converged)
    assert all(found.converged)
    np.testing.assert_allclose(found.values, truth.values, rtol=1e-3)


def test_the_start_from_a_subsample_misses_no_eigenvalue():
    # enough samples for the subsample, many draws: every one must equal the independent solver's
    network = MLP(width=16, depth=3)
    x, labels = data(8 * stack_solver.START_SAMPLES, 10)
    params = drawn(network, 10, 10)
    found = stack_sharpness(network, params, x, labels, loss="cross-entropy", tol=1e-4)
    for row in range(10):
        alone = sharpness(
            Replica(network, [p[row : row + 1] for p in params]),
            lambda z, y: stacked_loss("cross-entropy", z, y).sum(),
            [(x, labels)],
            tol=1e-6,
            batch_size=lambda _, y: len(y),
        )
        assert found.values[row] == pytest.approx(alone.value, rel=1e-6)


class Replica(torch.nn.Module):
    def __init__(self, network, params):
        super().__init__()
        self.network = network
        self.weights = torch.nn.ParameterList(params)

    def forward(self, x):
        return self.network.apply(list(self.weights), x)


@pytest.mark.parametrize("samples", [4, 40], ids=["fewer samples than inputs", "merged columns"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_inputs_without_information_are_removed_exactly(network, samples):
    x, labels = data(samples, 12)
    x[:, 5:11] = x[:, :1]  # like the border of images
    reduced, basis = fewer_inputs(network, x)
    assert basis is not None
    assert reduced.shape[1] == basis.shape[1] == min(samples, 6)
    torch.testing.assert_close(reduced @ basis.T, x)
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=x.dtype))
    params = drawn(network, 2, 12)
    ratios = network.lr_ratios()
    found = stack_sharpness(network, params, x, labels, loss="mse", lr_ratios=ratios, tol=1e-7)
    matrices = dense(network, params, x, labels, "mse", "hessian")
    for row, true in enumerate(largest(preconditioned(matrices, params, ratios))):
        assert found.values[row] == pytest.approx(true, rel=1e-9)


def test_informative_inputs_are_left_alone():
    x, _ = data()
    assert fewer_inputs(NETWORKS["mlp"], x) == (x, None)


def test_a_negative_spectrum_has_its_largest_value_in_the_directions_no_input_sees(monkeypatch):
    network = MLP(width=2, depth=1, biases=False)
    x, labels = data(4, 6)
    params = drawn(network, 1, 6)
    x[:, 1:] = 0
    monkeypatch.setattr(MLPProducts, "__call__", lambda self, vectors: -vectors.clone())
    found = stack_sharpness(network, params, x, labels, loss="mse")
    assert found.values == found.residuals == (0.0,)


def test_restarts_when_the_basis_is_full(monkeypatch):
    network, (x, labels) = MLP(width=20, depth=2), data(60)
    params = drawn(network, 6)
    whole = stack_sharpness(network, params, x, labels, loss="mse", tol=1e-9)
    monkeypatch.setattr(stack_solver, "CAPACITY", 6)
    short = stack_sharpness(network, params, x, labels, loss="mse", tol=1e-9)
    assert all(short.converged)
    assert max(short.iterations) > 6
    np.testing.assert_allclose(short.values, whole.values, rtol=1e-10)


def test_samples_that_do_not_fit_are_taken_in_blocks(monkeypatch):
    network, (x, labels) = NETWORKS["mlp"], data(60)
    params = drawn(network, 3)
    whole = stack_sharpness(network, params, x, labels, loss="cross-entropy", tol=1e-6)
    monkeypatch.setattr("etastar.curvature.stack_solver.free_bytes", lambda device: 20_000)
    blocks = []
    prepare = MLPProducts._prepare
    monkeypatch.setattr(
        MLPProducts, "_prepare", lambda self: blocks.append(len(self.x)) or prepare(self)
    )
    tight = stack_sharpness(network, params, x, labels, loss="cross-entropy", tol=1e-6)
    assert 1 <= max(blocks) < 60
    np.testing.assert_allclose(tight.values, whole.values, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["no biases", "mlp"])
def test_a_dead_network(name, kind):
    network, (x, labels) = NETWORKS[name], data()
    params = network.init([0, 1, 2], INPUTS, OUTPUTS, dtype=torch.float64)
    weights, _ = network.split(params)
    weights[1][1] = -weights[1][1].abs()  # replica 1: inputs are positive, so all units die
    found = stack_sharpness(network, params, x, labels, loss="mse", kind=kind)
    assert all(found.converged)
    if name == "no biases":
        assert found.values[1] == found.residuals[1] == 0.0
    else:  # ½|b − e_y|²: only the output biases are left, with curvature 1
        assert found.values[1] == pytest.approx(1.0)
    assert found.values[0] > 0
    assert found.values[2] > 0


def test_a_replica_whose_loss_is_not_finite_is_said_and_hurts_no_other():
    network, (x, labels) = NETWORKS["mlp"], data()
    params = drawn(network, 4)
    clean = stack_sharpness(network, params, x, labels, loss="mse")
    params[0][0, 0, 0] = math.inf
    params[2][2] *= 1e200  # a finite loss is not needed for its products to overflow
    found = stack_sharpness(network, params, x, labels, loss="mse")
    assert found.converged == (False, True, False, True)
    assert math.isnan(found.values[0])
    assert math.isnan(found.values[2])
    for row in (1, 3):
        assert found.values[row] == pytest.approx(clean.values[row], rel=1e-12)


def test_a_spent_budget_is_said():
    network, (x, labels) = NETWORKS["mlp"], data()
    found = stack_sharpness(
        network, drawn(network, 3), x, labels, loss="mse", tol=1e-12, max_iter=3
    )
    assert found.converged == (False,) * 3
    assert found.iterations == (3,) * 3
    assert min(found.residuals) > 0
    assert np.isfinite(found.values).all()


def test_the_seed_changes_only_the_way():
    network, (x, labels) = NETWORKS["mlp"], data()
    params = drawn(network, 3)
    runs = [
        stack_sharpness(network, params, x, labels, loss="mse", tol=1e-6, seed=s) for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0].residuals != runs[2].residuals
    np.testing.assert_allclose(runs[0].values, runs[2].values, rtol=1e-9)


REFUSED = {
    "kind": ({"kind": "fisher"}, "unknown kind of curvature 'fisher'"),
    "loss": ({"loss": "mes"}, "did you mean 'mse'"),
    "tol": ({"tol": 0.0}, "tol must be above 0 and below 1, got 0.0"),
    "max_iter": ({"max_iter": 0}, "max_iter must be at least 1, got 0"),
    "chunk": ({"chunk": 0}, "chunk must be at least 1, got 0"),
    "word for tol": ({"tol": "a"}, "tol must be above 0 and below 1, got 'a'"),
    "half a chunk": ({"chunk": 1.5}, "chunk must be a whole number, got 1.5"),
    "word for ratio": ({"lr_ratios": ["a"] * 8}, "one finite ratio ≥ 0"),
    "negative seed": ({"seed": -1}, "seed must be at least 0, got -1"),
    "few ratios": ({"lr_ratios": [1.0]}, r"one finite ratio ≥ 0 for each of layers.0.weight"),
    "negative ratio": ({"lr_ratios": [-1.0] * 8}, "one finite ratio ≥ 0"),
    "labels": ({"labels": torch.zeros(5, dtype=torch.int64)}, "the same samples.*24 and 5"),
    "params": ({"params": [torch.zeros(1, 2)]}, "the 8 tensors of network.init"),
    "outputs": ({"labels": torch.full((24,), 3)}, "labels must be class indices from 0 to 2"),
    "inputs": ({"x": torch.zeros(24, 5, dtype=torch.float64)}, "cannot be applied to x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_reason(case):
    settings, match = REFUSED[case]
    network, (x, labels) = NETWORKS["mlp"], data()
    call = {"params": drawn(network, 2), "x": x, "labels": labels, "loss": "mse"} | settings
    with pytest.raises(ConfigError, match=match):
        stack_sharpness(network, **call)


def test_threads_share_the_replicas_and_change_nothing() -> None:
    network = MLP(width=12, depth=2)
    params = network.init(range(5), inputs=6, outputs=3)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels, before = torch.arange(40) % 3, torch.get_num_threads()
    told: list[int] = []
    found = {}
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found[threads] = stack_sharpness(
                *(network, params, x, labels),
                loss="mse",
                on_progress=lambda done, _: told.append(done),
            )
            assert torch.get_num_threads() == threads
            assert told[-1] == 5
    finally:
        torch.set_num_threads(before)
    for threads in (2, 7):
        assert found[threads].values == pytest.approx(found[1].values, rel=1e-5)
        assert all(found[threads].converged)
