"""The stack of replicas: trains whatever a queue of trials asks for, many at once.

    queue.take → admit into free slots → a round of steps → settle → queue.put → compact → ...

A *round* ends at the next checkpoint of any replica (an evaluation, the end of an epoch or of the
budget) and after at most `check_every` steps. Nothing inside a round waits for the device: losses
and flags are collected there and read once, when the round is settled. A replica that is decided
leaves its slot at once, and the slot is refilled.

No replica sees another: each has its own weights, rate, order of data and step count, so outcomes
do not depend on the size of the stack, on what trained beside it, or on when it was admitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch

from etastar.networks import MLP
from etastar.training.backprop import make_step
from etastar.training.evaluation import LazyAccuracy, silent_everywhere
from etastar.training.memory import replicas_that_fit
from etastar.training.order import DataOrder
from etastar.training.trial import UNSTABLE, Outcome, Recipe, Trial

if TYPE_CHECKING:
    from etastar.data import Dataset
    from etastar.networks import Network
    from etastar.networks.base import Params


class Queue(Protocol):
    """Where trials come from and outcomes go: a search, or a plain list (`train_all`)."""

    def take(self, free: int) -> list[Trial]:
        """At most `free` trials to start now; empty if none is ready before the next `put`."""

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended."""

    def wanted(self, trial: Trial) -> bool:
        """Whether a running trial's outcome still matters; if not, its slot is freed."""


