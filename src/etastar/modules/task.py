"""Everything that the trials of one measurement share, and how a single one runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from etastar.errors import ModelError
from etastar.modules.batches import Batches
from etastar.modules.collapse import Watch
from etastar.modules.nested import to_device
from etastar.modules.objective import Objective
from etastar.modules.optimizers import OptimizerFactory, needs_closure
from etastar.modules.origin import Origin, Start
from etastar.modules.streams import Stream
from etastar.problem.trial import UNSTABLE, Outcome

if TYPE_CHECKING:
    from torch import nn

RunKind: TypeAlias = Literal["trained", "diverged", "short"]


REFUSALS = (ArithmeticError, AssertionError, RuntimeError, ValueError)
BLOWN_UP = 1e3
"""Such an exception in training is divergence if the parameters are not finite or a loss was this
many times the first one's: models may refuse numbers that only a blown-up run produces."""


@dataclass(frozen=True)
class Run:
    """How a trial of a user's model ended.

    Attributes:
        kind: `trained`, `diverged` (non-finite loss or parameters) or `short`.
        step: Optimizer steps after which this was so.
        metric: At the last evaluation of a run that trained or was short; None otherwise.
        given_up: For `short`: the step after which the run had collapsed (`collapse`), so that it
            was not trained to the end of its budget; else None.
        slow: For `short`: no batch's loss exceeded `UNSTABLE` times the first one's, and the run
            ended better than one class for all, so the rate was merely too slow for the budget.
        nans: Evaluations, before any divergence, at which the metric was not a number.
    """

    kind: RunKind
    step: int
    metric: float | None = None
    slow: bool = False
    given_up: int | None = None
    nans: int = 0

    def outcome(self, objective: Objective) -> Outcome:
        """As a search reads it: the metric as a score, higher is better."""
        score = None if self.metric is None else objective.score(self.metric)
        return Outcome(self.kind, self.step, score, self.slow)


@dataclass(frozen=True)
class Task:
    """One measurement's trials.

    Attributes:
        origin: Initial models.
        train: Training data.
        val: What the metric is evaluated on.
        objective: Loss and criterion.
        optimizer: Builds optimizers.
        max_steps: The budget.
        eval_every: Steps between evaluations.
        ceiling: Accuracy of one class for all, if runs are watched for collapse; see `collapse`.
        constant: The same, known whenever the metric is accuracy.
    """

    origin: Origin
    train: Batches
    val: Batches
    objective: Objective
    optimizer: OptimizerFactory
    max_steps: int
    eval_every: int
    ceiling: float | None = None
    constant: float | None = None

    def holding(self) -> Task:
        """The same, but the threshold must stand at the end of the budget."""
        return replace(self, objective=replace(self.objective, hold=True))

    def evaluates_at(self, step: int) -> bool:
        """Whether the metric is asked for after so many steps."""
        if step == self.max_steps:
            return True
        return not self.objective.hold and step % self.eval_every == 0

    def evaluate(self, model: nn.Module, *, random: bool = True) -> float:
        """The metric of a model, which is left in train mode.

        Args:
            model: On the task's device.
            random: Whether the model or the metric may draw random numbers: then they are the same
                at every evaluation.
        """
        model.eval()
        with Stream("metric", 0).active() if random else nullcontext():
            value = self.objective.evaluate(model, self.val.once(), self.origin.device)
        model.train()
        return value


class Session:
    """One trial in progress: a copy of the model, its optimizer, its place in the data.

    Args:
        task: What is trained.
        start: Seeds.
        lr: η.
    """

    def __init__(self, task: Task, start: Start, lr: float) -> None:
        self.task, self.start = task, start
        self.model = task.origin.copy(start.model)
        self.optimizer = task.optimizer.build(self.model, lr)
        self._closure = needs_closure(self.optimizer)
        self._batches = task.train.stream(start.order)
        self._stream = Stream("training", start.order)
        self.steps = 0

    def set_rates(self, rates: list[float]) -> None:
        """The rate of each parameter group from the next step on."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    @contextmanager
    def active(self) -> Iterator[None]:
        """The random streams of this trial; steps are taken inside only."""
        with self._stream.active():
            yield

    def step(self) -> float:
        """Take one optimizer step; the loss of its batch before the update."""
        batch = to_device(next(self._batches), self.task.origin.device)
        losses: list[float] = []

        def closure() -> Any:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.task.objective.loss(self.model, batch)
            if not losses:
                losses.append(float(loss.detach()))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        if self._closure:
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()
        self.steps += 1
        return losses[0]

    def collapsed(self, watch: Watch) -> bool:
        """Whether the run is collapsed; False between looks."""
        if not watch.looks_at(self.steps):
            return False
        first = next(p for p in self.model.parameters() if p.requires_grad)
        return not watch.moved(first) and watch.collapsed(self.model, self.steps)

    def healthy(self) -> bool:
        """Whether every parameter is finite."""
        return all(bool(p.isfinite().all()) for p in self.model.parameters())


def run_trial(
    task: Task,
    start: Start,
    lr: float,
    rates: Callable[[int], list[float]] | None = None,
) -> Run:
    """Train one copy until its outcome is known.

    Args:
        task: What is trained.
        start: Seeds.
        lr: η, if constant.
        rates: Step (from 0) → rate of each group, for a schedule.

    Returns:
        The outcome, a pure function of the arguments.
    """
    session, watch = Session(task, start, lr), Watch(task)
    first = peak = -math.inf
    value: float | None = None
    nans = 0
    with session.active():
        while session.steps < task.max_steps:
            if rates:
                session.set_rates(rates(session.steps))
            try:
                loss = session.step()
                if not math.isfinite(loss):
                    return Run("diverged", session.steps, nans=nans)
                first = loss if session.steps == 1 else first
                peak = max(peak, loss)
                collapsed = session.collapsed(watch)
                if not collapsed and not task.evaluates_at(session.steps):
                    continue
                if not session.healthy():
                    return Run("diverged", session.steps, nans=nans)
                value = task.evaluate(session.model)
                nans += math.isnan(value)
            except REFUSALS as error:
                if not is_divergence(error, first, peak, session.healthy()):
                    raise
                return Run("diverged", session.steps + 1, nans=nans)
            if task.evaluates_at(session.steps) and task.objective.met(value):
                return Run("trained", session.steps, value, nans=nans)
            if collapsed:
                run = short(task, value, first, peak)
                return replace(run, given_up=session.steps, nans=nans)
    return replace(short(task, value, first, peak), nans=nans)


def is_divergence(error: Exception, first: float, peak: float, healthy: bool) -> bool:
    """Whether an exception is what a blown-up run ended in: see `BLOWN_UP`."""
    import torch

    ours = isinstance(error, ModelError | torch.OutOfMemoryError)
    return not ours and (not healthy or peak > BLOWN_UP * abs(first))


def short(task: Task, value: float | None, first: float, peak: float) -> Run:
    """The outcome of a budget spent below the threshold; an infinite loss is divergence.

    A run that ends no better than one class for all is not called slow, however calm its loss was:
    it may have collapsed, and a lower rate may train.
    """
    objective, step = task.objective, task.max_steps
    if value is None or not math.isfinite(value):
        if not callable(objective.metric):
            return Run("diverged", step)
        value = None
    calm = peak - first <= (UNSTABLE - 1) * abs(first)
    slow = calm and (task.constant is None or value is None or value > task.constant)
    return Run("short", step, value, slow)
