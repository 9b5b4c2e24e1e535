"""Which engine trains a task, and why: by what the task is, never by timing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from etastar.errors import unknown_name
from etastar.modules import hooks
from etastar.modules.batches import LoaderBatches
from etastar.modules.errors import ModelError
from etastar.modules.nested import copied, to_device
from etastar.modules.optimizers import needs_closure
from etastar.modules.origin import Start
from etastar.modules.streams import Stream
from etastar.modules.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from etastar.modules.engine_loop import LoopEngine
    from etastar.modules.engine_stack import StackEngine
    from etastar.modules.engine_vmap import VmapEngine

EngineName: TypeAlias = Literal["auto", "stack", "vmap", "loop"]

AGREEMENT = 1e-3
"""Largest relative difference of a gradient under vmap from the plain one, in the norm: far above
rounding in float32, far below any difference in meaning."""
NOTHING = 1e-8
"""Norm of a gradient that is zero but for rounding."""
LONGEST_REASON = 160
"""Characters that are quoted of an error under vmap."""


@dataclass(frozen=True)
class Choice:
    """The engine and why it was taken.

    Attributes:
        name: `stack`, `vmap` or `loop`.
        reason: In words.
        bytes_per_copy: For `vmap`: memory of one copy in training.
    """

    name: EngineName
    reason: str
    bytes_per_copy: int = 0

    def engine(self, task: Task, starts: list[Start]) -> StackEngine | VmapEngine | LoopEngine:
        """The engine, ready to run a queue of trials whose `seed` numbers `starts`."""
        if self.name == "stack":
            from etastar.modules.engine_stack import StackEngine

            return StackEngine(task, starts)
        if self.name == "vmap":
            from etastar.modules.engine_vmap import VmapEngine

            return VmapEngine(task, starts, self.bytes_per_copy)
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
    if wanted not in names:
        raise unknown_name("engine", str(wanted), names)
    if wanted == "loop":
        return Choice("loop", "asked for")
    alone = _only_alone(task, starts)
    no_stack = alone or engine_stack.refusal(task, task.origin.copy(starts[0].model))
    if wanted != "vmap" and no_stack is None:
        reason = "ReLU layers of constant width, cross-entropy and SGD on tensors"
        return Choice("stack", reason if wanted == "auto" else "asked for")
    if wanted == "stack":
        raise ModelError(f"engine='stack' cannot train this: {no_stack}. Use engine='auto'.")
    no_vmap, size = (alone, 0) if alone else probe_vmap(task, starts[0])
    if no_vmap is None:
        return Choice("vmap", no_stack or "asked for", size)
    if wanted == "vmap":
        raise ModelError(f"engine='vmap' cannot train this: {no_vmap}. Use engine='auto'.")
    return Choice("loop", no_vmap)


def _only_alone(task: Task, starts: list[Start]) -> str | None:
    """What would be left out if copies were stacked, and the optimizer's rule repeated on them."""
    for seed in sorted({start.model for start in starts}):
        if reason := hooks.on_gradients(task.origin.copy(seed)):
            return reason
    return task.optimizer.besides_rates(lambda: task.origin.copy(starts[0].model))


def probe_vmap(task: Task, start: Start) -> tuple[str | None, int]:
    """Why copies cannot be trained under vmap (None if they can), and the memory of one.

    What is known to fail is refused by name. For the rest one gradient is taken both ways, on a
    batch of the training data, and must agree.
    """
    from etastar.modules.engine_vmap import batchable_attention
    from etastar.modules.rules import rule_for

    model = task.origin.copy(start.model)
    optimizer = task.optimizer.build(model, 1.0)
    if needs_closure(optimizer):
        return f"{type(optimizer).__name__} takes a closure", 0
    rule = rule_for(optimizer)
    if isinstance(rule, str):
        return rule, 0
    if reason := _stateful_layer(model):
        return reason, 0
    if isinstance(task.train, LoaderBatches) and task.train.streaming:
        return "an epoch of the training data does not fit into the memory", 0
    batch = to_device(next(task.train.stream(start.order)), task.origin.device)
    if reason := _draws_or_remembers(task, start, batch):
        return reason, 0
    try:
        with _no_slow_paths(), batchable_attention():
            return _compare(task, start, batch)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return f"vmap cannot go there: {type(error).__name__}: {first[:LONGEST_REASON]}", 0


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


@contextmanager
def _no_slow_paths() -> Iterator[None]:
    """Operations without a batching rule raise, rather than run one by one with a warning."""
    import torch

    functorch = torch._C._functorch
    allow = getattr(functorch, "_set_vmap_fallback_enabled", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if allow is None:
            yield
            return
        allow(False)
        try:
            yield
        finally:
            allow(True)


def _hook_watch() -> Any:
    """A context that has `seen` whether a hook was put on any gradient inside."""
    import torch
    from torch.overrides import TorchFunctionMode

    hooking = (torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook)

    class Watch(TorchFunctionMode):
        seen = False

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.seen |= func in hooking
            return func(*args, **(kwargs or {}))

    return Watch()


def _compare(task: Task, start: Start, batch: Any) -> tuple[str | None, int]:
    """Take the gradient of one batch with two copies under vmap and plainly."""
    import torch

    from etastar.modules.engine_vmap import VmapStack, stacked
    from etastar.training.trial import Trial

    model = task.origin.copy(start.model)
    saved = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    watch = _hook_watch()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), watch:
        loss = task.objective.loss(model, copied(batch))
    if watch.seen:
        return "the forward pass hooks gradients, which vmap forgets", 0
    trainable = [p for p in model.parameters() if p.requires_grad]
    plain = torch.autograd.grad(loss, trainable, allow_unused=True)
    stack = VmapStack(task, [start], 1)
    stack.admit([Trial(0, 1.0), Trial(0, 1.0)])
    assert stack.tensors is not None
    losses, gradients = stack.gradients(stack.tensors, stacked([batch, batch]))
    if not torch.allclose(losses, loss.detach().expand(2), rtol=AGREEMENT):
        return "the loss differs under vmap", 0
    for one, many in zip(plain, gradients, strict=True):
        if (one is None) != (many is None):
            return "a gradient is missing under vmap", 0
        if one is not None and many is not None:
            gap = (many - one).reshape(2, -1).norm(dim=1).max()
            if gap > AGREEMENT * one.norm() + NOTHING:
                return "a gradient differs under vmap", 0
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return None, 5 * parameters + 2 * saved  # weights, gradient, update, two slots
