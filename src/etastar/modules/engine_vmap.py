"""Engine 2: many copies at once through `torch.func`, each at its own rate.

One forward pass of the stacked copies under `vmap`; ordinary autograd through it: copies do not
interact, so the gradient of the summed loss holds each copy's own. The threads and the queue are
those of `etastar.training.engine`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from etastar.modules.batches import TensorBatches
from etastar.modules.collapse import Watch
from etastar.modules.nested import to_device
from etastar.modules.objective import Objective
from etastar.modules.origin import Start
from etastar.modules.rules import Rule, options, rule_for
from etastar.modules.task import REFUSALS, Run, Task, is_divergence, short
from etastar.training.engine import CHECK_EVERY, Engine, Queue
from etastar.training.memory import replicas_that_fit
from etastar.training.trial import Outcome, Trial

if TYPE_CHECKING:
    from torch import Tensor

CHECK_EVERY_ON_GPU = 32
"""Steps between looks at the losses on a GPU, where a look waits for it."""
WIDE_ON_GPU = 64
"""Copies up to which further rates are tried on the chance that they are needed, on a GPU."""
SPECULATION = 3
"""Copies per thread up to which further rates are tried on the chance that they are needed: the
cost of a step per copy falls until about here (`benchmarks/maximal_lr.py`)."""


class Loss(nn.Module):
    """The loss of a batch as a module, so that `functional_call` reaches every parameter.

    Args:
        model: Whose parameters are replaced.
        objective: The loss.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, batch: Any) -> Tensor:
        """The loss of one batch."""
        return self._objective.loss(self.model, batch)


@dataclass
class Row:
    """One trial in the stack."""

    trial: Trial
    batches: Iterator[Any]
    watch: Watch
    steps: int = 0
    first: float = -math.inf
    peak: float = -math.inf
    nans: int = 0


@dataclass
class Tensors:
    """What the copies own, every tensor `[R, ...]`.

    Attributes:
        params: Trainable parameters.
        fixed: Buffers and frozen parameters.
        slots: What the update rule keeps, per parameter.
        lr: η, float64 `[R]`.
        steps: Steps that the optimizer has taken, float64 `[R]`.
    """

    params: list[Tensor]
    fixed: list[Tensor]
    slots: list[dict[str, Tensor]]
    lr: Tensor
    steps: Tensor

    def each(self, function: Any, *others: Tensors) -> Tensors:
        """Apply a function to every tensor, and the others' same tensors."""

        def mapped(pick: Any) -> list[Tensor]:
            return [function(*parts) for parts in zip(*map(pick, (self, *others)), strict=True)]

        return Tensors(
            mapped(lambda t: t.params),
            mapped(lambda t: t.fixed),
            [
                {name: function(*(s[name] for s in slots)) for name in slots[0]}
                for slots in zip(self.slots, *(o.slots for o in others), strict=True)
            ],
            function(self.lr, *(o.lr for o in others)),
            function(self.steps, *(o.steps for o in others)),
        )


