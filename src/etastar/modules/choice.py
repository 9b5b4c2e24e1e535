"""Which engine trains a task, and why: by what the task is, never by timing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from etastar.errors import ModelError, unknown_name
from etastar.modules import hooks
from etastar.modules.nested import copied, to_device
from etastar.modules.origin import Start
from etastar.modules.streams import Stream
from etastar.modules.task import Task

if TYPE_CHECKING:
    from torch import nn

    from etastar.modules.engine_loop import LoopEngine
    from etastar.modules.engine_stack import StackEngine

EngineName: TypeAlias = Literal["auto", "stack", "loop"]


@dataclass(frozen=True)
class Choice:
    """The engine and why it was taken.

    Attributes:
        name: `stack` or `loop`.
        reason: In words.
    """

    name: EngineName
    reason: str

    def engine(self, task: Task, starts: list[Start]) -> StackEngine | LoopEngine:
        """The engine, ready to run a queue of trials whose `seed` numbers `starts`."""
        if self.name == "stack":
            from etastar.modules.engine_stack import StackEngine

            return StackEngine(task, starts)
        from etastar.modules.engine_loop import LoopEngine

        return LoopEngine(task, starts)


def choose(task: Task, starts: list[Start], wanted: EngineName) -> Choice:
    """The fastest engine that can train the task, or the one that is wanted.

    Raises:
        ModelError: The wanted engine cannot train this task.
        ConfigError: There is no engine of that name.
    """
    from etastar.modules import engine_stack

    names = get_args(EngineName)
    if wanted == "vmap":
        warnings.warn("engine='vmap' is gone; the loop trains instead.", FutureWarning, 2)
        wanted = "loop"
    if wanted not in names:
        raise unknown_name("engine", str(wanted), names)
    if wanted == "loop":
        return Choice("loop", "asked for")
    alone = _only_alone(task, starts)
    no_stack = alone or engine_stack.refusal(task, task.origin.copy(starts[0].model))
    if no_stack is None:
        reason = "ReLU layers of constant width, cross-entropy and SGD on tensors"
        return Choice("stack", reason if wanted == "auto" else "asked for")
    if wanted == "stack":
        raise ModelError(f"engine='stack' cannot train this: {no_stack}. Use engine='auto'.")
    return Choice("loop", no_stack)


def _only_alone(task: Task, starts: list[Start]) -> str | None:
    """What would be left out if copies were stacked, and the optimizer's rule repeated on them."""
    for seed in sorted({start.model for start in starts}):
        if reason := hooks.on_gradients(task.origin.copy(seed)):
            return reason
    return task.optimizer.besides_rates(lambda: task.origin.copy(starts[0].model))


def watched(task: Task, start: Start) -> Task:
    """The task with what one class for all reaches; watched for collapse where that is sound."""
    from etastar.modules.collapse import constant_accuracy

    objective = task.objective
    if objective.metric != "accuracy" or not objective.higher_is_better:
        return task
    try:
        task = replace(task, constant=constant_accuracy(task))
    except ModelError:
        return task  # the accuracy cannot be evaluated, which is said elsewhere
    if not task.train.fixed:
        return task
    batch = to_device(next(task.train.stream(start.order)), task.origin.device)
    model = task.origin.copy(start.model)
    if _stateful_layer(model) or _draws_or_remembers(task, start, batch):
        return task
    if hooks.on_optimizer(task.optimizer.build(model, 1.0)) or hooks.on_gradients(model):
        return task  # they may revive what stands still
    return replace(task, ceiling=task.constant)


def _stateful_layer(model: nn.Module) -> str | None:
    """A layer that draws random numbers or keeps statistics in train mode."""
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and (module.track_running_stats or "Batch" in str(module)):
            return f"{type(module).__name__} ({name}) couples samples and keeps statistics"
        if isinstance(module, _DropoutNd) and module.p > 0:
            return f"{type(module).__name__} ({name}) draws random numbers"
    return None


def _draws_or_remembers(task: Task, start: Start, batch: Any) -> str | None:
    """Whether a step depends on random numbers, or leaves a trace in the model's buffers."""
    import torch

    model = task.origin.copy(start.model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = []
    for number in range(2):
        with Stream("training", start.order, number).active(), torch.no_grad():
            losses.append(task.objective.loss(model, copied(batch)))
    if not torch.equal(*losses):
        return "the loss of one batch at the same weights is not always the same"
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(before[name], buffer):
            return f"the buffer {name} changes in training"
    return None
