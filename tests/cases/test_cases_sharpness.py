"""`sharpness` on models, losses and batches as people have them: the right number, or the reason.

Every kind stands beside a slow reference: the dense Hessian of the loss over all samples in one
batch, by finite differences of a gradient in float64.
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import etastar
from etastar import ConfigError, EtaStarError, ModelError, sharpness
from etastar.errors import CurvatureError

torch.manual_seed(0)
X, Y = torch.randn(20, 6), torch.randint(0, 3, (20,))
WEIGHTS = torch.tensor([1.0, 10.0, 0.1])
IGNORED = Y.clone()
IGNORED[1:10] = -100


def net(activation: Callable[[], nn.Module] = nn.Tanh, hidden: int = 4) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, hidden), activation(), nn.Linear(hidden, 3))


def by_differences(model: nn.Module, loss_fn: Any, inputs: Any, targets: Any) -> float:
    """λ1 of a float64 model: the dense matrix, from differences of its gradient."""
    weights = list(model.parameters())
    flat = nn.utils.parameters_to_vector(weights).detach()

    def gradient(vector: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(vector, weights)
        loss = loss_fn(model(inputs), targets)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    steps = 1e-5 * torch.eye(len(flat), dtype=torch.float64)
    rows = [(gradient(flat + step) - gradient(flat - step)) / 2e-5 for step in steps]
    nn.utils.vector_to_parameters(flat, weights)
    return float(torch.linalg.eigvalsh(torch.stack(rows))[-1])


TRUE = by_differences(net().double(), cross_entropy, X.double(), Y)


class Around(nn.Module):
    """A function within the network."""

    def __init__(self, function: Callable[[Tensor], Tensor], hidden: int = 4) -> None:
        super().__init__()
        self.net, self.function = net(hidden=hidden), function

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.function(self.net[0](x)))


def hooked(hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor]:
    def tanh(x: Tensor) -> Tensor:
        hidden = x.tanh()
        if hidden.requires_grad:
            hidden.register_hook(hook)
        return hidden

    return tanh


class SecondDerivativeMissing(torch.autograd.Function):
    """A swish that forgets that its slope depends on its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = x.sigmoid()
        ctx.slope = (s * (1 + x * (1 - s))).detach()
        return x * s

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.slope


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


# -- gradients and products that are not the loss's --------------------------------------------


@pytest.mark.parametrize("hook", [lambda g: g * 0.1, lambda g: g.detach(), lambda g: None])
def test_gradient_hooks_of_parameters_and_modules_do_not_enter(hook: Any) -> None:
    model = net()
    handles = [p.register_hook(hook) for p in model.parameters()]
    assert model[0].bias._backward_hooks
    for kind in ("hessian", "gauss-newton"):
        plain = sharpness(net(), cross_entropy, [(X, Y)], kind=kind)
        found = sharpness(model, cross_entropy, [(X, Y)], kind=kind)
        assert found.values == plain.values
        assert "gradient hook" in found.notes[0]
        assert "lr_ratios" in found.notes[0]
    for handle in handles:
        handle.remove()
    model[0].register_full_backward_hook(lambda m, into, out: tuple(0.5 * g for g in into if g))
    assert sharpness(model, cross_entropy, [(X, Y)]).value == pytest.approx(TRUE, rel=1e-5)
    assert model[0]._backward_hooks


def test_hooks_act_again_afterwards() -> None:
    model = net()
    model[2].bias.register_hook(lambda g: g * 0 + 7)
    sharpness(model, cross_entropy, [(X, Y)])
    cross_entropy(model(X), Y).backward()
    assert model[2].bias.grad is not None
    assert model[2].bias.grad.tolist() == [7.0, 7.0, 7.0]


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize(
    "function",
    [
        hooked(lambda g: g * 0.5),
        lambda x: 2 * x.tanh() - x.tanh().detach(),
    ],
    ids=["hook on an activation", "detach"],
)
def test_a_gradient_that_is_not_the_slope_is_refused(function: Any, kind: Any) -> None:
    with pytest.raises(CurvatureError, match=r"(is not the slope|no second derivative) of .* loss"):
        sharpness(Around(function), cross_entropy, [(X, Y)], kind=kind)


