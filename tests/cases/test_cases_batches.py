"""Batches and outputs as they come: told apart, read no further than needed, never changed."""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from asking import QUICK, problem_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import etastar
from etastar.engines.loop import run_trial
from etastar.problem.nested import copied, equal, samples_in
from etastar.problem.problem import Problem
from etastar.problem.trial import Trial

X = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] > 0).long()
VAL = X[:64], Y[:64]


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(torch.cat([a, b], 1))


@dataclass
class Batch:
    """A batch of a library."""

    a: Tensor
    b: Tensor
    labels: Tensor


Named = namedtuple("Named", "a b y")
Pair = namedtuple("Pair", "a b")


def pieces(make: Any) -> list[Any]:
    return [make(X[i : i + 32], X[i : i + 32] + 1, Y[i : i + 32]) for i in range(0, 320, 32)]


def trained(problem: Problem) -> Any:
    return run_trial(problem, Trial.of(0, 0.05), None)


FORMS: dict[str, Any] = {
    "pairs": lambda: pieces(lambda a, b, y: ((a, b), y)),
    "mappings and targets": lambda: pieces(lambda a, b, y: ({"b": b, "a": a}, y)),
    "mappings": lambda: pieces(lambda a, b, y: {"a": a, "b": b, "labels": y}),
    "dataclasses": lambda: pieces(Batch),
    "named tuples": lambda: pieces(Named),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_any_form_train_alike(form: str) -> None:
    outcomes = [
        trained(problem_of(Two(), FORMS[name](), batch_size=None)[0]) for name in ("pairs", form)
    ]
    assert outcomes[0] == outcomes[1]


def test_tensors_in_any_nest_are_cut_into_batches() -> None:
    nests = [
        ((X, X + 1), Y),
        ({"a": X, "b": X + 1}, Y),
        {"a": X, "b": X + 1, "y": Y},
        ((X.numpy(), (X + 1).numpy()), Y.tolist()),
    ]
    outcomes = [trained(problem_of(Two(), data)[0]) for data in nests]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    frames = pytest.importorskip("pandas")
    frame = frames.DataFrame(X.numpy()), frames.Series(Y.numpy())
    assert trained(problem_of(nn.Linear(8, 2), frame)[0]).kind in ("trained", "short")


LOADER = DataLoader(TensorDataset(X, Y), 32)
IN_ONE: dict[str, Any] = {
    "two pairs": ((X[:200], Y[:200]), (X[200:], Y[200:])),
    "two pairs of one length": ((X[:160], Y[:160]), (X[160:], Y[160:])),
    "loaders": (LOADER, LOADER),
    "data sets": [TensorDataset(X, Y), TensorDataset(*VAL)],
    "a dictionary": {"train": (X, Y), "val": VAL},
    "four arrays": (X, Y, *VAL),
}


@pytest.mark.parametrize("form", IN_ONE)
def test_training_and_validation_in_one_are_refused(form: str) -> None:
    with pytest.raises(
        etastar.ModelError, match=r"validation data in one.*pass `train_data=.*val_d"
    ):
        problem_of(nn.Linear(8, 2), IN_ONE[form])


def test_a_list_of_two_batches_is_said() -> None:
    _, notes = problem_of(nn.Linear(8, 2), [(X, Y), VAL], batch_size=None)
    assert any("taken as two batches" in note for note in notes)


class Recurrent(nn.Module):
    """A model of packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cells, self.head = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, packed: PackedSequence) -> Tensor:
        return self.head(self.cells(packed)[1][0])


class OneArgument(nn.Module):
    """A model that takes a named tuple, or a dictionary, as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Two()

    def forward(self, held: Any) -> Tensor:
        if isinstance(held, dict):
            return self.layer(held["a"], held["b"])
        return self.layer(held.a, held.b)


def test_named_tuples_and_packed_sequences_are_one_argument() -> None:
    packed = pack_sequence([torch.randn(n, 3) for n in (5, 4, 2)])
    batch = packed, torch.tensor([0, 1, 0])
    assert samples_in(packed) == samples_in(batch) == 3
    assert equal(copied(packed), packed)
    problem, _ = problem_of(Recurrent(), [batch] * 3, batch_size=None, threshold=1.0)
    assert trained(problem).step > 0
    for make in (lambda a, b, y: (Pair(a, b), y), lambda a, b, y: ({"a": a, "b": b}, y)):
        problem, _ = problem_of(OneArgument(), pieces(make), batch_size=None)
        assert trained(problem).step > 0


@dataclass
class Output:
    """Outputs of a library."""

    logits: Tensor
    extra: Any = None


class Wrapped(nn.Module):
    """A model that returns an object."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.form = nn.Linear(8, 2), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.layer(x))


@pytest.mark.parametrize("form", [Output, lambda z: {"logits": z}, lambda z: Output(z, (z, None))])
def test_outputs_are_given_to_metrics_as_the_model_gives_them(form: Any) -> None:
    kind = type(form(X))

    def right(outputs: Any, targets: Tensor) -> Tensor:
        assert type(outputs) is kind
        logits = outputs["logits"] if kind is dict else outputs.logits
        assert logits.shape == (64, 2)
        return (logits.argmax(1) == targets).double().mean()

    plain = trained(problem_of(Wrapped(lambda z: z), (X, Y), val_data=VAL)[0])
    for metric in ("accuracy", right):
        problem, _ = problem_of(Wrapped(form), (X, Y), val_data=VAL, metric=metric)
        found = trained(problem)
        assert (found.kind, found.step, found.metric) == (plain.kind, plain.step, plain.metric)


def test_what_cannot_be_put_together_is_measured_batch_by_batch() -> None:
    lengths = (4, 6, 5)
    batches = [(torch.randn(2, n, 8), torch.zeros(2, n).long()) for n in lengths]
    seen = []

    def metric(outputs: Tensor, targets: Tensor) -> float:
        seen.append(outputs.shape[1])
        return float(outputs.shape[1])

    problem, _ = problem_of(
        nn.Linear(8, 2),
        batches,
        batch_size=None,
        metric=metric,
        threshold=9.0,
        loss_fn=lambda z, y: cross_entropy(z.flatten(0, 1), y.flatten()),
    )
    assert problem.evaluate(problem.origin.copy(0)) == 5.0
    assert seen[-3:] == list(lengths)


class Endless(IterableDataset[Any]):
    """Samples without end."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.read += 1
            row = int(torch.randint(0, 320, ()))
            yield X[row], Y[row]


def endless() -> Iterator[Any]:
    while True:
        rows = torch.randint(0, 320, (16,))
        yield X[rows], Y[rows]


def test_endless_streams_are_read_up_to_the_budget() -> None:
    data = Endless()
    options = {"epochs": None, "batch_size": None, "max_steps": 20}
    problem, _ = problem_of(nn.Linear(8, 2), DataLoader(data, 16), val_data=VAL, **options)
    assert (problem.max_steps, problem.eval_every) == (20, 2)
    outcome = run_trial(problem, Trial.of(0, 0.01))
    assert run_trial(problem, Trial.of(0, 0.01)) == outcome
    assert data.read == 20 * 16
    count = itertools.count()
    counted = (batch for batch in endless() if next(count) >= 0)
    problem, _ = problem_of(nn.Linear(8, 2), counted, val_data=VAL, **options)
    run_trial(problem, Trial.of(0, 0.01))
    assert next(count) == 20
    with pytest.raises(etastar.ConfigError, match="pass `val_data`"):
        problem_of(nn.Linear(8, 2), DataLoader(Endless(), 16), **options)
    with pytest.raises(etastar.ConfigError, match="in `epochs` or in `max_steps`, not in both"):
        problem_of(nn.Linear(8, 2), (X, Y), max_steps=3)


def test_what_may_be_endless_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etastar.problem.batches.MOST_BATCHES", 50)
    for data in (endless(), DataLoader(Endless(), 16)):
        with pytest.raises(etastar.ModelError, match=r"train_data has no length .*pass max_steps"):
            problem_of(nn.Linear(8, 2), data, val_data=VAL, batch_size=None)
    with pytest.raises(etastar.ModelError, match=r"val_data has no length .*islice"):
        problem_of(nn.Linear(8, 2), (X, Y), val_data=endless())


class Slow(Dataset[Any]):
    """A data set that counts what is read."""

    read = 0

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return X[index % 320], Y[index % 320]


def test_no_more_is_read_than_the_budget() -> None:
    data = Slow()
    problem, _ = problem_of(
        nn.Linear(8, 2),
        DataLoader(data, 100, shuffle=True),
        val_data=VAL,
        batch_size=None,
        epochs=0.005,
    )
    run_trial(problem, Trial.of(0, 0.01))
    run_trial(problem, Trial.of(0, 0.02))
    assert problem.max_steps == 5
    assert data.read == 500


def test_a_data_set_is_evaluated_whole() -> None:
    short = TensorDataset(X[:70], Y[:70])

    class Plain(Dataset[Any]):
        def __len__(self) -> int:
            return 70

        def __getitem__(self, index: int) -> Any:
            return short[index]

    for problem in (
        problem_of(nn.Linear(8, 2), Plain())[0],
        problem_of(nn.Linear(8, 2), Plain(), val_data=Plain())[0],
    ):
        assert problem.train.steps_per_epoch == 2
        sizes = [len(batch[1]) for batch in itertools.islice(problem.train.stream(0), 5)]
        assert sizes == [32] * 5
        assert sorted(len(batch[1]) for batch in problem.val.once()) == [6, 32, 32]


def test_a_last_batch_of_one_sample_is_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    loader = DataLoader(TensorDataset(X[:65], Y[:65]), 32, shuffle=True)
    with pytest.raises(etastar.ModelError, match=r"batch 2 .* has 1 sample, .*drop_last=True"):
        problem_of(model, loader, batch_size=None)
    assert problem_of(nn.Linear(8, 2), loader, batch_size=None)[0].max_steps == 9
    assert problem_of(model, loader, batch_size=None, val_data=loader, epochs=0.6)[0].max_steps == 2


class InPlace(nn.Module):
    """A model that works on its inputs in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mul_(2).add_(1))


def spoiling(outputs: Tensor, targets: Tensor) -> Tensor:
    loss = cross_entropy(outputs, targets.clone())
    targets.zero_()
    return loss


@pytest.mark.filterwarnings("ignore::etastar.NotBracketedWarning")
@pytest.mark.parametrize("form", ["tensors", "one batch", "arrays", "list", "buffer"])
def test_the_data_of_the_caller_never_change(form: str) -> None:
    x, y = X.clone(), Y.clone()

    def refilling() -> Iterator[Any]:
        for rows in torch.arange(320).split(32):
            yield x[rows], y[rows]

    size = 320 if form == "one batch" else 32
    given: dict[str, Any] = {
        "arrays": (x.numpy(), y.numpy()),
        "list": [(x[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32)],
        "buffer": refilling(),
    }
    data = given.get(form, (x, y))
    options = QUICK | {"batch_size": None if form in ("list", "buffer") else size}
    etastar.maximal_lr(InPlace(), data, loss_fn=spoiling, **(options | {"epochs": 1}))
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_numpy_numbers_are_numbers() -> None:
    problem, _ = problem_of(
        nn.Linear(8, 2), (X, Y), batch_size=np.int64(16), threshold=np.float32(0.9)
    )
    assert problem.batch_size == 16


def test_a_batch_size_that_loaders_have_too_is_no_mistake() -> None:
    loader = DataLoader(TensorDataset(X, Y), 16)
    problem, _ = problem_of(nn.Linear(8, 2), loader, loader, batch_size=16)
    assert problem.batch_size == 16
    with pytest.raises(etastar.ConfigError, match="`batch_size=32` has no effect"):
        problem_of(nn.Linear(8, 2), loader, loader, batch_size=32)
    problem, notes = problem_of(nn.Linear(8, 2), loader, (X, Y), batch_size=32)
    assert (problem.batch_size, problem.val.batch) == (16, 32)
    assert (
        "`batch_size` = 32 is that of the evaluation: train_data comes in batches already." in notes
    )
    notes = problem_of(nn.Linear(8, 2), loader, (X, Y), batch_size=32, eval_batch_size=8)[1]
    assert "`batch_size` = 32 has no effect: train_data comes in batches already." in notes
    with pytest.raises(etastar.ConfigError, match="`eval_batch_size=8` has no effect: val_data"):
        problem_of(nn.Linear(8, 2), (X, Y), loader, eval_batch_size=8)
    problem, _ = problem_of(nn.Linear(8, 2), (X, Y), loader, batch_size=32)
    assert problem.batch_size == 32


class Bags(nn.Module):
    """A model of a list of tensors, one per sample, and a scale that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, bags: list[Any], scale: Tensor | None = None) -> Tensor:
        assert isinstance(bags, list)
        assert scale is None
        rows = [bag.mean(0) if isinstance(bag, Tensor) else X[int(bag)] for bag in bags]
        found: Tensor = self.layer(torch.stack(rows))
        return found


