"""A stack of replicas in mid-training: admit, take a round of steps, settle, drop.

A *round* ends at the next checkpoint of any replica (an evaluation, the end of an epoch or of the
budget) and after at most `check_every` steps. Nothing inside a round waits for the device: losses
and flags are collected there and read once, when the round is settled.

No replica sees another: each has its own weights, rate, order of data and step count, so outcomes
do not depend on the size of the stack, on what trained beside it, or on when it was admitted.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from etastar.engines.backprop import MLPStep, make_step
from etastar.engines.evaluation import LazyAccuracy, one_class, silent_everywhere
from etastar.engines.record import Record
from etastar.engines.recorded import Shown, TakeStep, recorded
from etastar.engines.stackable import Stackable
from etastar.problem.networks.base import Params
from etastar.problem.order import DataOrder
from etastar.problem.trial import CHECK_DEAD_AFTER, Outcome, Start, Trial

KEPT_DRAWS = 8
"""Initialisations kept by a stack: as many as there are seeds in a usual measurement."""


class Stack:
    """Replicas that train side by side, each on its own trial.

    Args:
        form: What is trained.
        check_every: Most steps in a round.
    """

    def __init__(self, form: Stackable, check_every: int) -> None:
        self.form, self.network, self.problem = form, form.network, form.problem
        self.x, self.labels, self.x_val, y_val = form.tensors
        self.check_every = check_every
        self.device, self.dtype = self.x.device, self.x.dtype
        self.samples, self.inputs = self.x.shape
        self.batch = self.problem.train.batch or self.samples
        self.per_epoch = self.samples // self.batch
        self._evaluation = LazyAccuracy(self.network, self.x_val, y_val)
        self._step = make_step(self.network, form.loss, form.momentum)
        self._constant = float(y_val.bincount().max()) / len(y_val)
        self._order = DataOrder(self.samples, self.device)
        self._batch_buffer = self.x.new_empty(0, self.batch, self.inputs)
        self._drawn: dict[Start | int, Params] = {}
        self.runs: list[Record] = []
        self.params: Params = []
        self.velocity: Params = []
        self.lr = torch.empty(0, dtype=self.dtype, device=self.device)
        self._recordable = self.device.type == "cuda" and isinstance(self._step, MLPStep)
        self._recorded: TakeStep | None = None  # of the replicas as they are now

    def advance(self) -> dict[int, Outcome]:
        """Take a round of steps with every replica.

        Returns:
            Row → outcome of the replicas that this decided; they stay until dropped.
        """
        losses, silent = self._round(self._steps_to_next_checkpoint())
        return self._settle(losses, silent)

    def admit(self, trials: list[Trial]) -> None:
        """Put fresh replicas of these trials into the stack."""
        drawn = [self._draw(trial.start) for trial in trials]
        fresh = [torch.cat(tensors) for tensors in zip(*drawn, strict=True)]
        rates = torch.tensor([trial.lr for trial in trials], dtype=self.dtype, device=self.device)
        still = [torch.zeros_like(p) for p in fresh] if self.form.momentum else []
        if self.runs:
            fresh = [torch.cat(pair) for pair in zip(self.params, fresh, strict=True)]
            still = [torch.cat(pair) for pair in zip(self.velocity, still, strict=True)]
        self.params, self.velocity, self.lr = fresh, still, torch.cat([self.lr, rates])
        self._recorded = None
        self.runs += [Record(trial, self.problem.max_steps) for trial in trials]

    def _draw(self, start: Start) -> Params:
        """Return the initial weights of a start, `[1, ...]` each; the latest few are kept.

        A search trains the same start at many rates, and most of them fail within a few steps: then
        drawing the network would be the larger part of the work.
        """
        before = self.problem.from_step
        key = start if before else start.initialisation
        if key not in self._drawn:
            while len(self._drawn) >= KEPT_DRAWS:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[key] = self.form.draw(start.initialisation)
            if before:
                common = replace(self.problem, from_step=0)
                alone = Stack(replace(self.form, problem=common), self.check_every)
                alone.admit([Trial(start, self.problem.from_lr or 0.0, before)])
                while alone.runs[0].steps < before:
                    alone.advance()
                self._drawn[key] = alone.params
        return self._drawn[key]

    def drop(self, rows: list[int]) -> None:
        """Remove replicas and close the gaps."""
        if not rows:
            return
        kept = [row for row in range(len(self.runs)) if row not in set(rows)]
        index = torch.tensor(kept, dtype=torch.int64, device=self.device)
        self.params = [p[index] for p in self.params]
        self.velocity = [v[index] for v in self.velocity]
        self.lr = self.lr[index]
        self._recorded = None
        self.runs = [self.runs[row] for row in kept]

    def _evaluates(self, run: Record) -> bool:
        """Tell whether a replica is to be evaluated now."""
        due = run.trial.steps is None and self.problem.evaluates_at(run.steps)
        return due and (run.steps == run.budget or run.touched is None)

    def _steps_to_next_checkpoint(self) -> int:
        """Return the steps that all can take before one is evaluated or needs a new order."""
        problem, nearest = self.problem, self.check_every
        for run in self.runs:
            to_next_order = self.per_epoch - (problem.from_step + run.steps) % self.per_epoch
            nearest = min(nearest, run.limit - run.steps, to_next_order)
            if not problem.objective.hold:
                nearest = min(nearest, problem.eval_every - run.steps % problem.eval_every)
        return nearest

    def _rows(self, steps: int) -> torch.Tensor:
        """Return the samples of each replica's next `steps` batches, int64 `[steps, R, B]`."""
        taken = [divmod(self.problem.from_step + run.steps, self.per_epoch) for run in self.runs]
        places = [(run.trial.start.order, *at) for run, at in zip(self.runs, taken, strict=True)]
        self._order.keep_only({(seed, epoch) for seed, epoch, _ in places})
        which = {place: i for i, place in enumerate(dict.fromkeys(places))}  # many share one
        spans = [
            self._order.permutation(seed, epoch)[at * self.batch : (at + steps) * self.batch]
            for seed, epoch, at in which
        ]
        index = torch.tensor([which[place] for place in places], device=self.device)
        batches = torch.stack(spans).view(len(spans), steps, self.batch).transpose(0, 1)
        return batches[:, index]

    def _round(self, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Take `steps` steps with every replica; return losses and silent flags `[steps, R]`."""
        replicas = len(self.runs)
        losses = torch.empty(steps, replicas, dtype=self.dtype, device=self.device)
        silent = torch.empty(steps, replicas, dtype=torch.bool, device=self.device)
        full = self.batch == self.samples
        if self._batch_buffer.shape[0] != replicas:
            whole = self.x.expand(replicas, -1, -1)
            partial = (replicas, self.batch, self.inputs)
            self._batch_buffer = whole if full else whole.new_empty(partial)
        rows = None if full else self._rows(steps)
        for step in range(steps):
            losses[step], silent[step] = self._advance(None if rows is None else rows[step])
        for run in self.runs:
            run.steps += steps
        return losses, silent

    def _advance(self, rows: torch.Tensor | None) -> Shown:
        """Take a step on these samples `[R, B]`, or all: as written, or as recorded."""
        if self._recorded is not None:
            return self._recorded(rows)
        shown = self._take(rows)
        if self._recordable:
            self._recorded = recorded(self._take, rows)
        return shown

    def _take(self, rows: torch.Tensor | None) -> Shown:
        labels = self.labels.expand(len(self.runs), -1)
        if rows is not None:
            labels = self._gather(rows)
        return self._step(self.params, self.velocity, self.lr, self._batch_buffer, labels)

    def _gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Put the samples `rows` `[R, B]` into the batch buffer; returns their labels `[R, B]`."""
        flat = rows.view(-1)
        inputs = self._batch_buffer.view(-1, self.inputs)
        torch.index_select(self.x, 0, flat, out=inputs)
        return self.labels.index_select(0, flat).view(rows.shape)

    def _settle(self, losses: torch.Tensor, silent: torch.Tensor) -> dict[int, Outcome]:
        """Read the round from the device and decide what can be decided: row → outcome."""
        decided: dict[int, Outcome] = {}
        columns = zip(losses.double().T.tolist(), silent.T.tolist(), strict=True)
        for row, (run, (values, flags)) in enumerate(zip(self.runs, columns, strict=True)):
            first, good = run.steps - len(values) + 1, len(values)
            if not math.isfinite(sum(values)):  # rarely: a sum of finite numbers overflows too
                good = next((i for i, value in enumerate(values) if not math.isfinite(value)), good)
            if good:
                run.note(first, values[:good], flags[:good])
            if good < len(values):
                decided[row] = Outcome("diverged", first + good, run.metric)
        self._evaluate(decided)
        self._bury(decided)
        self._end(decided)
        return {row: self.runs[row].told(outcome) for row, outcome in decided.items()}

    def _evaluate(self, decided: dict[int, Outcome]) -> None:
        """Evaluate the replicas whose step count asks for it."""
        rows = [r for r, run in enumerate(self.runs) if r not in decided and self._evaluates(run)]
        if not rows:
            return
        threshold = self.problem.objective.threshold
        params = [p[rows] for p in self.params]
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in params]).all(0).tolist()
        last = [self.runs[row].steps == self.runs[row].budget for row in rows]
        found = self._evaluation(params, threshold, in_full=last)
        for row, accuracy, healthy, ends in zip(rows, found, finite, last, strict=True):
            run = self.runs[row]
            if not healthy:
                decided[row] = Outcome("diverged", run.steps, run.metric)
            elif accuracy is not None:
                run.metric = accuracy
                trained = Outcome("trained", run.steps, accuracy)
                if accuracy >= threshold and run.trial.to_end and not ends:
                    run.touched = trained
                elif accuracy >= threshold:
                    decided[row] = trained
                elif run.touched is not None and ends:
                    decided[row] = Outcome("short", run.steps, accuracy)

    def _end(self, decided: dict[int, Outcome]) -> None:
        """Decide the replicas that have come to their end, with the cause if that is `short`."""
        short = []
        for row, run in enumerate(self.runs):
            if row not in decided and run.steps == run.limit:
                if run.trial.steps is not None:
                    decided[row] = Outcome("partial", run.steps)
                elif run.touched is None:
                    short.append(row)
        if not short:
            return
        constant = one_class(self.network, [p[short] for p in self.params], self.x_val)
        for row, one in zip(short, constant, strict=True):
            run = self.runs[row]
            learned = run.learned() and not one
            decided[row] = run.short(run.metric, run.metric, self._constant, learned)

    def _bury(self, decided: dict[int, Outcome]) -> None:
        """Decide the replicas that are dead: those silent long enough, checked on all the data.

        A network that a few samples still reach is silent most of the time without being dead, and
        the check reads all the data; so each check that finds life doubles the silence needed for
        the next. Where a run ends silent, its budget spent or its output layer diverged after all
        below it had died, the check is always made: outcomes do not depend on when checks happen.
        """
        if self.form.deaths == "ignored":
            return
        suspects: dict[int, int] = {}  # row → since which step it is silent
        for row, run in enumerate(self.runs):
            outcome, since = decided.get(row), run.silent_since
            if since is None or (outcome and outcome.kind == "trained"):
                continue
            if self.form.deaths == "given up" and run.trial.steps is not None:
                continue  # a partial run goes to its end, as in the loop
            needed = self._patience + (CHECK_DEAD_AFTER << run.alive)
            if outcome:
                needed = CHECK_DEAD_AFTER
            elif run.steps == run.limit:
                needed = 0
            if (outcome.step if outcome else run.steps) - since >= needed:
                suspects[row] = since
        if not suspects:
            return
        params = [p[list(suspects)] for p in self.params]
        dead = silent_everywhere(self.network, params, self.x)
        for (row, since), is_dead in zip(suspects.items(), dead, strict=True):
            run = self.runs[row]
            if not is_dead:
                run.alive += 1
            elif self.form.deaths == "said":
                decided[row] = Outcome("dead", since, run.metric)
            elif row not in decided:
                decided[row] = Outcome(
                    "short", run.budget, run.metric, given_up=run.steps, cause="collapsed"
                )

    @property
    def _patience(self) -> int:
        """Return the steps of silence that momentum adds before a replica may be called dead.

        None for plain SGD, where silence is absorbing. Momentum still moves the weights of a silent
        replica; after this many steps what is left of it is below the rounding of float32.
        """
        momentum = self.form.momentum
        return math.ceil(math.log(2**-24) / math.log(momentum)) if momentum else 0
