"""Data in any form gives the same batches every time; seeds, metrics and steps of any kind."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from module_zoo import DTYPE, QUICK, data, drawn, mlp
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import etastar
from etastar.problem.batches import LoaderBatches
from etastar.problem.given_data import as_batches
from etastar.problem.nested import equal

X, Y = data()
CPU = torch.device("cpu")


class Augmented(Dataset[Any]):
    """Items drawn with all three kinds of random numbers."""

    def __init__(self) -> None:
        self.own = np.random.default_rng(3)

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.gauss(0, 0.1) + 0.1 * torch.randn(()) + 0.1 * self.own.normal()
        return X[index] + noise, Y[index]


class Streamed(IterableDataset[Any]):
    """Items in a fixed order."""

    def __iter__(self) -> Iterator[Any]:
        return zip(X, Y, strict=True)


class Shuffling:
    """A class of one's own, with another order each time it is read."""

    def __iter__(self) -> Iterator[Any]:
        for rows in torch.randperm(len(Y)).split(16):
            yield X[rows], Y[rows]


def batches_of(given: Any) -> Any:
    return as_batches(given, 16, CPU, "train_data")


FORMS: dict[str, Any] = {
    "tensors": lambda: (X, Y),
    "a list of two tensors": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "tensor data set": lambda: TensorDataset(X, Y),
    "augmented data set": Augmented,
    "streamed data set": Streamed,
    "shuffled loader": lambda: DataLoader(TensorDataset(X, Y), 16, shuffle=True),
    "seeded loader": lambda: DataLoader(
        TensorDataset(X, Y), 16, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "ordered loader": lambda: DataLoader(TensorDataset(X, Y), 16),
    "loader with a short last batch": lambda: DataLoader(TensorDataset(X, Y), 20, shuffle=True),
    "list of batches": lambda: [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)],
    "generator": lambda: ((X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)),
    "a class of one's own": Shuffling,
}
ORDERED = {"streamed data set", "ordered loader", "list of batches", "generator"}


@pytest.mark.parametrize("form", FORMS)
def test_streams_are_functions_of_the_seed(form: str) -> None:
    given = batches_of(FORMS[form]())
    length = given.steps_per_epoch
    assert length == (5 if form == "loader with a short last batch" else 6)
    first = list(itertools.islice(given.stream(1), 2 * length + 1))
    torch.rand(3), random.random()
    again = list(itertools.islice(given.stream(1), 2 * length + 1))
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert given.varies(0, 1) == (form not in ORDERED)
    assert sum(len(batch[1]) for batch in given.once()) == 96
    if form not in ORDERED:
        assert not equal(first[0], first[length])
    if "augmented" not in form:
        seen = torch.cat([batch[0] for batch in first[:length]])
        assert torch.equal(seen.sort(0).values, X.sort(0).values)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_measured(form: str) -> None:
    """Forms with the same order give the same brackets."""
    options = QUICK | {"seeds": 2, "eval_batch_size": 192}
    found = etastar.maximal_lr(drawn(mlp), FORMS[form](), data(192, 1), **options)
    assert found.lr is not None
    assert found.engine == ("stack" if batches_of(FORMS[form]()).__class__ is TENSORS else "loop")
    same_order = any("same order" in note for note in found.notes)
    assert same_order == (form in ORDERED)
    if form in ORDERED:
        assert found.seeds[0] == found.seeds[1]


TENSORS = type(batches_of((X, Y)))


class Refilling:
    """One pair of buffers for every batch, in another order each time."""

    def __init__(self, shuffles: bool) -> None:
        self.order = torch.randperm if shuffles else torch.arange
        self.buffers = X[:16].clone(), Y[:16].clone()

    def __iter__(self) -> Iterator[Any]:
        for rows in self.order(len(Y)).split(16):
            for buffer, source in zip(self.buffers, (X, Y), strict=True):
                buffer.copy_(source[rows])
            yield self.buffers


