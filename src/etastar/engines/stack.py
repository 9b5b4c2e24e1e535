"""The engine: trains whatever a queue of trials asks for, many at once.

    queue.take → admit into free slots → a round of steps → settle → queue.put → drop → ...

On a CPU there is one stack per thread, and every operation inside it is single-threaded: that is
faster than splitting each small operation over the cores, it does not collapse when other programs
want the cores too, and it makes outcomes independent of the number of threads, bit for bit. On a
GPU there is one stack.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from etastar.engines.base import Engine, Queue
from etastar.engines.replicas import Stack, batch_size
from etastar.engines.stackable import Stackable, stackable
from etastar.errors import ConfigError
from etastar.machine import replicas_that_fit, stacks_that_fit, use_threads
from etastar.problem.networks import MLP

if TYPE_CHECKING:
    from etastar.problem.problem import Problem
    from etastar.problem.trial import Trial

CHECK_EVERY, CHECK_EVERY_ON_GPU = 8, 64
"""Steps between looks at the device: free on a CPU, a wait for it on a GPU."""

WIDE_ON_GPU = 256
"""Replicas up to which one more costs a GPU next to nothing."""


class StackEngine(Engine):
    """Trains trials of one problem side by side, up to `threads · slots` at a time.

    Args:
        threads: Stacks that train at the same time on a CPU; by default as many as PyTorch has
            threads. 1 on a GPU.
        slots: Replicas in each stack; by default as many as free memory and cache hold.
        check_every: Steps between looks at the device; if None `CHECK_EVERY`, or on a GPU
            `CHECK_EVERY_ON_GPU`.
    """

    name = "stack"
    why = "ReLU layers of constant width, cross-entropy or mse, and SGD on tensors"

    def __init__(
        self,
        threads: int | None = None,
        *,
        slots: int | None = None,
        check_every: int | None = None,
    ) -> None:
        super().__init__(threads)
        self.wanted_slots, self.wanted_check = slots, check_every

    def refusal(self, problem: Problem) -> str | None:
        """See `Engine`."""
        form = stackable(problem)
        return form if isinstance(form, str) else None

    def plan(self, problem: Problem) -> Plan:
        """Plan the stacks of a problem: see `Plan`.

        Args:
            problem: What is to be trained.

        Raises:
            ConfigError: Not even one replica fits in memory, or the stack cannot train this.
        """
        form = stackable(problem)
        if isinstance(form, str):
            raise ConfigError(f"the stack cannot train this: {form}.")
        device = problem.origin.device
        on_cpu = device.type == "cpu"
        needed = bytes_per_replica(form)
        wanted = (self.wanted_threads or torch.get_num_threads()) if on_cpu else 1
        threads = stacks_that_fit(needed, device, wanted)
        slots = self.wanted_slots or replicas_that_fit(needed, device, threads)
        return Plan(
            form,
            threads=threads,
            slots=slots,
            check_every=self.wanted_check or (CHECK_EVERY if on_cpu else CHECK_EVERY_ON_GPU),
            useful=threads if on_cpu else min(slots, WIDE_ON_GPU),
        )

    def run(self, problem: Problem, queue: Queue) -> None:
        """See `Engine`.

        Raises:
            ConfigError: As for `plan`.
            KeyboardInterrupt: On Ctrl-C, after the current rounds.
        """
        plan = self.plan(problem)
        self.threads = plan.threads
        crew = _Crew(self, plan, queue)
        with use_threads(1):
            others = [threading.Thread(target=crew.work, args=(i,)) for i in range(1, plan.threads)]
            for thread in others:
                thread.start()
            crew.work(0)
            for thread in others:
                thread.join()
        crew.raise_failure()


@dataclass(frozen=True)
class Plan:
    """How many replicas train at once.

    Attributes:
        form: What is trained.
        threads: Stacks.
        slots: Replicas in each.
        check_every: Most steps between looks at the device.
        useful: Replicas below which adding one costs next to nothing: a thread each, many on a GPU.
    """

    form: Stackable
    threads: int
    slots: int
    check_every: int
    useful: int


def bytes_per_replica(form: Stackable) -> int:
    """Return the peak memory of one slot: parameters, momentum, a batch, activations, order.

    Args:
        form: What is trained.

    Returns:
        Bytes.
    """
    network, classes = form.network, form.data.classes
    samples, inputs = form.data.x_train.shape
    parameters = network.parameter_count(inputs, classes)
    # per sample and hidden unit: pre-activation, activation and gradient; autograd keeps more,
    # and of an unknown network only the parameters say how many units there may be
    units = 8 * parameters // inputs
    if isinstance(network, MLP):
        units = 3 * network.width * network.depth
    copies = 3 if form.recipe.momentum else 2  # admitting and dropping replicas copies them
    outputs = 6 * classes  # with their softmax and gradients, in both layouts
    activations = batch_size(form.recipe, samples) * (inputs + units + outputs)
    itemsize = form.data.x_train.dtype.itemsize
    return itemsize * (copies * parameters + activations) + 8 * samples


class _Crew:
    """The threads of one run: each has a stack of its own, all share the queue.

    Whichever thread looks for work takes all that the queue has and deals it out, each trial to the
    thread with the fewest. A thread without work waits for an outcome that may bring some.
    """

    def __init__(self, engine: StackEngine, plan: Plan, queue: Queue) -> None:
        self._engine, self._plan, self._queue = engine, plan, queue
        self._changed = threading.Condition()
        self._dealt: list[list[Trial]] = [[] for _ in range(plan.threads)]
        self._loads = [0] * plan.threads  # trials dealt to or training in each thread
        self._stopped = False
        self._failure: BaseException | None = None

    def work(self, me: int = 0) -> None:
        """Train, as thread number `me`, until nothing is left to do or another thread failed."""
        try:
            stack = Stack(self._plan.form, self._plan.check_every)
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
        room = self._plan.slots * self._plan.threads - sum(self._loads)
        for trial in self._queue.take(room, self._plan.useful):
            idlest = self._loads.index(min(self._loads))
            self._dealt[idlest].append(trial)
            self._loads[idlest] += 1
        self._changed.notify_all()
