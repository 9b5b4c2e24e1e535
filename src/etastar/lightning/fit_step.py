"""One training step and one validation of a `LightningModule`, in the order that Lightning has.

A Trainer cannot train many copies side by side, so its loop is written out here for a single device
and one optimizer; what decides about numbers (precision, clipping, the hooks of the module) is
asked of the user's own objects. Callbacks are not called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn

from etastar.carried import scaled
from etastar.errors import ConfigError, ModelError
from etastar.lightning.fit_hooks import (
    NAMES,
    Attached,
    is_own,
    loss_of,
    numbered,
    one_optimizer,
    optimizers_in,
    set_attribute,
)
from etastar.problem.batches import LoaderBatches
from etastar.problem.nested import parts_of_step, samples_in
from etastar.problem.origin import copied_model

TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks through which a batch goes, in order."""


@dataclass
class Training:
    """What a Trainer would do with a module: its methods are the arguments of `maximal_lr`.

    Attributes:
        given: The module, or a factory of it.
        trainer: The user's; None for the defaults.
        data: The data module, whose hooks a batch goes through; None without one.
        accumulation: Batches over which gradients are accumulated.
        batches: Batches of an epoch; None where that is not known.
        max_steps: The budget in optimizer steps; None where that is not known.
        rate: Name of the rate, see `rate_of`; None where the module has none, and all groups are
            scaled.
    """

    given: Any
    trainer: Any
    data: Any
    accumulation: int
    batches: int | None = None
    max_steps: int | None = None
    rate: str | None = None

    @property
    def precision(self) -> Any:
        """Return Lightning's precision plugin; None without a Trainer."""
        return getattr(self.trainer, "precision_plugin", None)

    @property
    def told(self) -> dict[str, Any]:
        """Return how a step is taken, for the record."""
        names = ("precision", "gradient_clip_val", "gradient_clip_algorithm")
        values = {name: getattr(self.trainer, name, None) for name in names}
        return {"accumulate_grad_batches": self.accumulation, **values}

    @property
    def identity(self) -> list[Any]:
        """Return what outcomes depend on besides the module, see `problem.fingerprint`."""
        attributes = getattr(self.data, "__dict__", {})
        hooked = attributes and any(is_own(self.data, name) for name in TRANSFER)
        held = {k: v for k, v in attributes.items() if hooked and k != "trainer"}
        epochs = getattr(self.trainer, "max_epochs", None), getattr(self.trainer, "max_steps", None)
        factory = None if isinstance(self.given, nn.Module) else self.given
        return [
            *(self.told, self.batches, self.max_steps, epochs, factory),
            *(type(self.data), held, self.rate),
        ]

    def prepared(self, seed: int) -> nn.Module:
        """Return the module of a seed as a Trainer has it when the fit begins.

        Args:
            seed: For a factory.
        """
        given = self.given
        module: Any = copied_model(given) if isinstance(given, nn.Module) else given(seed)
        vars(module).pop("optimizers", None)
        self.attached(module)
        module.setup("fit")
        module.configure_model()
        module.trainer = None
        vars(module).pop("log", None)
        return module if self.precision is None else self.precision.convert_module(module)  # type: ignore[no-any-return]

    def configured(self, module: Any) -> tuple[Any, list[Any]]:
        """Return the optimizer and the schedulers of a copy of the module, see `one_optimizer`.

        Args:
            module: The copy.
        """
        self.attached(module)
        return one_optimizer(module.configure_optimizers())

    def optimizer(self, module: Any, lr: float) -> Any:
        """Return the optimizer of a copy of the module at a rate.

        Args:
            module: The copy.
            lr: The rate.
        """
        set_attribute(module, self.rate, lr)
        optimizer = self.configured(module)[0]
        return optimizer if self.rate else scaled(optimizer, lr)

    def rate_of(self, module: Any) -> str | None:
        """Return the name of the rate that `configure_optimizers` reads; None if it reads none.

        Args:
            module: As prepared, to see what it has.
        """
        for name in NAMES:
            if name in vars(module) or name in getattr(module, "hparams", {}):
                seen = []
                for lr in (1.0, 0.5):
                    tried = self.prepared(0)
                    set_attribute(tried, name, lr)
                    seen.append([g["lr"] for g in self.configured(tried)[0].param_groups])
                if seen[0] != seen[1]:
                    return name
        return None

    def set_rate(self, module: Any, lr: float, schedule: object = None) -> None:
        """Set the rate of the user's module: its attribute, else that of its optimizer.

        Args:
            module: The user's.
            lr: The rate.
            schedule: None.

        Raises:
            ConfigError: It has no attribute for the rate, and a schedule of its own.
        """
        if self.rate is not None:
            set_attribute(module, self.rate, lr)
            return
        if self.configured(self.prepared(0))[1]:
            raise ConfigError(
                "apply: configure_optimizers has a schedule and reads no rate from the module. Let "
                f"it read self.lr, and set that to {lr:.4g}."
            )

        def configured(own: Any) -> Any:
            found = type(own).configure_optimizers(own)
            scaled(optimizers_in(found)[0][0], lr)
            return found

        module.configure_optimizers = MethodType(configured, module)

    def attached(self, module: nn.Module, optimizer: Any = None) -> Attached:
        """Return what a copy of the module finds as its Trainer, which it gets if it has none yet.

        Args:
            module: A copy that is trained.
            optimizer: Of its run.
        """
        held: Any = module
        if held._trainer is None:
            held.trainer = Attached(self)
            vars(module)["log"] = held.trainer.log
        if optimizer is not None:
            vars(module)["optimizers"] = lambda use_pl_optimizer=True: optimizer
        return held.trainer  # type: ignore[no-any-return]

    def moved(self, module: nn.Module, batch: Any) -> Any:
        """Return a batch as `training_step` gets it: converted, and through the hooks of transfer.

        Args:
            module: Whose device it is put on.
            batch: From the loader.
        """
        if self.precision is not None:
            batch = self.precision.convert_input(batch)
        device = next(module.parameters()).device
        for name in TRANSFER:
            args = (device,) if name == TRANSFER[1] else ()
            owner = self.data if self.data is not None and is_own(self.data, name) else module
            batch = getattr(owner, name)(batch, *args, 0)
        return batch

    def training_step(self, model: Any, batch: Any, optimizer: Any) -> torch.Tensor:
        """Train a copy of the module on the batches of one step; return their mean loss.

        Args:
            model: The copy.
            batch: Or several, see `parts_of_step`.
            optimizer: Of its run.

        Raises:
            ModelError: A batch is skipped, or there is no loss.
        """
        run = self.attached(model, optimizer)
        parts = [self.moved(model, part) for part in parts_of_step(batch)]
        if run.batch_index == self.batches:  # not before: a validation comes between
            model.on_train_epoch_end()
            run.current_epoch, run.batch_index = run.current_epoch + 1, 0
        if run.batch_index == 0:
            if run.current_epoch == 0:
                model.on_fit_start()
                model.on_train_start()
            model.on_train_epoch_start()
        losses = []
        for place, part in enumerate(parts):
            if model.on_train_batch_start(part, run.batch_index) == -1:
                raise ModelError("on_train_batch_start returns -1, which is not carried over.")
            outputs: list[Any] = []

            def closure(part: Any = part, outputs: list[Any] = outputs) -> torch.Tensor:
                outputs.append(self._backward(model, optimizer, run, part))
                return loss_of(outputs[-1])

            if place + 1 < len(parts):
                closure()
            else:
                self._stepped(model, optimizer, run, closure)
                run.global_step += 1
            losses.append(loss_of(outputs[0]).detach())
            model.on_train_batch_end(outputs[0], part, run.batch_index)
            run.batch_index += 1
        return torch.stack(losses).mean()

    def _stepped(
        self, model: Any, optimizer: Any, run: Attached, closure: Callable[[], torch.Tensor]
    ) -> None:
        """Let the optimizer step, with what the precision and the clipping ask for."""

        def clipped() -> torch.Tensor:
            loss = closure()
            if run.scaler is not None:
                run.scaler.unscale_(optimizer)
            model.on_before_optimizer_step(optimizer)
            trainer = self.trainer
            if trainer is not None:
                model.configure_gradient_clipping(
                    optimizer,
                    gradient_clip_val=trainer.gradient_clip_val,
                    gradient_clip_algorithm=trainer.gradient_clip_algorithm,
                )
            return loss

        if run.scaler is None:
            optimizer.step(clipped)
        else:
            clipped()
            run.scaler.step(optimizer)
            run.scaler.update()

    def _backward(self, model: Any, optimizer: Any, run: Attached, batch: Any) -> Any:
        """Add the gradients of one batch; return what `training_step` returned."""
        index, precision = run.batch_index, self.precision
        with precision.train_step_context() if precision else nullcontext(), torch.enable_grad():
            output = numbered(model.training_step, batch, index)
        loss = loss_of(output) / self.accumulation
        if index % self.accumulation == 0:
            model.on_before_zero_grad(optimizer)
            model.optimizer_zero_grad(run.current_epoch, index, optimizer)
        scaled = loss if run.scaler is None else run.scaler.scale(loss)
        model.on_before_backward(scaled)
        model.backward(scaled)
        model.on_after_backward()
        return output

    def loss(self, model: Any, batch: Any) -> float:
        """Return the loss of `training_step`, as a metric.

        Args:
            model: A copy of the module.
            batch: As it takes it.
        """
        self.attached(model)
        return float(loss_of(numbered(model.training_step, batch, 0)))

    def logged(self, model: Any, data: LoaderBatches, name: str | None) -> tuple[str, float]:
        """Validate a copy of the module on all validation data; return what it logs by a name.

        Args:
            model: The copy.
            data: All of them.
            name: Of the metric.
        """
        assert name is not None
        run, precision = self.attached(model), self.precision
        run.logged.clear()
        run.training, run.validating = False, True
        with precision.val_step_context() if precision else nullcontext():
            model.on_validation_start()
            model.on_validation_epoch_start()
            for index, raw in enumerate(data.once()):
                batch = self.moved(model, raw)
                run.logged_size = samples_in(batch)
                model.on_validation_batch_start(batch, index)
                output = numbered(model.validation_step, batch, index)
                model.on_validation_batch_end(output, batch, index)
            run.logged_size = 1
            run.tell()
            model.on_validation_epoch_end()
            run.tell()
            model.on_validation_end()
        run.training, run.validating = True, False
        value = run.reduced(name)
        for metric in {id(v): v for held in run.logged.values() for v, _, _ in held}.values():
            if hasattr(metric, "reset"):
                metric.reset()
        return name, value
