"""Planted success curves: the exact p(η) of several families, and what a run at a rate does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from etastar.problem.trial import Cause, Outcome, Start, Trial
from etastar.search.curve import Curve
from etastar.search.curve_blocks import CurveResult
from etastar.search.curve_options import CurveOptions

FAMILIES = ("logistic", "gumbel", "student", "two-piece", "lapse", "early", "early-far")
"""Kinds of fast edge; `gumbel`, `student` and `two-piece` have heavier lower tails."""


def logistic(z: float) -> float:
    """The logistic function, without overflow."""
    return 0.5 * (1 + math.tanh(z / 2))


def student(z: float) -> float:
    """Distribution function of Student's t with three degrees of freedom."""
    u = z / math.sqrt(3)
    return 0.5 + (u / (1 + u * u) + math.atan(u)) / math.pi


SHAPES: dict[str, Callable[[float], float]] = {
    "logistic": logistic,
    "gumbel": lambda z: math.exp(-math.exp(min(-z, 50.0))),
    "student": student,
    "two-piece": lambda z: logistic(z if z < 0 else z / 2),
    "lapse": lambda z: 0.98 * logistic(z),
    "early": lambda z: 0.85 * logistic(z) + 0.15 * logistic(z - 5),
    "early-far": lambda z: 0.85 * logistic(z) + 0.15 * logistic(z - 12),
    "plateau": lambda z: 0.86 * logistic(z),
    "hopeless": lambda z: 0.35 * logistic(z),
}
"""p as a function of z = (log η_0 − log η) ÷ slope, falling with η."""


@lru_cache(maxsize=4096)
def draws(start: Start, salt: int) -> tuple[float, float, float]:
    """What is a seed's own: where it fails (the same number at every rate), how, and its speed."""
    draw = np.random.default_rng([start.initialisation, start.order, salt])
    return draw.random(), draw.random(), draw.normal()


@dataclass(frozen=True)
class PlantedCurve:
    """A network with a known success curve.

    Attributes:
        family: One of `SHAPES`.
        slope: Width of the fast edge in log η.
        eta: η at z = 0.
        max_steps: The budget.
        cause: What ends the runs above: `fast` (they diverge, die or collapse) or `slow`.
        floor: Steps to the threshold exceed the budget below about this rate, as a part of `eta`.
        salt: Makes independent draws of seeds.
    """

    family: str
    slope: float
    eta: float = 0.5
    max_steps: int = 400
    cause: str = "fast"
    floor: float = 0.035
    salt: int = 0

    def p(self, lr: float) -> float:
        """Probability that a run does not fail at the fast edge."""
        return SHAPES[self.family]((math.log(self.eta) - math.log(lr)) / self.slope)

    def rate(self, level: float) -> float | None:
        """The rate at which p falls through `level`, exactly; None if it never is so high."""
        low, high = self.eta * math.exp(-60 * self.slope - 3), self.eta * math.exp(60 * self.slope)
        if self.p(low) < level:
            return None
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.p(middle) > level else (low, middle)
        return low

    def steps(self, lr: float, noise: float = 0.0) -> float:
        """Steps to the threshold: as 1/η for slow rates, more again towards the edge."""
        r = lr / self.eta
        return self.max_steps * (self.floor / r + 0.15 * min(r, 3.0) ** 2) * math.exp(0.12 * noise)

    def run(self, trial: Trial) -> Outcome:
        """What becomes of a trial: a function of the trial alone."""
        edge, kind, noise = draws(trial.start, self.salt)
        if trial.steps is not None:
            return self._partial(trial, edge)
        p, steps = self.p(trial.lr), self.steps(trial.lr, noise)
        if edge >= p:
            return self._failure(kind)
        if self.cause == "slow" and 0 < edge < p < 1:  # they come nearer to the end of the budget
            margin = math.log(p / (1 - p)) - math.log(edge / (1 - edge))
            steps = max(steps, self.max_steps * math.exp(-0.3 * margin))
        steps = math.ceil(steps / 20) * 20
        if steps > self.max_steps:
            return Outcome("short", self.max_steps, 0.5, cause="slow")
        taken = self.max_steps if trial.to_end else steps
        return Outcome("trained", steps, 0.95, held=True if trial.to_end else None, given_up=taken)

    def _failure(self, kind: float) -> Outcome:
        cause: Cause = "slow" if self.cause == "slow" else "collapsed"
        if self.cause == "slow" or kind < 0.4:
            return Outcome("short", self.max_steps, 0.3, cause=cause)
        if kind < 0.5:
            return Outcome("dead", 25)
        return Outcome("diverged", 12 + int(100 * (kind - 0.5)))

    def _partial(self, trial: Trial, edge: float) -> Outcome:
        assert trial.steps is not None
        if edge >= self.p(trial.lr / 1.2):
            late = self.cause == "slow" and edge < self.p(trial.lr / 3)
            if not late:
                return Outcome("diverged", min(20, trial.steps), first_loss=2.3)
        learned = 1 - math.exp(-trial.steps / self.steps(trial.lr))
        return Outcome("partial", trial.steps, first_loss=2.3, last_loss=2.3 * (1 - 0.8 * learned))


