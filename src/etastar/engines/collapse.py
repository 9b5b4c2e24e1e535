"""Runs that can only predict one class for ever, found before their budget is spent.

Far above η* a ReLU network often does not diverge: a layer falls silent, all inputs look the same
to what follows, and the rest of the budget changes nothing. Such a run is `short`, as it would be
at the end; that it is given up early changes the cost only. Nothing about the architecture is
assumed. A run is *collapsed* if

1. some parameters U, the first one among them, did not change by a bit for a number of steps;
2. for other values of the parameters that did change, drawn at random three times, the outputs are
   the same for every training input and the gradients of U are zero (twice on one batch, once on
   all the training data); the last time they are the same for every validation input too.

So U hides the inputs whatever the other parameters become, and U is never updated again: its
gradients stay zero, and what an optimizer remembers of earlier ones fades. One class for all cannot
reach the threshold if that is above the share of the commonest class.

It takes fixed training data and a model without random numbers or statistics; others are trained to
the end of their budget.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from etastar.problem import hooks, own_loss
from etastar.problem.answers import targets_of
from etastar.problem.checks import first_batch
from etastar.problem.losses import half_squared_distance
from etastar.problem.nested import call, pair, samples_in, to_device
from etastar.problem.problem import Problem
from etastar.problem.rehearsal import draws_or_remembers
from etastar.problem.trial import Start

DRAWS = 3
"""Times that the parameters that did change are drawn anew."""
LOOK_EVERY = 16
"""Steps between looks at the first parameter, and for which U must stand still."""
SHAKEN, LEAST_SHAKEN = 0.5, 0.01
"""Standard deviation of such a draw around what a parameter is: of its largest entry, and where all
are zero."""
SAME = 1e-5
"""Outputs that differ by less than this part of the largest one are the same: the rows of one
matrix product need not be rounded alike."""


SQUARED = (half_squared_distance, nn.functional.mse_loss)
"""Losses whose gradient grows with the outputs, so that a collapsed run may still diverge."""


def watch(problem: Problem) -> Callable[[nn.Module, int], bool]:
    """Return what tells, asked after every step of one run, whether the run is collapsed.

    Args:
        problem: What is trained.
    """
    first: Tensor | None = None  # as it was at the last look
    before: list[Tensor] = []  # all parameters, since the first one stands still
    since, patience = 0, LOOK_EVERY

    def collapsed(model: nn.Module, step: int) -> bool:
        nonlocal first, before, since, patience
        if step % LOOK_EVERY:
            return False
        now = [p.detach() for p in model.parameters()]
        input_layer = next(p.detach() for p in model.parameters() if p.requires_grad)
        if first is None or not torch.equal(first, input_layer):
            first, before = input_layer.clone(), []
            return False
        if before and step - since < patience:
            return False
        if before:
            with suppress(Exception):  # the user's code may refuse parameters that are drawn
                if blocked(problem, model, list(map(torch.equal, before, now))):
                    return True
            patience *= 2
        before, since = [p.clone() for p in now], step
        return False

    return collapsed


def blocked(problem: Problem, model: nn.Module, fixed: list[bool]) -> bool:
    """Tell whether the fixed parameters hide the inputs, and get no gradient, whatever the others.

    Args:
        problem: Whose training data are read.
        model: Left as it is.
        fixed: Which of its parameters stand still.
    """
    generator = torch.Generator().manual_seed(0)
    own = copy.deepcopy(model)
    each = list(zip(own.parameters(), fixed, strict=True))
    still = [p for p, stands in each if stands and p.requires_grad]
    others = [(p, p.detach().clone()) for p, stands in each if not stands]
    for draw in range(DRAWS if still else 0):
        with torch.no_grad():
            for p, value in others:
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
                p.copy_(value + noise * (value.abs().max() * SHAKEN + LEAST_SHAKEN))
        last = draw == DRAWS - 1
        reference: Tensor | None = None
        for batch in islice(problem.train.once(), None if last else 1):
            on_device = to_device(batch, problem.origin.device)
            differ, reference = _compared(own, on_device, reference)
            if differ or _any_gradient(problem.objective.loss(own, on_device), still):
                return False
        for batch in problem.val.once() if last else ():
            if _compared(own, to_device(batch, problem.origin.device), reference)[0]:
                return False
    return bool(still)


def _compared(model: nn.Module, batch: Any, reference: Tensor | None) -> tuple[bool, Tensor]:
    """Tell whether a batch's outputs differ from the first ones, and return those."""
    with torch.no_grad():
        outputs = call(model, pair(batch)[0], samples_in(batch))
    first = outputs[:1] if reference is None else reference
    same = (outputs - first).abs() <= SAME * outputs.abs().max()
    return not bool(same.all()), first


def _any_gradient(loss: Tensor, params: Sequence[Tensor]) -> bool:
    """Tell whether a loss has any gradient in these parameters."""
    if not loss.requires_grad:
        return False
    gradients = torch.autograd.grad(loss, params, allow_unused=True)
    return any(g is not None and bool(g.any()) for g in gradients)


@dataclass(frozen=True)
class Ceiling:
    """What one class for all reaches of an accuracy.

    Attributes:
        constant: The share of the commonest class in the validation data; None if unknown.
        watched: Whether a run may be given up once it can reach no more.
    """

    constant: float | None = None
    watched: bool = False


def ceiling_of(problem: Problem, start: Start) -> Ceiling:
    """Return what one class for all reaches, and whether watching for collapse is sound.

    Args:
        problem: What is trained.
        start: One of its starts.
    """
    objective = problem.objective
    if objective.metric != "accuracy" or not objective.higher_is_better:
        return Ceiling()
    constant = constant_accuracy(problem)
    plain = objective.accuracy.axis == 1 and not objective.own_loss and objective.step_fn is None
    squared = objective.loss_fn in SQUARED or isinstance(objective.loss_fn, nn.MSELoss)
    if constant is None or not problem.train.fixed or objective.threshold <= constant or squared:
        return Ceiling(constant)
    if not plain or objective.whole_step or problem.scheduler:
        return Ceiling(constant)
    with problem.held.aside(start.order):
        batch = first_batch(problem, start)
        model = problem.origin.copy(start.initialisation)
        revived = (
            len(list(own_loss.named_parameters(model))) > len(list(model.parameters()))
            or not isinstance(objective.outputs(model, batch), Tensor)
            or _stateful_layer(model)
            or draws_or_remembers(problem, start)
            or hooks.on_optimizer(problem.optimizer.build(model, 1.0))
            or hooks.on_gradients(model)
        )
    return Ceiling(constant, watched=not revived)


def varies(problem: Problem, one: Start, other: Start) -> bool:
    """Tell whether two starts can lead to different runs.

    Args:
        problem: What is trained.
        one: A start.
        other: Another one.
    """
    if problem.origin.varies or problem.train.varies(one.order, other.order):
        return True
    return draws_or_remembers(problem, one)


def constant_accuracy(problem: Problem) -> float | None:
    """Return what one answer for all validation samples reaches; None without tensors of targets.

    In a sequence or image the answer may differ from place to place: outputs that do not depend on
    the inputs may, too.
    """
    targets = targets_of(problem.val)
    return None if targets is None else problem.objective.accuracy.constant(targets, by_place=True)


def _stateful_layer(model: nn.Module) -> bool:
    """Tell whether a layer draws random numbers or keeps statistics in train mode."""
    norms, drops = nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd
    return any(
        (isinstance(m, norms) and (m.track_running_stats or "Batch" in str(m)))
        or (isinstance(m, drops) and m.p > 0)
        for m in model.modules()
    )
