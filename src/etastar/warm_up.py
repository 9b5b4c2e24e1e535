"""`warmup`: η* along a training run, and from it the shortest warm-up to a target rate."""

from __future__ import annotations

import bisect
import inspect
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etastar.checking import check_choice, is_number, is_whole
from etastar.engines.loop import LoopEngine
from etastar.errors import ConfigError, NotBracketedWarning, warn
from etastar.maximal import PLACES, SCAN_RATIO, measured
from etastar.problem import checks, own_loss
from etastar.problem.origin import GivenOrigin, copied_model
from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem
from etastar.problem.session import Session
from etastar.problem.streams import untouched
from etastar.problem.trial import Outcome, Start, Trial
from etastar.problem.user_code import told
from etastar.progress import ProgressLine
from etastar.result import Cost, Result, number
from etastar.run import NO_SAFE_RATE
from etastar.schedule import LadderStep, Shape, Warmup, WarmupStatus
from etastar.search.search import OF_THE_CURVE, RESOLUTION, Search
from etastar.study.kept import Keeper, Shelf, keeper

LADDER = (0, 10, 30, 100, 300, 1000)
"""Steps at which η* is measured; those within the budget are used."""
SHAPES: tuple[Shape, ...] = ("linear", "piecewise")


def warmup(
    model: nn.Module | Callable[[int], nn.Module],
    train_data: Any,
    val_data: Any = None,
    *,
    target_lr: float,
    ladder: Sequence[int] = LADDER,
    shape: Shape = "linear",
    pace: float = 0.5,
    store: str | Path | None = None,
    **options: Any,
) -> Warmup:
    """Find the shortest warm-up to a rate that is too high to start training with.

    1. η* is measured at the steps of `ladder` along a run at `pace` times η* at step 0: from the
       weights and the optimizer's state there, the largest constant rate that reaches the threshold
       within the budget (or still meets it at the end, where it is met already).
    2. Between two steps of the ladder η* is taken to be the smaller of the two. The shortest
       schedule is one whose every rate is at most η* of its step, on every seed.
    3. It is checked by training: with it, and at the target rate from the first step. If training
       with it fails, which can be since it takes another path than the run that was measured, it is
       lengthened by factors of two until it holds, and the result says so.

    Args:
        model: As for `etastar.maximal_lr`.
        train_data: As there.
        val_data: As there.
        target_lr: The rate to warm up to.
        ladder: Steps at which η* is measured, ascending from 0.
        shape: `"linear"`, from `target/(length + 1)` to the target; or `"piecewise"`, the measured
            η* itself, constant between the ladder's steps, which is shorter.
        pace: Rate of the run along the ladder, over the smallest η* of all seeds at step 0.
        store: As there: a file that keeps every trial, and from which the same warm-up goes on.
        **options: Any further argument of `etastar.maximal_lr` but `from_checkpoint`, `minutes` and
            those of executors.

    Returns:
        The schedule, the measured ladder and the outcomes of the check.

    Raises:
        ModelError: As for `maximal_lr`.
        ConfigError: An option is unknown or out of range.
        StoreError: The store cannot be used, or has trials of other code under the same name.

    Warns:
        NotBracketedWarning: There is no such warm-up; `length` is then None.
    """
    began = time.perf_counter()
    asked = _own_model(model, train_data, val_data, options)
    target_lr, steps, pace = _checked_schedule(asked, target_lr, ladder, shape, pace)
    with untouched(train_data, val_data), keeper(store) as kept:
        found = _found(asked, target_lr, steps, shape, pace, kept)
    found = replace(found, cost=replace(found.cost, seconds=round(time.perf_counter() - began, 3)))
    if found.length is None:
        warn(found.notes[0], NotBracketedWarning)
    return found


