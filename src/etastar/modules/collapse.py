"""Runs that can only predict one class for ever, found before their budget is spent.

Far above η* a ReLU network often does not diverge: a layer falls silent, all inputs look the same
to what follows, and the rest of the budget changes nothing. Such a run is `short`, as it would be
at the end; that it is given up early changes the cost only. Nothing about the architecture is
assumed. A run is *collapsed* if

1. it predicted the same class for all validation data, twice, at least an epoch apart;
2. some parameters U did not change by a bit in between, so their gradients were zero on all data;
3. for other values of the parameters that did change, drawn at random three times, the outputs
   still are the same for every training input and the gradients of U still are zero.

So U blocks the inputs whatever the other parameters become, and U is never updated again. One
class for all cannot reach the threshold if that is above the share of the commonest class.

It takes fixed training data and a model without random numbers or statistics; others are trained to
the end of their budget.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etastar.modules.batches import to_device
from etastar.modules.objective import call, pair

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etastar.modules.task import Task

DRAWS = 3
SAME = 1e-5
"""Outputs that differ by less than this part of the largest one are the same: the rows of one
matrix product need not be rounded alike."""


@dataclass
class Watch:
    """Watches one run for collapse.

    Attributes:
        task: What is trained; `task.ceiling` is None if collapse is not to be looked for.
    """

    task: Task
    _before: list[Tensor] | None = None
    _since: int = 0
    _patience: int = 1

    def collapsed(self, model: nn.Module, step: int, one_class: bool) -> bool:
        """Whether the run is collapsed; to be asked at every evaluation.

        Args:
            model: As it is now.
            step: Optimizer steps taken.
            one_class: Whether it predicted the same class for all validation data.
        """
        import torch

        if self.task.ceiling is None or self.task.objective.threshold <= self.task.ceiling:
            return False
        if not one_class:
            self._before = None
            return False
        now = [p.detach() for p in model.parameters()]
        if self._before is None:
            self._before, self._since = [p.clone() for p in now], step
            return False
        if step - self._since < self._patience * self.task.train.steps_per_epoch:
            return False
        same = [torch.equal(a, b) for a, b in zip(self._before, now, strict=True)]
        if any(same) and blocked(self.task, model, same):
            return True
        self._before, self._since = [p.clone() for p in now], step
        self._patience *= 2
        return False


def blocked(task: Task, model: nn.Module, fixed: list[bool]) -> bool:
    """Whether the fixed parameters hide the inputs, and get no gradient, whatever the others are.

    Args:
        task: Whose training data are read.
        model: Left as it is.
        fixed: Which of its parameters stand still.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    own = copy.deepcopy(model)
    others = [p for p, still in zip(own.parameters(), fixed, strict=True) if not still]
    still = [p for p, s in zip(own.parameters(), fixed, strict=True) if s and p.requires_grad]
    if not still:
        return False
    now = [p.detach().clone() for p in others]
    for _ in range(DRAWS):
        with torch.no_grad():
            for p, value in zip(others, now, strict=True):
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
                p.copy_(value + noise * (value.abs().max() / 2 + 0.01))
        reference: Tensor | None = None
        for raw in task.train.once():
            batch = to_device(raw, task.origin.device)
            with torch.no_grad():
                outputs = call(own, pair(batch)[0])
            reference = outputs[:1] if reference is None else reference
            if not bool(((outputs - reference).abs() <= SAME * outputs.abs().max()).all()):
                return False
            if _any_gradient(task, own, batch, still):
                return False
    return True


def _any_gradient(task: Task, model: nn.Module, batch: Any, params: Sequence[Tensor]) -> bool:
    import torch

    loss = task.objective.loss(model, batch)
    if not loss.requires_grad:
        return False
    gradients = torch.autograd.grad(loss, params, allow_unused=True)
    return any(g is not None and bool(g.any()) for g in gradients)


def ceiling(task: Task) -> float:
    """The accuracy of one class for all: the share of the commonest one in the validation data."""
    import torch

    targets = [pair(batch)[1] for batch in task.val.once()]
    flat = torch.cat([(t.argmax(1) if t.is_floating_point() else t).flatten() for t in targets])
    return float(torch.unique(flat, return_counts=True)[1].max()) / len(flat)