def test_straight_through_estimators_are_refused_or_said() -> None:
    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, StraightThrough.apply(self.weight), self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(Rounded(6, 12), nn.Tanh(), Rounded(12, 3))
    with pytest.raises(CurvatureError, match=r"is not the slope.*StraightThroughBackward"):
        sharpness(model, cross_entropy, [(X, Y)])
    activations = Around(lambda x: StraightThrough.apply(x).tanh())
    assert "straight-through" in sharpness(activations, cross_entropy, [(X, Y)]).notes[0]


def test_weight_norm_is_right_or_refused_by_its_name() -> None:
    model = net().double()
    parametrizations.weight_norm(model[0])
    true = by_differences(model, cross_entropy, X.double(), Y)
    refused = None
    try:
        found = sharpness(model, cross_entropy, [(X.double(), Y)])
    except CurvatureError as error:
        refused = str(error)
    if refused is None:  # by a PyTorch whose second derivative of it is right
        assert found.value == pytest.approx(true, rel=1e-6)
    else:
        assert "uᵀHv and vᵀHu differ" in refused
        assert "weight_norm" in refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrong_second_derivative_is_said(dtype: torch.dtype) -> None:
    right = sharpness(Around(nn.SiLU(), hidden=8).to(dtype), cross_entropy, [(X.to(dtype), Y)])
    assert right.notes == ()
    wrong = Around(SecondDerivativeMissing.apply, hidden=8).to(dtype)
    found = sharpness(wrong, cross_entropy, [(X.to(dtype), Y)])
    assert "bends by" in found.notes[0]
    assert "SecondDerivativeMissing" in found.notes[0]
    lazy = lambda z, y: -(z.softmax(1).detach() * z.log_softmax(1)).sum(1).mean()  # noqa: E731
    assert "detach()" in sharpness(net().to(dtype), lazy, [(X.to(dtype), Y)]).notes[0]


def test_parameters_that_no_gradient_reaches_are_named() -> None:
    class Frozen(Around):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = self.net[0](x).tanh()
            return self.net[2](hidden)

    for model in (
        Frozen(torch.tanh),
        Around(lambda x: x.detach().tanh()),
    ):
        with pytest.raises(CurvatureError, match=r"no gradient reaches net.0.weight.*freeze it"):
            sharpness(model, cross_entropy, [(X, Y)])
        model.net[0].requires_grad_(False)
        assert sharpness(model, cross_entropy, [(X, Y)]).parameters == (
            "net.2.weight",
            "net.2.bias",
        )


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_are_right_or_refused(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.net, x, use_reentrant=reentrant)

    batch = [(X.clone().requires_grad_(), Y)]
    if reentrant:
        with pytest.raises(EtaStarError, match="reentrant"):
            sharpness(Checkpointed(), cross_entropy, batch)
    else:
        assert sharpness(Checkpointed(), cross_entropy, batch).value == pytest.approx(
            TRUE, rel=1e-5
        )


class Bag(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag, self.head = nn.EmbeddingBag(7, 4, **options), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.bag(tokens))


def test_operations_without_a_double_backward_are_refused_with_the_cause() -> None:
    tokens = torch.randint(0, 7, (9, 3))
    message = r"batch 0 \(inputs int64\[9, 3\].*_embedding_bag_backward.*plain ones"
    with pytest.raises(CurvatureError, match=message):
        sharpness(Bag(), cross_entropy, [(tokens, Y[:9])])

    def ctc(outputs: Tensor, labels: Tensor) -> Tensor:
        odds = outputs.view(10, 2, 3).log_softmax(-1)
        return nn.functional.ctc_loss(odds, labels.view(2, 10)[:, :2] % 2 + 1, (10, 10), (2, 2))

    with pytest.raises(CurvatureError, match="cannot be differentiated twice"):
        sharpness(net(), ctc, [(X, Y)])


