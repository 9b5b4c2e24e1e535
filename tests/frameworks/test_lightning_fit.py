"""A trial of `lightning_maximal_lr` is what Lightning's own fit does, and nothing changes."""

from __future__ import annotations

import copy
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_zoo import Blobs, blobs, fit, loaders
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from etastar import ConfigError, Result
from etastar.lightning import lightning_maximal_lr
from etastar.lightning.fit_reader import _often
from etastar.lightning.fit_step import Training
from etastar.problem.batches import Grouped

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated"),
]
QUICK = {"threshold": 0.9, "confirm": 4, "trials": 60, "precision": 0.5, "progress": False}
QUICK |= {"start_lr": 1e-3}


class Hooked(Blobs):
    """With hooks that change numbers."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [2 * batch[0], batch[1]]

    def on_after_backward(self) -> None:
        for p in self.parameters():
            p.grad *= 1 + self.global_step / 10 + self.current_epoch  # type: ignore[operator]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx) * (1 + batch_idx / 10)}


class Grouped2(Blobs):
    """With parameter groups and a schedule."""

    def configure_optimizers(self) -> Any:
        head, body = self.net[2].parameters(), self.net[0].parameters()
        groups = [{"params": head, "lr": 2 * self.lr}, {"params": body, "weight_decay": 0.1}]
        optimizer = torch.optim.SGD(groups, lr=self.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}


class Cycled(Blobs):
    """With groups and a schedule that overwrites their rates and momenta, in a list of its own."""

    kind = "OneCycleLR"

    def configure_optimizers(self) -> Any:
        head, body = self.net[2].parameters(), self.net[0].parameters()
        groups = [{"params": head, "weight_decay": 0.5}, {"params": body, "betas": (0.9, 0.8)}]
        optimizer, peaks = torch.optim.AdamW(groups), [self.lr, 2 * self.lr]
        known = torch.optim.lr_scheduler
        schedule: Any = {
            "OneCycleLR": lambda: known.OneCycleLR(optimizer, peaks, total_steps=80),
            "CyclicLR": lambda: known.CyclicLR(optimizer, 1e-5, peaks),
            "ChainedScheduler": lambda: known.ChainedScheduler(
                [known.OneCycleLR(optimizer, peaks, total_steps=80)]
            ),
        }[self.kind]()
        return [{"optimizer": optimizer, "lr_scheduler": schedule}]


class Frozen(Blobs):
    """Whose rates are written out, the first one as 0."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net[0].parameters(), "lr": 0.0}]
        return torch.optim.SGD([*groups, {"params": self.net[2].parameters()}], lr=1e-6)


@pytest.mark.parametrize("kind", ["OneCycleLR", "CyclicLR", "ChainedScheduler", None])
def test_rates_are_those_of_the_peak_and_nothing_else_of_a_group_changes(kind: str | None) -> None:
    training = Training(Cycled() if kind else Frozen(), fit(), None, 1)
    training.given.kind = kind
    training.rate = training.rate_of(training.prepared(0))
    optimizer = training.optimizer(training.prepared(0), 0.3)
    assert training.rate == ("lr" if kind else None)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    if kind is None:
        assert [group["lr"] for group in groups] == pytest.approx([0.0, 0.3])
        return
    plain = torch.optim.AdamW([nn.Parameter(torch.ones(1))]).defaults
    own = [{"lr": 0.3, "weight_decay": 0.5}, {"lr": 0.6, "betas": (0.9, 0.8)}]
    assert groups == [plain | each for each in own]


