"""Real training steps before the first trial: whether they can be repeated, and what they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.checks import not_finite
from etastar.problem.held import Held
from etastar.problem.nested import copied, same
from etastar.problem.optimizers import parts_of, ways_to_step
from etastar.problem.problem import Problem
from etastar.problem.session import Session, is_divergence
from etastar.problem.streams import KINDS, snapshot
from etastar.problem.trial import Start
from etastar.problem.user_code import told

STEPS = 4
"""Real steps that are taken twice."""
MOST_WAITED = 64
"""Steps within which a step of the user's own, which may accumulate, must change a parameter."""
MOST_SCHEDULED = 10_000
"""Steps over which a schedule is looked at."""
SAME = 1e-6
"""Relative difference of two rates that is rounding."""


def rehearsed(problem: Problem, start: Start) -> Problem:
    """Take a few real steps twice; return the problem with what was learned of its steps.

    Args:
        problem: What is to be trained.
        start: One of its starts.

    Returns:
        The problem, with the way in which `step` of its optimizer is called; and every trial has
        its own copies of all that functions hold, if they remember something otherwise.

    Raises:
        ModelError: A step fails, changes nothing, or cannot be repeated.
    """
    alone = replace(problem, held=Held(problem.held.functions, everything=True))
    ways = ways_to_step(problem.optimizer.build(problem.origin.copy(start.initialisation), 1.0))
    failed: list[ModelError] = []
    for way in ways:
        alone = replace(alone, optimizer=replace(problem.optimizer, closure=way))
        try:
            session, first = _steps(alone, start)
            break
        except ModelError as error:
            failed.append(error)
    else:
        raise failed[0]
    if _same(first, _steps(alone, start, session)[1]):
        return replace(alone, held=problem.held)
    if _same(first, _steps(alone, start)[1]):
        return alone
    raise ModelError(
        "the training step cannot be repeated: from the same weights, batches and random numbers, "
        f"{STEPS} steps ended otherwise the second time, so rates cannot be compared. Look for "
        "what outlives a step: files, iterators, generators that are not seeded; keep "
        "it in the model, or in an object with state_dict and load_state_dict."
    )


def _steps(
    problem: Problem, start: Start, after: Session | None = None
) -> tuple[Session, list[Tensor]]:
    """Take a few steps at a rate in the middle of the range.

    Returns:
        The session, its losses and parameters.

    Raises:
        ModelError: A step fails, or none changes a parameter.
    """
    session = Session(problem, start, problem.optimizer.middle, after)
    losses: list[float] = []
    before = [p.detach().clone() for p in session.model.parameters()]
    moved = 0 if problem.objective.whole_step else 1  # the step at which a parameter did
    budget = problem.max_steps
    with session.active():
        # one more after an accumulation, so that another pass begins in the middle of one
        while session.steps < min(budget, max(STEPS, moved + 1) if moved else MOST_WAITED):
            try:
                losses.append(session.step())
            except ModelError as error:
                if not (losses and is_divergence(error, losses[0], max(losses), session.healthy())):
                    raise
                break
            if not moved and not _same(before, list(session.model.parameters())):
                moved = session.steps
            if not math.isfinite(losses[0]):
                raise not_finite(losses[0], start.initialisation)
            if not (math.isfinite(losses[-1]) and session.healthy()):
                break
    if not moved:
        raise ModelError(
            f"step_fn takes (model, batch, optimizer), so that it does the whole step, but no "
            f"parameter changed in {session.steps} steps: call backward() on the loss and "
            "optimizer.step(). A step_fn of (model, batch) returns the loss and leaves them to us."
        )
    named = own_loss.named_parameters(session.model)
    return session, [torch.tensor(losses), *(p.detach() for _, p in named)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Tell whether tensors are the same: bit for bit on a CPU, where sums have one order."""
    if not one[-1].is_cuda:
        return same(one, other)
    pairs = zip(one, other, strict=False)
    close = (torch.allclose(a, b, rtol=1e-3, equal_nan=True) for a, b in pairs)
    return len(one) == len(other) and all(close)


def draws_or_remembers(problem: Problem, start: Start) -> bool:
    """Tell whether steps depend on random numbers, or leave more than other parameters.

    Args:
        problem: What is trained.
        start: One of its starts; another order of random numbers is tried on the same batch.
    """
    batch = next(problem.train.stream(start.order))
    ends = []
    for order in (start.order, start.order + 1):
        session = Session(problem, replace(start, order=order), problem.optimizer.middle)
        before = _besides_parameters(session.model)
        with session.active():
            loss = session.step(copied(batch))
        if not same(before, _besides_parameters(session.model)):
            return True
        ends.append([torch.tensor([loss]), *(p.detach() for p in session.model.parameters())])
    return not _same(*ends)


def _besides_parameters(model: nn.Module) -> list[Any]:
    """Return copies of the buffers and of the Python attributes of every module."""
    known = {*vars(nn.Module()), "training"}
    kept: list[Any] = [b.clone() for whole in own_loss.modules(model) for b in whole.buffers()]
    for module in (m for whole in own_loss.modules(model) for m in whole.modules()):
        kept += [_frozen(value) for name, value in vars(module).items() if name not in known]
    return kept


def _frozen(value: Any) -> Any:
    """Return what can be compared later: numbers, tensors, generators, and containers of them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple(KINDS)):
        state = snapshot([value])[0][1]
        return state if isinstance(state, Tensor) else repr(state)
    if isinstance(value, Mapping):
        return [_frozen(part) for part in value.values()]
    if isinstance(value, list | tuple | set):
        return [_frozen(part) for part in value]
    return value if isinstance(value, int | float | str | bytes) else None