@pytest.mark.parametrize("size", [2, 32])
@pytest.mark.parametrize("words", [False, True])
def test_a_list_is_one_argument_of_a_model_that_takes_one(words: bool, size: int) -> None:
    bags = [str(i) if words else X[i].expand(3, 8) for i in range(65)]
    batches = [(bags[i : i + size], Y[i : min(65, i + size)]) for i in range(0, 65, size)]
    problem, _ = problem_of(Bags(), batches, batches, batch_size=None, threshold=0.99)
    assert trained(problem)
    lists = [[[X[:5], X[:5] + 1], Y[:5]]]  # as a loader makes them of ((a, b), y)
    problem_of(Two(), lists, batch_size=None, threshold=0.99)


@pytest.mark.parametrize("make", [lambda i: (X[i], int(Y[i])), lambda i: (X[i], Y[i])])
def test_a_list_of_samples_is_cut_into_batches(make: Any) -> None:
    problem, _ = problem_of(nn.Linear(8, 2), [make(i) for i in range(320)], batch_size=40)
    assert (problem.batch_size, problem.train.steps_per_epoch) == (40, 8)


def test_sums_over_batches_with_names_are_said() -> None:
    named = [{"input": X[i : i + 32], "labels": Y[i : i + 32]} for i in range(0, 320, 32)]
    loss_fn = nn.CrossEntropyLoss(reduction="sum")
    notes = problem_of(nn.Linear(8, 2), named, loss_fn=loss_fn, batch_size=None)[1]
    assert any("a sum over the samples" in note for note in notes)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_models_of_torchscript_train_as_what_they_were_made_of() -> None:
    plain = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    scripted = torch.jit.script(plain)
    ends = [
        trained(problem_of(model, (X, Y), VAL, threshold=0.99)[0])
        for model in (plain, scripted, lambda seed: torch.jit.trace(plain, X[:2]))
    ]
    assert ends[0] == ends[1] == ends[2]
    assert all(a.equal(b) for a, b in zip(plain.parameters(), scripted.parameters(), strict=True))
