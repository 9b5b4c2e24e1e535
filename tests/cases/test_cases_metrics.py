"""What `"accuracy"` means is decided from outputs, targets and loss, said, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from asking import QUICK, problem_of
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy, mse_loss

import etastar

PLACES, VOCABULARY = 6, 6


def inputs() -> Tensor:
    return torch.randn(320, 8, generator=torch.Generator().manual_seed(0))


X = inputs()
LABELS = (X[:, 0] + X[:, 1] > 0).long()


def exact(outputs: Tensor) -> nn.Module:
    """A model whose outputs for the inputs `0, 1, 2, …` `[B, 1]` are these."""

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, rows: Tensor) -> Tensor:
            return outputs[rows.flatten().long()] * self.scale

    return Exact()


def accuracy_of(outputs: Tensor, targets: Tensor, loss_fn: Any) -> tuple[float, str]:
    """The accuracy of given outputs, and its name."""
    rows = torch.arange(len(targets)).float()[:, None]
    problem, _ = problem_of(exact(outputs), (rows, targets), loss_fn=loss_fn, threshold=1.0)
    return problem.evaluate(problem.origin.copy(0)), problem.objective.name


G = torch.Generator().manual_seed(1)
LOGIT = torch.randn(40, 1, generator=G)
YES = (torch.rand(40, generator=G) > 0.5).long()
MANY = torch.randn(40, 5, generator=G)
SETS = (torch.rand(40, 5, generator=G) > 0.6).float()
PIXELS = torch.randn(40, 1, 3, 3, generator=G)
MASK = (torch.rand(40, 1, 3, 3, generator=G) > 0.5).float()
CLASSES = torch.randint(0, 5, (40,), generator=G)
SOFT = torch.rand(40, 5, generator=G).softmax(1)
TEXT = torch.randn(40, PLACES, VOCABULARY, generator=G)
WORDS = torch.randint(0, VOCABULARY, (40, PLACES), generator=G)


def shared(found: Tensor, wanted: Tensor) -> float:
    return float((found == wanted).double().mean())


MEANINGS: dict[str, tuple[Tensor, Tensor, Any, float, str]] = {
    "classes": (MANY, CLASSES, cross_entropy, shared(MANY.argmax(1), CLASSES), "accuracy"),
    "one logit": (
        LOGIT,
        YES,
        lambda z, y: bce(z.squeeze(1), y.float()),
        shared(LOGIT[:, 0] > 0, YES == 1),
        "0/1 per sample, yes above an output of 0",
    ),
    "one probability": (
        LOGIT.sigmoid(),
        YES.float()[:, None],
        nn.BCELoss(),
        shared(LOGIT[:, 0] > 0, YES == 1),
        "yes above an output of 0.5",
    ),
    "0/1 by squares": (
        LOGIT,
        YES.float()[:, None],
        lambda z, y: mse_loss(z, y),
        shared(LOGIT[:, 0] > 0.5, YES == 1),
        "yes above an output of 0.5",
    ),
    "-1/1": (
        LOGIT,
        2.0 * YES[:, None] - 1,
        nn.SoftMarginLoss(),
        shared(LOGIT[:, 0] > 0, YES == 1),
        "yes above an output of 0",
    ),
    "labels": (MANY, SETS, nn.BCEWithLogitsLoss(), shared(MANY > 0, SETS == 1), "0/1 per label"),
    "whole labels": (
        MANY,
        SETS.long(),
        lambda z, y: bce(z, y.float()),
        shared(MANY > 0, SETS == 1),
        "0/1 per label",
    ),
    "pixels": (PIXELS, MASK, nn.BCEWithLogitsLoss(), shared(PIXELS > 0, MASK == 1), "per entry"),
    "soft": (MANY, SOFT, cross_entropy, shared(MANY.argmax(1), SOFT.argmax(1)), "one per class"),
    "one-hot": (
        MANY,
        nn.functional.one_hot(CLASSES, 5).float(),
        nn.MSELoss(),
        shared(MANY.argmax(1), CLASSES),
        "one per class",
    ),
    "square text, classes last": (
        TEXT,
        WORDS,
        lambda z, y: cross_entropy(z.flatten(0, 1), y.flatten()),
        shared(TEXT.argmax(-1), WORDS),
        "accuracy",
    ),
    "square text, classes second": (
        TEXT,
        WORDS,
        cross_entropy,
        shared(TEXT.argmax(1), WORDS),
        "accuracy",
    ),
    "the next word": (
        TEXT,
        WORDS,
        lambda z, y: cross_entropy(z[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
        shared(TEXT.argmax(-1)[:, :-1], WORDS[:, 1:]),
        "against the next target",
    ),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_accuracy_fits_the_outputs_and_is_said(case: str) -> None:
    outputs, targets, loss_fn, wanted, name = MEANINGS[case]
    found, said = accuracy_of(outputs, targets, loss_fn)
    assert found == pytest.approx(wanted)
    assert name in said


@pytest.mark.parametrize("label", [-100, 0, 255])
def test_what_the_loss_ignores_is_left_out(label: int) -> None:
    targets = WORDS.clone().clamp(min=1)
    targets[:, -2:] = label
    kept = targets != label
    wanted = shared(TEXT.argmax(-1)[kept], targets[kept])

    def hidden(z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z.flatten(0, 1), y.flatten(), ignore_index=label)

    found, said = accuracy_of(TEXT, targets, hidden)
    assert found == pytest.approx(wanted)
    assert f"labels {label} left out" in said
    found, _ = accuracy_of(TEXT.transpose(1, 2), targets, nn.CrossEntropyLoss(ignore_index=label))
    assert found == pytest.approx(wanted)


def lower(z: Tensor, y: Tensor) -> Tensor:
    """A loss that compares an output with the target of another sample."""
    return cross_entropy(z.flip(0).flatten(0, 1), y.flatten())


REFUSED: dict[str, tuple[Tensor, Tensor, Any, str]] = {
    "regression": (MANY, MANY + 1, nn.MSELoss(), "Pass `metric='loss'` .* or a callable"),
    "counts": (MANY, torch.arange(200).view(40, 5), lambda z, y: mse_loss(z, y.float()), "Pass `m"),
    "another place": (TEXT, WORDS, lower, "compares a target with an output at another place"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_nothing_is_refused(case: str) -> None:
    outputs, targets, loss_fn, message = REFUSED[case]
    with pytest.raises(etastar.ModelError, match=message):
        accuracy_of(outputs, targets, loss_fn)


def test_an_axis_that_nothing_tells_is_refused() -> None:
    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.flatten(0, 1), targets.flatten())

    rows = torch.arange(40.0)[:, None]
    with pytest.raises(etastar.ModelError, match="cannot tell which axis"):
        problem_of(exact(TEXT), (rows, WORDS * 0), loss_fn=loss_fn)


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
def test_a_padded_tagger_is_measured_as_with_a_metric_of_ones_own() -> None:
    words = torch.randint(1, 30, (320, 8), generator=torch.Generator().manual_seed(2))
    tags = words % 5
    tags[:, 5:] = -100
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 16), nn.ReLU(), nn.Linear(16, 5))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z.flatten(0, 1), y.flatten())

    def kept(z: Tensor, y: Tensor) -> Tensor:
        return (z.argmax(-1) == y)[y != -100].double().mean()

    options = QUICK | {"loss_fn": loss, "optimizer": torch.optim.Adam, "end_lr": 100.0}
    by_name = etastar.maximal_lr(model, (words, tags), **options)
    by_call = etastar.maximal_lr(model, (words, tags), metric=kept, **options)
    assert [t.metric for t in by_name.history] == [t.metric for t in by_call.history]
    assert "labels -100 left out" in by_name.settings["metric"]
    assert "labels -100 left out" in str(by_name)


RARE = (X[:, 0] > 1.9).long()
SHARE = float((RARE == 0).double().mean())


def right(z: Tensor, y: Tensor) -> Tensor:
    return (z.argmax(1) == y).double().mean()


@pytest.mark.parametrize("metric", ["accuracy", right])
def test_a_threshold_that_one_class_meets_is_refused(metric: Any) -> None:
    assert 0.9 < SHARE < 1
    with pytest.raises(etastar.ModelError, match=f"one answer for all .* {SHARE:.4g}, the thresho"):
        problem_of(nn.Linear(8, 2), (X, RARE), metric=metric)
    problem_of(nn.Linear(8, 2), (X, RARE), metric=metric, threshold=(1 + SHARE) / 2)


def test_rare_labels_of_several_and_of_one_logit_too() -> None:
    for columns in (1, 2):
        tags = torch.stack([RARE] * columns, 1).float()
        with pytest.raises(etastar.ModelError, match="one answer for all"):
            problem_of(nn.Linear(8, columns), (X, tags), loss_fn=nn.BCEWithLogitsLoss())


def test_measure_refuses_it_too() -> None:
    data = etastar.Dataset.from_tensors(X, RARE, X, RARE)
    with pytest.raises(etastar.ConfigError, match=f"commonest is {SHARE:.4g} of the validation"):
        etastar.measure(etastar.MLP(width=8, depth=1), data, threshold=0.9, seeds=1)


def test_labels_that_do_not_start_at_0_are_said() -> None:
    _, notes = problem_of(nn.Linear(8, 3), (X, LABELS + 1))
    assert any("no training label is below 1" in note for note in notes)
    _, notes = problem_of(nn.Linear(8, 1002), (X, LABELS + 1000))
    assert any("count from 1000, subtract 1000" in note for note in notes)
    _, notes = problem_of(nn.Linear(8, 1002), (X, 1 + 10 * LABELS))  # two words of a vocabulary
    assert not notes
    _, notes = problem_of(nn.Linear(8, 5), (X, 2 * LABELS))
    assert any("3 of 5 classes (1, 3, 4) have no training sample" in note for note in notes)
    _, notes = problem_of(nn.Linear(8, 2), (X, LABELS))
    assert not notes
    data = etastar.Dataset.from_tensors(X, LABELS + 1, X, LABELS + 1)
    found = etastar.measure(
        etastar.MLP(width=8, depth=1), data, threshold=0.8, seeds=1, resolution=0.5, epochs=2.0
    )
    assert any("no training label is below 1" in note for note in found.warnings)
    with pytest.raises(etastar.ModelError, match="run from 1 to 2, and the model has 2 classes"):
        problem_of(nn.Linear(8, 2), (X, LABELS), val_data=(X, LABELS + 1))


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
def test_a_threshold_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    options = QUICK | {"threshold": "auto", "progress": True, "end_lr": 1e4}
    found = etastar.maximal_lr(nn.Linear(8, 2), (X, LABELS), **options)
    told = found.settings["threshold_from"]
    assert found.settings["threshold"] == pytest.approx(
        (told["step_0"] + told["best"]) / 2, rel=1e-3
    )
    assert told["best"] > told["step_0"] >= 0.5
    assert f"threshold {found.settings['threshold']:g}, half-way" in capsys.readouterr().err
    down = etastar.maximal_lr(nn.Linear(8, 2), (X, LABELS), metric="loss", **options)
    told = down.settings["threshold_from"]
    assert told["best"] < down.settings["threshold"] < told["step_0"]
    noise = (X, 1 - LABELS)
    with pytest.raises(etastar.ModelError, match="found nothing to reach"):
        etastar.maximal_lr(nn.Linear(8, 2), (X, LABELS), noise, metric="loss", **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": 92.5}, "For 92.5 % write 0.925"),
        ({"threshold": "automatic"}, "'auto' looks for one"),
        ({"loss_fn": nn.CrossEntropyLoss}, r"pass an instance, CrossEntropyLoss\(\)"),
    ],
)
def test_slips_are_seen_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(etastar.ConfigError, match=message):
        problem_of(nn.Linear(8, 2), (X, LABELS), **given)


class Gathering(nn.Module):
    """A metric that gathers what it sees, as those of torchmetrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(2))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        right = (outputs.argmax(1) == targets).sum()
        self.counts += torch.stack([right, torch.tensor(len(targets))])
        return self.counts[0] / self.counts[1]