class Engine:
    """Trains trials of one network, data set and recipe, `slots` of them at a time.

    Args:
        network: The architecture.
        dataset: Training and validation tensors, on any device.
        recipe: Loss, optimizer, batch size and criterion.
        device: Where to train.
        dtype: Of parameters and data.
        slots: Replicas at once; by default as many as the device's free memory and cache hold.
        check_every: Steps between looks at the device; 8 on a CPU, where looking is free.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        recipe: Recipe,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        slots: int | None = None,
        check_every: int | None = None,
    ) -> None:
        self.network, self.recipe = network, recipe
        self.device, self.dtype = torch.device(device), dtype
        self.data = dataset.to(device=self.device, dtype=dtype)
        self.samples, self.inputs = self.data.x_train.shape
        one_hot = torch.nn.functional.one_hot(self.data.y_train, self.data.classes)
        self._targets = one_hot.to(dtype)
        self._evaluation = LazyAccuracy(network, self.data.x_val, self.data.y_val)
        full = recipe.batch_size == "full" or recipe.batch_size >= self.samples
        self.batch = self.samples if full else int(recipe.batch_size)
        self.full_batch = full
        self.check_every = check_every or (8 if self.device.type == "cpu" else 64)
        self.slots = slots or replicas_that_fit(self.bytes_per_replica(), self.device)
        self.steps_taken = 0
        self._step = make_step(network, recipe.loss, recipe.momentum)
        self._order = DataOrder(self.samples)
        self._batch_buffer: torch.Tensor | None = None
        self._reset()

    @property
    def useful_width(self) -> int:
        """Replicas below which adding one costs next to nothing: 1 on a CPU, many on a GPU."""
        return 1 if self.device.type == "cpu" else min(self.slots, 256)

    def bytes_per_replica(self) -> int:
        """Peak memory of one slot: parameters, momentum, a batch and its activations, its order."""
        network, classes = self.network, self.data.classes
        if isinstance(network, MLP):
            parameters = network.parameter_count(self.inputs, classes)
            units = 3 * network.width * network.depth
        else:
            drawn = network.init([0], self.inputs, classes, dtype=self.dtype)
            parameters = sum(p.numel() for p in drawn)
            units = 8 * parameters // self.inputs
        copies = 3 if self.recipe.momentum else 2
        activations = self.batch * (self.inputs + units + 6 * classes)
        return self.dtype.itemsize * (copies * parameters + activations) + 8 * self.samples

    def run(self, queue: Queue) -> None:
        """Train until the queue has nothing more and every started trial has ended."""
        self._reset()
        while True:
            self._drop([row for row, trial in enumerate(self.trials) if not queue.wanted(trial)])
            while len(self.trials) < self.slots:
                taken = queue.take(self.slots - len(self.trials))
                if not taken:
                    break
                self._admit(taken)
            if not self.trials:
                return
            losses, silent = self._round(self._steps_to_next_checkpoint())
            decided = self._settle(losses, silent)
            for row, outcome in decided.items():
                queue.put(self.trials[row], outcome)
            self._drop(list(decided))

    def _reset(self) -> None:
        """Empty the stack."""
        self.trials: list[Trial] = []
        self.steps: list[int] = []  # taken by each replica
        self._accuracy: list[float | None] = []
        self._silent_since: list[int | None] = []
        self._history: list[_LossHistory] = []
        self.params: Params = []
        self.velocity: Params = []
        self.lr = torch.empty(0, dtype=self.dtype, device=self.device)

    def _admit(self, trials: list[Trial]) -> None:
        """Put fresh replicas of these trials into the stack."""
        seeds = sorted({trial.seed for trial in trials})
        drawn = self.network.init(
            seeds, self.inputs, self.data.classes, dtype=self.dtype, device=self.device
        )
        rows = torch.tensor([seeds.index(trial.seed) for trial in trials], device=self.device)
        fresh = [p[rows] for p in drawn]
        rates = torch.tensor([trial.lr for trial in trials], dtype=self.dtype, device=self.device)
        if self.trials:
            fresh = [torch.cat(pair) for pair in zip(self.params, fresh, strict=True)]
            rates = torch.cat([self.lr, rates])
        self.params, self.lr = fresh, rates
        if self.recipe.momentum:
            zeros = [torch.zeros_like(p) for p in self.params]
            for new, old in zip(zeros, self.velocity, strict=False):
                new[: old.shape[0]] = old
            self.velocity = zeros
        self.trials += trials
        self.steps += [0] * len(trials)
        self._accuracy += [None] * len(trials)
        self._silent_since += [None] * len(trials)
        self._history += [_LossHistory(self.recipe.criterion.max_steps) for _ in trials]

    def _drop(self, rows: list[int]) -> None:
        """Remove replicas and close the gaps."""
        if not rows:
            return
        gone = set(rows)
        kept = [row for row in range(len(self.trials)) if row not in gone]
        index = torch.tensor(kept, dtype=torch.int64, device=self.device)
        self.params = [p[index] for p in self.params]
        self.velocity = [v[index] for v in self.velocity]
        self.lr = self.lr[index]
        self.trials = [self.trials[row] for row in kept]
        self.steps = [self.steps[row] for row in kept]
        self._accuracy = [self._accuracy[row] for row in kept]
        self._silent_since = [self._silent_since[row] for row in kept]
        self._history = [self._history[row] for row in kept]

    def _evaluates_at(self, step: int) -> bool:
        criterion = self.recipe.criterion
        if step == criterion.max_steps:
            return True
        return criterion.kind == "reach" and step % criterion.eval_every == 0

    def _steps_to_next_checkpoint(self) -> int:
        """Steps that every replica can take before one must be evaluated or needs a new order."""
        criterion = self.recipe.criterion
        nearest = self.check_every
        per_epoch = self.samples // self.batch
        for step in self.steps:
            nearest = min(nearest, criterion.max_steps - step, per_epoch - step % per_epoch)
            if criterion.kind == "reach":
                nearest = min(nearest, criterion.eval_every - step % criterion.eval_every)
        return nearest

    def _rows(self, steps: int) -> torch.Tensor:
        """The training samples of each replica's next `steps` batches, int64 `[steps, R, B]`."""
        per_epoch = self.samples // self.batch
        places = [divmod(step, per_epoch) for step in self.steps]
        keys = [(t.seed, epoch) for t, (epoch, _) in zip(self.trials, places, strict=True)]
        self._order.keep_only(set(keys))
        spans = [
            self._order.permutation(*key)[at * self.batch : (at + steps) * self.batch]
            for key, (_, at) in zip(keys, places, strict=True)
        ]
        rows = torch.stack(spans).view(len(keys), steps, self.batch).transpose(0, 1)
        return rows.contiguous().to(self.device, non_blocking=True)

    def _round(self, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Take `steps` steps with every replica: losses and silent flags, `[steps, R]` each."""
        replicas = len(self.trials)
        losses = torch.empty(steps, replicas, dtype=self.dtype, device=self.device)
        silent = torch.empty(steps, replicas, dtype=torch.bool, device=self.device)
        x, targets = self.data.x_train, self._targets
        batch = x.expand(replicas, -1, -1), targets.expand(replicas, -1, -1)
        rows = None if self.full_batch else self._rows(steps)
        for step in range(steps):
            if rows is not None:
                batch = self._gather(rows[step])
            losses[step], silent[step] = self._step(self.params, self.velocity, self.lr, *batch)
        self.steps = [taken + steps for taken in self.steps]
        self.steps_taken += steps * replicas
        return losses, silent

    def _gather(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs `[R, B, d]` and one-hot targets `[R, B, C]` of the samples `rows` `[R, B]`."""
        replicas = rows.shape[0]
        if self._batch_buffer is None or self._batch_buffer.shape[0] < replicas:
            self._batch_buffer = self.data.x_train.new_empty(replicas, self.batch, self.inputs)
        x = self._batch_buffer[:replicas]
        flat = rows.view(-1)
        torch.index_select(self.data.x_train, 0, flat, out=x.view(-1, self.inputs))
        return x, self._targets[flat].view(replicas, self.batch, -1)

    def _settle(self, losses: torch.Tensor, silent: torch.Tensor) -> dict[int, Outcome]:
        """Read the round from the device and decide what can be decided: row → outcome."""
        decided: dict[int, Outcome] = {}
        loss_rows, silent_rows = losses.double().T.tolist(), silent.T.tolist()
        for row, (values, flags) in enumerate(zip(loss_rows, silent_rows, strict=True)):
            first = self.steps[row] - len(values)
            bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is not None:
                decided[row] = Outcome("diverged", first + bad + 1, self._accuracy[row])
                continue
            self._history[row].add(first, values)
            for i, flag in enumerate(flags):
                if not flag:
                    self._silent_since[row] = None
                elif self._silent_since[row] is None:
                    self._silent_since[row] = first + i + 1
        self._evaluate([r for r in range(len(self.trials)) if r not in decided], decided)
        self._bury([r for r in range(len(self.trials)) if r not in decided], decided)
        for row, step in enumerate(self.steps):
            if row not in decided and step == self.recipe.criterion.max_steps:
                decided[row] = Outcome(
                    "short", step, self._accuracy[row], slow=self._history[row].slow
                )
        return decided

    def _evaluate(self, rows: list[int], decided: dict[int, Outcome]) -> None:
        """Evaluate the replicas whose step count asks for it."""
        rows = [row for row in rows if self._evaluates_at(self.steps[row])]
        if not rows:
            return
        threshold = self.recipe.criterion.threshold
        params = [p[rows] for p in self.params]
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in params]).all(0).tolist()
        last = [self.steps[row] == self.recipe.criterion.max_steps for row in rows]
        found = self._evaluation(params, threshold, in_full=last)
        for row, accuracy, healthy in zip(rows, found, finite, strict=True):
            if not healthy:
                decided[row] = Outcome("diverged", self.steps[row], self._accuracy[row])
            elif accuracy is not None:
                self._accuracy[row] = accuracy
                if accuracy >= threshold:
                    decided[row] = Outcome("trained", self.steps[row], accuracy)

    def _bury(self, rows: list[int], decided: dict[int, Outcome]) -> None:
        """Decide the replicas that are dead: those silent long enough, checked on all the data."""
        suspects = []
        for row in rows:
            since = self._silent_since[row]
            if since is not None and self.steps[row] - since >= self._patience:
                suspects.append(row)
        if not suspects:
            return
        params = [p[suspects] for p in self.params]
        dead = silent_everywhere(self.network, params, self.data.x_train)
        for row, is_dead in zip(suspects, dead, strict=True):
            since = self._silent_since[row]
            if is_dead and since is not None:
                decided[row] = Outcome("dead", since, self._accuracy[row])
            else:
                self._silent_since[row] = None

    @property
    def _patience(self) -> int:
        """Steps of silence before a replica may be called dead.

        None for plain SGD, where silence is absorbing. Momentum still moves the weights of a silent
        replica; after this many steps what is left of it is below the rounding of float32.
        """
        momentum = self.recipe.momentum
        return math.ceil(math.log(2**-24) / math.log(momentum)) if momentum else 0


