"""Every bound of the theorem against drawn networks, at settings far from any limit.

The networks are drawn and differentiated here, by numpy in float64, with no code of the package. A
bound that is proved is compared with a mean over draws at 4.5 standard errors: one comparison is a
false alarm 3 times in 10⁶, all of them together 1 time in 700, were the means normal; seeds are
fixed. Bounds of the limit are compared with the infinite-width kernel, exactly.
"""

import math
import time

import numpy as np
import pytest

from etastar.errors import ConfigError, CurvatureError
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.theory import theorem_entries
from etastar.theory.fluctuations import fluctuations_of
from etastar.theory.kernel import expected_gradient_norm, hidden_kernels, kernel
from etastar.theory.lower import gradients_below, kernel_below, signals_below
from etastar.theory.theorem import depth_bound

SIGMAS = 4.5
SETTINGS = [
    # n, L, κ, v, C, d, m, biases
    (3, 5, 0.37, 0.3, 3, 7, 5, False),
    (3, 5, 0.37, 0.3, 3, 7, 5, True),
    (1, 1, 1.0, 1.0, 2, 3, 5, False),
    (1, 2, 0.5, 2.0, 3, 4, 6, True),
    (1, 4, 1.0, 1.0, 2, 3, 5, False),
    (2, 1, 0.0, 1.0, 2, 3, 5, False),
    (2, 3, 1.0, 4.0, 2, 3, 6, False),
    (2, 4, 0.5, 1.0, 3, 4, 6, True),
    (4, 1, 1.0, 2.0, 2, 3, 6, False),
    (4, 2, 0.2, 0.0, 3, 5, 5, False),
    (5, 6, 1.0, 0.7, 2, 9, 5, False),
    (8, 3, 1.0, 0.5, 2, 4, 1, False),
    (8, 3, 1.0, 0.5, 4, 4, 1, True),
    (8, 2, 0.0, 1.0, 2, 30, 8, False),
    (16, 4, 0.1, 1.0, 3, 5, 6, False),
    (16, 4, 0.1, 1.0, 3, 5, 6, True),
    (16, 8, 1.0, 0.1, 2, 5, 5, False),
    (32, 2, 1.0, 1.0, 4, 3, 8, True),
    (32, 1, 3.0, 1.0, 2, 12, 10, False),
    (48, 3, 0.3, 0.2, 2, 2, 5, False),
    (64, 4, 0.5, 1.0, 2, 20, 2, False),
]