class VmapStack:
    """Copies that train side by side; the engine's threads have one each.

    Args:
        task: What is trained.
        starts: Seeds by the trials' `seed`.
        check_every: Most steps between looks at the losses.
    """

    def __init__(self, task: Task, starts: list[Start], check_every: int) -> None:
        self.task, self.starts, self.check_every = task, starts, check_every
        self._scratch = task.origin.copy(starts[0].model)
        self._loss = Loss(task.origin.copy(starts[0].model), task.objective)
        optimizer = task.optimizer.build(self._scratch, 1.0)
        rule = rule_for(optimizer)
        assert not isinstance(rule, str), rule
        names = {id(p): name for name, p in self._scratch.named_parameters()}
        self._names = [n for n, p in self._scratch.named_parameters() if p.requires_grad]
        self._fixed = [n for n, p in self._scratch.named_parameters() if not p.requires_grad]
        self._fixed += [name for name, _ in self._scratch.named_buffers()]
        self._rules: dict[str, tuple[Rule, float]] = {}
        for group, held in zip(options(optimizer), optimizer.param_groups, strict=True):
            for p in held["params"]:
                self._rules[names[id(p)]] = (rule(group), float(group["lr"]))
        self.rows: list[Row] = []
        self.tensors: Tensors | None = None
        self.runs: dict[Trial, Run] = {}

    @property
    def trials(self) -> list[Trial]:
        """The trial of each row."""
        return [row.trial for row in self.rows]

    @property
    def steps(self) -> list[int]:
        """The steps taken by each row."""
        return [row.steps for row in self.rows]

    def admit(self, trials: list[Trial]) -> None:
        """Put fresh copies for these trials into the stack."""
        for trial in trials:
            order = self.starts[trial.seed].order
            train = self.task.train
            rows = train.rows(order) if isinstance(train, TensorBatches) else train.stream(order)
            self.rows.append(Row(trial, rows, Watch(self.task)))
            fresh = self._fresh(trial)
            if self.tensors is None:
                self.tensors = fresh
            else:
                self.tensors = self.tensors.each(lambda a, b: torch.cat([a, b]), fresh)

    def drop(self, rows: list[int]) -> None:
        """Remove rows and close the gaps."""
        kept = [row for row in range(len(self.rows)) if row not in set(rows)]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[row] for row in kept]
        self.tensors = self.tensors.each(lambda t: t[kept]) if self.tensors and kept else None

    def advance(self) -> dict[int, Outcome]:
        """Take steps up to the next checkpoint of any row; row → outcome of those decided."""
        task = self.task
        steps = self.check_every
        for row in self.rows:
            steps = min(steps, task.max_steps - row.steps)
            steps = min(steps, row.watch.until_next(row.steps))
            if not task.objective.hold:
                steps = min(steps, task.eval_every - row.steps % task.eval_every)
        losses = torch.stack([self._step() for _ in range(steps)]).double().T.tolist()
        decided: dict[int, Run] = {}
        for index, (row, values) in enumerate(zip(self.rows, losses, strict=True)):
            for loss in values:
                row.steps += 1
                if index in decided:
                    continue
                if not math.isfinite(loss):
                    decided[index] = Run("diverged", row.steps)
                    continue
                row.first = loss if row.steps == 1 else row.first
                row.peak = max(row.peak, loss)
            if index not in decided:
                run = self._judge(index)
                decided |= {} if run is None else {index: run}
        for index, run in decided.items():
            self.runs[self.rows[index].trial] = replace(run, nans=self.rows[index].nans)
        return {index: run.outcome(task.objective) for index, run in decided.items()}

    def _fresh(self, trial: Trial) -> Tensors:
        """The initial tensors of one trial, `[1, ...]`."""
        model = self.task.origin.copy(self.starts[trial.seed].model)
        named = dict(model.named_parameters()) | dict(model.named_buffers())
        state = self.task.optimizer.build(model, trial.lr).state
        kept = [state.get(named[name], {}) for name in self._names]
        taken = [float(s["step"]) for s in kept if "step" in s]

        def slot(of: dict[str, Any], name: str, p: Tensor) -> Tensor:
            held = of.get(name)
            return torch.zeros_like(p)[None] if held is None else held.detach().clone()[None]

        one = torch.ones(1, dtype=torch.float64, device=self.task.origin.device)
        return Tensors(
            [named[name].detach()[None] for name in self._names],
            [named[name].detach()[None] for name in self._fixed],
            [
                {slot_name: slot(of, slot_name, named[name].detach()) for slot_name in rule.slots}
                for name, of in zip(self._names, kept, strict=True)
                for rule in [self._rules[name][0]]
            ],
            one * trial.lr,
            one * max(taken, default=0.0),
        )

    def _step(self) -> Tensor:
        """One step of every row; the losses before it, `[R]`."""
        assert self.tensors is not None
        train, device = self.task.train, self.task.origin.device
        drawn = [next(row.batches) for row in self.rows]
        if isinstance(train, TensorBatches):
            return self.update(self.tensors, train.take(torch.stack(drawn)))
        batches = [to_device(batch, device) for batch in drawn]
        alike: dict[str, list[int]] = {}
        for index, batch in enumerate(batches):
            alike.setdefault(layout(batch), []).append(index)
        if len(alike) == 1:
            return self.update(self.tensors, stacked(batches))
        losses = self.tensors.lr.new_empty(len(batches))
        for rows in alike.values():  # rows at batches of different sizes step in turn
            part = self.tensors.each(lambda t, rows=rows: t[rows])
            losses[rows] = self.update(part, stacked([batches[row] for row in rows])).double()
            self.tensors.each(lambda t, p, rows=rows: t.index_copy_(0, _index(rows, t), p), part)
        return losses

    def update(self, tensors: Tensors, batch: Any) -> Tensor:
        """One step in place; the losses before it, `[R]`.

        Args:
            tensors: Of R copies.
            batch: The batch with a first axis of length R on every tensor.
        """
        losses, gradients = self.gradients(tensors, batch)
        tensors.steps += 1
        with torch.no_grad():
            for name, p, g, slots in zip(
                self._names, tensors.params, gradients, tensors.slots, strict=True
            ):
                if g is not None:
                    rule, ratio = self._rules[name]
                    rule(p, g, slots, tensors.lr * ratio, tensors.steps)
        return losses

    def gradients(self, tensors: Tensors, batch: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Losses `[R]` and the gradient of each parameter `[R, ...]`; None where unused.

        A lone copy is computed twice: some kernels, e.g. of a convolution, round a stack of one
        unlike any larger one, and an outcome must not depend on what trains beside it.
        """
        if len(tensors.lr) == 1:
            twice = tensors.each(lambda t: torch.cat([t, t]))
            losses, gradients = self.gradients(twice, doubled(batch))
            return losses[:1], tuple(None if g is None else g[:1] for g in gradients)
        leaves = [p.detach().requires_grad_() for p in tensors.params]
        flat, spec = tree_flatten(batch)
        axes = [0 if isinstance(part, torch.Tensor) else None for part in flat]

        def loss(params: list[Tensor], fixed: list[Tensor], *parts: Any) -> Tensor:
            names = (*self._names, *self._fixed)
            values = {f"model.{name}": p for name, p in zip(names, (*params, *fixed), strict=True)}
            value: Tensor = functional_call(
                self._loss, values, (tree_unflatten(list(parts), spec),)
            )
            return value

        with torch.enable_grad():
            batched = vmap(loss, in_dims=(0, 0 if tensors.fixed else None, *axes))
            losses = batched(leaves, tensors.fixed, *flat)
            gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        return losses.detach(), gradients

    def _judge(self, index: int) -> Run | None:
        """Look at one row, and evaluate it if that is due: its outcome, if it is known now."""
        row, task, tensors = self.rows[index], self.task, self.tensors
        assert tensors is not None
        evaluates = task.evaluates_at(row.steps)
        first = tensors.params[0][index]
        looks = row.watch.looks_at(row.steps) and not row.watch.moved(first)
        if not evaluates and not looks:
            return None
        if not all(bool(p[index].isfinite().all()) for p in tensors.params):
            return Run("diverged", row.steps) if evaluates else None
        self._load(index)
        collapsed = looks and row.watch.collapsed(self._scratch, row.steps)
        if not evaluates and not collapsed:
            return None
        try:
            value = task.evaluate(self._scratch, random=callable(task.objective.metric))
        except REFUSALS as error:
            if not is_divergence(error, row.first, row.peak, healthy=True):
                raise
            return Run("diverged", row.steps)
        row.nans += math.isnan(value)
        if evaluates and task.objective.met(value):
            return Run("trained", row.steps, value)
        ended = short(task, value, row.first, row.peak)
        if row.steps == task.max_steps:
            return ended
        return replace(ended, given_up=row.steps) if collapsed else None

    def _load(self, index: int) -> None:
        """Put the parameters and buffers of one row into the scratch model."""
        assert self.tensors is not None
        named = dict(self._scratch.named_parameters()) | dict(self._scratch.named_buffers())
        with torch.no_grad():
            for name, values in zip(self._names, self.tensors.params, strict=True):
                named[name].copy_(values[index])
            for name, values in zip(self._fixed, self.tensors.fixed, strict=True):
                named[name].copy_(values[index])


def _index(rows: list[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, device=like.device)


def layout(batch: Any) -> str:
    """Structure, shapes and types of a batch: equal where batches can be stacked."""
    flat, spec = tree_flatten(batch)
    parts = [(p.shape, p.dtype) if isinstance(p, torch.Tensor) else p for p in flat]
    return f"{spec}{parts}"


def stacked(batches: list[Any]) -> Any:
    """Batches of one layout as one, with a new first axis."""
    flat = [tree_flatten(batch)[0] for batch in batches]
    spec = tree_flatten(batches[0])[1]
    parts = [
        torch.stack(same) if isinstance(same[0], torch.Tensor) else same[0]
        for same in map(list, zip(*flat, strict=True))
    ]
    return tree_unflatten(parts, spec)


@contextmanager
def batchable_attention() -> Iterator[None]:
    """Attention by matrix products: fused kernels have no batching rule."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def doubled(batch: Any) -> Any:
    """A stacked batch of one copy as that of two."""
    return tree_map(lambda p: torch.cat([p, p]) if isinstance(p, torch.Tensor) else p, batch)


class VmapEngine(Engine):
    """Runs a queue of trials on `VmapStack`s, one per thread.

    Args:
        task: What is trained.
        starts: Seeds by the trials' `seed`.
        bytes_per_copy: Memory of one copy while it trains, see `choice.probe_vmap`.
    """

    def __init__(self, task: Task, starts: list[Start], bytes_per_copy: int) -> None:
        self.task, self.starts = task, starts
        self.device = task.origin.device
        on_cpu = self.device.type == "cpu"
        self.threads = torch.get_num_threads() if on_cpu else 1
        self.check_every = CHECK_EVERY if on_cpu else CHECK_EVERY_ON_GPU
        self.slots = replicas_that_fit(bytes_per_copy, self.device, self.threads)
        self.steps_taken = 0
        self.stacks: list[VmapStack] = []

    @property
    def useful_width(self) -> int:
        """See `SPECULATION`; on a GPU as many as fit, up to `WIDE_ON_GPU`."""
        wide = SPECULATION * self.threads if self.device.type == "cpu" else WIDE_ON_GPU
        return min(wide, self.slots * self.threads)

    def run(self, queue: Queue) -> None:
        """See `Engine`; attention is computed by the kernel that vmap can batch."""
        with batchable_attention():
            super().run(queue)

    def stack(self) -> VmapStack:  # type: ignore[override] # the crew asks no more of it
        """An empty stack; called once by every thread."""
        self.stacks.append(VmapStack(self.task, self.starts, self.check_every))
        return self.stacks[-1]

    def run_of(self, trial: Trial, outcome: Outcome) -> Run:
        """How a trial ended."""
        return next(stack.runs[trial] for stack in self.stacks if trial in stack.runs)
