"""The engine: trains whatever a queue of trials asks for, many at once.

    queue.take → admit into free slots → a round of steps → settle → queue.put → drop → ...

On a CPU there is one stack per thread, and every operation inside it is single-threaded: that is
faster than splitting each small operation over the cores, it does not collapse when other programs
want the cores too, and it makes outcomes independent of the number of threads, bit for bit. On a
GPU there is one stack.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch

from etastar.engines.replicas import Stack, batch_size
from etastar.machine import replicas_that_fit, stacks_that_fit, use_threads
from etastar.problem.networks import MLP
from etastar.problem.trial import Outcome, Recipe, Trial

if TYPE_CHECKING:
    from etastar.data import Dataset
    from etastar.problem.networks import Network


CHECK_EVERY, CHECK_EVERY_ON_GPU = 8, 64
"""Steps between looks at the device: free on a CPU, a wait for it on a GPU."""

WIDE_ON_GPU = 256
"""Replicas up to which one more costs a GPU next to nothing."""


class Queue(Protocol):
    """Where trials come from and outcomes go: a search, or a plain list (`train_all`).

    The engine calls it from several threads, one at a time.
    """

    def take(self, free: int) -> list[Trial]:
        """At most `free` trials to start now; empty if none is ready before the next `put`."""

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended."""

    def wanted(self, trial: Trial) -> bool:
        """Whether a running trial's outcome still matters; if not, its slot is freed."""


class Engine:
    """Trains trials of one network, data set and recipe, up to `threads · slots` at a time.

    Args:
        network: The architecture.
        dataset: Training and validation tensors, on any device.
        recipe: Loss, optimizer, batch size and criterion.
        device: Where to train.
        dtype: Of parameters and data.
        threads: Stacks that train at the same time on a CPU; by default as many as PyTorch has
            threads. 1 on a GPU.
        slots: Replicas in each stack; by default as many as free memory and cache hold.
        check_every: Steps between looks at the device; if None `CHECK_EVERY`, or on a GPU
            `CHECK_EVERY_ON_GPU`.

    Raises:
        ConfigError: Not even one replica fits in memory.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        recipe: Recipe,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        slots: int | None = None,
        check_every: int | None = None,
    ) -> None:
        self.network, self.recipe = network, recipe
        self.device, self.dtype = torch.device(device), dtype
        self.data = dataset.to(device=self.device, dtype=dtype)
        on_cpu = self.device.type == "cpu"
        needed = self.bytes_per_replica()
        wanted = (threads or torch.get_num_threads()) if on_cpu else 1
        self.threads = stacks_that_fit(needed, self.device, wanted)
        self.check_every = check_every or (CHECK_EVERY if on_cpu else CHECK_EVERY_ON_GPU)
        fitting = replicas_that_fit(needed, self.device, self.threads)
        self.slots = slots or fitting
        self.steps_taken = 0
        """Optimizer steps so far, summed over replicas, those of abandoned trials included."""

    @property
    def useful_width(self) -> int:
        """Replicas below which adding one costs next to nothing: a thread each, many on a GPU."""
        return self.threads if self.device.type == "cpu" else min(self.slots, WIDE_ON_GPU)

    def bytes_per_replica(self) -> int:
        """Peak memory of one slot in bytes: parameters, momentum, a batch, activations, order."""
        network, classes = self.network, self.data.classes
        samples, inputs = self.data.x_train.shape
        parameters = network.parameter_count(inputs, classes)
        # per sample and hidden unit: pre-activation, activation and gradient; autograd keeps more,
        # and of an unknown network only the parameters say how many units there may be
        units = 8 * parameters // inputs
        if isinstance(network, MLP):
            units = 3 * network.width * network.depth
        copies = 3 if self.recipe.momentum else 2  # admitting and dropping replicas copies them
        outputs = 6 * classes  # with their softmax and gradients, in both layouts
        activations = batch_size(self.recipe, samples) * (inputs + units + outputs)
        return self.dtype.itemsize * (copies * parameters + activations) + 8 * samples

    def stack(self) -> Stack:
        """An empty stack for this engine's trials."""
        return Stack(self.network, self.data, self.recipe, self.check_every)

    def run(self, queue: Queue) -> None:
        """Train until the queue has nothing more and every started trial has ended.

        Args:
            queue: Asked for trials, and told their outcomes.

        Raises:
            KeyboardInterrupt: On Ctrl-C, after the current rounds; what was put in the queue stays.
        """
        crew = _Crew(self, queue)
        with use_threads(1):
            others = [threading.Thread(target=crew.work, args=(i,)) for i in range(1, self.threads)]
            for thread in others:
                thread.start()
            crew.work(0)
            for thread in others:
                thread.join()
        crew.raise_failure()


class _Crew:
    """The threads of one run: each has a stack of its own, all share the queue.

    Whichever thread looks for work takes all that the queue has and deals it out, each trial to the
    thread with the fewest. A thread without work waits for an outcome that may bring some.
    """

    def __init__(self, engine: Engine, queue: Queue) -> None:
        self._engine, self._queue = engine, queue
        self._changed = threading.Condition()
        self._dealt: list[list[Trial]] = [[] for _ in range(engine.threads)]
        self._loads = [0] * engine.threads  # trials dealt to or training in each thread
        self._stopped = False
        self._failure: BaseException | None = None

    def work(self, me: int = 0) -> None:
        """Train, as thread number `me`, until nothing is left to do or another thread failed."""
        try:
            stack = self._engine.stack()
            while self._refill(me, stack):
                taken = sum(stack.steps)
                decided = stack.advance()
                with self._changed:
                    self._engine.steps_taken += sum(stack.steps) - taken
                    self._loads[me] -= len(decided)
                    for row, outcome in decided.items():
                        self._queue.put(stack.trials[row], outcome)
                    self._changed.notify_all()
                stack.drop(list(decided))
        except BaseException as failure:
            self._failure = self._failure or failure
        finally:
            self.stop()

    def stop(self) -> None:
        """Make every thread return after its current round."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def raise_failure(self) -> None:
        """Raise what ended the run early, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _refill(self, me: int, stack: Stack) -> bool:
        """Drop what is no longer wanted and admit what was dealt; False when the run is over."""
        with self._changed:
            stack.drop([r for r, trial in enumerate(stack.trials) if not self._queue.wanted(trial)])
            self._loads[me] = len(stack.trials) + len(self._dealt[me])
            while True:
                if self._stopped:
                    return False
                self._deal()
                if self._loads[me]:
                    fresh, self._dealt[me] = self._dealt[me], []
                    break
                if not any(self._loads):
                    return False
                self._changed.wait()
        if fresh:
            stack.admit(fresh)
        return True

    def _deal(self) -> None:
        room = self._engine.slots * self._engine.threads - sum(self._loads)
        for trial in self._queue.take(room):
            idlest = self._loads.index(min(self._loads))
            self._dealt[idlest].append(trial)
            self._loads[idlest] += 1
        self._changed.notify_all()


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