def _found(
    asked: OwnModel,
    target: float,
    ladder: Sequence[int],
    shape: Shape,
    pace: float,
    kept: Keeper,
) -> Warmup:
    """Problem → η* along the ladder → schedule → check."""
    problem, groups, notes = asked.problem(
        lambda one, trials: kept.trained(one, trials, LoopEngine())
    )
    starts = [Start(seed, seed) for seed in asked.seed_list]
    located = kept.steps, kept.trials
    with ProgressLine(wanted=asked.progress) as line:

        def bracketed(own: Problem, seeds: Sequence[int], shelf: Shelf, **how: Any) -> Result:
            ends, resolution = (asked.start_lr, asked.end_lr), asked.resolution or RESOLUTION
            search = Search(*ends, "section", tuple(seeds), resolution, scan_ratio=SCAN_RATIO)
            told = line.update if line else None
            return measured(asked, own, search, shelf, groups=groups, on_progress=told, **how)

        first = bracketed(
            problem, asked.seed_list, kept.shelf(problem), notes=notes, spent=kept.steps
        )
        lowest = LadderStep(0, first.seeds).lowest
        pace_lr = None if lowest is None else pace * lowest
        results: dict[int, list[Result]] = {0: [first]}
        if lowest is not None and pace_lr is not None and lowest < target:
            sessions = [Session(problem, start, pace_lr) for start in starts]
            for step in sorted(step for step in set(ladder) if 0 < step < problem.max_steps):
                for session in sessions:
                    with session.active():
                        while session.steps < step:
                            session.step()
                shelf = kept.shelf(problem, after=step, at=pace_lr)
                results[step] = [
                    bracketed(_from(session, problem), [session.start.order], shelf)
                    for session in sessions
                ]
    first = replace(first, notes=tuple(note for note in first.notes if note != NO_SAFE_RATE))
    steps = [
        LadderStep(step, {seed: found for one in there for seed, found in one.seeds.items()})
        for step, there in results.items()
    ]
    status, length = plan(steps, target, shape, problem.max_steps)
    draft = Warmup(
        target_lr=target,
        shape=shape,
        status=status,
        length=length,
        stretch=1,
        ladder=tuple(steps),
        pace_lr=pace_lr,
        with_warmup={},
        without={},
        notes=(),
        ratios=groups[1],
        at_start=first,
    )
    checked = _checked(draft, problem, starts, kept)
    told = [note.replace("`epochs`", f"`{asked.budget_option}`") for note in checked.notes]
    if beyond := [step for step in ladder if step >= problem.max_steps and ladder != list(LADDER)]:
        notes = [*notes, f"`ladder`: steps from {min(beyond)} on are beyond the budget, left out."]
    costs = [result.cost for there in results.values() for result in there]
    taken = sum(cost.steps for cost in costs) + len(starts) * steps[-1].step
    taken += kept.steps - located[0]
    trials = sum(cost.trials for cost in costs) + kept.trials - located[1]
    return replace(
        checked,
        notes=(*told, *notes),
        cost=Cost(trials, taken, None, taken / problem.max_steps),
    )


def plan(
    steps: Sequence[LadderStep], target: float, shape: Shape, max_steps: int
) -> tuple[WarmupStatus, int | None]:
    """The shortest warm-up that a ladder allows: its status and length in steps.

    Length T means that the rates of steps 0 … T−1 are below the target and those from T on are it.
    """
    if steps[0].lowest is None:
        return "none-trained", None
    if steps[0].lowest >= target:
        return "not-needed", 0
    draft = Warmup(target, shape, "found", 1, 1, tuple(steps), None, {}, {}, ())

    def allowed(length: int) -> bool:
        trial = replace(draft, length=length)
        end = max(length, steps[-1].step) + 1
        return all(trial.lr_at(s) <= trial.bound(s) for s in range(end))

    # every rate of a longer warm-up is at most that of a shorter one: what is allowed stays so
    length = bisect.bisect_left(range(max_steps), True, lo=1, key=allowed)
    return ("found", length) if length < max_steps else ("unreachable", None)


def _reached(session: Session) -> GivenOrigin:
    """Return a model in the middle of its training as the origin of trials."""
    origin, model = session.problem.origin, copied_model(session.model)
    assert isinstance(origin, GivenOrigin)

    def rebuilt(*_: int) -> nn.Module:
        """Return the model as it is now, with its hooks, which come from the factory again."""
        own = origin.copy(session.start.initialisation)
        with torch.no_grad():
            for tensor, there in zip(_tensors(own), _tensors(model), strict=True):
                tensor.copy_(there)
        return own

    return GivenOrigin(model if origin.copies_keep_hooks else rebuilt, origin.device)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    own = own_loss.modules(model)
    return [t for module in own for t in (*module.parameters(), *module.buffers())]


def _from(session: Session, problem: Problem) -> Problem:
    """The problem from where a session stands."""
    kind = type(session.optimizer).__name__
    with told(lambda: f"{kind}, from whose state_dict a warm-up goes on,"):
        state = session.optimizer.state_dict()
    reached = replace(
        problem,
        origin=_reached(session),
        optimizer=replace(problem.optimizer, state=state if state["state"] else None),
    )
    value = checks.check_first_metric(reached, Start(0, 0))
    return reached.holding() if reached.objective.met(value) else reached


def _checked(draft: Warmup, problem: Problem, starts: list[Start], kept: Keeper) -> Warmup:
    """Train without and with the warm-up; lengthen it until training with it succeeds."""
    notes = []
    trials = [Trial(start, draft.target_lr) for start in starts]

    def by_seed(engine: LoopEngine, **where: Any) -> dict[int, Outcome]:
        runs = kept.trained(problem, trials, engine, **where)
        return {trial.seed: outcome for trial, outcome in runs.items()}

    draft = replace(draft, without=by_seed(LoopEngine()))
    if draft.length is None:
        return replace(draft, notes=(_why_none(draft, problem),))

    def trained(schedule: Warmup) -> Warmup:
        def rates(step: int) -> list[float]:
            return [schedule.lr_at(step) * ratio for ratio in schedule.ratios]

        told = [schedule.lr_at(step) for step in range((schedule.total or 0) + 1)]
        return replace(schedule, with_warmup=by_seed(LoopEngine(rates=rates), rates=told))

    if draft.length == 0:
        return replace(draft, with_warmup=draft.without, notes=_surprises(draft))
    schedule = trained(draft)
    while not schedule.verified and 2 * (schedule.total or 0) < problem.max_steps:
        schedule = trained(replace(schedule, stretch=2 * schedule.stretch))
    if schedule.verified and schedule.stretch > 1:
        notes.append(
            f"the shortest warm-up that the measured η* allow, {draft.length} steps, did not reach "
            f"the threshold on every seed; one {schedule.stretch} times as long did."
        )
    if not schedule.verified:
        schedule = replace(schedule, status="unreachable", length=None)
        notes.append(
            f"no warm-up of up to {2 * (draft.length * schedule.stretch)} steps reached the "
            f"threshold at {draft.target_lr:g} on every seed. Lower `target_lr` or lengthen the "
            "budget (`epochs`)."
        )
    return replace(schedule, notes=(*notes, *_surprises(draft)))


