"""The road: problem → engine → search → result. Every entry, study and command goes along it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

from etastar.advice import advice, curve_advice, order_note
from etastar.engines import Engine, Queue, TrialList, choose
from etastar.engines.collapse import varies
from etastar.engines.workers import WorkersEngine
from etastar.machine import environment
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial
from etastar.progress import Progress as Progress
from etastar.result import Cost, Result
from etastar.search import STRATEGIES, Lattice, Section
from etastar.search.curve import Curve
from etastar.search.curve_options import CurveOptions
from etastar.search.estimate import Spread, eta_star, spread_of, success_curve
from etastar.search.queue import CurveQueue, SearchQueue
from etastar.search.search import OF_THE_CURVE, RESOLUTION, Search

OnOutcome: TypeAlias = Callable[[Trial, Outcome], None]


class Early(Queue):
    """A queue that Ctrl-C, or its time, may end before its search has ended.

    Args:
        minutes: Its time, from now; None for as long as it takes.

    Attributes:
        note: Which of them did, in words; empty if none.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes, self.note = minutes, ""
        self.ends = math.inf if minutes is None else time.perf_counter() + 60 * minutes
        self.queue: Queue = TrialList(())

    def run(
        self,
        engine: Engine,
        problem: Problem,
        queue: SearchQueue | CurveQueue,
        known: Collection[Trial],
    ) -> None:
        """Let an engine train until the queue is done or one of them ends it.

        Args:
            engine: What trains.
            problem: What is trained.
            queue: What was put into it stays.
            known: Trials of an interrupted search.

        Raises:
            KeyboardInterrupt: On Ctrl-C before anything is known that could be returned.
        """
        try:
            engine.run(problem, self.over(queue))
        except TimeoutError:
            if not self.late:
                raise
            self.note = f"interrupted: `minutes={self.minutes:g}` have passed. {SO_FAR}"
        except KeyboardInterrupt:
            if not (queue.ended or known):
                raise
            self.note = f"{CTRL_C}. {SO_FAR}"

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let what is inside end although Ctrl-C is pressed once, which is noted; twice raises."""
        raises = signal.default_int_handler
        if threading.current_thread() is not threading.main_thread() or (
            signal.getsignal(signal.SIGINT) is not raises
        ):
            yield
            return

        def noted(*_: object) -> None:
            self.note = self.note or f"{CTRL_C}. {SO_FAR}"
            signal.signal(signal.SIGINT, raises)

        signal.signal(signal.SIGINT, noted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, raises)

    def over(self, queue: Queue) -> Early:
        """Return this with another queue.

        Args:
            queue: Any.
        """
        self.queue = queue
        return self

    @property
    def late(self) -> bool:
        """Tell whether its time is up."""
        return time.perf_counter() > self.ends

    def _in_time(self) -> Queue:
        if self.late:
            raise TimeoutError
        return self.queue

    def take(self, free: int, useful: int = 1) -> list[Trial]:
        """See `Queue`."""
        return self._in_time().take(free, useful)

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """See `Queue`."""
        self.queue.put(trial, outcome)

    def wanted(self, trial: Trial) -> bool:
        """See `Queue`."""
        return self._in_time().wanted(trial)


CTRL_C = "interrupted by Ctrl-C"
SO_FAR = "This is what was known by then, of rounds that had ended; with `store` it can go on."


def searched(
    problem: Problem, starts: Sequence[Start], search: Search, engine: Engine, **how: Any
) -> SearchQueue:
    """Search for η* of every start.

    Args:
        problem: What is trained.
        starts: One search each.
        search: How.
        engine: What trains.
        **how: `known`, `on_outcome`, `on_progress` and `early` of `run`.

    Returns:
        The queue, its strategies done.
    """
    lattice = Lattice(search.start_lr, search.end_lr, search.resolution or RESOLUTION)
    kind = STRATEGIES[search.strategy]
    scan = kind is Section and search.scan_ratio
    options = {"scan_ratio": search.scan_ratio} if scan else {}
    queue = SearchQueue({start: kind(lattice, **options) for start in starts})
    for trial, outcome in (how.get("known") or {}).items():
        strategy = queue.strategies.get(trial.start)
        if strategy and trial == Trial(trial.start, trial.lr) and strategy.has(trial.lr):
            strategy.tell(trial.lr, outcome)
    _train(problem, queue, engine, lambda: Progress(queue.done, len(starts)), **how)
    return queue


def _train(
    problem: Problem,
    queue: SearchQueue | CurveQueue,
    engine: Engine,
    progress: Callable[[], Progress],
    known: Mapping[Trial, Outcome] | None = None,
    on_outcome: OnOutcome | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    early: Early | None = None,
) -> None:
    """Let an engine train what a queue asks for, and tell of it."""

    def told(trial: Trial, outcome: Outcome) -> None:
        if on_outcome:
            on_outcome(trial, outcome)
        if on_progress:
            now = replace(progress(), trials=queue.ended, steps=engine.steps_taken)
            on_progress(replace(now, workers=engine.workers_now))

    queue.on_outcome = told
    if early is None:
        engine.run(problem, queue)
    else:
        early.run(engine, problem, queue, known or ())


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
    budget: str = "epochs",
    notes: Sequence[str] = (),
    known: Mapping[Trial, Outcome] | None = None,
    spent: int = 0,
    on_outcome: OnOutcome | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    early: Early | None = None,
    workers: WorkersEngine | None = None,
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
        budget: The option that sets the budget.
        notes: Of the entry, which come after the advice.
        known: Outcomes of an interrupted search, which then need no second run.
        spent: Steps that finding the threshold took, which count as the search's own do.
        on_outcome: Called after every trial, from the engine's threads, one at a time.
        on_progress: Likewise, with how far the searches are.
        early: What may end them; if None, Ctrl-C raises.
        workers: Where trials are trained; here if None.

    Returns:
        The result.
    """
    began = time.perf_counter()
    own = [Start(seed, seed) for seed in search.seeds]
    notes = list(notes)
    if search.strategy == "curve" and not _seeds_differ(problem):
        notes.append(NOTHING_VARIES)
        search = replace(search, strategy="section", resolution=RESOLUTION)
    record = search.record()
    if spent:
        notes.append(f"{spent:,} of the steps went to `threshold='auto'`.")
    trainer, reason = choose(problem, engine, threads)
    if workers:
        trainer = workers.over(trainer)
    how = {"known": known, "on_outcome": on_outcome, "on_progress": on_progress, "early": early}
    if search.strategy == "curve":
        found, told = _curve(problem, search, trainer, own, how, spent)
    else:
        found, told = _brackets(problem, search, trainer, own, how)
    told = [note.replace("`epochs`", f"`{budget}`") for note in told]
    taken = spent + found.pop("steps")
    interrupted = early is not None and bool(early.note)
    if early and interrupted:  # advice on where nothing was found would be of what was not tried
        told = [early.note, *(told if found["eta_star"].median else [])]
    drawn = problem.origin.varies
    missing = told[0] if told else "η* was not found."
    return Result(
        **found,
        heading=heading,
        varies="initialisation and order of the data" if drawn else "order of the data",
        groups=groups,
        ratios=ratios,
        engine=trainer.name,
        engine_reason=reason,
        settings={**problem.described(own[0].initialisation), **(settings or {})},
        data=dict(data),
        search=record,
        cost=Cost(
            trials=len(found["trials"]),
            steps=taken,
            seconds=round(time.perf_counter() - began, 3),
            budgets=taken / problem.max_steps,
        ),
        environment=environment(problem.origin.device, problem.dtype, trainer.threads),
        notes=(*told, *notes),
        network=getattr(problem.origin, "network", None),
        recipe=problem.recipe,
        reason=missing if found["eta_star"].median is None else None,
        interrupted=interrupted,
    )