def measured(planted: PlantedCurve, workers: int = 16, **options: Any) -> Curve:
    """A whole measurement of a planted curve; range and budget unless given."""
    given = {"start_lr": 1e-3, "end_lr": 10.0, "max_steps": planted.max_steps, "eval_every": 20}
    return answer(Curve(CurveOptions(**{**given, **options})), planted.run, workers)


def table_of(planted: PlantedCurve, rates: np.ndarray, seeds: int) -> dict[str, np.ndarray]:
    """A table of outcomes as `benchmarks/replay.py` reads it.

    Args:
        planted: What is tabulated.
        rates: Ascending, [K].
        seeds: S.
    """
    kinds, causes = ("trained", "diverged", "dead", "short"), (None, "collapsed", "slow")
    parts = [max(1, math.ceil(planted.max_steps * part)) for part in (1 / 16, 1 / 8, 1 / 4)]
    shape = (len(rates), seeds)
    table = {
        "kind": np.zeros(shape, np.uint8),
        "cause": np.zeros(shape, np.uint8),
        "step": np.zeros(shape, np.int32),
        "given_up": np.zeros(shape, np.int32),
        "first_loss": np.full(shape, 2.3, np.float32),
        "losses": np.full((*shape, len(parts)), np.nan, np.float32),
        "final_metric": np.full(shape, 0.3, np.float32),
    }
    for k, s in np.ndindex(*shape):
        start, lr = Start(s, s), float(rates[k])
        outcome = planted.run(Trial(start, lr))
        table["kind"][k, s] = kinds.index(outcome.kind)
        table["cause"][k, s] = causes.index(outcome.cause)
        table["step"][k, s] = table["given_up"][k, s] = outcome.step
        if outcome.kind == "trained":
            table["final_metric"][k, s] = 0.95
        for part, steps in enumerate(parts):
            loss = planted.run(Trial(start, lr, steps)).last_loss
            table["losses"][k, s, part] = np.nan if loss is None else loss
    return table | {
        "rates": np.asarray(rates, float),
        "seeds": np.arange(seeds),
        "loss_steps": np.array(parts, np.int32),
        "max_steps": np.array(planted.max_steps),
        "eval_every": np.array(20),
        "threshold": np.array(0.9),
        "task": np.array(json.dumps({"name": f"{planted.family} {planted.slope}"})),
    }


def slow_twin(eta: float, salt: int) -> Callable[[Trial], Outcome]:
    """A task too hard for its budget: p is 0.35 at `eta`, half of it a factor of 1.7 away.

    Its metric is 0.8 at the threshold, less by a square in log η and by a seed's own noise; below,
    runs are too slow, and far above they collapse or die. Partial runs see the loss fall most at
    three times `eta`.
    """

    def run(trial: Trial) -> Outcome:
        distance = math.log(trial.lr / eta)
        _, kind, noise = draws(trial.start, salt)
        if trial.steps is not None:
            if distance > 2:
                return Outcome("diverged", 10, first_loss=2.3)
            fallen = 0.05 + 0.1 * math.exp(-((distance - 1.2) ** 2) / 2) + 0.02 * noise
            return Outcome("partial", trial.steps, first_loss=2.3, last_loss=2.3 * (1 - fallen))
        metric = 0.8 + 0.1 * (noise - 0.385 - 1.82 * distance**2)
        if metric > 0.8:
            return Outcome("trained", 360, 0.82)
        if distance > 1.8 and kind < 0.5:
            return Outcome("dead", 50)
        cause: Cause = "collapsed" if distance > 1.5 and kind < 0.7 else "slow"
        return Outcome("short", 400, max(metric, 0.1), cause=cause)

    return run


@lru_cache(maxsize=8)
def result(curve: Curve) -> CurveResult:
    """What a curve that is done answers, computed once."""
    return curve.result()


def answer(curve: Curve, run: Callable[[Trial], Outcome], workers: int = 16) -> Curve:
    """Ask a strategy until it is done, and tell it what its trials do."""
    while not curve.done:
        for trial in curve.ask(workers):
            curve.tell(trial, run(trial))
    return curve
