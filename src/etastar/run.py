"""The road: problem → engine → search → result. Every entry, study and command goes along it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from etastar.advice import advice, order_note
from etastar.engines import Engine, choose
from etastar.machine import environment
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial
from etastar.result import Cost, Result
from etastar.search import STRATEGIES, Lattice, Section
from etastar.search.estimate import eta_star, spread_of, success_curve
from etastar.search.queue import SearchQueue
from etastar.search.search import Search

OnOutcome: TypeAlias = Callable[[Trial, Outcome], None]


@dataclass(frozen=True)
class Progress:
    """How far a measurement is: searches that have ended, of how many; trials; steps."""

    seeds_done: int
    seeds: int
    trials: int
    steps: int


def searched(
    problem: Problem,
    starts: Sequence[Start],
    search: Search,
    engine: Engine,
    *,
    known: Mapping[Trial, Outcome] | None = None,
    on_outcome: OnOutcome | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchQueue:
    """Search for η* of every start.

    Args:
        problem: What is trained.
        starts: One search each.
        search: How.
        engine: What trains.
        known: Outcomes of an interrupted search, which then need no second run.
        on_outcome: Called after every trial, from the engine's threads, one at a time.
        on_progress: Likewise, with how far the searches are.

    Returns:
        The queue, its strategies done.
    """
    lattice = Lattice(search.start_lr, search.end_lr, search.resolution)
    kind = STRATEGIES[search.strategy]
    scan = kind is Section and search.scan_ratio
    options = {"scan_ratio": search.scan_ratio} if scan else {}
    queue = SearchQueue({start: kind(lattice, **options) for start in starts})
    for trial, outcome in (known or {}).items():
        if trial.start in queue.strategies:
            queue.strategies[trial.start].tell(trial.lr, outcome)

    def told(trial: Trial, outcome: Outcome) -> None:
        if on_outcome:
            on_outcome(trial, outcome)
        if on_progress:
            on_progress(Progress(queue.done, len(starts), queue.ended, engine.steps_taken))

    queue.on_outcome = told
    engine.run(problem, queue)
    return queue


def run(
    problem: Problem,
    search: Search,
    *,
    heading: str,
    data: Mapping[str, Any],
    engine: str = "auto",
    threads: int | None = None,
    groups: tuple[tuple[str, ...], ...] = (),
    ratios: tuple[float, ...] = (),
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    known: Mapping[Trial, Outcome] | None = None,
    on_outcome: OnOutcome | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Measure η* of a problem.

    Args:
        problem: What is trained.
        search: How η* is looked for.
        heading: What is measured, in two lines.
        data: Provenance of the data.
        engine: A name in `etastar.engines.ENGINES`, or `auto`.
        threads: CPU threads; if None, PyTorch's.
        groups: Names of the parameters of each group of the optimizer.
        ratios: Rate of each group over η.
        settings: What the entry was asked for, beside what the problem tells of itself.
        notes: Of the entry, which come after the advice.
        known: See `searched`.
        on_outcome: See `searched`.
        on_progress: See `searched`.

    Returns:
        The result.
    """
    began = time.perf_counter()
    own = [Start(seed, seed) for seed in search.seeds]
    starts = list(own)
    if search.apart and problem.origin.varies:
        starts += [Start(own[0].initialisation, start.order) for start in own[1:]]
    trainer, reason = choose(problem, engine, threads)
    queue = searched(
        problem,
        starts,
        search,
        trainer,
        known=known,
        on_outcome=on_outcome,
        on_progress=on_progress,
    )
    found = {start: strategy.result() for start, strategy in queue.strategies.items()}
    results = [found[start] for start in own]
    seeds = {start.order: found[start] for start in own}
    trials = queue.outcomes()
    varies = problem.origin.varies
    again = [found[start] for start in starts if start not in own[1:]]
    told = advice(problem, seeds, trials, search.start_lr, search.end_lr)
    star = eta_star(results, search.start_lr)
    return Result(
        eta_star=star,
        seeds=seeds,
        success=success_curve(results, [queue.strategies[start].outcomes for start in own]),
        trials=trials,
        heading=heading,
        varies="initialisation and order of the data" if varies else "order of the data",
        spread=spread_of(results, again if len(starts) > len(own) else None, varies),
        groups=groups,
        ratios=ratios,
        engine=trainer.name,
        engine_reason=reason,
        settings={**problem.described(own[0].initialisation), **(settings or {})},
        data=dict(data),
        search=search.record(),
        cost=Cost(
            trials=len(trials),
            steps=sum(outcome.steps_taken(problem.max_steps) for outcome in trials.values()),
            seconds=round(time.perf_counter() - began, 3),
        ),
        environment=environment(problem.origin.device, problem.dtype, trainer.threads),
        notes=(*told, *notes, *order_note(problem, own)),
        network=getattr(problem.origin, "network", None),
        recipe=problem.recipe,
        reason=None if star.median else told[0] if told else "η* was not found.",
    )


@contextmanager
def progress_line(wanted: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Show searches done and trials ended on standard error, if that is a terminal.

    Args:
        wanted: Whether to show anything.

    Yields:
        What to call with the progress; None if nothing is shown.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("measuring η*") as line:

        def show(now: Progress) -> None:
            line.update(
                f"measuring η*: {now.seeds_done} of {now.seeds} searches done, {now.trials} trials"
            )

        yield show
