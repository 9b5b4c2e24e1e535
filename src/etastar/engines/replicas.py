"""A stack of replicas in mid-training: admit, take a round of steps, settle, drop.

A *round* ends at the next checkpoint of any replica (an evaluation, the end of an epoch or of the
budget) and after at most `check_every` steps. Nothing inside a round waits for the device: losses
and flags are collected there and read once, when the round is settled.

No replica sees another: each has its own weights, rate, order of data and step count, so outcomes
do not depend on the size of the stack, on what trained beside it, or on when it was admitted.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from etastar.engines.backprop import make_step
from etastar.engines.evaluation import LazyAccuracy, one_class, silent_everywhere
from etastar.problem.order import DataOrder
from etastar.problem.trial import (
    CHECK_DEAD_AFTER,
    LAST_LOSSES,
    UNSTABLE,
    Cause,
    Outcome,
    Recipe,
    Start,
    Trial,
)

if TYPE_CHECKING:
    from etastar.engines.stackable import Stackable
    from etastar.problem.networks.base import Params

KEPT_DRAWS = 8
"""Initialisations kept by a stack: as many as there are seeds in a usual measurement."""


class Stack:
    """Replicas that train side by side, each on its own trial.

    Args:
        form: What is trained.
        check_every: Most steps in a round.
    """

    def __init__(self, form: Stackable, check_every: int) -> None:
        network, data, recipe = form.network, form.data, form.recipe
        self.form, self.network, self.data, self.recipe = form, network, data, recipe
        self.check_every = check_every
        self.device, self.dtype = data.x_train.device, data.x_train.dtype
        self.samples, self.inputs = data.x_train.shape
        self.batch = batch_size(recipe, self.samples)
        self._evaluation = LazyAccuracy(network, data.x_val, data.y_val)
        self._step = make_step(network, recipe.loss, recipe.momentum)
        self._constant = float(data.y_val.bincount().max()) / len(data.y_val)
        self._order = DataOrder(self.samples)
        self._batch_buffer = data.x_train.new_empty(0, self.batch, self.inputs)
        self._drawn: dict[Start | int, Params] = {}
        self.trials: list[Trial] = []
        self.steps: list[int] = []  # taken by each replica
        self._accuracy: list[float | None] = []
        self._silent_since: list[int | None] = []
        self._found_alive: list[int] = []  # checks for death that found life
        self._first_loss: list[float | None] = []
        self._peak_loss: list[float] = []
        self._last_losses: list[deque[float]] = []
        self._touched: list[tuple[int, float] | None] = []  # runs to the end: step, accuracy
        self.params: Params = []
        self.velocity: Params = []
        self.lr = torch.empty(0, dtype=self.dtype, device=self.device)

    def advance(self) -> dict[int, Outcome]:
        """Take a round of steps with every replica.

        Returns:
            Row → outcome of the replicas that this decided; they stay until dropped.
        """
        steps = self._steps_to_next_checkpoint()
        losses, silent = self._round(steps)
        return self._settle(losses, silent)

    def admit(self, trials: list[Trial]) -> None:
        """Put fresh replicas of these trials into the stack."""
        drawn = [self._draw(trial.start) for trial in trials]
        fresh = [torch.cat(tensors) for tensors in zip(*drawn, strict=True)]
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
        self._found_alive += [0] * len(trials)
        self._first_loss += [None] * len(trials)
        self._peak_loss += [0.0] * len(trials)
        self._last_losses += [deque(maxlen=LAST_LOSSES) for _ in trials]
        self._touched += [None] * len(trials)

    def _draw(self, start: Start) -> Params:
        """Return the initial weights of a start, `[1, ...]` each; the latest few are kept.

        A search trains the same start at many rates, and most of them fail within a few steps: then
        drawing the network would be the larger part of the work.
        """
        key = start if self.recipe.from_step else start.initialisation
        if key not in self._drawn:
            while len(self._drawn) >= KEPT_DRAWS:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[key] = self.form.draw(start.initialisation)
            if self.recipe.from_step:
                self._train_to_checkpoint(start.order, self._drawn[key])
        return self._drawn[key]

    def _train_to_checkpoint(self, order_seed: int, params: Params) -> None:
        """Take the steps that all trials of a start have in common, in place."""
        step = make_step(self.network, self.recipe.loss, self.recipe.momentum)
        velocity = [torch.zeros_like(p) for p in params] if self.recipe.momentum else []
        lr = torch.full((1,), self.recipe.from_lr or 0.0, dtype=self.dtype, device=self.device)
        order = DataOrder(self.samples)
        x, labels = self.data.x_train, self.data.y_train
        per_epoch = self.samples // self.batch
        for taken in range(self.recipe.from_step):
            epoch, at = divmod(taken, per_epoch)
            if self.batch == self.samples:
                step(params, velocity, lr, x[None], labels[None])
                continue
            span = order.permutation(order_seed, epoch)[at * self.batch : (at + 1) * self.batch]
            rows = span.to(self.device)
            order.keep_only({(order_seed, epoch)})
            step(params, velocity, lr, x[rows][None], labels[rows][None])

    def drop(self, rows: list[int]) -> None:
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
        self._found_alive = [self._found_alive[row] for row in kept]
        self._first_loss = [self._first_loss[row] for row in kept]
        self._peak_loss = [self._peak_loss[row] for row in kept]
        self._last_losses = [self._last_losses[row] for row in kept]
        self._touched = [self._touched[row] for row in kept]

    def _evaluates(self, row: int) -> bool:
        """Tell whether a replica is to be evaluated now."""
        criterion, step = self.recipe.criterion, self.steps[row]
        if self.trials[row].steps is not None:
            return False
        if step == criterion.max_steps:
            return True
        due = criterion.kind == "reach" and step % criterion.eval_every == 0
        return due and self._touched[row] is None

    def _limit(self, row: int) -> int:
        """Return the steps after which a replica's run ends."""
        return self.trials[row].steps or self.recipe.criterion.max_steps

    def _steps_to_next_checkpoint(self) -> int:
        """Steps that every replica can take before one must be evaluated or needs a new order."""
        criterion = self.recipe.criterion
        nearest = self.check_every
        per_epoch = self.samples // self.batch
        for row, step in enumerate(self.steps):
            to_next_order = per_epoch - (self.recipe.from_step + step) % per_epoch
            nearest = min(nearest, self._limit(row) - step, to_next_order)
            if criterion.kind == "reach":
                nearest = min(nearest, criterion.eval_every - step % criterion.eval_every)
        return nearest

    def _rows(self, steps: int) -> torch.Tensor:
        """The training samples of each replica's next `steps` batches, int64 `[steps, R, B]`."""
        per_epoch = self.samples // self.batch
        places = [divmod(self.recipe.from_step + step, per_epoch) for step in self.steps]
        keys = [(t.start.order, epoch) for t, (epoch, _) in zip(self.trials, places, strict=True)]
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
        if self._batch_buffer.shape[0] != replicas:
            whole = self.data.x_train.expand(replicas, -1, -1)
            partial = (replicas, self.batch, self.inputs)
            full = self.batch == self.samples
            self._batch_buffer = whole if full else whole.new_empty(partial)
        labels = self.data.y_train.expand(replicas, -1)
        rows = None if self.batch == self.samples else self._rows(steps)
        for step in range(steps):
            if rows is not None:
                labels = self._gather(rows[step])
            losses[step], silent[step] = self._step(
                self.params, self.velocity, self.lr, self._batch_buffer, labels
            )
        self.steps = [taken + steps for taken in self.steps]
        return losses, silent

    def _gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Put the samples `rows` `[R, B]` into the batch buffer; returns their labels `[R, B]`."""
        flat = rows.view(-1)
        inputs = self._batch_buffer.view(-1, self.inputs)
        torch.index_select(self.data.x_train, 0, flat, out=inputs)
        return self.data.y_train.index_select(0, flat).view(rows.shape)

    def _settle(self, losses: torch.Tensor, silent: torch.Tensor) -> dict[int, Outcome]:
        """Read the round from the device and decide what can be decided: row → outcome."""
        decided: dict[int, Outcome] = {}
        loss_rows, silent_rows = losses.double().T.tolist(), silent.T.tolist()
        for row, (values, flags) in enumerate(zip(loss_rows, silent_rows, strict=True)):
            taken = self.steps[row] - len(values)
            for step, (value, is_silent) in enumerate(zip(values, flags, strict=True), taken + 1):
                if not math.isfinite(value):
                    decided[row] = Outcome("diverged", step, self._accuracy[row])
                    break
                self._record(row, step, value, is_silent)
        self._evaluate([row for row in range(len(self.trials)) if row not in decided], decided)
        self._bury(decided)
        short = []
        for row, step in enumerate(self.steps):
            if row not in decided and step == self._limit(row):
                if self.trials[row].steps is not None:
                    decided[row] = Outcome("partial", step)
                elif self._touched[row] is None:
                    short.append(row)
        self._end_short(short, decided)
        return {row: self._told(row, outcome) for row, outcome in decided.items()}

    def _end_short(self, rows: list[int], decided: dict[int, Outcome]) -> None:
        """Decide the replicas whose budget was spent below the threshold, with the cause."""
        if not rows:
            return
        constant = one_class(self.network, [p[rows] for p in self.params], self.data.x_val)
        for row, one in zip(rows, constant, strict=True):
            accuracy, first = self._accuracy[row], self._first_loss[row] or 0.0
            slow = self._peak_loss[row] <= UNSTABLE * first and (accuracy or 0.0) > self._constant
            collapsed = one or not fmean(self._last_losses[row]) < first
            cause: Cause = "collapsed" if collapsed else "slow"
            step = self.recipe.criterion.max_steps
            decided[row] = Outcome("short", step, accuracy, slow=slow, cause=cause)

    def _told(self, row: int, outcome: Outcome) -> Outcome:
        """Return the outcome with the training losses, as a run to the end tells it."""
        told = replace(outcome, first_loss=self._first_loss[row])
        if outcome.kind != "dead" and outcome.given_up is None and self._last_losses[row]:
            told = replace(told, last_loss=fmean(self._last_losses[row]))
        if not self.trials[row].to_end:
            return told
        held, touched = outcome.kind == "trained", self._touched[row]
        if touched is None:
            return replace(told, held=held)
        step, accuracy = touched
        spent = held or outcome.kind == "short"
        return replace(
            told,
            kind="trained",
            step=step,
            metric=accuracy,
            score=accuracy,
            slow=False,
            cause=None,
            held=held,
            given_up=None if spent else outcome.step,
        )

    def _record(self, row: int, step: int, loss: float, is_silent: bool) -> None:
        """Keep what one step tells of a replica's health."""
        if self._first_loss[row] is None:
            self._first_loss[row] = loss
        self._peak_loss[row] = max(self._peak_loss[row], loss)
        self._last_losses[row].append(loss)
        if not is_silent:
            self._silent_since[row] = None
        elif self._silent_since[row] is None:
            self._silent_since[row] = step

    def _evaluate(self, rows: list[int], decided: dict[int, Outcome]) -> None:
        """Evaluate the replicas whose step count asks for it."""
        rows = [row for row in rows if self._evaluates(row)]
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
                ends = self.steps[row] == self.recipe.criterion.max_steps
                if accuracy >= threshold and self.trials[row].to_end and not ends:
                    self._touched[row] = self.steps[row], accuracy
                elif accuracy >= threshold:
                    decided[row] = Outcome("trained", self.steps[row], accuracy)
                elif self._touched[row] is not None and ends:
                    decided[row] = Outcome("short", self.steps[row], accuracy)

    def _bury(self, decided: dict[int, Outcome]) -> None:
        """Decide the replicas that are dead: those silent long enough, checked on all the data.

        A network that a few samples still reach is silent most of the time without being dead, and
        the check reads all the data; so each check that finds life doubles the silence needed for
        the next. Where a run ends silent, its budget spent or its output layer diverged after all
        below it had died, the check is always made: outcomes do not depend on when checks happen.
        """
        if self.form.deaths == "ignored":
            return
        suspects = []
        for row, since in enumerate(self._silent_since):
            outcome = decided.get(row)
            if since is None or (outcome and outcome.kind == "trained"):
                continue
            if self.form.deaths == "given up" and self.trials[row].steps is not None:
                continue  # a partial run goes to its end, as in the loop
            if outcome:
                silence, needed = outcome.step - since, CHECK_DEAD_AFTER
            elif self.steps[row] == self._limit(row):
                silence = needed = 0
            else:
                silence = self.steps[row] - since
                needed = self._patience + (CHECK_DEAD_AFTER << self._found_alive[row])
            if silence >= needed:
                suspects.append(row)
        if not suspects:
            return
        params = [p[suspects] for p in self.params]
        dead = silent_everywhere(self.network, params, self.data.x_train)
        for row, is_dead in zip(suspects, dead, strict=True):
            since = self._silent_since[row]
            if not is_dead or since is None:
                self._found_alive[row] += 1
            elif self.form.deaths == "said":
                decided[row] = Outcome("dead", since, self._accuracy[row])
            elif row not in decided:
                budget, taken = self.recipe.criterion.max_steps, self.steps[row]
                decided[row] = Outcome(
                    "short", budget, self._accuracy[row], given_up=taken, cause="collapsed"
                )

    @property
    def _patience(self) -> int:
        """Steps of silence that momentum adds before a replica may be called dead.

        None for plain SGD, where silence is absorbing. Momentum still moves the weights of a silent
        replica; after this many steps what is left of it is below the rounding of float32.
        """
        momentum = self.recipe.momentum
        return math.ceil(math.log(2**-24) / math.log(momentum)) if momentum else 0


def batch_size(recipe: Recipe, samples: int) -> int:
    """Samples per step: the recipe's, or all of them if it says so or there are no more."""
    if recipe.batch_size == "full":
        return samples
    return min(recipe.batch_size, samples)