@pytest.mark.parametrize("share", [0.25, 0.0])
@pytest.mark.parametrize("form", ["ordered", "shuffled", "iterator"])
def test_a_buffer_that_is_refilled_for_every_batch(
    form: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etastar.problem.batches.SHARE", share)
    refilled: Any = Refilling(form == "shuffled")
    plain: Any = Shuffling() if form == "shuffled" else FORMS["list of batches"]()
    given = batches_of(iter(refilled) if form == "iterator" else refilled)
    expected = batches_of(plain)
    for batch, other in itertools.islice(zip(given.stream(1), expected.stream(1), strict=True), 13):
        assert equal(batch, other)
    for batch, other in zip(given.once(), expected.once(), strict=True):
        assert equal(batch, other)
    assert given.varies(0, 1) == (form == "shuffled")


def test_what_does_not_fit_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = batches_of(FORMS["seeded loader"]())
    monkeypatch.setattr("etastar.problem.batches.SHARE", 0.0)
    again = batches_of(FORMS["seeded loader"]())
    assert isinstance(again, LoaderBatches)
    for a, b in zip(itertools.islice(kept.stream(2), 13), again.stream(2), strict=False):
        assert equal(a, b)
    assert again.streaming
    options = QUICK | {"seeds": 1, "engine": "loop"}
    streamed = etastar.maximal_lr(drawn(mlp), FORMS["augmented data set"](), **options)
    monkeypatch.undo()
    assert etastar.maximal_lr(drawn(mlp), Augmented(), **options).seeds == streamed.seeds


def test_a_loader_that_cannot_repeat_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etastar.problem.batches.SHARE", 0.0)

    class Forgetful:
        """Other batches every time, from a stream that nobody can seed."""

        passes = 0

        def __iter__(self) -> Iterator[Any]:
            self.passes += 1
            yield X + self.passes, Y

    class ForgetfulBuffer(Forgetful):
        """The same, in one buffer."""

        buffer = X.clone()

        def __iter__(self) -> Iterator[Any]:
            for batch, targets in super().__iter__():
                yield self.buffer.copy_(batch), targets

    for loader in (Forgetful(), ForgetfulBuffer()):
        with pytest.raises(etastar.ModelError, match="other batches each time it is read"):
            etastar.maximal_lr(drawn(mlp), loader, **QUICK)


def test_workers_and_persistent_workers_are_left_to_the_user() -> None:
    loader = DataLoader(
        TensorDataset(X, Y), 48, shuffle=True, num_workers=1, persistent_workers=True
    )
    given = LoaderBatches(loader, "train_data")
    first, again = (list(itertools.islice(given.stream(3), 2)) for _ in range(2))
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert loader._iterator is None


class Keywords(nn.Module):
    """A model of several inputs that returns its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = drawn(mlp)

    def forward(self, inputs: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs) * scale


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = model(batch["inputs"], batch["scale"])
    return nn.functional.cross_entropy(outputs, batch["labels"])


def right(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = model(batch["inputs"], batch["scale"])
    return (outputs.argmax(1) == batch["labels"]).double().mean()


def test_a_step_of_ones_own_equals_the_plain_one() -> None:
    scale = torch.ones((), dtype=DTYPE)
    rows = [slice(i, i + 16) for i in range(0, 96, 16)]
    dicts = [{"inputs": X[r], "labels": Y[r], "scale": scale} for r in rows]
    pairs = [(X[r], Y[r]) for r in rows]
    options = QUICK | {"seeds": 1, "batch_size": None}
    plain = etastar.maximal_lr(drawn(mlp), pairs, **options)
    own = etastar.maximal_lr(Keywords(), dicts, step_fn=step, metric=right, **options)
    assert own.seeds == plain.seeds
    named = [({"inputs": X[r], "scale": scale}, Y[r]) for r in rows]
    assert etastar.maximal_lr(Keywords(), named, **options).seeds == plain.seeds
    several = [((X[r], scale), Y[r]) for r in rows]
    assert etastar.maximal_lr(Keywords(), several, **options).seeds == plain.seeds


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def test_metrics_by_name_by_call_and_upside_down_agree() -> None:
    by_name = etastar.maximal_lr(drawn(mlp), (X, Y), data(192, 1), **QUICK)
    by_call = etastar.maximal_lr(drawn(mlp), (X, Y), data(192, 1), metric=accuracy, **QUICK)
    assert (by_name.engine, by_call.engine) == ("stack", "loop")
    assert by_call.seeds == by_name.seeds
    mistakes = etastar.maximal_lr(
        drawn(mlp),
        (X, Y),
        data(192, 1),
        metric=lambda outputs, targets: 1 - accuracy(outputs, targets) - 1e-9,
        higher_is_better=False,
        **(QUICK | {"threshold": 1 - QUICK["threshold"]}),
    )
    assert mistakes.seeds == by_name.seeds


def test_loss_as_a_metric_is_the_mean_over_samples() -> None:
    options = QUICK | {"threshold": 0.95, "metric": "loss", "seeds": 1}
    found = etastar.maximal_lr(drawn(mlp), (X, Y), **options)
    assert found.lr is not None
    trained = [t for t in found.history if t.outcome == "trained"]
    assert trained
    assert all(t.metric is not None and t.metric <= 0.95 for t in trained)
    batched = DataLoader(TensorDataset(X, Y), 7)
    assert etastar.maximal_lr(drawn(mlp), (X, Y), batched, **options).seeds == found.seeds


def test_a_factory_varies_the_initialisation_and_both_spreads_are_told() -> None:
    def build(seed: int) -> nn.Module:
        return mlp().double()  # the streams are seeded: the factory need not use the seed

    found = etastar.maximal_lr(build, (X, Y), data(192, 1), **(QUICK | {"seeds": 3}))
    assert found.varies == "initialisation and order of the data"
    pairs = {(t.initialisation, t.order) for t in found.history}
    assert pairs == {(0, 0), (1, 1), (2, 2), (0, 1), (0, 2)}
    assert found.spread.total is not None
    assert found.spread.order is not None
    assert found.spread.initialisation is not None
    expected = max(0.0, found.spread.total**2 - found.spread.order**2)
    assert found.spread.initialisation**2 == pytest.approx(expected)
    given = etastar.maximal_lr(drawn(mlp), (X, Y), data(192, 1), **QUICK)
    assert given.varies == "order of the data"
    assert given.spread.initialisation is None
    assert {t.initialisation for t in given.history} == {None}


def test_a_met_threshold_at_the_checkpoint_must_hold() -> None:
    model = drawn(mlp)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    for engine in ("stack", "loop"):
        found = etastar.maximal_lr(
            drawn(mlp), (X, Y), from_checkpoint=model.state_dict(), engine=engine, **QUICK
        )
        assert found.settings["criterion"] == "hold"
        assert any("already meets the threshold" in note for note in found.notes)
        assert {t.step for t in found.history if t.outcome == "trained"} == {36}


def test_the_result_is_json_and_a_picture() -> None:
    digits = etastar.load("digits")
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    found = etastar.maximal_lr(
        model, digits, seeds=2, epochs=3, resolution=0.2, threshold=0.8, progress=False
    )
    assert found.engine == "stack"
    assert found.settings["evaluated_on"] == "validation data"
    read = json.loads(found.to_json())
    assert read == found.to_dict()
    assert read["seeds"][0]["lo"] == found.seeds[0].lo
    assert len(read["history"]) == found.cost["trials"]
    axes = found.plot()
    assert axes.get_xscale() == "log"
    assert found.plot(ax=axes) is axes
    assert f"{found.lr:.4g}" in str(found)
    lo, hi = found.seeds[0].lo, found.seeds[0].hi
    assert lo is not None
    assert hi is not None
    assert hi / lo <= 1.2001
