"""The blocks of the answer of the strategy `curve`, as its JSON has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from etastar.search.estimate import EtaStar


@dataclass(frozen=True)
class CurvePoint:
    """The whole runs at one rate, confirming ones included.

    Attributes:
        lr: η.
        tried: Runs.
        trained, diverged, dead, collapsed, slow: Runs by outcome.
        p: Fraction that trained.
        ci_low: Lower end of the exact (Clopper–Pearson) 95 % interval.
        ci_high: Upper end.
        median_steps: Median steps to the threshold of the trained runs; None without one.
    """

    lr: float
    tried: int
    trained: int
    diverged: int
    dead: int
    collapsed: int
    slow: int
    p: float
    ci_low: float
    ci_high: float
    median_steps: float | None


@dataclass(frozen=True)
class BandPoint:
    """The fitted p at one rate.

    Attributes:
        lr: η.
        p: Posterior mean.
        low: Lower end of its pointwise 95 % interval.
        high: Upper end.
    """

    lr: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Peak:
    """The highest p that was seen: where its lower bound is highest.

    Attributes:
        lr: Where.
        p: Fraction of the runs within 0.2 of it in log η that trained, within 0.4 where few did.
        ci_low: Lower end of the exact 95 % interval.
        ci_high: Upper end.
    """

    lr: float
    p: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class CurveBlock:
    """The success curve.

    Attributes:
        eta_50: Where p falls through 0.5.
        eta_95: Where p falls through 0.95, the median of its posterior; None where it is not that
            high, or where runs are too slow.
        eta_95_low: The one-sided 90 % lower bound of that.
        p_max: The highest p seen, by the lower end of its interval.
        points: The whole runs by rate, ascending.
        band: The fit, over the rates tried.
    """

    eta_50: float | None
    eta_95: float | None
    eta_95_low: float | None
    p_max: Peak | None
    points: tuple[CurvePoint, ...]
    band: tuple[BandPoint, ...]


@dataclass(frozen=True)
class WindowBlock:
    """The rates with p ≥ 0.95.

    Attributes:
        low: The slow edge; None unless it was looked for and found.
        high: η_95; None where p is not so high, or runs are too slow there.
        low_status: `found`, `below the range`, or `not looked for`, which is also said where a cap
            ended the search before it came to that.
    """

    low: float | None
    high: float | None
    low_status: Literal["found", "below the range", "not looked for"]


@dataclass(frozen=True)
class AttemptBlock:
    """An attempt to confirm a rate.

    Attributes:
        lr: The rate.
        tried: Fresh runs at it.
        trained: How many reached the threshold.
    """

    lr: float
    tried: int
    trained: int


@dataclass(frozen=True)
class Recommended:
    """The rate to train with, or, where every attempt to confirm one failed, these attempts.

    Attributes:
        lr: The rate; None where every attempt failed.
        tried: Fresh runs at it, to the end of the budget; 0 where none was made.
        trained: How many reached the threshold.
        held: How many were still at or above the threshold at the end.
        p_low: Lower bound of p that these runs give, with the error of this attempt.
        confidence: 0.95: the errors of all attempts that may be made add up to the rest.
        median_steps: Median steps to the threshold.
        attempts: Every attempt, this one last.
    """

    lr: float | None
    tried: int
    trained: int | None
    held: int | None
    p_low: float | None
    confidence: float | None
    median_steps: float | None
    attempts: tuple[AttemptBlock, ...]


@dataclass(frozen=True)
class LocatedRun:
    """A partial run.

    Attributes:
        lr: Its rate.
        steps: Steps taken.
        kind: Its outcome.
        first_loss: Training loss at step 0.
        last_loss: Training loss at its end; None where that is not finite.
    """

    lr: float
    steps: int
    kind: str
    first_loss: float | None
    last_loss: float | None


@dataclass(frozen=True)
class Cost:
    """What a measurement took; fields can be read by key, too.

    Attributes:
        trials: Whole trials that the search used, confirming ones included.
        steps: Optimizer steps of these trials and of partial ones, summed.
        seconds: Wall-clock time; None if that is not known.
        budgets: Steps ÷ steps of one budget: the same in whole trainings.
    """

    trials: int
    steps: int
    seconds: float | None
    budgets: float

    def __getitem__(self, name: str) -> Any:
        """Return the field of that name."""
        return asdict(self)[name]

    def keys(self) -> Iterator[str]:
        """Iterate over the names of the fields."""
        return iter(asdict(self))


@dataclass(frozen=True)
class Remark:
    """Something a reader must know.

    Attributes:
        code: Stable name: `above-range`, `below-range`, `nowhere-half`, `no-safe-rate`, `cap`,
            `island`, `two-windows`, `no-width`, `no-steps`, `floor-seen`, `not-recommended`,
            `not-confirmed`, `only-order`.
        text: A sentence.
    """

    code: str
    text: str


@dataclass(frozen=True)
class CurveResult:
    """The answer of the strategy `curve`.

    Attributes:
        eta_star: η* with its interval, the safe rate, and what ends it.
        curve: The success curve.
        window: The rates with p ≥ 0.95.
        recommended: The rate to train with; None where none was found.
        located: The partial runs.
        cost: What it took.
        ended_by: `precision`, `trials`, `budgets`, or `nowhere` (p is below 1/2 everywhere).
        remarks: What is unusual, and what is missing.
    """

    eta_star: EtaStar
    curve: CurveBlock
    window: WindowBlock
    recommended: Recommended | None
    located: tuple[LocatedRun, ...]
    cost: Cost
    ended_by: str
    remarks: tuple[Remark, ...]

    @property
    def capped(self) -> bool:
        """Whether a cap ended it."""
        return self.ended_by in ("trials", "budgets")

    def as_dict(self) -> dict[str, Any]:
        """The blocks as plain dictionaries and lists, for JSON."""
        return asdict(self)