def _surprises(draft: Warmup) -> tuple[str, ...]:
    """Where training without warm-up does not do what η* at step 0 says."""
    without = draft.without
    trained = sum(run.kind == "trained" for run in without.values())
    if draft.status == "not-needed" and trained < len(without):
        return (
            f"η* at step 0 is above the target on every seed, but only {trained} of {len(without)} "
            "trained at the target: the boundary is not sharp.",
        )
    if draft.status != "not-needed" and trained == len(without):
        return (
            "every seed trained at the target without warm-up too, though η* at step 0 of one of "
            "them is below it: the boundary is not sharp.",
        )
    return ()


def _why_none(draft: Warmup, problem: Problem) -> str:
    if draft.status == "none-trained":
        return (
            "no rate trains from the start on every seed, so there is no run to measure along. "
            "Lengthen the budget (`epochs`), make the `threshold` easier, or widen the range."
        )
    lengthen = "lengthen the `ladder` or the budget (`epochs`)"
    best = max(draft.ladder, key=lambda rung: rung.lowest or 0.0)
    last, highest = draft.ladder[-1], best.lowest or 0.0
    if highest >= draft.target_lr:
        return (
            f"η* is {highest:.4g} at step {best.step}, but below the target {draft.target_lr:g} "
            f"again at step {last.step}, {number(last.lowest)}, the last of the ladder. Lower "
            f"`target_lr`, or {lengthen}."
        )
    return (
        f"η* stays below the target {draft.target_lr:g} at every step of the ladder up to "
        f"{last.step} of {problem.max_steps} steps; the highest is {highest:.4g}. Lower "
        f"`target_lr`, or {lengthen}."
    )


def _own_model(model: Any, train_data: Any, val_data: Any, options: dict[str, Any]) -> OwnModel:
    """The arguments of `maximal_lr` with its defaults."""
    if "from_checkpoint" in options:
        raise ConfigError("a warm-up begins at initialisation: leave out `from_checkpoint`.")
    refused = (*OF_THE_CURVE, "from_checkpoint")
    known = [field.name for field in fields(OwnModel) if field.name not in refused]
    known += [name for name in inspect.signature(warmup).parameters if name != "options"]
    for name in options.keys() & set(PLACES):
        raise ConfigError(
            f"`{name}` has no effect on a warm-up, whose runs follow each other, here: leave it "
            "out. With `store` it goes on where it was."
        )
    wasted = [name for name in OF_THE_CURVE if options.get(name) not in (None, False)]
    if wasted or options.get("strategy") not in (None, "section"):
        raise ConfigError(
            f"`{(wasted or ['strategy'])[0]}` has no effect on a warm-up, which brackets every "
            "seed along its own run (section): leave it out."
        )
    if options.get("scheduler") is not None:
        raise ConfigError(
            "`scheduler` has no effect on a warm-up, which sets the rate itself: leave it out."
        )
    for name in options.keys() - set(OF_THE_CURVE):
        check_choice("option", name, known)
    return OwnModel(model=model, train_data=train_data, val_data=val_data, **options)


def _checked_schedule(
    asked: OwnModel, target: Any, ladder: Any, shape: Any, pace: Any
) -> tuple[float, list[int], float]:
    """Return target, ladder and pace as Python's own numbers.

    Raises:
        ConfigError: One of them, or the shape, cannot be.
    """
    if not is_number(pace) or not 0 < pace <= 1:
        raise ConfigError(f"pace must be above 0 and at most 1, got {pace!r}.")
    check_choice("shape", shape, SHAPES)
    if not is_number(target) or not math.isfinite(target) or not target > asked.start_lr:
        raise ConfigError(
            f"target_lr must be a number above `start_lr={asked.start_lr:g}`, got {target!r}."
        )
    if target >= asked.end_lr:
        raise ConfigError(
            f"`target_lr` must be below `end_lr`, got {target:g} and {asked.end_lr:g}: η* is "
            "searched up to `end_lr` only. Raise `end_lr`."
        )
    steps = list(ladder) if isinstance(ladder, Iterable) else []
    if len(steps) < 2 or not all(is_whole(step) and step >= 0 for step in steps):
        raise ConfigError(f"ladder must be at least two whole numbers of steps, got {ladder!r}.")
    return float(target), [int(step) for step in steps], float(pace)
