"""A trial of `trainer_maximal_lr` is what the Trainer's own train does, and nothing changes."""

from __future__ import annotations

import copy
import functools
import os
import signal
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_zoo import bert, right, sentences, trainer
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback

from etastar import ConfigError, Result
from etastar.carried import AppliedResult
from etastar.huggingface import Training, _budget, _set, trainer_maximal_lr
from etastar.problem.batches import Grouped

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
QUICK: dict[str, Any] = {"confirm": 4, "trials": 40, "precision": 0.5, "progress": False}
QUICK |= {"threshold": 0.9, "start_lr": 1e-3, "end_lr": 1.0}
PLAIN = {"lr_scheduler_type": "constant", "learning_rate": 0.02}


class Weighted(Trainer):
    """Whose loss depends on its own count of steps."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        labels = inputs["labels"]
        logits = model(input_ids=inputs["input_ids"]).logits
        weight = torch.tensor([1.0, 2.0, 3.0]) * (1 + self.state.global_step)
        return cross_entropy(logits, labels, weight=weight, reduction="sum") / 10

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Sequential(Trainer):
    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Sequential, {}),
        (Sequential, {"gradient_accumulation_steps": 5, "weight_decay": 0.3}),
        (Sequential, {"max_grad_norm": 0.01, "label_smoothing_factor": 0.2}),
        (Sequential, {"optim": "sgd", "gradient_accumulation_steps": 3, "max_grad_norm": 0.0}),
        (Sequential, {"optim": "adafactor"}),
        (Weighted, {"gradient_accumulation_steps": 2}),
    ],
    ids=str,
)
def test_a_run_has_the_weights_of_a_training(
    kind: type[Trainer], options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = trainer(tmp_path, kind, **(PLAIN | options))
    model = copy.deepcopy(theirs.model)
    training = Training(theirs)
    optimizer, step = training.optimizer(model, 0.02), training.training_step
    size = options.get("gradient_accumulation_steps", 1)
    loader = Grouped(theirs.get_train_dataloader(), size)
    for _ in range(3):
        for batch in loader:
            step(model, batch, optimizer)
    theirs.train()
    for own, its in zip(model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(own, its)


def test_what_is_read_changes_in_nothing_and_the_rate_is_applied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = trainer(
        tmp_path, compute_metrics=right, gradient_accumulation_steps=2, label_smoothing_factor=0.1
    )
    weights, attributes = copy.deepcopy(given.model.state_dict()), set(vars(given))
    arguments, state = given.args.to_dict(), copy.deepcopy(given.state)
    stream = torch.random.get_rng_state()
    result = trainer_maximal_lr(given, **QUICK)
    assert torch.equal(stream, torch.random.get_rng_state())
    assert isinstance(result, Result)
    assert given.args.to_dict() == arguments
    assert given.state == state
    assert set(vars(given)) == attributes
    assert given.optimizer is None
    assert given.accelerator._dataloaders == given.accelerator._models == []
    assert all(torch.equal(t, weights[name]) for name, t in given.model.state_dict().items())
    assert result.settings["batch_size"] == 16
    assert result.settings["max_steps"] == 18
    assert result.settings["metric"] == "accuracy"
    assert result.settings["step"]["label_smoothing_factor"] == 0.1
    assert any("schedule of the Trainer (linear) was left out" in note for note in result.notes)
    assert result.apply(given) == given.args.learning_rate == result.recommended_lr
    given.train()
    assert given.evaluate()["eval_accuracy"] >= 0.9


class Looking(TrainerCallback):
    pass


def test_model_init_and_the_accuracy_of_logits(tmp_path: Path) -> None:
    given = trainer(tmp_path, model_init=lambda: bert(), callbacks=[Looking()], **PLAIN)
    result = trainer_maximal_lr(given, **QUICK)
    assert result.varies == "initialisation and order of the data"
    assert result.settings["metric"] == "accuracy"
    assert "callbacks of the Trainer were not called: Looking." in result.notes
    assert not any("schedule" in note for note in result.notes)


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
@pytest.mark.parametrize("size", [2, 5])
def test_accuracy_under_accumulation(size: int, tmp_path: Path) -> None:
    given = trainer(tmp_path, gradient_accumulation_steps=size)
    few = {"threshold": 0.9, "trials": 2, "confirm": 0, "progress": False}
    assert trainer_maximal_lr(given, **few).settings["metric"] == "accuracy"


def test_losses_and_training_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quick = QUICK | {"threshold": 0.4, "trials": 12}
    given = trainer(tmp_path, eval_dataset=None)
    result = trainer_maximal_lr(given, metric="loss", **quick)
    assert result.settings["higher_is_better"] is False
    assert result.settings["evaluated_on"] == "training data"
    best = next(run for run in result.history if run.outcome == "trained")
    assert best.metric <= 0.4


@pytest.mark.parametrize("initialised", [False, True])
def test_a_warm_up_is_applied_with_its_rate(initialised: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = {"model_init": lambda: bert()} if initialised else {}
    given = trainer(tmp_path, compute_metrics=right, eval_strategy="epoch", **model)
    asked = {"target_lr": 0.03, "ladder": (0, 4), "seeds": 1, "resolution": 0.5, "start_lr": 1e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the rate that is not looked for any longer
        quick = QUICK | {"trials": 4, "confirm": 0}
        result = trainer_maximal_lr(given, warmup=asked, **quick)
    found = result.warmup
    assert found is not None
    assert result.to_dict()["warmup"] == found.to_dict()
    assert found.verified, str(found)
    assert result.apply(given) == given.args.learning_rate == 0.03
    rates, accuracies = [], []

    class Watch(TrainerCallback):
        def on_step_begin(self, *args: Any, **objects: Any) -> None:
            rates.append(objects["optimizer"].param_groups[0]["lr"])

        def on_evaluate(self, *args: Any, metrics: Any, **objects: Any) -> None:
            accuracies.append(metrics["eval_accuracy"])

    given.add_callback(Watch())
    given.train()
    assert len(rates) == 36
    assert rates == pytest.approx([found.lr_at(step) for step in range(36)])
    assert max(accuracies) >= 0.9


def test_an_optimizer_that_was_given_is_that_of_the_copies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = bert()
    groups = [
        {"params": model.bert.parameters()},
        {"params": model.classifier.parameters(), "lr": 0.3},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    given = trainer(tmp_path, model=model, optimizers=(optimizer, None), compute_metrics=right)
    few = {"start_lr": 1e-3, "end_lr": 10.0, "trials": 12, "confirm": 2}
    result = trainer_maximal_lr(given, **(QUICK | few))
    assert result.ratios == pytest.approx((1, 3))
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not optimizer.state
    rate = result.apply(given)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([rate, 3 * rate])


def scheduled(kind: str, optimizer: Any) -> Any:
    known = torch.optim.lr_scheduler
    first = known.LinearLR(optimizer, 0.5, total_iters=2) if kind == "SequentialLR" else None
    made: Any = {
        "OneCycleLR": lambda: known.OneCycleLR(optimizer, 0.1, total_steps=37),
        "CyclicLR": lambda: known.CyclicLR(optimizer, 0.01, 0.1, step_size_up=5),
        "SequentialLR": lambda: known.SequentialLR(
            optimizer, [first, known.ConstantLR(optimizer, 1.0)], milestones=[3]
        ),
        "alone": lambda: known.LambdaLR(optimizer, lambda step: 1.0),
    }[kind]()
    return made


@pytest.mark.parametrize("kind", ["OneCycleLR", "CyclicLR", "SequentialLR", "alone"])
def test_a_scheduler_that_was_given_is_left_out_and_scaled(kind: str, tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.7, weight_decay=0.3)
    schedule = scheduled(kind, optimizer)
    parts = None if kind == "alone" else optimizer, schedule
    given = trainer(tmp_path, model=model, optimizers=parts, max_grad_norm=0.0)
    if kind != "alone":
        (group,) = Training(given).optimizer(copy.deepcopy(model), 0.3).param_groups
        options = {k: v for k, v in group.items() if k != "params"}
        assert options == optimizer.defaults | {"lr": pytest.approx(0.3)}
    _set(given, 1.8, None)
    rates = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *args: Any, **objects: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    given.add_callback(Watch())
    given.train()
    assert max(rates) == pytest.approx(1.8, rel=0.02)  # no step of a cycle need be its peak


class Evaluating(Trainer):
    """Which reports a metric of its own."""

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        found: dict[str, float] = super().evaluate(*args, **options)
        return found | {"eval_mine_error": 1 - found["eval_accuracy"]}


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_an_evaluate_of_its_own_as_often_as_the_trainer_has_it(tmp_path: Path) -> None:
    often = {"eval_strategy": "steps", "eval_steps": 0.2, "num_train_epochs": 1}
    given = trainer(tmp_path, Evaluating, compute_metrics=right, **often)
    few = {"threshold": 0.1, "trials": 1, "confirm": 0, "progress": False}
    found = trainer_maximal_lr(given, metric="mine_error", **few)
    assert found.settings["higher_is_better"] is False
    assert found.settings["eval_every"] == 3  # of 12 steps
    given.args.eval_steps = 4
    assert _budget(given, given.get_train_dataloader(), 1) == {"max_steps": 12, "eval_every": 4}
    assert given.state.log_history == []


class Interrupting(Trainer):
    """Whose user presses Ctrl-C at a step; the environment is no state that trials reset."""

    def training_step(self, *args: Any, **options: Any) -> Any:
        os.environ["STEP"] = str(int(os.environ["STEP"]) + 1)
        if os.environ["STEP"] == os.environ.get("LAST"):
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(*args, **options)


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_ctrl_c_in_the_curve_or_the_warm_up_returns_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(last: float, warmup: Any = 0.5) -> AppliedResult:
        torch.manual_seed(0)
        given = trainer(tmp_path, Interrupting, compute_metrics=right, num_train_epochs=1)
        monkeypatch.setenv("STEP", "0")
        monkeypatch.setenv("LAST", str(last))
        few = QUICK | {"trials": 2, "confirm": 0}
        return trainer_maximal_lr(given, warmup=warmup, **few)

    whole = found(0, warmup=None)
    steps = int(os.environ["STEP"])
    for last in (steps - 20, steps + 20):
        early = found(last)
        assert int(os.environ["STEP"]) == last
        assert early.warmup is None
        assert early.interrupted
        assert early.notes[-1].startswith("warm-up: it was not found, interrupted by Ctrl-C")
        assert (early.trials == whole.trials) is (last > steps)


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        ({"neftune_noise_alpha": 5}, {}, "neftune_noise_alpha changes the model"),
        ({"eval_dataset": {"a": sentences(4, 0)}}, {}, "several data sets"),
        ({}, {"optimizer": torch.optim.SGD}, "`optimizer` is read from the Trainer"),
        ({"compute_metrics": right}, {"metric": "f1"}, "evaluate.. reports no 'f1'; it reports"),
        ({}, {"warmup": "long"}, "warmup must be True, the rate"),
        ({}, {"threshold": 90}, "For 90 % write 0.9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_carried_over_is_refused(
    options: dict[str, Any], asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = trainer(tmp_path, **options)
    with pytest.raises(Exception, match=message) as raised:
        trainer_maximal_lr(given, **({"threshold": 0.9} | asked))
    assert type(raised.value).__module__ == "etastar.errors"
    assert "\n" not in str(raised.value)


def test_a_language_model_has_no_accuracy_and_something_else_is_no_trainer(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2))
    given = trainer(tmp_path, model=model)
    with pytest.raises(ConfigError, match="predicts the next token"):
        trainer_maximal_lr(given)
    with pytest.raises(ConfigError, match=r"must be a transformers\.Trainer"):
        trainer_maximal_lr(model)


class Tempered(Trainer):
    """Whose loss depends on an argument of its own."""

    def __init__(self, *args: Any, factor: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.factor = factor

    def compute_loss(self, *args: Any, **options: Any) -> Any:
        found = super().compute_loss(*args, **options)
        return (self.factor * found[0], found[1]) if type(found) is tuple else self.factor * found


def test_a_store_keeps_other_arguments_and_functions_of_the_trainer_apart(tmp_path: Path) -> None:
    few = QUICK | {"trials": 2, "confirm": 0}
    found = {}
    for name, kind, options in (
        ("plain", Trainer, {}),
        ("clipped", Trainer, {"max_grad_norm": 0.01}),
        ("weighted", Weighted, {}),
    ):
        torch.manual_seed(0)
        given = trainer(tmp_path, kind, optim="sgd", num_train_epochs=1, **options)
        found[name] = trainer_maximal_lr(given, store=tmp_path / "trials.sqlite", **few).trials
        assert found[name] == trainer_maximal_lr(given, **few).trials
    assert found["plain"] != found["clipped"] != found["weighted"]


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_a_store_goes_on_with_equal_trainers(tmp_path: Path) -> None:
    few = {"threshold": 0.9, "trials": 1, "confirm": 0, "progress": False, "metric": "loss"}
    few["store"], model = tmp_path / "trials.sqlite", bert()
    for factor, count in ((1.0, 1), (1.0, 1), (20.0, 2)):
        given = trainer(
            tmp_path / str(count),
            functools.partial(Tempered, factor=factor),  # type: ignore[arg-type]
            model=copy.deepcopy(model),
        )
        trainer_maximal_lr(given, **few)
        with closing(sqlite3.connect(few["store"])) as connection:
            found = connection.execute("SELECT count(*) FROM specification").fetchone()
        assert found == (count,)


@pytest.mark.parametrize("name", ["minutes", "executor", "scheduler"])
def test_what_a_warm_up_does_not_take_is_refused_before_anything_runs(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` has no effect on a warm-up"):
        trainer_maximal_lr(trainer(tmp_path), warmup=True, **{name: 1})
