"""Planted success curves: the exact p(η) of several families, and what a run at a rate does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etastar.search.curve_types import Cause, Outcome, Trial

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
        # the edge of a seed is its own: more rates ask the same uniform number
        draw = np.random.default_rng([trial.start.initialisation, trial.start.order, self.salt])
        edge, kind, noise = draw.random(), draw.random(), draw.normal()
        if trial.steps is not None:
            return self._partial(trial, edge)
        steps = math.ceil(self.steps(trial.lr, noise) / 20) * 20
        if edge >= self.p(trial.lr):
            return self._failure(kind)
        if steps > self.max_steps:
            return Outcome("short", self.max_steps, 0.5, "slow")
        taken = self.max_steps if trial.to_end else steps
        return Outcome("trained", steps, 0.95, held=True if trial.to_end else None, given_up=taken)

    def _failure(self, kind: float) -> Outcome:
        cause: Cause = "slow" if self.cause == "slow" else "collapsed"
        if self.cause == "slow" or kind < 0.4:
            return Outcome("short", self.max_steps, 0.3, cause)
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