class Tokens(nn.Module):
    def __init__(self, sparse: bool = False, functional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table, self.head = nn.Embedding(7, 4, sparse=sparse), nn.Linear(4, 7)
        self.functional = functional

    def forward(self, tokens: Tensor) -> Any:
        if self.functional:
            return self.head(nn.functional.embedding(tokens, self.table.weight, sparse=True))
        return self.head(self.table(tokens).tanh())


def test_sparse_embeddings_work_or_are_refused_by_name() -> None:
    batch = [(torch.randint(0, 7, (9,)), torch.randint(0, 7, (9,)))]
    model = Tokens(sparse=True)
    assert (
        sharpness(model, cross_entropy, batch).values
        == sharpness(Tokens(), cross_entropy, batch).values
    )
    assert model.table.sparse
    with pytest.raises(CurvatureError, match="sparse=False of the embedding"):
        sharpness(Tokens(functional=True), cross_entropy, batch)


# -- what the solver can vouch for ---------------------------------------------------------------


class Quadratic(nn.Module):
    def __init__(self, spectrum: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones_like(spectrum))
        self.register_buffer("spectrum", spectrum)

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.spectrum * self.w**2).sum().expand(len(x))


@pytest.mark.parametrize("below", [-1e5, -1e7])
def test_a_value_below_the_rounding_of_products_is_not_converged(below: float) -> None:
    spectrum = torch.cat([torch.linspace(below, 0, 199), torch.ones(1)])
    batch = [(torch.zeros(4, 1), torch.zeros(4))]
    found = sharpness(Quadratic(spectrum), lambda z, y: z.mean(), batch, max_iter=3000)
    if found.residuals[0] > 1e-4 * abs(found.value):
        assert not found.converged
        assert found.limit == "precision"
        assert "limited by the precision of products, float32" in found.notes[-1]
        assert "model.double()" in found.notes[-1]
        assert "raise max_iter" not in str(found)
    exact = sharpness(Quadratic(spectrum.double()), lambda z, y: z.mean(), batch, max_iter=3000)
    assert exact.converged
    assert exact.value == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_says_what_limits_it(dtype: torch.dtype) -> None:
    for hidden in (8, 30):  # as a dense matrix, and by Lanczos
        model = net(hidden=hidden).to(dtype)
        found = sharpness(
            model, lambda z, y: cross_entropy(z.float(), y), [(X.to(dtype), Y)], tol=1e-5
        )
        assert not found.converged
        assert f"limited by the precision of products, {str(dtype)[6:]}" in found.notes[-1]
        assert "model.float()" in found.notes[-1]
        assert "raise `max_iter`" not in str(found)