class Fixed(Blobs):
    """Whose rate is written out."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class Bfgs(Blobs):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=self.lr, max_iter=3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Blobs, {}),
        (Blobs, {"accumulate_grad_batches": 3}),
        (Blobs, {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2}),
        (Blobs, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
        (Blobs, {"precision": "bf16-mixed"}),
        (Blobs, {"precision": "64-true"}),
        (Blobs, {"precision": "bf16-true"}),
        (Blobs, {"limit_train_batches": 0.5}),
        (Hooked, {}),
        (Hooked, {"accumulate_grad_batches": 2, "limit_train_batches": 5}),
        (Bfgs, {}),
    ],
    ids=str,
)
def test_a_run_has_the_weights_of_a_fit(kind: type[Blobs], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module, (train, _) = kind(lr=0.05), loaders(shuffle=False)
    size, share = options.get("accumulate_grad_batches", 1), options.get("limit_train_batches")
    limit = int(share * len(train)) if isinstance(share, float) else share
    trainer = fit(**options)
    training = Training(module, trainer, None, size, len(Grouped(train, limit=limit)), None, "lr")
    copied = training.prepared(0)
    assert training.rate_of(copied) == "lr"
    optimizer, step = training.optimizer(copied, 0.05), training.training_step
    for _ in range(3):
        for batch in Grouped(train, size, limit):
            step(copied, batch, optimizer)
    trainer.fit(module, train)
    for own, its in zip(copied.parameters(), module.parameters(), strict=True):
        assert torch.equal(own, its.to(own.dtype))


def test_what_is_read_changes_in_nothing_and_the_rate_is_applied() -> None:
    module, (train, val), trainer = Blobs(), loaders(), fit(accumulate_grad_batches=2)
    before, seen = copy.deepcopy(vars(trainer)["callbacks"]), copy.deepcopy(module.state_dict())
    attributes = set(vars(module))
    stream = torch.random.get_rng_state()
    result = lightning_maximal_lr(module, (train, val), trainer, metric="val_acc", **QUICK)
    assert torch.equal(stream, torch.random.get_rng_state())
    assert isinstance(result, Result)
    assert module._trainer is None
    assert set(vars(module)) == attributes
    assert all(torch.equal(t, seen[name]) for name, t in module.state_dict().items())
    assert [type(c) for c in trainer.callbacks] == [type(c) for c in before]
    assert trainer.global_step == 0
    assert result.settings["batch_size"] == 32
    assert result.settings["max_steps"] == 3 * 4
    assert result.settings["step"]["accumulate_grad_batches"] == 2
    assert result.settings["metric"] == "val_acc"
    assert result.settings["optimizer_options"]["momentum"] == 0.9
    assert result.apply(module) == module.lr == result.recommended_lr
    trainer.fit(module, train, val)
    assert trainer.callback_metrics["val_acc"] >= 0.9


class Logs(Blobs):
    """A module that asks its logger for all sorts of things."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.logger.log_metrics({"step": batch_idx})
        self.logger.experiment.add_scalar("step", batch_idx)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_accuracy_under_accumulation_and_a_logger(size: int, tmp_path: Path) -> None:
    few = {"threshold": 0.9, "trials": 2, "confirm": 0, "progress": False}
    given = fit(accumulate_grad_batches=size, logger=CSVLogger(tmp_path))
    found = lightning_maximal_lr(Logs(), loaders(), given, **few)
    assert found.settings["metric"] == "accuracy"
    assert not list(tmp_path.iterdir())


class Data(LightningDataModule):
    def setup(self, stage: str) -> None:
        self.ready = True

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [10 * batch[0], batch[1]]

    def train_dataloader(self) -> Any:
        assert self.ready
        return DataLoader(TensorDataset(*blobs(120, 0, 0.2)), 16, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*blobs(60, 1, 0.2)), 25)


def test_a_data_module_and_a_factory() -> None:
    data = Data()
    result = lightning_maximal_lr(lambda seed: Blobs(), data, fit(max_epochs=6), **QUICK)
    assert not hasattr(data, "ready")
    assert result.varies == "initialisation and order of the data"
    assert result.settings["metric"] == "accuracy"
    module = Blobs()
    result.apply(module)
    trainer = fit(max_epochs=6)
    trainer.fit(module, data)
    assert trainer.callback_metrics["val_acc"] >= 0.9
    loaders = data.train_dataloader(), data.val_dataloader()
    plain = lightning_maximal_lr(lambda seed: Blobs(), loaders, fit(max_epochs=6), **QUICK)
    assert plain.lr != result.lr  # without the hook of the data module


