"""The loop: one trial at a time, with the user's own optimizer; all that trains, trains here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from etastar.engines.base import Engine, Queue
from etastar.engines.collapse import Ceiling, Watch, ceiling_of
from etastar.errors import ModelError
from etastar.problem.nested import to_device
from etastar.problem.objective import call, pair
from etastar.problem.optimizers import needs_closure
from etastar.problem.origin import OneReplica
from etastar.problem.streams import Stream
from etastar.problem.trial import CHECK_DEAD_AFTER, LAST_LOSSES, UNSTABLE, Outcome

if TYPE_CHECKING:
    from etastar.problem.problem import Problem
    from etastar.problem.trial import Start, Trial

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
                outcome = run_trial(problem, trial, ceiling=ceiling)
                self.steps_taken += outcome.steps_taken(problem.max_steps)
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
    trial: Trial,
    rates: Callable[[int], list[float]] | None = None,
    *,
    ceiling: Ceiling | None = None,
) -> Outcome:
    """Train one copy until its outcome is known.

    Args:
        problem: What is trained.
        trial: Its start and rate.
        rates: Step (from 0) → rate of each group, for a schedule.
        ceiling: What one class for all reaches, if it is known already.

    Returns:
        The outcome, a pure function of the problem, the trial and the rates.
    """
    run = _Run(problem, trial, ceiling or ceiling_of(problem, trial.start))
    with run.session.active():
        while run.ended is None:
            if rates:
                run.session.set_rates(rates(run.session.steps))
            run.step()
    return run.told(run.ended)


class _Run:
    """One trial until its end: what is kept of its losses, and what decides."""

    def __init__(self, problem: Problem, trial: Trial, ceiling: Ceiling) -> None:
        self.problem, self.trial, self.constant = problem, trial, ceiling.constant
        self.ours = problem.recipe is not None
        self.session = Session(problem, trial.start, trial.lr)
        watched = ceiling.watched and not self.ours and trial.steps is None
        self.watch = Watch(problem, watched)
        self.limit = trial.steps or problem.max_steps
        self.losses: deque[float] = deque(maxlen=LAST_LOSSES)
        self.first = self.peak = -math.inf
        self.value: float | None = None
        self.nans = 0
        self.touched: Outcome | None = None
        self.ended: Outcome | None = None

    def step(self) -> None:
        """Take a step and look at what it did; `ended` is set when the outcome is known."""
        session, problem = self.session, self.problem
        try:
            loss = session.step()
            if not math.isfinite(loss):
                self.ended = self._diverged(session.steps)
                return
            self._note(loss)
            collapsed = session.collapsed(self.watch)
            evaluates = self.trial.steps is None and problem.evaluates_at(session.steps)
            if self.touched and session.steps < problem.max_steps:
                evaluates = False
            if not collapsed and not evaluates:
                if session.steps == self.limit:
                    self.ended = Outcome("partial", session.steps)
                return
            if not session.healthy():
                self.ended = self._diverged(session.steps)
                return
            self.value = problem.evaluate(session.model)
            self.nans += math.isnan(self.value)
        except REFUSALS as error:
            if not is_divergence(error, self.first, self.peak, session.healthy()):
                raise
            self.ended = self._diverged(session.steps + 1)
            return
        self._judge(evaluates, collapsed)

    def _note(self, loss: float) -> None:
        if self.ours:
            self.session.note_silence()
        self.first = loss if self.session.steps == 1 else self.first
        self.peak = max(self.peak, loss)
        self.losses.append(loss)

    def _judge(self, evaluates: bool, collapsed: bool) -> None:
        """Decide by the metric, if it decides."""
        session, problem, value = self.session, self.problem, self.value
        assert value is not None
        last = session.steps == problem.max_steps
        if evaluates and problem.objective.met(value):
            score = problem.objective.score(value)
            met = Outcome("trained", session.steps, value, nans=self.nans, score=score)
            if self.trial.to_end and not last:
                self.touched = self.touched or met
            else:
                self.ended = met
        elif collapsed and self.trial.steps is None and not self.touched:
            self.ended = replace(self._short(), given_up=session.steps, cause="collapsed")
        elif last:
            self.ended = session.buried(self._short())

    def _diverged(self, step: int) -> Outcome:
        metric = self.value if self.ours else None
        return self.session.buried(Outcome("diverged", step, metric, nans=self.nans))

    def _short(self) -> Outcome:
        """Return the outcome of a budget spent below the threshold; NaN at its end is divergence.

        A run that ends no better than one class for all is not called slow for the search's sake,
        however calm its loss was: it may have collapsed, and a lower rate may train.
        """
        objective, value, first = self.problem.objective, self.value, self.first
        if value is None or not math.isfinite(value):
            if not callable(objective.metric):
                return Outcome("diverged", self.problem.max_steps, nans=self.nans)
            value = None
        calm = self.peak - first <= (UNSTABLE - 1) * abs(first)
        slow = calm and (self.constant is None or value is None or value > self.constant)
        score = None if value is None else objective.score(value)
        lower = fmean(self.losses) < first
        learned = lower and not (objective.metric == "accuracy" and self._one_class())
        return Outcome(
            "short",
            self.problem.max_steps,
            value,
            slow,
            nans=self.nans,
            score=score,
            cause="slow" if learned else "collapsed",
        )

    def _one_class(self) -> bool:
        """Tell whether the model predicts one class for all validation inputs."""
        model, seen = self.session.model.eval(), None
        with Stream("metric", 1).active(), torch.no_grad():
            for raw in self.problem.val.once():
                batch = to_device(raw, self.problem.origin.device)
                outputs = call(model, pair(batch)[0])
                found = outputs.argmax(1 if outputs.ndim > 1 else 0).flatten()
                seen = found[:1] if seen is None else seen
                if bool((found != seen).any()):
                    return False
        return True

    def told(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the training losses, as a run to the end tells it."""
        first = self.first if math.isfinite(self.first) else None
        told = replace(outcome, first_loss=first)
        if outcome.kind != "dead" and outcome.given_up is None and self.losses:
            told = replace(told, last_loss=fmean(self.losses))
        if not self.trial.to_end:
            return told
        held = outcome.kind == "trained"
        if self.touched is None:
            return replace(told, held=held)
        spent = held or outcome.kind == "short"
        return replace(
            self.touched,
            first_loss=told.first_loss,
            last_loss=told.last_loss,
            held=held,
            given_up=None if spent else outcome.step,
        )


def is_divergence(error: Exception, first: float, peak: float, healthy: bool) -> bool:
    """Tell whether an exception is what a blown-up run ended in: see `BLOWN_UP`."""
    ours = isinstance(error, ModelError | torch.OutOfMemoryError)
    return not ours and (not healthy or peak > BLOWN_UP * abs(first))