def test_autocast_is_in_the_model_and_not_in_the_solver() -> None:
    model = net(hidden=30)
    plain = sharpness(model, cross_entropy, [(X, Y)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sharpness(model, cross_entropy, [(X, Y)])
    assert found.value == pytest.approx(plain.value, rel=0.02)
    assert found.residuals[0] < 0.05 * found.value
    assert "outside of autocast" in found.notes[-1]


def test_spent_steps_are_said_as_such() -> None:
    found = sharpness(net(hidden=30), cross_entropy, [(X, Y)], max_iter=4, tol=1e-6)
    assert (found.converged, found.limit) == (False, "steps")
    assert "raise `max_iter`" in found.notes[-1]


# -- losses that are no mean over samples ----------------------------------------------------------


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(outputs, labels, weight=WEIGHTS.to(outputs))


def summed(outputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(outputs, labels, reduction="sum")


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize(
    ("loss_fn", "labels", "note"),
    [
        (cross_entropy, Y, None),
        (summed, Y, "adds up over its batch"),
        (nn.CrossEntropyLoss(reduction="sum"), Y, "adds up over its batch"),
        (weighted, Y, "class weights or ignored labels"),
        (cross_entropy, IGNORED, "class weights or ignored labels"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), Y, None),
    ],
)
def test_batches_count_so_that_their_sizes_do_not_matter(
    loss_fn: Any, labels: Tensor, note: str | None, kind: Any
) -> None:
    whole = sharpness(net(), loss_fn, [(X, labels)], kind=kind)
    for size in (8, 3):
        batches = [(X[i : i + size], labels[i : i + size]) for i in range(0, 20, size)]
        if any((part == -100).all() for _, part in batches):
            continue  # the loss of a batch without labels is NaN
        found = sharpness(net(), loss_fn, batches, kind=kind, tol=1e-3)
        assert found.value == pytest.approx(whole.value, rel=1e-4)
        assert found.loss == pytest.approx(whole.loss, rel=1e-5)
        assert (note or "") in " ".join(found.notes)
        assert note or not found.notes
    assert whole.notes == ()


def test_batch_size_says_what_a_batch_counts() -> None:
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    whole = sharpness(net(), weighted, [(X, Y)])
    for size in (lambda x, y: float(WEIGHTS[y].sum()), lambda x, y: WEIGHTS[y].sum()):
        found = sharpness(net(), weighted, batches, batch_size=size)
        assert found.value == pytest.approx(whole.value, rel=1e-5)


def language(outputs: Tensor, tokens: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, 1), tokens.flatten())


def padded(length: int, pads: int) -> tuple[Tensor, Tensor]:
    tokens = torch.arange(3 * length).view(3, length) % 7
    targets = tokens.roll(-1, 1)
    targets[0, length - pads :] = -100
    return tokens, targets


def test_sequences_of_several_lengths() -> None:
    both = [padded(6, 0), padded(9, 0)]
    plain = sharpness(Tokens(), language, both)
    assert "count by their places" in plain.notes[0]
    ends = lambda tokens, targets: targets.numel()  # noqa: E731
    counted = sharpness(Tokens(), language, both, batch_size=ends)
    assert plain.value == pytest.approx(counted.value, rel=1e-6)
    transposed = sharpness(Tokens(), lambda z, y: cross_entropy(z.transpose(1, 2), y), both)
    assert plain.value == pytest.approx(transposed.value, rel=1e-6)
    summed_up = sharpness(Tokens(), lambda z, y: language(z, y) * y.shape[1], both)
    assert summed_up.notes == ()
    with pytest.raises(ConfigError, match=r"do not count alike.*targets != -100"):
        sharpness(Tokens(), language, [padded(6, 4), padded(9, 1)])
    count = lambda tokens, targets: (targets != -100).sum()  # noqa: E731
    found = sharpness(Tokens(), language, [padded(6, 4), padded(9, 1)], batch_size=count)
    assert found.samples == 14 + 26
    both = [(t[:, :6], y[:, :6]) for t, y in (padded(6, 4), padded(9, 1))]
    fitted = sharpness(Tokens(), language, both)
    whole = [(torch.cat([both[0][0], both[1][0]]), torch.cat([both[0][1], both[1][1]]))]
    assert fitted.value == pytest.approx(sharpness(Tokens(), language, whole).value, rel=1e-4)


def test_a_loss_that_compares_samples_is_averaged_over_the_batches_and_said() -> None:
    def contrastive(outputs: Tensor, labels: Tensor) -> Tensor:
        unit = nn.functional.normalize(outputs, dim=1)
        return cross_entropy(3 * unit @ unit.T, torch.arange(len(unit)))

    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    found = sharpness(net(), contrastive, batches)
    assert "mean over these batches" in found.notes[0]
    assert sharpness(net(), contrastive, batches, batch_size=lambda x, y: len(y)).notes == ()


def test_parameters_of_the_loss_count_as_the_models() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
            self.calls += 1
            return cross_entropy(outputs * self.scale, labels)

    loss_fn = Scaled()
    found = sharpness(net(), loss_fn, [(X, Y)], lr_ratios={"loss_fn.scale": 0.0})
    assert found.parameters[-1] == "loss_fn.scale"
    assert found.value == pytest.approx(TRUE, rel=1e-5)
    assert sharpness(net(), loss_fn, [(X, Y)]).value > found.value
    assert loss_fn.calls == 0


# -- batches as they come --------------------------------------------------------------------------


def refilling() -> Iterator[tuple[Tensor, Tensor]]:
    x, y = torch.empty(5, 6), torch.empty(5, dtype=torch.long)
    for i in range(0, 20, 5):
        x.copy_(X[i : i + 5])
        y.copy_(Y[i : i + 5])
        yield x, y


def test_a_loader_may_refill_one_buffer() -> None:
    assert sharpness(net(), cross_entropy, refilling()).value == pytest.approx(TRUE, rel=1e-5)


class WorksInPlace(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


def test_models_and_losses_that_work_in_place_leave_the_data_alone() -> None:
    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(outputs, labels.remainder_(3))

    x, y = X.clone(), Y + 3
    whole = sharpness(WorksInPlace(torch.tanh), loss_fn, [(x, y)])
    assert torch.equal(x, X)
    assert torch.equal(y, Y + 3)
    parts = sharpness(WorksInPlace(torch.tanh), loss_fn, [(x[:8], y[:8]), (x[8:], y[8:])])
    half = sharpness(net(), cross_entropy, [(X / 2, Y)])
    assert whole.value == pytest.approx(half.value, rel=1e-6)
    assert parts.value == pytest.approx(half.value, rel=1e-5)


def test_one_tensor_as_inputs_and_targets_stays_one() -> None:
    def of_slope(outputs: Tensor, inputs: Tensor) -> Tensor:
        slope = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)[0]
        return slope.square().mean()

    x = X.clone().requires_grad_()
    assert sharpness(net(), of_slope, [(x, x)]).converged


Endless = [
    lambda: itertools.repeat((X, Y)),
    lambda: itertools.cycle([(X, Y)]),
    lambda: iter(lambda: (X.clone(), Y), None),
    lambda: torch.utils.data.DataLoader(Forever(), batch_size=None),
]


class Forever(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield X, Y


@pytest.mark.parametrize("make", Endless)
def test_batches_that_never_end_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"they must end.*itertools.islice"):
        sharpness(net(), cross_entropy, make())


def test_batches_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etastar.curvature.reading.free_bytes", lambda device: 5000)
    with pytest.raises(ConfigError, match="half of the free memory"):
        sharpness(net(), cross_entropy, [(X, Y)] * 50)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, packed: Any) -> Any:
        return self.head(self.cell(packed)[1][0])


