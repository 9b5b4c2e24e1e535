"""Every bad input: a message that names the remedy, before any search, the user's model intact."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from module_zoo import QUICK, data, drawn, mlp
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import etastar

X, Y = data()
BAD = X.clone()
BAD[0, 0] = float("nan")


class Ignoring(nn.Module):
    """A model whose output has nothing to do with its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * 1.0


class Detached(Ignoring):
    """A model that cuts its own graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).detach().requires_grad_()


class Uncopyable(Ignoring):
    """A model that holds what deepcopy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Lock()


class Empty(IterableDataset[Any]):
    """No samples."""

    def __iter__(self) -> Any:
        return iter(())


class Torn(Dataset[Any]):
    """A data set whose sample 40 cannot be read."""

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == 40:
            raise KeyError("no such image")
        return X[index], Y[index]


class Uneven(Torn):
    """A data set whose samples cannot be put together."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[index, : 9 + index % 2], Y[index]


class Endless(Dataset[Any]):
    """A data set that does not know its length."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[index % 96], Y[index % 96]


def breaking_off() -> Iterator[Any]:
    yield X, Y
    raise OSError("connection lost")


def failing(seed: int) -> nn.Module:
    raise LookupError("no pretrained weights")


def only_weights(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=lr)


def fixed_group(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    return torch.optim.SGD([{"params": rest}, {"params": [first], "lr": 0.01}], lr=lr)


def foreign(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=lr)


def frozen() -> nn.Module:
    return drawn(mlp).requires_grad_(False)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "nan in the data": ({"train_data": (BAD, Y), "batch_size": 96}, "is nan at initialisation"),
    "empty loader": ({"train_data": DataLoader(TensorDataset(X[:0], Y[:0]))}, "train_data is em"),
    "empty list": ({"train_data": []}, "train_data is empty"),
    "empty iterator": ({"train_data": iter(())}, "train_data is empty"),
    "empty tensors": ({"train_data": (X[:0], Y[:0])}, "same number of samples, at least one"),
    "empty data set": ({"train_data": TensorDataset(X[:0], Y[:0])}, "at least one"),
    "empty stream": ({"train_data": Empty()}, "train_data is empty"),
    "empty validation": ({"val_data": []}, "val_data is empty"),
    "unequal tensors": ({"train_data": (X, Y[:50])}, r"got shapes \[\(96, 16\), \(50,\)\]"),
    "wrong width": ({"train_data": (X[:, :9], Y)}, r"float64\[16, 9\].*expected \(inputs, targ"),
    "wrong type": ({"train_data": (X.float(), Y)}, "does not go through model and loss"),
    "wrong validation": ({"val_data": (X[:, :9], Y)}, "cannot be evaluated on the validation"),
    "triples": ({"train_data": [(X, X, Y)]}, "must be a pair .* pass `step_fn=lambda"),
    "no pairs": ({"train_data": X}, r"must be a pair .*got float64\[16, 16\]"),
    "no data at all": ({"train_data": 7}, "must be tensors, a Dataset, a DataLoader or an"),
    "regression": ({"train_data": (X, X[:, :3]), "val_data": (X, X[:, 0])}, "Pass `metric='loss'`"),
    "model ignores": ({"model": Ignoring().double()}, "does not depend on the model's trainable"),
    "model detaches": ({"model": Detached().double()}, r"none of them has a gradient. Look for d"),
    "frozen": ({"model": frozen()}, r"no trainable parameter \(6 parameters, all frozen\)"),
    "lazy": ({"model": nn.LazyLinear(3)}, "lazy parameters .*Run one batch"),
    "uncopyable": ({"model": Uncopyable()}, "cannot be copied .*Pass a factory"),
    "no model": ({"model": 3}, "must be a torch.nn.Module or a factory"),
    "factory of nothing": ({"model": lambda seed: None}, "factory must return a torch.nn.Module"),
    "factory of two arguments": (
        {"model": lambda seed, width: drawn(mlp)},
        "the factory that was given as the model, called with the seed 0, raised TypeError: "
        r".*missing 1 req.* Expected a torch.nn.Module, or a factory seed -> torch.nn.Module",
    ),
    "factory fails": ({"model": failing}, r"failing\(0\), and raised LookupError: no pretrained"),
    "class of a layer": (
        {"model": nn.Linear},
        r"Linear\(0\), and raised TypeError: .*Linear is a class: pass an instance of it",
    ),
    "data set fails": (
        {"train_data": Torn()},
        r"train_data: reading batch \d of epoch 0 from Torn raised KeyError: 'no such image'.*"
        r"Expected a Dataset whose __getitem__ gives every sample from 0 to len - 1",
    ),
    "data set of a loader fails": (
        {"train_data": DataLoader(Torn(), 16)},
        "train_data: reading batch 2 of epoch 0 from Torn raised KeyError",
    ),
    "validation data fail": ({"val_data": DataLoader(Torn(), 16)}, "val_data: reading batch 2"),
    "iterator fails": (
        {"train_data": breaking_off()},
        "train_data: reading batch 1 from generator raised OSError: connection lost",
    ),
    "uneven samples": ({"train_data": Uneven()}, "from Uneven raised RuntimeError: stack expects"),
    "endless data set": ({"train_data": Endless()}, "Endless has no length: .*IterableDataset"),
    "dropped parameters": ({"optimizer": only_weights}, r"leaves out 3 of 6 .*: 0.bias, 2.bias"),
    "group without lr": ({"optimizer": fixed_group}, "parameter group 1 does not follow lr"),
    "foreign parameters": ({"optimizer": foreign}, "uses 1 parameters that are not those of"),
    "no optimizer": ({"optimizer": lambda model, lr: None}, "must return a torch.optim.Optimizer"),
    "wrong arguments": ({"optimizer": functools.partial(torch.optim.SGD, mu=1)}, "cannot be built"),
    "loss per sample": (
        {"loss_fn": functools.partial(nn.functional.cross_entropy, reduction="none")},
        r"one number per batch.*got float64\[16\]",
    ),
    "metric is nan": (
        {"metric": lambda outputs, targets: float("nan")},
        "is NaN at initialisation",
    ),
    "metric is a tensor": ({"metric": lambda outputs, targets: outputs}, "must return one number"),
    "metric fails": ({"metric": lambda outputs: 1.0}, r"A callable is called \(outputs, targets\)"),
    "met at once": ({"threshold": 0.01}, "met before the first step.* Raise threshold"),
    "met at once, loss": ({"metric": "loss", "threshold": 50.0}, "Lower threshold"),
    "unknown metric": ({"metric": "acuracy"}, "did you mean 'accuracy'"),
    "unknown engine": ({"engine": "stak"}, "did you mean 'stack'"),
    "impossible accuracy": ({"threshold": 92.5}, "at most 1, got 92.5"),
    "threshold is no number": ({"threshold": True}, "threshold must be a finite number, got True"),
    "range": ({"start_lr": 1.0, "end_lr": 0.1}, "`start_lr` must be below `end_lr`"),
    "negative": ({"resolution": -0.1}, "resolution must be a positive number"),
    "no epochs": ({"epochs": 0}, "epochs must be a positive number"),
    "fraction of a batch": ({"batch_size": 0.5}, "batch_size must be a whole number"),
    "no seeds": ({"seeds": 0}, "seeds must be at least 1, got 0"),
    "same seeds": ({"seeds": [1, 1]}, "distinct whole numbers"),
    "no numbers there": ({"device": "meta"}, "it holds shapes, not numbers. This machine has cpu"),
    "no device": (
        {"device": "cuda:99"},
        "cannot be used: .* This machine has cpu.*: use `device='cpu'`",
    ),
    "checkpoint of another": ({"from_checkpoint": {"w": X}}, "from_checkpoint does not fit"),
    "checkpoint is a path": ({"from_checkpoint": "model.pt"}, "Load a file with torch.load"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_clear_message_and_nothing_changed(case: str) -> None:
    given, message = CASES[case]
    model = given.get("model", drawn(mlp))
    arguments = {"train_data": (X, Y), "val_data": data(48, 1)} | QUICK | given
    arguments["model"] = model
    before = state(model)
    torch_state = torch.get_rng_state()
    with pytest.raises(etastar.EtaStarError, match=f"(?s){message}"):
        etastar.maximal_lr(**arguments)
    assert torch.equal(torch_state, torch.get_rng_state())
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_went_wrong_in_the_users_code_is_kept_as_the_cause() -> None:
    for given, cause in (({"model": failing}, LookupError), ({"train_data": Torn()}, KeyError)):
        arguments: dict[str, Any] = {"model": drawn(mlp), "train_data": (X, Y)} | QUICK | given
        with pytest.raises(etastar.ModelError) as caught:
            etastar.maximal_lr(**arguments)
        assert type(caught.value.__cause__) is cause


def state(model: Any) -> dict[str, torch.Tensor]:
    if not isinstance(model, nn.Module) or isinstance(model, nn.LazyLinear):
        return {}
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_threshold_never_met_is_no_exception() -> None:
    with pytest.warns(
        etastar.NotBracketedWarning, match=r"2 of 2 seeds \(0, 1\) trained at no rate .* best run"
    ):
        found = etastar.maximal_lr(
            drawn(mlp), (X, Y), **(QUICK | {"threshold": 1.0, "epochs": 1, "seeds": 2})
        )
    assert found.lr is None
    assert found.bracket == (None, None)
    assert found.status == "none-trained"
    assert found.group_lrs is None
    assert found.safe_lr is None
    assert "η* = – (none-trained)" in str(found)
    assert found.plot() is not None


def test_a_range_that_ends_too_low_is_no_exception() -> None:
    with pytest.warns(etastar.NotBracketedWarning, match="Raise `end_lr`"):
        found = etastar.maximal_lr(
            drawn(mlp), (X, Y), **(QUICK | {"end_lr": 0.3, "threshold": 0.5})
        )
    assert (found.lr, found.status, found.bracket) == (None, "all-trained", (0.3, None))


@pytest.mark.parametrize("fails", [True, False])
def test_an_error_of_the_model_in_training_is_divergence_only_if_it_diverged(fails: bool) -> None:
    """A model may refuse its own NaN; an error at finite weights is the user's to see."""

    class Strict(nn.Module):
        """Raises on outputs beyond a limit."""

        def __init__(self, limit: float) -> None:
            super().__init__()
            self.inner, self.limit = drawn(mlp), limit

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.inner(x)
            if not float(z.detach().abs().max()) < self.limit:
                raise ValueError("outputs out of range")
            return z

    run: Callable[[], etastar.Result] = functools.partial(
        etastar.maximal_lr,
        Strict(30.0 if fails else float("inf")),
        (X, Y),
        loss_fn=lambda z, y: nn.functional.cross_entropy(z, y) + 0.01 * z.pow(4).mean(),
        **(QUICK | {"threshold": 0.5, "seeds": 1}),
    )
    if fails:
        with pytest.raises(ValueError, match="out of range"):
            run()
    else:
        assert "diverged" in {trial.outcome for trial in run().history}
