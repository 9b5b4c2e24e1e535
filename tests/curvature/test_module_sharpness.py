"""λ1 of modules against the dense Hessian and Gauss-Newton matrix, in float64."""

import functools
import warnings

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import nn
from torch.func import functional_call

from etastar.curvature import sharpness
from etastar.curvature.eigenpairs import largest_eigenpairs
from etastar.curvature.products import LossCurvature
from etastar.errors import ConfigError, CurvatureError, ModelError

SAMPLES = 12


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False)
        self.decoder.weight = nn.Parameter(torch.empty(6, 4))
        self.head = nn.Linear(6, 3)
        self.second = nn.Linear(6, 4, bias=False)
        self.second.weight = self.encoder.weight

    def forward(self, x):
        return self.head(self.decoder(torch.tanh(self.encoder(x) + self.second(x.cos()))))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.used(x).tanh()


class Recurrent(nn.Module):
    """Samples in the first dimension, three steps of two features."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        _, (h, _) = self.lstm(x.view(-1, 3, 2))
        return self.head(h[0])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.view(-1, 3, 2))).mean(1))


class Attention(nn.Module):
    """Fused attention, called directly."""

    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(2, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.project(x.view(-1, 3, 2)).chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))


def mlp(norm=None):
    layers = [nn.Linear(6, 5)]
    layers += [norm(5)] if norm else []
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))


def cnn(norm=False):
    layers = [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 2)]
    layers += [nn.BatchNorm2d(3)] if norm else []
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))


MODELS = {
    "mlp": mlp,
    "mlp, layer norm": lambda: mlp(nn.LayerNorm),
    "cnn": cnn,
    "cnn, batch norm, eval": lambda: cnn(norm=True).eval(),
    "cnn, batch norm, train": lambda: cnn(norm=True),
    "tied": Tied,
    "unused": Unused,
    "lstm": Recurrent,
    "transformer": Transformer,
    "attention": Attention,
}


def mse(outputs, labels):
    return nn.functional.mse_loss(outputs, nn.functional.one_hot(labels, 3).to(outputs))


LOSSES = {"cross-entropy": nn.functional.cross_entropy, "mse": mse}


def drawn(name, dtype=torch.float64):
    torch.manual_seed(7)
    model = MODELS[name]().double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.6)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.to(dtype)


def data(dtype=torch.float64, samples=SAMPLES):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (samples,), generator=generator)


def dense(model, loss_fn, batches, kind):
    """The whole matrix by nested functional Jacobians, independent of the products tested."""
    named = dict(model.named_parameters())
    names, shapes = list(named), [p.shape for p in named.values()]
    flat = torch.cat([p.detach().flatten() for p in named.values()])
    total, matrix = sum(len(y) for _, y in batches), 0.0

    def outputs(vector, x):
        pieces = vector.split([s.numel() for s in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return functional_call(model, weights, (x,))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for x, y in batches:
            if kind == "hessian":
                part = torch.autograd.functional.hessian(
                    lambda v, x=x, y=y: loss_fn(outputs(v, x), y), flat
                )
            else:
                z = outputs(flat, x)
                bend = torch.autograd.functional.hessian(
                    lambda z, y=y: loss_fn(z, y), z.detach()
                ).view(z.numel(), z.numel())
                jacobian = torch.autograd.functional.jacobian(lambda v, x=x: outputs(v, x), flat)
                jacobian = jacobian.view(z.numel(), -1)
                part = jacobian.T @ bend @ jacobian
            matrix = matrix + part * len(y) / total
    return matrix.double()


@functools.cache
def drawn_matrix(name, loss, kind):
    """That of a drawn model on all of the data, with and without ratios the same."""
    return dense(drawn(name), LOSSES[loss], [data()], kind)


def with_ratios(matrix, model, lr_ratios):
    roots = torch.cat(
        [
            torch.full((p.numel(),), lr_ratios.get(n, 1.0) ** 0.5, dtype=matrix.dtype)
            for n, p in model.named_parameters()
        ]
    )
    return roots[:, None] * matrix * roots


def ratios_for(model):
    return {name: 0.1 for name, _ in list(model.named_parameters())[:2]}


@pytest.mark.parametrize("preconditioned", [False, True], ids=["plain", "ratios"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_dense_matrix(name, loss, kind, preconditioned, monkeypatch):
    monkeypatch.setattr("etastar.curvature.eigenpairs.DENSE_SIZE", 0)  # Lanczos at any size
    model, (x, y) = drawn(name), data()
    batches = [(x, y)]
    ratios = ratios_for(model) if preconditioned else None
    matrix = drawn_matrix(name, loss, kind)
    true = torch.linalg.eigvalsh(with_ratios(matrix, model, ratios) if ratios else matrix)
    found = sharpness(model, LOSSES[loss], batches, kind=kind, lr_ratios=ratios, tol=1e-6)
    assert found.converged
    assert found.value == pytest.approx(float(true[-1]), rel=1e-6)
    rounding = 1e-13 * float(true[-1])
    assert abs(found.value - float(true[-1])) <= found.residuals[0] + rounding
    assert found.value <= float(true[-1]) + rounding
    assert found.lambda_min == pytest.approx(float(true[0]), abs=1e-5 * float(true[-1]))
    assert found.preconditioned is preconditioned


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("name", MODELS)
def test_products_equal_the_dense_matrix(name, kind):
    model, (x, y) = drawn(name), data()
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]  # ragged, and the graph is built anew every time
    operator = LossCurvature(model, mse, batches, kind=kind)
    vectors = torch.randn(3, operator.size, dtype=x.dtype)
    expected = vectors @ dense(model, mse, batches, kind)
    for vector, image in zip(vectors, expected, strict=True):
        torch.testing.assert_close(operator(vector), image, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("name", MODELS)
def test_single_precision(name, kind):
    true = float(torch.linalg.eigvalsh(drawn_matrix(name, "mse", kind))[-1])
    found = sharpness(drawn(name, torch.float32), mse, [data(torch.float32)], kind=kind)
    assert found.value == pytest.approx(true, rel=1e-3)


def test_several_values_with_vectors():
    model, batch = drawn("mlp"), data()
    true, basis = torch.linalg.eigh(dense(model, mse, [batch], "hessian"))
    found = sharpness(model, mse, [batch], k=4, tol=1e-6, return_vectors=True)
    np.testing.assert_allclose(found.values, true.flip(0)[:4], rtol=1e-6)
    assert found.vectors is not None
    overlap = (found.vectors @ basis.flip(1)[:, :4]).abs()
    torch.testing.assert_close(overlap, torch.eye(4, dtype=x_dtype()), rtol=0, atol=1e-4)
    assert found.parameters == tuple(dict(model.named_parameters()))


def x_dtype():
    return torch.float64


def test_batches_count_by_their_samples():
    model, (x, y) = drawn("mlp"), data()
    whole = sharpness(model, mse, [(x, y)], tol=1e-8)
    ragged = sharpness(model, mse, [(x[:7], y[:7]), (x[7:11], y[7:11]), (x[11:], y[11:])], tol=1e-8)
    assert ragged.value == pytest.approx(whole.value, rel=1e-10)
    assert ragged.loss == pytest.approx(whole.loss, rel=1e-12)
    assert ragged.samples == whole.samples == SAMPLES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_agrees_with_curvlinops_and_arpack(kind):
    import curvlinops  # here, as what it imports uses deprecated parts of torch

    model, (x, y) = drawn("mlp"), data()
    batches = [(x[:5], y[:5]), (x[5:10], y[5:10])]
    loss_fn = nn.CrossEntropyLoss()
    operator = {
        "hessian": curvlinops.HessianLinearOperator,
        "gauss-newton": curvlinops.GGNLinearOperator,
    }[kind](model, loss_fn, list(model.parameters()), batches)
    oracle = scipy.sparse.linalg.eigsh(
        operator.to_scipy(), k=2, which="LA", return_eigenvectors=False
    )
    found = sharpness(model, loss_fn, batches, kind=kind, k=2, tol=1e-8)
    np.testing.assert_allclose(found.values, oracle[::-1], rtol=1e-8)


def test_linear_regression_in_closed_form():
    # ½·mean of squares: H = XᵀX/m, whatever the weights
    x, _ = data()
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    true = torch.linalg.eigvalsh(x.T @ x / SAMPLES)
    for kind in ("hessian", "gauss-newton"):
        found = sharpness(
            model, lambda z, t: 0.5 * (z - t).square().mean(), [(x, x[:, :1])], kind=kind
        )
        assert found.value == pytest.approx(float(true[-1]), rel=1e-10)
        assert found.lambda_min == pytest.approx(float(true[0]), rel=1e-10)


@pytest.mark.parametrize("width", [4, 64], ids=["dense", "lanczos"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_a_dead_network_has_exactly_no_curvature(kind, width):
    x, y = data()
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3, bias=False)).double()
    with torch.no_grad():
        model[0].bias.fill_(-100)
    found = sharpness(model, nn.functional.cross_entropy, [(x, y)], kind=kind)
    assert found.values == found.residuals == (0.0,)
    assert found.converged


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_ratios_scale_a_parameter(ratio):
    # ½(w·x + b)² at x = 2: the matrix is [[4r, 2√r], [2√r, 1]], of rank one
    model = nn.Linear(1, 1, dtype=torch.float64)
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    loss = lambda z, t: 0.5 * (z - t).square().mean()  # noqa: E731
    found = sharpness(model, loss, [(x, x)], lr_ratios={"weight": ratio})
    assert found.value == pytest.approx(1 + 4 * ratio)


def test_a_tied_parameter_goes_by_any_of_its_names():
    model, batch = drawn("tied"), data()
    by_first = sharpness(model, mse, [batch], lr_ratios={"encoder.weight": 0.1})
    by_second = sharpness(model, mse, [batch], lr_ratios={"second.weight": 0.1})
    assert by_first.values == by_second.values
    both = {"encoder.weight": 0.1, "second.weight": 0.2}
    with pytest.raises(ConfigError, match="one tied parameter"):
        sharpness(model, mse, [batch], lr_ratios=both)


class TwoInputsTwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, left, right):
        hidden = self.a(left).tanh()
        return {"logits": hidden + self.b(right), "hidden": hidden}


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_several_inputs_and_outputs(kind):
    torch.manual_seed(0)
    model, (x, y) = TwoInputsTwoOutputs().double(), data()

    def loss(out, labels):
        return nn.functional.cross_entropy(out["logits"], labels) + out["hidden"].square().mean()

    by_tuple = sharpness(model, loss, [((x, x.cos()), y)], kind=kind)
    by_name = sharpness(model, loss, [({"left": x, "right": x.cos()}, y)], kind=kind)
    assert by_tuple.values == by_name.values
    if kind == "gauss-newton":  # the logits depend on `hidden`, yet both count as outputs, once
        assert by_tuple.value <= sharpness(model, loss, [((x, x.cos()), y)]).value * 2
        assert by_tuple.lambda_min >= -1e-12


def test_time_major_batches_need_the_sample_count():
    torch.manual_seed(0)
    steps, batch = 5, 4
    model = nn.LSTM(2, 3, dtype=torch.float64)
    x, y = torch.randn(steps, batch, 2, dtype=torch.float64), torch.zeros(batch, dtype=torch.int64)
    loss = lambda out, labels: nn.functional.cross_entropy(out[1][0][0], labels)  # noqa: E731
    with pytest.raises(ConfigError, match=r"batch 0: inputs and targets differ .* `batch_size="):
        sharpness(model, loss, [(x, y)])
    found = sharpness(model, loss, [(x, y)], batch_size=lambda _, labels: len(labels))
    assert found.samples == batch
    assert found.converged


def everything(model):
    state = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    state |= {
        f"grad {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }
    modes = [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]
    return state, modes, torch.get_rng_state()


class Explodes(nn.BatchNorm1d):
    """Draws random numbers, updates its buffers, changes its mode, then raises."""

    def forward(self, x):
        out = super().forward(x) + 0 * torch.rand(1)
        self.train(not self.training)
        if self.num_batches_tracked > 2:
            raise RuntimeError("exploded")
        return out


@pytest.mark.parametrize("name", ["cnn, batch norm, train", "explodes"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_the_model_is_left_as_it_was(name, kind):
    x, y = data()
    if name == "explodes":
        model = nn.Sequential(nn.Linear(6, 3), Explodes(3)).double()
    else:
        model = drawn(name)
    mse(model(x), y).backward()
    next(model.parameters()).requires_grad_(False)
    if name == "explodes":
        model.train()
        model[1].num_batches_tracked.fill_(2)
    buffers = {n: id(b) for n, b in model.named_buffers()}
    state, modes, rng = everything(model)
    if name == "explodes":
        with pytest.raises(ModelError, match=r"batch 0 \(inputs float64\[12, 6\].*exploded"):
            sharpness(model, mse, [(x, y)], kind=kind)
    else:
        assert sharpness(model, mse, [(x, y), (x, y)], kind=kind).converged
    state_after, modes_after, rng_after = everything(model)
    assert modes_after == modes
    assert state_after.keys() == state.keys()
    assert all(torch.equal(state[key], state_after[key]) for key in state)
    assert torch.equal(rng, rng_after)
    assert {n: id(b) for n, b in model.named_buffers()} == buffers


def test_batch_norm_in_train_mode_is_noted():
    model, batch = drawn("cnn, batch norm, train"), data()
    assert "depends on the partition" in sharpness(model, mse, [batch]).notes[0]
    assert "batch normalisation in train mode (2)" in str(sharpness(model, mse, [batch]))
    assert sharpness(model.eval(), mse, [batch]).notes == ()


class Random(nn.Module):
    """A network with one random part between two layers."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Linear(6, 8), nn.Linear(8, 3)
        if kind == "module":
            self.part = nn.Dropout(0.5)
        elif kind == "lstm":
            self.part = nn.LSTM(8, 8, num_layers=2, dropout=0.5)
        elif kind == "attention":
            self.part = nn.MultiheadAttention(8, 2, dropout=0.5)

    def forward(self, x):
        h = self.first(x)
        if self.kind == "module":
            h = self.part(h)
        elif self.kind == "lstm":
            h = self.part(h)[0]
        elif self.kind == "attention":
            h = self.part(h, h, h)[0]
        elif self.kind == "functional":
            h = nn.functional.dropout(h, training=self.training)
        elif self.kind == "noise":
            h = h + torch.randn_like(h)
        return self.last(h)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("module", r"drawn by part \(Dropout\)"),
        ("lstm", r"drawn by part \(LSTM\)"),
        ("attention", r"drawn by part \(MultiheadAttention\)"),
        ("functional", r"drawn by the model \(Random, test_module_sharpness.py:\d+\)"),
        ("noise", r"drawn by the model \(Random, test_module_sharpness.py:\d+\)"),
    ],
)
def test_a_random_loss_is_refused_and_its_cause_named(kind, cause):
    model = Random(kind).double()
    with pytest.raises(CurvatureError, match=cause + ".*call model.eval()"):
        sharpness(model, mse, [data()])
    model.eval()
    if kind != "noise":
        assert sharpness(model, mse, [data()]).converged
        return
    with pytest.raises(CurvatureError, match=r"Expected a deterministic loss: take the random"):
        sharpness(model, mse, [data()])