Point = namedtuple("Point", ["left", "right"])


class OfPoints(Around):
    def forward(self, point: Any) -> Tensor:
        return super().forward(point.left + point.right)


def test_packed_sequences_and_named_tuples_go_in_as_they_are() -> None:
    torch.manual_seed(0)
    packed = pack_sequence([torch.randn(n, 3) for n in (5, 4, 2)])
    labels = torch.tensor([0, 1, 0])
    found = [
        sharpness(Recurrent(), cross_entropy, [(inputs, labels)]) for inputs in (packed, (packed,))
    ]
    assert found[0].values == found[1].values
    assert found[0].samples == 3
    by_name = sharpness(OfPoints(torch.tanh), cross_entropy, [(Point(X / 4, 3 * X / 4), Y)])
    assert by_name.value == pytest.approx(TRUE, rel=1e-5)
    assert by_name.samples == 20


class Output(OrderedDict):
    """A mapping with attributes, as the outputs of transformers are."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(parts)
        vars(self).update(parts)


@dataclass
class Logits:
    logits: Tensor
    hidden: Tensor | None = None


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("form", [Output, Logits, lambda logits: {0: logits, "more": [None, 1]}])
def test_targets_inside_of_the_batch_and_outputs_as_objects(form: Any, kind: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
            return form(logits=self.net(input_ids))

    def loss_fn(outputs: Any, batch: Any) -> Tensor:
        logits = outputs[0] if type(outputs) is dict else outputs.logits
        return cross_entropy(logits, batch["labels"])

    plain = sharpness(net(), cross_entropy, [(X, Y)], kind=kind)
    for parts in ((slice(20),), (slice(7), slice(7, 20))):
        batches = [{"input_ids": X[rows], "labels": Y[rows]} for rows in parts]
        found = sharpness(Model(), loss_fn, batches, kind=kind)
        assert found.value == pytest.approx(plain.value, rel=1e-5)
        assert found.notes == ()


def test_a_loss_of_the_models_own_is_weighed_by_samples_and_that_is_said() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor) -> Any:
            return {"loss": cross_entropy(self.net(x), labels)}

    batches = [{"x": X[:7], "labels": Y[:7]}, {"x": X[7:], "labels": Y[7:]}]
    found = sharpness(Model(), lambda outputs, batch: outputs["loss"], batches)
    assert found.value == pytest.approx(TRUE, rel=1e-5)
    assert "cannot be seen from the loss" in found.notes[0]


# -- errors and what is left behind ----------------------------------------------------------------


def raising(error: BaseException) -> Callable[[Any, Any], Tensor]:
    def loss_fn(outputs: Any, targets: Any) -> Tensor:
        raise error

    return loss_fn


@pytest.mark.parametrize(
    "error", [ValueError("two\nlines"), KeyError("x"), SystemExit(2), RuntimeError(), OSError("a")]
)
def test_whatever_the_code_raises_is_one_error_of_one_line(error: BaseException) -> None:
    with pytest.raises(ModelError, match=type(error).__name__) as caught:
        sharpness(net(), raising(error), [(X, Y)])
    assert "batch 0 (inputs float32[20, 6], targets int64[20])" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_ctrl_c_is_passed_on_and_leaves_the_model_alone() -> None:
    model = net()
    model[0].register_hook = None  # type: ignore[assignment]
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        sharpness(model, raising(KeyboardInterrupt()), [(X, Y)])
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_what_the_loader_raises_names_the_batch() -> None:
    def broken() -> Iterator[Any]:
        yield X, Y
        raise OSError("no such file")

    with pytest.raises(ModelError, match="reading batch 1 fails: OSError: no such file"):
        sharpness(net(), cross_entropy, broken())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss_fn": nn.CrossEntropyLoss}, r"such as .* nn.CrossEntropyLoss\(\)"),
        ({"batches": [(X, X, Y)]}, "Several inputs go into one tuple"),
        ({"batches": [(X, Y[:7])]}, "differ in their first dimension"),
        ({"batch_size": lambda x, y: 1 / 0}, "batch_size of batch 0 fails: ZeroDivisionError"),
    ],
)
def test_mistakes_name_what_to_do(given: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"model": net(), "loss_fn": cross_entropy, "batches": [(X, Y)]}
    with pytest.raises(ConfigError, match=message):
        sharpness(**(usual | given))


class Restless(nn.Module):
    """Keeps count, remembers, draws numbers of every kind, and clips its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls, self.seen = net(), 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.seen = self.calls + 1, x
        self.fresh = torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        if self.calls == 1:
            with torch.no_grad():
                self.net[0].weight.clamp_(-0.2, 0.2)
        return self.net(x)