class Asking(Data):
    """Which asks its Trainer before it has one of its own."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.trainer is not None
        self.devices = self.trainer.num_devices


class Peeking(Cycled):
    """Which reads what it finds in its Trainer, and logs every step and epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert isinstance(self.trainer.datamodule, Asking)  # type: ignore[attr-defined]
        found = self.trainer.callback_metrics
        assert (batch_idx == 0) or found["train_loss"] > 0
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        right = self(batch[0]).argmax(1) == batch[1]
        self.log("val_acc", right.float().mean(), on_step=True, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        found = self.trainer.callback_metrics
        assert 0 <= found["val_acc"] == found["val_acc_epoch"] <= 1
        self.ended = self.trainer.current_epoch


def plain(value: Any) -> bool:
    """Tell whether all of a value is of JSON's types themselves, and not of subclasses."""
    if type(value) in (dict, list):
        return all(map(plain, value.values() if type(value) is dict else value))
    return type(value) in (str, int, float, bool, type(None))


FEW = {"threshold": 0.9, "trials": 2, "confirm": 0, "progress": False, "engine": "loop"}


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_what_a_module_and_its_data_ask_their_trainer_for() -> None:
    trainer, data = fit(val_check_interval=0.25, gradient_clip_algorithm="norm"), Asking()
    result = lightning_maximal_lr(Peeking(), data, trainer, metric="val_acc_epoch", **FEW)
    assert data.trainer is None
    assert result.ratios == pytest.approx((1.0, 2.0))
    assert any("OneCycleLR of configure_optimizers" in note for note in result.notes)
    assert any("So is the momentum" in note for note in result.notes)
    assert result.settings["eval_every"] == 2
    assert result.to_dict()["settings"]["step"]["gradient_clip_algorithm"] == "norm"
    assert plain(result.to_dict())
    assert result.to_dict()["warmup"] is None


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory")
def test_data_sets_of_a_data_module_and_no_validation() -> None:
    sets = TensorDataset(*blobs(120, 0)), TensorDataset(*blobs(60, 1))
    data = LightningDataModule.from_datasets(*sets, batch_size=16)
    for limit, seen in ((1.0, "validation data"), (0, "training data")):
        found = lightning_maximal_lr(Blobs(), data, fit(limit_val_batches=limit), **FEW)
        assert found.settings["evaluated_on"] == seen


class Counted(Blobs):
    """Which notes the steps after which it is validated."""

    def on_validation_epoch_start(self) -> None:
        vars(self).setdefault("steps", []).append(self.global_step)


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ({"val_check_interval": 0.25}, False),
        ({"val_check_interval": 4, "accumulate_grad_batches": 2}, False),
        ({"val_check_interval": 6, "check_val_every_n_epoch": None}, False),
        ({"check_val_every_n_epoch": 2, "accumulate_grad_batches": 3}, False),
        ({}, False),
        ({"val_check_interval": 3}, True),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": 2}, True),
    ],
    ids=str,
)
def test_validations_are_as_far_apart_as_those_of_a_fit(
    options: dict[str, Any], noted: bool
) -> None:
    trainer, module = fit(max_epochs=6, num_sanity_val_steps=0, **options), Counted()
    size = options.get("accumulate_grad_batches", 1)
    every, notes = _often(trainer, 8, size)
    assert bool(notes) is noted
    if not noted:
        trainer.fit(module, *loaders())
        every = every or 8
        assert module.steps == list(range(every, trainer.global_step + 1, every))


@pytest.mark.parametrize("kind", [Fixed, Grouped2])
def test_rates_that_are_no_attribute_and_groups(kind: type[Blobs]) -> None:
    module, trainer = kind(), fit(max_epochs=5)
    data = loaders()
    result = lightning_maximal_lr(module, data, trainer, metric="val_acc", **QUICK)
    rate = result.apply(module)
    configured = module.configure_optimizers()
    if kind is Fixed:
        assert [g["lr"] for g in configured.param_groups] == [pytest.approx(rate)]
        assert copy.deepcopy(module).configure_optimizers().param_groups[0]["lr"] == rate
    else:
        assert result.ratios == (2.0, 1.0)
        assert [g["initial_lr"] for g in configured["optimizer"].param_groups] == [2 * rate, rate]
        assert any("LinearLR of configure_optimizers was left out" in note for note in result.notes)
    trainer.fit(module, *data)
    assert trainer.callback_metrics["val_acc"] >= 0.9


class Measured(Blobs):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(3, average="macro")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.accuracy(self(batch[0]), batch[1])
        self.log("macro", self.accuracy)

    def on_validation_epoch_end(self) -> None:
        self.log("twice", 2 * self.accuracy.compute())


@pytest.mark.parametrize("name", ["macro", "twice"])
def test_metrics_of_torchmetrics_and_of_the_end_of_an_epoch(name: str) -> None:
    threshold = {"macro": 0.9, "twice": 1.8}[name]
    result = lightning_maximal_lr(
        Measured(), loaders(), fit(), metric=name, **QUICK | {"threshold": threshold}
    )
    assert result.status == "bracketed"
    best = max(run.metric for run in result.history if run.metric is not None)
    assert threshold <= best <= threshold / 0.9