def test_randomness_outside_the_model_is_named_too():
    def noisy(z, y):
        return mse(z * torch.rand(()), y)

    with pytest.raises(CurvatureError, match=r"drawn by rand.* at test_module_sharpness.py:\d+"):
        sharpness(drawn("mlp"), noisy, [data()])
    model = drawn("mlp")
    model.register_buffer("calls", torch.zeros(()))
    model.register_forward_hook(lambda module, args, out: out * module.calls.add_(1))
    with pytest.raises(CurvatureError, match=r"buffers that every evaluation changes \(calls\)"):
        sharpness(model, mse, [data()])
    assert model.calls == 0
    count = iter(range(100))
    with pytest.raises(CurvatureError, match="Cause: unknown: PyTorch drew no random numbers"):
        sharpness(drawn("mlp"), lambda z, y: mse(z, y) * next(count), [data()])


def test_works_under_no_grad_and_inference_mode():
    model, batch = drawn("attention"), data()
    expected = sharpness(model, mse, [batch]).values
    with torch.no_grad():
        assert sharpness(model, mse, [batch]).values == expected
        assert not torch.is_grad_enabled()


def test_a_spent_budget_is_said(monkeypatch):
    monkeypatch.setattr("etastar.curvature.eigenpairs.DENSE_SIZE", 0)
    found = sharpness(drawn("mlp"), mse, [data()], max_iter=3, tol=1e-10)
    assert not found.converged
    assert "not converged to 1e-10 within 3 steps" in found.notes[0]
    assert "NOT CONVERGED" in str(found)