def test_a_metric_with_a_state_begins_anew_at_every_evaluation() -> None:
    metric, model = Gathering(), nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))
    gathered, plain = (
        etastar.maximal_lr(model, (X, LABELS), metric=m, **QUICK) for m in (metric, "accuracy")
    )
    assert gathered.lr == plain.lr is not None
    assert gathered.settings["metric"] == "Gathering"
    assert not metric.counts.any()


def whole(loss: Any) -> Any:
    """A whole step of a loss of `(model, batch)`, which leaves no gradient behind."""

    def step(model: nn.Module, batch: Any, optimizer: Any) -> Tensor:
        found: Tensor = loss(model, batch)
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        return found

    return step


ASKED: dict[str, tuple[Tensor, Tensor, Any]] = {
    "shifted": (
        TEXT,
        WORDS,
        lambda z, y: cross_entropy(z[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
    ),
    "padded": (
        TEXT,
        WORDS,
        lambda z, y: cross_entropy(z.flatten(0, 1), y.flatten(), ignore_index=0),
    ),
    "logits": (LOGIT.sigmoid(), YES[:, None].float(), bce),
    "weighted": (
        LOGIT.sigmoid(),
        YES[:, None].float(),
        lambda z, y: bce(z, y, pos_weight=torch.tensor(1.5)),
    ),
    "smoothed": (LOGIT, YES[:, None].float(), lambda z, y: bce(z, 0.8 * y + 0.05)),
    "squared": (LOGIT, YES[:, None].float(), mse_loss),
}


@pytest.mark.parametrize("case", ASKED)
def test_the_loss_inside_a_step_is_asked_as_a_loss_function_is(case: str) -> None:
    outputs, targets, loss_fn = ASKED[case]
    rows = torch.arange(len(targets)).float()[:, None]

    def inside(model: nn.Module, batch: Any) -> Tensor:
        found: Tensor = loss_fn(model(batch[0]), batch[1])
        return found

    given: list[dict[str, Any]] = [{"loss_fn": loss_fn}, {"step_fn": inside}]
    names = [
        problem_of(exact(outputs), (rows, targets), threshold=0.99, **how)[0].objective.name
        for how in [*given, {"step_fn": whole(inside)}]
    ]
    expected = {
        "shifted": "each output against the next target",
        "padded": "labels 0 left out",
        "squared": "yes above an output of 0.5",
    }
    assert all(expected.get(case, "yes above an output of 0)") in name for name in names), names


def test_what_a_step_does_not_show_is_refused() -> None:
    model = nn.Sequential(nn.Linear(1, PLACES * VOCABULARY), nn.Unflatten(1, (PLACES, VOCABULARY)))
    rows = torch.arange(len(WORDS)).float()[:, None] / len(WORDS)
    with pytest.raises(etastar.ModelError, match="cannot see which output belongs to which"):
        problem_of(
            model,
            (rows, WORDS),
            step_fn=lambda m, b: cross_entropy(m[1](m[0](b[0])).flatten(0, 1), b[1].flatten()),
        )


def distances(z: Tensor, y: Tensor) -> Tensor:
    """Classes apart, samples of one class together."""
    gap = (z[:, None] - z[None]).square().sum(-1)
    same = (y[:, None] == y[None]).float()
    return (same * gap + (1 - same) * (1 - gap).relu()).mean()


@pytest.mark.parametrize("loss_fn", [distances, lambda z, y: cross_entropy(-z, y)])
def test_outputs_that_are_no_scores_are_refused(loss_fn: Any) -> None:
    with pytest.raises(etastar.ModelError, match=r"no scores of these classes.*`metric='loss'`"):
        problem_of(nn.Linear(8, 4), (X, LABELS), loss_fn=loss_fn)
