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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem import hooks
from etastar.problem.losses import half_squared_distance
from etastar.problem.nested import copied, to_device
from etastar.problem.objective import call, pair
from etastar.problem.streams import Stream

if TYPE_CHECKING:
    from etastar.problem.problem import Problem
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
"""Losses under which a collapsed run may still diverge."""


@dataclass
class Watch:
    """Watches one run for collapse.

    Attributes:
        problem: What is trained.
        on: Whether collapse is looked for.
    """

    problem: Problem
    on: bool
    _first: Tensor | None = None
    _before: list[Tensor] | None = None
    _since: int = 0
    _patience: int = LOOK_EVERY

    def looks_at(self, step: int) -> bool:
        """Whether `moved` is to be asked after so many steps."""
        return self.on and step % LOOK_EVERY == 0

    def moved(self, first: Tensor) -> bool:
        """Whether the first parameter changed since the last look; `collapsed` is next if not."""
        if self._first is not None and torch.equal(self._first, first):
            return False
        self._first, self._before = first.detach().clone(), None
        return True

    def collapsed(self, model: nn.Module, step: int) -> bool:
        """Whether the run is collapsed, its first parameter standing still.

        Args:
            model: As it is now.
            step: Optimizer steps taken.
        """
        now = [p.detach() for p in model.parameters()]
        if self._before is None:
            self._before, self._since = [p.clone() for p in now], step
            return False
        if step - self._since < self._patience:
            return False
        same = [torch.equal(a, b) for a, b in zip(self._before, now, strict=True)]
        if blocked(self.problem, model, same):
            return True
        self._before, self._since = [p.clone() for p in now], step
        self._patience *= 2
        return False


def blocked(problem: Problem, model: nn.Module, fixed: list[bool]) -> bool:
    """Whether the fixed parameters hide the inputs, and get no gradient, whatever the others are.

    Args:
        problem: Whose training data are read.
        model: Left as it is.
        fixed: Which of its parameters stand still.
    """
    generator = torch.Generator().manual_seed(0)
    own = copy.deepcopy(model)
    others = [p for p, still in zip(own.parameters(), fixed, strict=True) if not still]
    still = [p for p, s in zip(own.parameters(), fixed, strict=True) if s and p.requires_grad]
    if not still:
        return False
    now = [p.detach().clone() for p in others]
    for draw in range(DRAWS):
        with torch.no_grad():
            for p, value in zip(others, now, strict=True):
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
                scale = value.abs().max() * SHAKEN + LEAST_SHAKEN
                p.copy_(value + noise * scale)
        reference: Tensor | None = None
        last = draw == DRAWS - 1
        for raw in problem.train.once():
            batch = to_device(raw, problem.origin.device)
            outputs = call(own, pair(batch)[0])
            reference = outputs[:1].detach() if reference is None else reference
            if _differ(outputs, reference):
                return False
            if _any_gradient(problem, own, batch, outputs, still):
                return False
            if not last:
                break
        if last and reference is not None and _sees_validation(problem, own, reference):
            return False
    return True


def _differ(outputs: Tensor, reference: Tensor) -> bool:
    return not bool(((outputs - reference).abs() <= SAME * outputs.abs().max()).all())


def _sees_validation(problem: Problem, model: nn.Module, reference: Tensor) -> bool:
    """Whether some validation input gives another output than the training inputs."""
    with torch.no_grad():
        for raw in problem.val.once():
            inputs, _ = pair(to_device(raw, problem.origin.device))
            if _differ(call(model, inputs), reference):
                return True
    return False


def _any_gradient(
    problem: Problem, model: nn.Module, batch: Any, outputs: Tensor, params: Sequence[Tensor]
) -> bool:
    """Whether the loss of a batch has any gradient in these parameters."""
    objective = problem.objective
    if objective.step_fn is None:
        loss = objective.loss_fn(outputs, pair(batch)[1])
    else:
        loss = objective.loss(model, batch)
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
    if constant is None or not problem.train.fixed or objective.threshold <= constant:
        return Ceiling(constant)
    if objective.loss_fn in SQUARED or isinstance(objective.loss_fn, nn.MSELoss):
        return Ceiling(constant)  # its gradient grows with the outputs: they may yet diverge
    batch = to_device(next(problem.train.stream(start.order)), problem.origin.device)
    model = problem.origin.copy(start.initialisation)
    if _stateful_layer(model) or _draws_or_remembers(problem, start, batch):
        return Ceiling(constant)
    if hooks.on_optimizer(problem.optimizer.build(model, 1.0)) or hooks.on_gradients(model):
        return Ceiling(constant)  # they may revive what stands still
    return Ceiling(constant, watched=True)


def varies(problem: Problem, one: Start, other: Start) -> bool:
    """Tell whether two starts can lead to different runs.

    Args:
        problem: What is trained.
        one: A start.
        other: Another one.
    """
    if problem.origin.varies or problem.train.varies(one.order, other.order):
        return True
    batch = to_device(next(problem.train.stream(one.order)), problem.origin.device)
    return _draws_or_remembers(problem, one, batch)


def constant_accuracy(problem: Problem) -> float | None:
    """Return the share of the commonest class in the validation data; None without classes."""
    try:
        targets = [pair(batch)[1] for batch in problem.val.once()]
    except ModelError:
        return None
    if any(t.is_floating_point() and t.ndim < 2 for t in targets):
        return None
    flat = torch.cat([(t.argmax(1) if t.is_floating_point() else t).flatten() for t in targets])
    return float(torch.unique(flat, return_counts=True)[1].max()) / len(flat)


def _stateful_layer(model: nn.Module) -> bool:
    """Tell whether a layer draws random numbers or keeps statistics in train mode."""
    norms = nn.modules.batchnorm._NormBase
    for module in model.modules():
        if isinstance(module, norms) and (module.track_running_stats or "Batch" in str(module)):
            return True
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return True
    return False


def _draws_or_remembers(problem: Problem, start: Start, batch: Any) -> bool:
    """Tell whether a step depends on random numbers, or leaves a trace in the model's buffers."""
    model = problem.origin.copy(start.initialisation)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = []
    for number in range(2):
        with Stream("training", start.order, number).active(), torch.no_grad():
            losses.append(problem.objective.loss(model, copied(batch)))
    if not torch.equal(*losses):
        return True
    return any(
        name not in before or not torch.equal(before[name], buffer)
        for name, buffer in model.named_buffers()
    )
