"""One trial in progress: a copy of the model, its optimizer, its place in the data."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.nested import shape_of, to_device
from etastar.problem.objective import as_number, name_of
from etastar.problem.optimizers import parts_of
from etastar.problem.problem import Problem
from etastar.problem.streams import KINDS, Stream, mixed, seed_generator
from etastar.problem.trial import Start
from etastar.problem.user_code import told

BLOWN_UP = 1e3
"""What the user's code raises is divergence if it says so, if the parameters are not finite, or if
a loss was this many times the first one's: code may refuse what only such a run produces."""
NOT_FINITE = re.compile(
    r"\b(nans?|inf|infinit\w+|non-?finite|not finite|diverg\w+|overflow\w*)\b", re.IGNORECASE
)


class Session:
    """One trial in progress.

    Args:
        problem: What is trained.
        start: Seeds.
        lr: η.
        after: Another session, from whose end what functions hold goes on; see `Held.copies`.
    """

    def __init__(
        self, problem: Problem, start: Start, lr: float, after: Session | None = None
    ) -> None:
        self.problem, self.start = problem, start
        self.model = problem.origin.copy(start.initialisation)
        for number, generator in enumerate(_generators_in(self.model)):
            seed_generator(generator, mixed("model", start.order, number))
        self._batches = problem.train.stream(start.order)
        self._stream = Stream("training", start.order)
        before: list[Any] | None = after._copies if after else None
        self._copies: list[Any] = problem.held.copies(start.order, after=before)
        if problem.from_step:
            self._use_rate(problem.from_lr or 0.0)
            with self.active():
                for _ in range(problem.from_step):
                    self.step()
        self._use_rate(lr)

    def _use_rate(self, lr: float) -> None:
        self.lr, self.steps = lr, 0
        self._last = 0.0  # loss
        self.optimizer = self.problem.optimizer.build(self.model, lr)
        make = self.problem.scheduler
        parts = parts_of(self.optimizer) if make else ()
        self.schedulers = [make(part) for part in parts] if make else []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the random streams of this trial, and its own copies of what functions hold."""
        with self._stream.active(), self.problem.held.bound(self._copies):
            yield

    def step(self, batch: Any = None) -> float:
        """Take one optimizer step; return the loss of its batch before the update.

        The mean over no label at all is NaN, and changes nothing: the loss before it stands for it.

        Args:
            batch: Instead of the next one.

        Raises:
            ModelError: Whatever the user's code raises is its cause.
        """
        batch = next(self._batches) if batch is None else batch
        batch = to_device(batch, self.problem.origin.device)
        shape = shape_of(batch)  # a step may change its batch
        with told(lambda: f"{self._what} at rate {self.lr:.4g}, step {self.steps + 1}, on {shape}"):
            loss = self._stepped(batch)
            if math.isnan(loss) and self._learned_nothing():
                loss = self._last
            self._last = loss
            for scheduler in self.schedulers:
                with warnings.catch_warnings():  # of steps that an accumulation or a scaler leaves
                    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler")
                    scheduler.step()
        self.steps += 1
        return loss

    def _learned_nothing(self) -> bool:
        """Tell whether a loss without a value had no gradient: of a batch without a label."""
        if self.problem.recipe is not None:
            return False
        given = [p for _, p in own_loss.named_parameters(self.model)]
        slopes = [p.grad for p in given if p.grad is not None]
        return self.healthy() and not any(bool(slope.any()) for slope in slopes)

    @property
    def _what(self) -> str:
        step = self.problem.objective.step_fn
        return f"step_fn ({name_of(step)})" if step else "the training step"

    def _stepped(self, batch: Any) -> float:
        objective, optimizer = self.problem.objective, self.optimizer
        if objective.whole_step:
            assert objective.step_fn is not None
            with torch.enable_grad():
                loss = objective.step_fn(self.model, batch, optimizer)
            what = f"{self._what}, which does the whole step of (model, batch, optimizer),"
            return as_number(loss, what)
        losses: list[float] = []

        def closure() -> Any:
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = objective.loss(self.model, batch)
                if not losses:
                    losses.append(float(loss.detach()))
                loss.backward()  # type: ignore[no-untyped-call]
            return loss

        how = self.problem.optimizer.closure
        if how != "within":
            closure()
        optimizer.step() if how == "none" else optimizer.step(closure)
        return losses[0]

    def evaluate(self) -> float:
        """Return the metric.

        Raises:
            ModelError: Whatever the user's code raises is its cause.
        """
        name = self.problem.objective.name
        with told(lambda: f"the metric {name} at rate {self.lr:.4g}, after step {self.steps},"):
            return self.problem.evaluate(self.model)

    def healthy(self) -> bool:
        """Tell whether every parameter is finite."""
        named = own_loss.named_parameters(self.model)
        return all(bool(p.isfinite().all()) for _, p in named)


def is_divergence(error: ModelError, first: float, peak: float, healthy: bool) -> bool:
    """Tell whether what the user's code raised is what a blown-up run ended in: see `BLOWN_UP`.

    Args:
        error: What a session raised.
        first: Loss of the first batch.
        peak: The highest loss.
        healthy: Whether all parameters are finite.
    """
    cause = error.__cause__
    if not isinstance(cause, Exception) or isinstance(cause, torch.OutOfMemoryError):
        return False
    return bool(NOT_FINITE.search(str(cause))) or not healthy or peak > BLOWN_UP * abs(first)


def _generators_in(model: torch.nn.Module) -> list[Any]:
    """Return the generators of random numbers that modules have as attributes."""
    held = [value for module in model.modules() for value in vars(module).values()]
    return [value for value in held if isinstance(value, tuple(KINDS))]