def inputs(samples, dimension, positive=False, seed=0):
    """Unequal norms; from five samples on a duplicate, an antiparallel pair and a zero input."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, dimension)) * rng.uniform(0.3, 1.5, size=(samples, 1))
    if samples >= 5:
        x[1], x[2], x[3] = x[0], -1.3 * x[0], 0.0
    return np.abs(x) if positive else x


def drawn(x, setting, draws, seed=1):
    """Tangent kernels `[R, m, C, m, C]` and outputs `[R, m, C]` of drawn networks."""
    n, depth, kappa, v, classes, _, _, biases = setting
    rng = np.random.default_rng(seed)
    signals, masks, weights = [np.broadcast_to(x, (draws, *x.shape))], [], []
    for _ in range(depth):
        fan_in = signals[-1].shape[2]
        weights.append(rng.normal(size=(draws, fan_in, n)) * math.sqrt(2 / fan_in))
        z = signals[-1] @ weights[-1]
        masks.append(z > 0)
        signals.append(z * masks[-1])
    out = rng.normal(size=(draws, n, classes)) * math.sqrt(v / n)
    m, eye = len(x), np.eye(classes)
    products = signals[-1] @ signals[-1].transpose(0, 2, 1) + biases
    total = products[:, :, None, :, None] * eye[:, None, :]
    gradient = np.broadcast_to(out.transpose(0, 2, 1)[:, None], (draws, m, classes, n))
    for layer in reversed(range(depth)):
        gradient = gradient * masks[layer][:, :, None]
        flat = gradient.reshape(draws, m * classes, n)
        grams = (flat @ flat.transpose(0, 2, 1)).reshape(total.shape)
        products = signals[layer] @ signals[layer].transpose(0, 2, 1) + biases
        total = total + (1.0 if layer else kappa) * products[:, :, None, :, None] * grams
        gradient = gradient @ weights[layer].transpose(0, 2, 1)[:, None]
    return total, signals[-1] @ out


def lambda1(total, outputs, loss):
    draws, m, classes = outputs.shape
    if loss == "cross-entropy":
        p = np.exp(outputs - outputs.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        root = np.sqrt(p)
        bend = root[..., None] * np.eye(classes) - p[..., None] * root[..., None, :]
        total = np.einsum("rika,rikjl,rjlb->riajb", bend, total, bend, optimize=True)
    return np.linalg.eigvalsh(total.reshape(draws, m * classes, m * classes) / m)[:, -1]


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_proved_bound_holds(setting, positive):
    n, depth, kappa, v, classes, d, m, biases = setting
    x = inputs(m, d, positive)
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v, biases=biases)
    total, outputs = drawn(x, setting, 4000 if n < 10 else 800)
    for loss in ("mse", "cross-entropy"):
        values = lambda1(total, outputs, loss)
        allowance = SIGMAS * values.std() / math.sqrt(len(values)) + 1e-9
        for entry in theorem_entries(net, x, classes, loss):
            assert entry.per_nl == entry.value / (n * depth)
            if entry.label == "proved":
                inside = values.mean() - entry.value if entry.side == "lower" else None
                inside = entry.value - values.mean() if inside is None else inside
                assert inside > -allowance, entry
    same = total[:, :, 0, :, 0]
    if positive or depth == 1:  # the matrix itself, entry by entry
        error = SIGMAS * same.std(0) / math.sqrt(len(same)) + 1e-9
        assert (same.mean(0) - kernel_below(net, x) > -error).all()


@pytest.mark.parametrize("setting", SETTINGS[:9])
def test_signals_are_bounded_pair_by_pair(setting):
    n, depth, d = setting[0], setting[1], setting[5]
    x = inputs(6, d)
    rng = np.random.default_rng(2)
    h = np.broadcast_to(x, (6000, *x.shape))
    net = MLP(width=n, depth=depth, biases=False)
    for bound in signals_below(net, x):
        fan_in = h.shape[2]
        z = h @ (rng.normal(size=(len(h), fan_in, n)) * math.sqrt(2 / fan_in))
        h = z * (z > 0)
        products = h @ h.transpose(0, 2, 1)
        error = SIGMAS * products.std(0) / math.sqrt(len(h)) + 1e-9
        assert (products.mean(0) - bound > -error).all()
        exact = np.abs(np.diag(products.mean(0) - bound))
        assert (exact < np.diag(error)).all()


def test_the_bounds_are_ordered():
    x = inputs(8, 5, positive=True)
    net = MLP(width=32, depth=4, biases=False)
    mse = {(e.name, e.side): e.value for e in theorem_entries(net, x, 3, "mse")}
    assert mse["product", "lower"] <= mse["gradient", "lower"] <= mse["layers", "lower"]
    assert mse["constant vector", "lower"] <= mse["kernel", "lower"] == mse["kernel", "upper"]
    assert mse["kernel", "upper"] <= mse["gradient", "upper"]
    assert mse["blocks", "upper"] <= 3 * mse["gradient", "upper"]
    assert mse["trace", "upper"] <= mse["product", "upper"]


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("setting", [*SETTINGS, (1, 8, 1.0, 1.0, 2, 3, 1, True)])
def test_bounds_of_the_limit_do_not_contradict_each_other(setting, loss):
    """Narrow networks with biases too: one unit in eight layers had a lower above an upper one."""
    n, depth, kappa, v, classes, d, m, biases = setting
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v, biases=biases)
    for x in (inputs(m, d), inputs(m, d, positive=True), np.ones((1, d)), np.zeros((2, d))):
        found = [e for e in theorem_entries(net, x, classes, loss) if e.label == "asymptotic"]
        lower = max(e.value for e in found if e.side == "lower")
        assert lower <= min(e.value for e in found if e.side == "upper") * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("v", [0.0, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("depth", [1, 2, 3, 8, 60])
@pytest.mark.parametrize("positive", [False, True])
def test_the_limit_is_of_order_depth(depth, v, positive):
    """n → ∞ without biases: λ1(K/m) lies above the bound in n·L, and so does each entry of K."""
    x = inputs(7, 4, positive, seed=depth)
    net = MLP(width=64, depth=depth, output_variance=v, input_lr_ratio=0.3, biases=False)
    total = kernel(net, x)
    assert depth_bound(net, x) <= total.mean() + 1e-9
    q = np.sqrt((x**2).mean(1))
    if positive:
        entries = 64 * np.outer(q, q) * max(0, v * depth / 8 + min(0, 1 - v / 2))
        assert (entries <= total + 1e-9).all()


def test_angles_close_like_one_over_the_depth():
    """θ_l ≤ 3π/(l + 6) from orthogonal inputs, and θ_l·l → 3π; Θ_L ≥ L/4, and Θ_L/L → 1/4."""
    total, last = 0.0, 0.0
    for depth, (q, _) in enumerate(hidden_kernels(np.eye(2), 2000), start=1):
        rho = min(1.0, q[0, 1])
        assert math.acos(rho) <= 3 * math.pi / (depth + 6)
        total, last = rho + (1 - math.acos(last) / math.pi) * total, rho
        assert total >= depth / 4
    assert math.acos(rho) * depth == pytest.approx(3 * math.pi, rel=0.02)
    assert total / depth == pytest.approx(0.25, rel=0.01)


def test_the_limit_constant():
    """Equal norms, no parallel pair: λ1(K/m)/(nLqv/2) → 1/4 + 3/(4m)."""
    x = np.eye(4)
    net = MLP(width=8, depth=3000, biases=False)
    top = np.linalg.eigvalsh(kernel(net, x) / 4)[-1]
    assert top / (8 * 3000 * 0.25 / 2) == pytest.approx(1 / 4 + 3 / 16, rel=0.01)


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.95])
def test_gradients_of_two_inputs_agree_at_least_as_much_as_proved(rho):
    """E B_1(x, x') = (v/2) k_L'(ρ) ≥ (v/2) 2^(1−L) a0(ρ); and not below the limit: observed."""
    n, depth, draws = 3, 3, 20_000
    x = np.array([[1.0, 0.0, 0.0], [rho, math.sqrt(1 - rho**2), 0.0]])
    with_input, _ = drawn(x, (n, depth, 1.0, 2.0, 1, 3, 2, False), draws)
    without, _ = drawn(x, (n, depth, 0.0, 2.0, 1, 3, 2, False), draws)
    products = (with_input - without)[:, 0, 0, :, 0]
    own, crossed = products[:, 0], products[:, 1]
    assert abs(own.mean() - 1) < SIGMAS * own.std() / math.sqrt(draws)
    slopes = [slope[0, 1] for _, slope in hidden_kernels(x @ x.T / 3, depth)]
    error = SIGMAS * crossed.std() / math.sqrt(draws)
    assert crossed.mean() + error > rho * 2.0 ** (1 - depth) * slopes[0]
    assert crossed.mean() + error > rho * np.prod(slopes)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("p", [2, 3])
def test_gradients_agree_at_every_angle_at_least_as_much_as_the_table_says(n, p):
    """E B_1(x, x') = k_p'(ρ) for v = 2: above Lemma 4's bound, which is far above 2^(1−p) a0."""
    table, draws = gradients_below(n, p)[p - 1], 20_000
    for i in (16, 64, 128, 200):
        angle = math.pi / 2 * (i / (len(table) - 1)) ** 2
        x = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
        with_input, _ = drawn(x, (n, p, 1.0, 2.0, 1, 2, 2, False), draws)
        without, _ = drawn(x, (n, p, 0.0, 2.0, 1, 2, 2, False), draws)
        products = (with_input - without)[:, 0, 0, 1, 0] / math.cos(angle)
        error = SIGMAS * products.std() / math.sqrt(draws)
        assert products.mean() + error > table[i]
    assert table[16] > 2.0 ** (1 - p)


def test_finite_width_keeps_a_part_of_all_layers_off_the_diagonal():
    """n = L²: the sum over layers is 0.09 L for orthogonal inputs (the Corollary's 0.085 L)."""
    net = MLP(width=1024, depth=32, output_variance=2.0, input_lr_ratio=0.0, biases=False)
    entry = kernel_below(net, np.eye(2))[0, 1] / (1024 * 0.5)
    last = signals_below(net, np.eye(2))[-1][0, 1] / (1024 * 0.5)
    assert (entry - last) / 32 == pytest.approx(0.090, abs=0.002)
    assert 1 - 3 * 3**0.5 * math.log(1 + 1 / (3 * 3**0.5)) == pytest.approx(0.0854, abs=1e-4)


def test_the_cost_grows_no_faster_than_the_depth():
    """700 layers took 17 s, and one unit in 2,000 layers did not end."""
    x = inputs(20, 6)

    def seconds(depth):
        started = time.process_time()
        for loss in ("mse", "cross-entropy"):
            theorem_entries(MLP(width=1, depth=depth), x, 3, loss)
        return time.process_time() - started

    seconds(8)
    assert seconds(2000) < 12 * seconds(500) + 1
    deep = fluctuations_of(MLP(width=64, depth=256), x, 3, 0)
    units = sum(len(layer.units) for layer in deep.layers)
    assert units == 32 * len(fluctuations_of(MLP(width=64, depth=32), x, 3, 0).layers[0].units)


def test_bounds_of_very_deep_networks_are_numbers_or_infinite():
    x = inputs(6, 4, positive=True)
    for loss in ("mse", "cross-entropy"):
        entries = theorem_entries(MLP(width=1, depth=2000), x, 3, loss)
        assert all(e.value >= 0 for e in entries)
        assert all(math.isfinite(e.value) for e in entries if e.side == "lower")
        assert {e.name for e in entries if math.isinf(e.value)} <= {"blocks", "softmax trace"}
    shallow, deep = (kernel_below(MLP(width=64, depth=d), x)[0, 2] for d in (128, 200))
    assert deep >= shallow * (1 - 1e-9)


def test_zero_inputs_are_bounded_by_their_output_bias():
    net = MLP(width=4, depth=2)
    x = np.zeros((3, 2))
    found = {e.name: e.value for e in theorem_entries(net, x, 2, "mse") if e.side == "lower"}
    assert found["layers"] == pytest.approx(1.0)
    assert found["gradient"] == pytest.approx(1 / 3)
    assert expected_gradient_norm(net, x).tolist() == [1.0] * 3
    bare = MLP(width=4, depth=2, biases=False)
    assert all(e.value == 0 for e in theorem_entries(bare, x, 2, "mse"))
    assert all(e.value == 0 for e in theorem_entries(bare, x, 2, "cross-entropy"))


@pytest.mark.parametrize(
    ("network", "classes", "loss", "error"),
    [
        (MLP(), 0, "mse", ConfigError),
        (MLP(), 1, "cross-entropy", ConfigError),
        (MLP(), 3, "mae", ConfigError),
        (LayerNormMLP(), 3, "mse", CurvatureError),
    ],
)
def test_bad_arguments_are_refused(network, classes, loss, error):
    with pytest.raises(error):
        theorem_entries(network, np.ones((2, 3)), classes, loss)