def schedule_notes(problem: Problem, start: Start) -> list[str]:
    """Say what a scheduler makes of the rate, if there is one.

    Args:
        problem: What is trained.
        start: One of its starts.

    Raises:
        ModelError: It cannot be built or fails within the budget, or does not follow the rate.
    """
    make = problem.scheduler
    if make is None:
        return []
    model, rate = problem.origin.copy(start.initialisation), problem.optimizer.middle
    tried = (rate, 2 * rate)
    first, second = (_multiples(problem, make, model, lr) for lr in tried)
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        if not math.isclose(one, other, rel_tol=SAME, abs_tol=SAME):
            raise ModelError(
                f"scheduler does not follow the optimizer's rate: at step {step} it is "
                f"{one * tried[0]:.4g} where the optimizer begins with {tried[0]:.4g}, and "
                f"{other * tried[1]:.4g} with {tried[1]:.4g}. Write every rate in it as a multiple "
                'of optimizer.param_groups[0]["lr"].'
            )
    top = max(first)
    at = first.index(top)
    highest = math.isclose(top, 1.0, rel_tol=SAME)
    peak = "the peak of the schedule, reached at" if highest else f"the peak is {top:.4g}·η, at"
    return [
        "`scheduler` changes the rate during a run, and every η told is the one that the optimizer "
        f"begins with: {peak} step {at}."
    ]


def _multiples(
    problem: Problem, make: Callable[[Any], Any], model: nn.Module, lr: float
) -> list[float]:
    """Return the largest multiple of each group's own rate at every step of the budget."""
    optimizer = problem.optimizer.build(model, lr)
    begun = [float(group["lr"]) / lr for group in optimizer.param_groups]
    found: list[float] = []
    with told(
        lambda: f"scheduler at step {len(found)} of {problem.max_steps}",
        "It is called scheduler(optimizer), and step() after every step of the budget.",
    ):
        schedulers = [make(part) for part in parts_of(optimizer)]
        for scheduler in schedulers:
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise ModelError(
                    "scheduler is a ReduceLROnPlateau, which follows a metric: what is measured is "
                    "a rate at the start of training. Leave it out."
                )
            if not hasattr(scheduler, "step"):
                raise ModelError(
                    f"scheduler must map an optimizer to an LRScheduler, got a "
                    f"{type(scheduler).__name__}: `scheduler=lambda optimizer: "
                    "CosineAnnealingLR(optimizer, T_max=...)`."
                )
        for _ in range(min(problem.max_steps, MOST_SCHEDULED)):
            now = [float(group["lr"]) / lr for group in optimizer.param_groups]
            found.append(max(a / b for a, b in zip(now, begun, strict=True) if b))
            for part, scheduler in zip(parts_of(optimizer), schedulers, strict=True):
                vars(part)["_opt_called"] = True  # by which PyTorch tells that a step was taken
                scheduler.step()
    return found