def _seeds_differ(problem: Problem) -> bool:
    """Whether two seeds can give two outcomes."""
    return varies(problem, Start(0, 0), Start(1, 1))


NOTHING_VARIES = (
    "nothing varies between trials (the model is given, the data come in one order, and training "
    "draws no random numbers): there is no p(η), and η* was bracketed once (`strategy='section'`), "
    "without a cap: `trials`, `budgets` and the other options of the curve have no effect on it. "
    "Pass a factory seed -> Module to vary the initialisation."
)


def _brackets(
    problem: Problem, search: Search, trainer: Engine, own: list[Start], how: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Bracket η* of every start; return the result's fields and notes."""
    starts = list(own)
    if search.apart and problem.origin.varies:
        starts += [Start(own[0].initialisation, start.order) for start in own[1:]]
    queue = searched(problem, starts, search, trainer, **how)
    found = {start: strategy.result() for start, strategy in queue.strategies.items()}
    results = [found[start] for start in own]
    seeds = {start.order: found[start] for start in own}
    trials = queue.outcomes()
    again = [found[start] for start in starts if start not in own[1:]]
    told = advice(problem, seeds, trials, search.start_lr, search.end_lr)
    fields = {
        "eta_star": eta_star(results),
        "seeds": seeds,
        "success": success_curve(results, [queue.strategies[start].outcomes for start in own]),
        "trials": trials,
        "steps": sum(outcome.steps_taken(problem.max_steps) for outcome in trials.values()),
        "spread": spread_of(
            results, again if len(starts) > len(own) else None, problem.origin.varies
        ),
    }
    promise = [NO_SAFE_RATE] if _seeds_differ(problem) else []
    return fields, [*told, *order_note(problem, own), *promise]


NO_SAFE_RATE = (
    "brackets of single seeds promise nothing for a fresh one: for a rate with a promise, and a "
    "safe one, use `strategy='curve'`."
)


def _curve(
    problem: Problem,
    search: Search,
    trainer: Engine,
    own: list[Start],
    how: dict[str, Any],
    before: int,
) -> tuple[dict[str, Any], list[str]]:
    """Measure the success curve after so many steps; return the result's fields and notes."""
    hold = problem.objective.hold
    curve = Curve(
        CurveOptions(
            search.start_lr,
            search.end_lr,
            max_steps=problem.max_steps,
            eval_every=problem.eval_every,
            counts_steps=not hold and 2 * problem.eval_every <= problem.max_steps,
            first_seed=own[0].order,
            only_order=not problem.origin.varies,
            before=before,
            **{name: getattr(search, name) for name in OF_THE_CURVE},
        )
    )
    for trial, outcome in (how["known"] or {}).items():
        curve.tell(trial, outcome)

    def progress() -> Progress:
        now = curve.interval() if len(curve.whole) >= search.round_size else None
        return Progress(0, 1, most=search.trials, interval=now)

    _train(problem, CurveQueue(curve), trainer, progress, **how)
    early: Early | None = how["early"]
    with early.finishing() if early else nullcontext():
        found = curve.result()
    fields = {
        "eta_star": found.eta_star,
        "seeds": {},
        "success": list(found.curve.points),
        "trials": {t: o for t, o in curve.runs() if t.steps is None},
        "spread": Spread(None, None, None),
        "found": found,
        "steps": found.cost.steps,
    }
    return fields, curve_advice(found)
