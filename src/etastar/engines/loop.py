"""The loop: one trial at a time, with the user's own optimizer; all that trains, trains here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from etastar.engines.base import Engine, Queue
from etastar.engines.collapse import Ceiling, Watch, ceiling_of
from etastar.errors import ModelError
from etastar.problem.nested import to_device
from etastar.problem.optimizers import needs_closure
from etastar.problem.origin import OneReplica
from etastar.problem.streams import Stream
from etastar.problem.trial import CHECK_DEAD_AFTER, UNSTABLE, Outcome

if TYPE_CHECKING:
    from etastar.problem.problem import Problem
    from etastar.problem.trial import Start

REFUSALS = (ArithmeticError, AssertionError, RuntimeError, ValueError)
BLOWN_UP = 1e3
"""Such an exception in training is divergence if the parameters are not finite or a loss was this
many times the first one's: models may refuse numbers that only a blown-up run produces."""


class LoopEngine(Engine):
    """Runs a queue of trials, one after the other."""

    name = "loop"
    why = "trains any model, one trial after the other"

    def refusal(self, problem: Problem) -> str | None:
        """See `Engine`: it trains every problem."""
        return None

    def run(self, problem: Problem, queue: Queue) -> None:
        """See `Engine`."""
        self.threads = torch.get_num_threads()
        ceiling: Ceiling | None = None
        while trials := queue.take(1):
            for trial in trials:
                ceiling = ceiling or ceiling_of(problem, trial.start)
                outcome = run_trial(problem, trial.start, trial.lr, ceiling=ceiling)
                self.steps_taken += outcome.steps_taken
                queue.put(trial, outcome)


class Session:
    """One trial in progress: a copy of the model, its optimizer, its place in the data.

    Args:
        problem: What is trained.
        start: Seeds.
        lr: η.
    """

    def __init__(self, problem: Problem, start: Start, lr: float) -> None:
        self.problem, self.start = problem, start
        self.model = problem.origin.copy(start.initialisation)
        self._batches = problem.train.stream(start.order)
        self._stream = Stream("training", start.order)
        if problem.from_step:
            self._use_rate(problem.from_lr or 0.0)
            with self.active():
                for _ in range(problem.from_step):
                    self.step()
        self._use_rate(lr)
        self.steps = 0
        self.silent_since: int | None = None

    def _use_rate(self, lr: float) -> None:
        self.optimizer = self.problem.optimizer.build(self.model, lr)
        self._closure = needs_closure(self.optimizer)
        self.steps = 0

    def set_rates(self, rates: list[float]) -> None:
        """Set the rate of each parameter group from the next step on."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the random streams of this trial; steps are taken inside only."""
        with self._stream.active():
            yield

    def step(self) -> float:
        """Take one optimizer step; return the loss of its batch before the update."""
        batch = to_device(next(self._batches), self.problem.origin.device)
        losses: list[float] = []

        def closure() -> Any:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.problem.objective.loss(self.model, batch)
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
        """Tell whether the run is collapsed; False between looks."""
        if not watch.looks_at(self.steps):
            return False
        first = next(p for p in self.model.parameters() if p.requires_grad)
        return not watch.moved(first) and watch.collapsed(self.model, self.steps)

    def healthy(self) -> bool:
        """Tell whether every parameter is finite."""
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def note_silence(self) -> None:
        """Remember since which step no gradient has reached the input layer."""
        gradient = next(self.model.parameters()).grad
        if gradient is not None and bool(gradient.any()):
            self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = self.steps

    def buried(self, outcome: Outcome) -> Outcome:
        """Return the outcome, `dead` if a network of ours ended with a layer that is silent."""
        model, since = self.model, self.silent_since
        if not isinstance(model, OneReplica) or since is None or outcome.kind == "trained":
            return outcome
        needed = CHECK_DEAD_AFTER if outcome.kind == "diverged" else 0
        x = self.problem.train.parts[0]  # type: ignore[attr-defined]
        if outcome.step - since < needed or not model.is_dead(x):
            return outcome
        return Outcome("dead", since, outcome.metric)


def run_trial(
    problem: Problem,
    start: Start,
    lr: float,
    rates: Callable[[int], list[float]] | None = None,
    *,
    ceiling: Ceiling | None = None,
) -> Outcome:
    """Train one copy until its outcome is known.

    Args:
        problem: What is trained.
        start: Seeds.
        lr: η, if constant.
        rates: Step (from 0) → rate of each group, for a schedule.
        ceiling: What one class for all reaches, if it is known already.

    Returns:
        The outcome, a pure function of the problem, the start and the rates.
    """
    ceiling = ceiling or ceiling_of(problem, start)
    ours = problem.recipe is not None
    session, watch = Session(problem, start, lr), Watch(problem, ceiling.watched and not ours)
    first = peak = -math.inf
    value: float | None = None
    nans = 0

    def diverged(step: int) -> Outcome:
        return session.buried(Outcome("diverged", step, value if ours else None, nans=nans))

    with session.active():
        while session.steps < problem.max_steps:
            if rates:
                session.set_rates(rates(session.steps))
            try:
                loss = session.step()
                if not math.isfinite(loss):
                    return diverged(session.steps)
                if ours:
                    session.note_silence()
                first = loss if session.steps == 1 else first
                peak = max(peak, loss)
                collapsed = session.collapsed(watch)
                if not collapsed and not problem.evaluates_at(session.steps):
                    continue
                if not session.healthy():
                    return diverged(session.steps)
                value = problem.evaluate(session.model)
                nans += math.isnan(value)
            except REFUSALS as error:
                if not is_divergence(error, first, peak, session.healthy()):
                    raise
                return diverged(session.steps + 1)
            if problem.evaluates_at(session.steps) and problem.objective.met(value):
                score = problem.objective.score(value)
                return Outcome("trained", session.steps, value, nans=nans, score=score)
            if collapsed:
                outcome = short(problem, value, first, peak, ceiling.constant)
                return replace(outcome, given_up=session.steps, nans=nans)
    outcome = short(problem, value, first, peak, ceiling.constant)
    return session.buried(replace(outcome, nans=nans))


def is_divergence(error: Exception, first: float, peak: float, healthy: bool) -> bool:
    """Tell whether an exception is what a blown-up run ended in: see `BLOWN_UP`."""
    ours = isinstance(error, ModelError | torch.OutOfMemoryError)
    return not ours and (not healthy or peak > BLOWN_UP * abs(first))


def short(
    problem: Problem, value: float | None, first: float, peak: float, constant: float | None
) -> Outcome:
    """Return the outcome of a budget spent below the threshold; an infinite loss is divergence.

    A run that ends no better than one class for all is not called slow, however calm its loss was:
    it may have collapsed, and a lower rate may train.
    """
    objective, step = problem.objective, problem.max_steps
    if value is None or not math.isfinite(value):
        if not callable(objective.metric):
            return Outcome("diverged", step)
        value = None
    calm = peak - first <= (UNSTABLE - 1) * abs(first)
    slow = calm and (constant is None or value is None or value > constant)
    score = None if value is None else objective.score(value)
    return Outcome("short", step, value, slow, score=score)