def test_nothing_of_the_users_changes() -> None:
    model = Restless()
    cross_entropy(model.net(X), Y).backward()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    gradients = [p.grad for p in model.parameters()]
    attributes = set(vars(model))
    numpy_state = np.random.get_state
    streams = torch.get_rng_state(), numpy_state()[1].copy(), random.getstate()
    loss = model.net(X).sum()  # a graph whose weights must not be touched
    assert sharpness(model, cross_entropy, [(X, Y)]).converged
    loss.backward()
    assert (model.calls, model.seen, set(vars(model))) == (0, None, attributes)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(streams[0], torch.get_rng_state())
    assert (streams[1] == numpy_state()[1]).all()
    assert streams[2] == random.getstate()


def test_ambient_modes() -> None:
    model = net()
    with torch.inference_mode():
        x, y = X + 0, Y + 0
        inside = net()
        assert sharpness(model, cross_entropy, [(x, y)]).value == pytest.approx(TRUE, rel=1e-5)
        with pytest.raises(ConfigError, match=r"0.weight was made in inference mode"):
            sharpness(inside, cross_entropy, [(x, y)])
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        assert sharpness(model, cross_entropy, [(X, Y)]).value == pytest.approx(TRUE, rel=1e-5)


def test_numbers_of_numpy_are_numbers() -> None:
    found = sharpness(
        *(net(), cross_entropy, [(X, Y)]),
        k=np.int64(2),
        tol=np.float32(1e-3),
        max_iter=np.int32(50),
        seed=np.uint8(1),
        lr_ratios={"0.bias": np.float32(1)},
        batch_size=lambda x, y: np.int16(len(y)),
    )
    assert found.value == pytest.approx(TRUE, rel=1e-5)
    assert type(found.samples) is int
    assert etastar.MLP(width=np.int64(8), depth=np.int32(2)).model_dump()["width"] == 8