def test_losses_point_down_and_callbacks_are_named() -> None:
    class Mine(Callback):
        pass

    trainer, data = fit(callbacks=[Mine()]), loaders()
    quick = QUICK | {"threshold": 0.5, "trials": 12}
    for metric in ("loss", "val_loss"):
        result = lightning_maximal_lr(Blobs(), data, trainer, metric=metric, **quick)
        assert result.settings["higher_is_better"] is False
        assert "callbacks of the Trainer were not called: Mine." in result.notes
    alone = lightning_maximal_lr(Blobs(), data[0], trainer, **quick | {"threshold": 0.8})
    assert alone.settings["evaluated_on"] == "training data"
    assert "reach training accuracy" in alone.heading


class Locked(Blobs):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Manual(Blobs):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Two(Blobs):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=self.lr) for i in (0, 2)]


class Stepping(Blobs):
    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)


@pytest.mark.parametrize(
    ("module", "trainer", "options", "message"),
    [
        (Manual(), {}, {}, "manual optimization"),
        (Locked(), {}, {}, "the model cannot be copied .*Pass a factory seed"),
        (Two(), {}, {}, "returns 2 optimizers"),
        (Stepping(), {}, {}, "optimizer_step of its own"),
        (Blobs(), {"devices": 2, "strategy": "ddp"}, {}, "Strategy trains on several devices"),
        (Blobs(), {"overfit_batches": 2}, {}, "overfit_batches"),
        (Blobs(), {"max_epochs": -1}, {}, "Give `epochs` or `max_steps`"),
        (Blobs(), {}, {"batch_size": 3}, "`batch_size` is read from the module"),
        (Blobs(), {}, {"metric": "val_f1"}, "it logs val_acc, val_loss"),
        (Blobs(), {}, {"thresold": 0.9}, "threshold"),
        (nn.Linear(8, 3), {}, {}, "must be a LightningModule"),
        (
            Blobs(),
            {"callbacks": [GradientAccumulationScheduler({1: 2})]},
            {},
            "GradientAccumulationScheduler changes the training",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_carried_over_is_refused(
    module: Any, trainer: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, Exception), match=message) as raised:
        lightning_maximal_lr(module, loaders(), fit(**trainer), **({"threshold": 0.9} | options))
    assert type(raised.value).__module__ == "etastar.errors"
    assert "\n" not in str(raised.value)


def test_apply_without_a_recommended_rate_changes_nothing() -> None:
    module = Blobs()
    brackets = lightning_maximal_lr(
        module, loaders(), fit(), threshold=0.9, seeds=1, resolution=0.5, progress=False
    )
    with pytest.raises(ConfigError, match="recommends no rate"):
        brackets.apply(module)
    assert module.lr == 1e-4


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
@pytest.mark.parametrize("changed", [{"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}])
def test_a_store_keeps_other_arguments_of_the_trainer_apart(changed: Any, tmp_path: Path) -> None:
    module, few = Blobs(), {"threshold": 0.9, "trials": 4, "confirm": 0, "progress": False}
    few["store"] = tmp_path / "trials.sqlite"
    plain = lightning_maximal_lr(module, loaders(), fit(), **few).trials
    found = lightning_maximal_lr(module, loaders(), fit(**changed), **few).trials
    few["store"] = None
    assert found == lightning_maximal_lr(module, loaders(), fit(**changed), **few).trials != plain


class Scaled(Blobs):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.hparams.scale * super().training_step(batch, batch_idx)


class Noisy(Data):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [self.factor * batch[0], batch[1]]


@pytest.mark.filterwarnings("ignore::etastar.errors.NotBracketedWarning")
def test_a_store_goes_on_with_equal_modules_and_data(tmp_path: Path) -> None:
    few = {"threshold": 0.9, "trials": 1, "confirm": 0, "progress": False}
    few["store"] = tmp_path / "trials.sqlite"
    for scale, factor, count in ((1, 1, 1), (1, 1, 1), (20, 1, 2), (20, 3, 3)):
        torch.manual_seed(0)
        lightning_maximal_lr(Scaled(scale), Noisy(factor), fit(), metric="val_loss", **few)
        with closing(sqlite3.connect(few["store"])) as connection:
            found = connection.execute("SELECT count(*) FROM specification").fetchone()
        assert found == (count,)
