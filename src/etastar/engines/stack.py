"""The engine: trains whatever a queue of trials asks for, many at once.

    queue.take → admit into free slots → a round of steps → settle → queue.put → drop → ...

On a CPU there is one stack per thread, and every operation inside it is single-threaded: that is
faster than splitting each small operation over the cores, it does not collapse when other programs
want the cores too, and it makes outcomes independent of the number of threads, bit for bit. On a
GPU there is one stack.
"""

from __future__ import annotations

import threading

import torch

from etastar.engines.base import Engine, Queue
from etastar.engines.replicas import Stack
from etastar.engines.stackable import Stackable, stackable
from etastar.errors import ConfigError
from etastar.machine import replicas_that_fit, stacks_that_fit, use_threads
from etastar.problem.networks import MLP
from etastar.problem.problem import Problem
from etastar.problem.trial import Trial

CHECK_EVERY, CHECK_EVERY_ON_GPU = 8, 64
"""Steps between looks at the device: free on a CPU, a wait for it on a GPU."""

WIDE_ON_GPU = 256
"""Replicas up to which one more costs a GPU next to nothing."""


class StackEngine(Engine):
    """Trains trials of one problem side by side, up to `threads · slots` at a time.

    Each thread has a stack of its own, all share the queue. Whichever thread looks for work takes
    all that the queue has and deals it out, each trial to the thread with the fewest. A thread
    without work waits for an outcome that may bring some.

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

    def plan(self, problem: Problem) -> StackEngine:
        """Plan the stacks of a problem.

        Args:
            problem: What is to be trained.

        Returns:
            This engine, which now has these attributes: `form`, what is trained; `threads`, the
            number of stacks; `slots`, the replicas in each; `useful`, the replicas below which
            adding one costs next to nothing: a thread each, many on a GPU.

        Raises:
            ConfigError: Not even one replica fits in memory, or the stack cannot train this.
        """
        form = stackable(problem)
        if isinstance(form, str):
            raise ConfigError(f"the stack cannot train this: {form}.")
        device = form.tensors[0].device
        on_cpu, needed = device.type == "cpu", bytes_per_replica(form)
        wanted = (self.wanted_threads or torch.get_num_threads()) if on_cpu else 1
        self.form = form
        self.threads = stacks_that_fit(needed, device, wanted)
        self.slots = self.wanted_slots or replicas_that_fit(needed, device, self.threads)
        self.check_every = self.wanted_check or (CHECK_EVERY if on_cpu else CHECK_EVERY_ON_GPU)
        self.useful = self.threads if on_cpu else min(self.slots, WIDE_ON_GPU)
        return self

    def run(self, problem: Problem, queue: Queue) -> None:
        """See `Engine`.

        Raises:
            ConfigError: As for `plan`.
            KeyboardInterrupt: On Ctrl-C, after the current rounds.
        """
        self.plan(problem)
        self._changed = threading.Condition()
        self._dealt: list[list[Trial]] = [[] for _ in range(self.threads)]
        self._loads = [0] * self.threads  # trials dealt to or training in each thread
        self._stopped = False
        self._failure: BaseException | None = None
        others = [
            threading.Thread(target=self._work, args=(i, queue)) for i in range(1, self.threads)
        ]
        with use_threads(1):
            for thread in others:
                thread.start()
            self._work(0, queue)
            for thread in others:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self, me: int, queue: Queue) -> None:
        try:
            stack = Stack(self.form, self.check_every)
            while self._refill(me, stack, queue):
                before = sum(run.steps for run in stack.runs)
                decided = stack.advance()
                with self._changed:
                    self.steps_taken += sum(run.steps for run in stack.runs) - before
                    self._loads[me] -= len(decided)
                    for row, outcome in decided.items():
                        queue.put(stack.runs[row].trial, outcome)
                    self._changed.notify_all()
                stack.drop(list(decided))
        except BaseException as failure:
            self._failure = self._failure or failure
        finally:
            with self._changed:  # every thread returns after its current round
                self._stopped = True
                self._changed.notify_all()

    def _refill(self, me: int, stack: Stack, queue: Queue) -> bool:
        """Drop what is no longer wanted and admit what was dealt; False when the run is over."""
        with self._changed:
            stack.drop([r for r, run in enumerate(stack.runs) if not queue.wanted(run.trial)])
            self._loads[me] = len(stack.runs) + len(self._dealt[me])
            while not self._stopped:
                self._deal(queue)
                if self._loads[me] or not any(self._loads):
                    break
                self._changed.wait()
            fresh, self._dealt[me] = self._dealt[me], []
            if self._stopped or not self._loads[me]:
                return False
        if fresh:
            stack.admit(fresh)
        return True

    def _deal(self, queue: Queue) -> None:
        room = self.slots * self.threads - sum(self._loads)
        for trial in queue.take(room, self.useful):
            idlest = self._loads.index(min(self._loads))
            self._dealt[idlest].append(trial)
            self._loads[idlest] += 1
        self._changed.notify_all()


def bytes_per_replica(form: Stackable) -> int:
    """Return the peak memory of one slot: parameters, momentum, a batch, activations, order.

    Args:
        form: What is trained.

    Returns:
        Bytes.
    """
    network, classes, x = form.network, form.classes, form.tensors[0]
    samples, inputs = x.shape
    parameters = network.parameter_count(inputs, classes)
    # per sample and hidden unit: pre-activation, activation and gradient; autograd keeps more,
    # and of an unknown network only the parameters say how many units there may be
    units = 8 * parameters // inputs
    if isinstance(network, MLP):
        units = 3 * network.width * network.depth
    copies = 3 if form.momentum else 2  # admitting and dropping replicas copies them
    outputs = 6 * classes  # with their softmax and gradients, in both layouts
    activations = (form.problem.train.batch or samples) * (inputs + units + outputs)
    return x.dtype.itemsize * (copies * parameters + activations) + 8 * samples
