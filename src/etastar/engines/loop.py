"""The loop: one trial at a time, with the user's own optimizer; all that trains, trains here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from etastar.engines.base import Engine, Queue
from etastar.engines.collapse import Ceiling, ceiling_of, watch
from etastar.engines.evaluation import silent_everywhere
from etastar.engines.record import Record
from etastar.errors import ModelError
from etastar.problem.batches import TensorBatches
from etastar.problem.nested import to_device
from etastar.problem.origin import OneReplica
from etastar.problem.problem import Problem
from etastar.problem.session import Session, is_divergence
from etastar.problem.streams import Stream
from etastar.problem.trial import CHECK_DEAD_AFTER, Outcome, Trial


class LoopEngine(Engine):
    """Runs a queue of trials, one after the other.

    Args:
        threads: Of no effect: PyTorch's are used.
        rates: Step (from 0) → rate of each group, for a schedule.
    """

    name = "loop"
    why = "trains any model, one trial after the other"

    def __init__(
        self, threads: int | None = None, rates: Callable[[int], list[float]] | None = None
    ) -> None:
        super().__init__(threads)
        self.rates = rates
        self._ceiling: tuple[Problem, Ceiling] | None = None

    def refusal(self, problem: Problem) -> str | None:
        """See `Engine`: it trains every problem."""
        return None

    def run(self, problem: Problem, queue: Queue) -> None:
        """See `Engine`."""
        self.threads = torch.get_num_threads()
        while trials := queue.take(1):
            for trial in trials:
                if self._ceiling is None or self._ceiling[0] is not problem:
                    self._ceiling = problem, ceiling_of(problem, trial.start)
                look, ceiling = partial(queue.wanted, trial), self._ceiling[1]
                outcome = run_trial(problem, trial, self.rates, ceiling=ceiling, look=look)
                self.steps_taken += outcome.steps_taken(problem.max_steps)
                queue.put(trial, outcome)


def run_trial(
    problem: Problem,
    trial: Trial,
    rates: Callable[[int], list[float]] | None = None,
    *,
    ceiling: Ceiling | None = None,
    look: Callable[[], object] = lambda: None,
) -> Outcome:
    """Train one copy until its outcome is known.

    Args:
        problem: What is trained.
        trial: Its start and rate.
        rates: Step (from 0) → rate of each group, for a schedule.
        ceiling: What one class for all reaches, if it is known already.
        look: Called before every step; what it raises ends the run.

    Returns:
        The outcome, a pure function of the problem, the trial and the rates.
    """
    ceiling = ceiling or ceiling_of(problem, trial.start)
    session, run = Session(problem, trial.start, trial.lr), Record(trial, problem.max_steps)
    watched = ceiling.watched and problem.recipe is None and trial.steps is None
    collapsed = watch(problem) if watched else lambda model, step: False
    ended: Outcome | None = None
    with session.active():
        while ended is None:
            look()
            if rates:
                groups = session.optimizer.param_groups
                for group, rate in zip(groups, rates(session.steps), strict=True):
                    group["lr"] = rate
            ended = _stepped(session, run, collapsed, ceiling.constant)
    return run.told(ended)


def _stepped(
    session: Session,
    run: Record,
    collapsed: Callable[[nn.Module, int], bool],
    constant: float | None,
) -> Outcome | None:
    """Take a step and look at what it did; return the outcome once it is known."""
    problem, model, trial = session.problem, session.model, run.trial
    try:
        loss = session.step()
        step = session.steps
        if not math.isfinite(loss):
            return _diverged(session, run, step)
        run.note(step, [loss], [problem.recipe is not None and _is_silent(model)])
        gone = collapsed(model, step)
        last = step == problem.max_steps
        evaluates = trial.steps is None and problem.evaluates_at(step)
        evaluates = evaluates and (last or run.touched is None)
        if not gone and not evaluates:
            return Outcome("partial", step) if step == run.limit else None
        if not session.healthy():
            return _diverged(session, run, step)
        value = run.metric = session.evaluate()
        run.nans += math.isnan(value)
    except ModelError as error:
        if not is_divergence(error, run.first, run.peak, session.healthy()):
            raise
        return _diverged(session, run, session.steps + 1)
    if evaluates and problem.objective.met(value):
        score = problem.objective.score(value)
        met = Outcome("trained", step, value, nans=run.nans, score=score)
        if last or not trial.to_end:
            return met
        run.touched = run.touched or met
    elif gone and not run.touched:
        return replace(_short(session, run, constant), given_up=step, cause="collapsed")
    elif last:
        return _buried(session, run, _short(session, run, constant))
    return None


def _is_silent(model: nn.Module) -> bool:
    """Tell whether no gradient has reached the input layer."""
    gradient = next(model.parameters()).grad
    return gradient is None or not bool(gradient.any())


def _diverged(session: Session, run: Record, step: int) -> Outcome:
    metric = None if session.problem.recipe is None else run.metric
    return _buried(session, run, Outcome("diverged", step, metric, nans=run.nans))


def _buried(session: Session, run: Record, outcome: Outcome) -> Outcome:
    """Return the outcome, `dead` if a network of ours ended with a layer that is silent."""
    model, since, train = session.model, run.silent_since, session.problem.train
    if not isinstance(model, OneReplica) or since is None:
        return outcome
    assert isinstance(train, TensorBatches)
    needed = CHECK_DEAD_AFTER if outcome.kind == "diverged" else 0
    params = [p[None] for p in model.parameters()]
    if outcome.step - since < needed or not any(
        silent_everywhere(model.network, params, train.parts[0])
    ):
        return outcome
    return Outcome("dead", since, outcome.metric)


def _short(session: Session, run: Record, constant: float | None) -> Outcome:
    """Return the outcome of a budget spent below the threshold; NaN at its end is divergence."""
    objective, value = session.problem.objective, run.metric
    if value is None or not math.isfinite(value):
        if not callable(objective.metric):
            return Outcome("diverged", run.budget, nans=run.nans)
        value = None
    score = None if value is None else objective.score(value)
    learned = run.learned() and not (objective.metric == "accuracy" and _one_class(session))
    return run.short(value, score, constant, learned)


def _one_class(session: Session) -> bool:
    """Tell whether the model gives one answer for all validation inputs."""
    problem, model, seen = session.problem, session.model.eval(), None
    objective, device = problem.objective, problem.origin.device
    with Stream("metric", 1).active(), torch.set_grad_enabled(objective.eval_grad):
        for raw in problem.val.once():
            found = objective.accuracy.answers(objective.parts(model, to_device(raw, device))[0])
            yes_or_no = objective.accuracy.axis is None and found.ndim > 0
            rows = found.reshape(len(found), -1) if yes_or_no else found.reshape(-1, 1)
            seen = rows[:1] if seen is None else seen
            if rows.shape[1:] != seen.shape[1:] or bool((rows != seen).any()):
                return False
    return True