class _LossHistory:
    """What is kept of a replica's losses: enough to tell a slow run from an unstable one."""

    def __init__(self, budget: int) -> None:
        self.budget, self.tenth = budget, max(1, budget // 10)
        self.first: float | None = None
        self.peak = self.last_but_one = self.last = 0.0

    def add(self, taken: int, values: list[float]) -> None:
        """Losses of the steps that follow the first `taken`."""
        if self.first is None:
            self.first = values[0]
        self.peak = max(self.peak, *values)
        for step, value in enumerate(values, start=taken):
            if step >= self.budget - self.tenth:
                self.last += value
            elif step >= self.budget - 2 * self.tenth:
                self.last_but_one += value

    @property
    def slow(self) -> bool:
        """See `Outcome.slow`; of a run whose budget is spent."""
        return (
            self.first is not None
            and self.last < self.last_but_one
            and self.peak <= UNSTABLE * self.first
        )


class _TrialList:
    """A queue that hands out a fixed list of trials."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self.waiting = list(trials)[::-1]
        self.outcomes: dict[Trial, Outcome] = {}

    def take(self, free: int) -> list[Trial]:
        return [self.waiting.pop() for _ in range(min(free, len(self.waiting)))]

    def put(self, trial: Trial, outcome: Outcome) -> None:
        self.outcomes[trial] = outcome

    def wanted(self, trial: Trial) -> bool:
        return True


def train_all(engine: Engine, trials: Iterable[Trial]) -> dict[Trial, Outcome]:
    """Train every one of these trials.

    Args:
        engine: The engine.
        trials: Distinct trials, any number: they share the engine's slots.

    Returns:
        The outcome of each.
    """
    queue = _TrialList(trials)
    engine.run(queue)
    return queue.outcomes