def test_reads_as_a_table():
    text = str(sharpness(drawn("mlp"), mse, [data()], k=2, lr_ratios={"0.weight": 0.1}))
    assert text.startswith("λ1(D^½ H D^½) = ")
    assert "12 samples" in text


def test_a_large_network_uses_few_products():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 100), nn.ReLU(), nn.Linear(100, 3))
    found = sharpness(model, mse, [data(torch.float32)])
    assert found.converged
    assert found.iterations < sum(p.numel() for p in model.parameters()) / 4


def not_a_number(outputs, labels):
    return outputs.square().mean() * float("nan")


def detached(outputs, labels):
    return outputs.detach().square().mean()


def vector(outputs, labels):
    return outputs.square().mean(1)


X, Y = data()
NAN = float("nan")
REFUSED = {
    "nan loss": (not_a_number, {}, CurvatureError, "loss must be finite"),
    "inf data": (mse, {"batches": [(X / 0, Y)]}, CurvatureError, "loss must be finite"),
    "detached": (detached, {}, CurvatureError, "does not depend on any trainable parameter"),
    "vector loss": (vector, {}, ConfigError, r"one number per batch.*shape \(12,\)"),
    "float loss": (lambda z, y: 1.0, {}, ConfigError, "one number per batch.*float"),
    "kind": (mse, {"kind": "fisher"}, ConfigError, "unknown kind of curvature 'fisher'"),
    "name": (mse, {"lr_ratios": {"0.wieght": 1}}, ConfigError, "did you mean '0.weight'"),
    "ratio": (mse, {"lr_ratios": {"0.weight": -1}}, ConfigError, "finite and not negative; got -1"),
    "sizes": (mse, {"batches": [(X, Y[:5])]}, ConfigError, "batch 0: .*differ in their first"),
    "empty": (mse, {"batches": []}, ConfigError, "batches is empty"),
    "no samples": (
        mse,
        {"batches": [(X, Y), (X[:0], Y[:0])]},
        ConfigError,
        "samples of batch 1 must be above 0 and finite, got 0",
    ),
    "no pair": (mse, {"batches": [X]}, ConfigError, "batch 0 must be a pair"),
    "features": (
        mse,
        {"batches": [(X[:, :5], Y)]},
        ModelError,
        "cannot be multiplied.*check shapes",
    ),
    "k": (mse, {"k": 0}, ConfigError, "k must lie between 1"),
    "tol": (mse, {"tol": -1.0}, ConfigError, "tol must be above 0"),
    "max_iter": (mse, {"max_iter": 0}, ConfigError, "max_iter must be at least 1"),
    "model": (mse, {"model": 3}, ConfigError, "model must be a torch.nn.Module; got int"),
    "loss": ("mse", {}, ConfigError, r"loss_fn must be a function of .*got 'mse'"),
    "no batches": (mse, {"batches": None}, ConfigError, "batches must hold pairs.*got NoneType"),
    "list of ratios": (mse, {"lr_ratios": [0.1]}, ConfigError, r"map names .*got \[0.1\]"),
    "zero for ratios": (mse, {"lr_ratios": 0}, ConfigError, "map names of parameters.*got 0"),
    "number for name": (mse, {"lr_ratios": {0: 1.0}}, ConfigError, "unknown parameter .*'0'"),
    "word for ratio": (mse, {"lr_ratios": {"0.weight": "a"}}, ConfigError, "a number.*got 'a'"),
    "nan for ratio": (mse, {"lr_ratios": {"0.weight": NAN}}, ConfigError, "finite.*got nan"),
    "half a k": (mse, {"k": 1.5}, ConfigError, "k must lie between 1 and.*whole; got 1.5"),
    "word for k": (mse, {"k": "a"}, ConfigError, "k must lie between 1 and.*got 'a'"),
    "word for tol": (mse, {"tol": "a"}, ConfigError, "tol must be above 0 and below 1, got 'a'"),
    "nan for tol": (mse, {"tol": NAN}, ConfigError, "tol must be above 0 and below 1, got nan"),
    "half a step": (mse, {"max_iter": 1.5}, ConfigError, "max_iter must be a whole.*got 1.5"),
    "word for seed": (mse, {"seed": "a"}, ConfigError, "seed must be a whole number, got 'a'"),
    "huge seed": (mse, {"seed": 2**64}, ConfigError, r"seed must be below 2\*\*63"),
    "less than no sample": (
        mse,
        {"batch_size": lambda x, y: -0.5},
        ConfigError,
        "samples of batch 0 must be above 0 and finite, got -0.5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_reason(case):
    loss_fn, settings, error, match = REFUSED[case]
    given = {"model": drawn("mlp"), "loss_fn": loss_fn, "batches": [(X, Y)], **settings}
    with pytest.raises(error, match=match) as caught:
        sharpness(**given)
    assert error is not ConfigError or "\n" not in str(caught.value)


def test_models_that_cannot_be_measured():
    with pytest.raises(ConfigError, match="no trainable parameters"):
        sharpness(drawn("mlp").requires_grad_(False), mse, [data()])
    frozen = drawn("mlp")
    frozen[0].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match="which is frozen"):
        sharpness(frozen, mse, [data()], lr_ratios={"0.weight": 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules announce that they are experimental
        lazy = nn.LazyLinear(3)
    with pytest.raises(ConfigError, match="not initialised yet"):
        sharpness(lazy, mse, [data()])
    with pytest.raises(ConfigError, match="outputs as tensors, tuples, lists or mappings"):
        sharpness(Odd(), lambda z, y: z.t.mean(), [data(torch.float32)], kind="gauss-newton")


class Odd(nn.Module):
    """Returns something that only its loss understands."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        out = type("Out", (), {})()
        out.t = self.layer(x)
        return out


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * 2


def test_an_operation_without_second_derivative_is_refused():
    class Model(nn.Linear):
        def forward(self, x):
            return Once.apply(super().forward(x).tanh())

    # torch itself leaves the missing term out in silence
    for kind in ("hessian", "gauss-newton"):
        with pytest.raises(CurvatureError, match="once_differentiable"):
            sharpness(Model(6, 3).double(), mse, [data()], kind=kind)


def test_dense_and_lanczos_agree():
    model, batch = drawn("cnn"), data()
    operator = LossCurvature(model, mse, [batch])
    pair = [
        largest_eigenpairs(operator, operator.size, k=3, tol=1e-9, dtype=x_dtype(), dense_size=size)
        for size in (0, 10**4)
    ]
    np.testing.assert_allclose(pair[0].values, pair[1].values, rtol=1e-9)
