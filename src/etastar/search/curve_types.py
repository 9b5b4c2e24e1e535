"""What a trial of the success curve is and what came of it, until `etastar.problem.trial` has them.

Every file of the curve imports these names from here alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

CurveKind: TypeAlias = Literal["trained", "diverged", "dead", "short", "partial"]
Cause: TypeAlias = Literal["collapsed", "slow"]


@dataclass(frozen=True, order=True)
class Start:
    """Where a run starts.

    Attributes:
        initialisation: Seed of the initial weights.
        order: Seed of the order of the data.
    """

    initialisation: int
    order: int


@dataclass(frozen=True, order=True)
class Trial:
    """One training run.

    Attributes:
        start: Its seeds.
        lr: The learning rate η.
        steps: Steps of a partial run, which is judged by its training loss; None for a whole run.
        to_end: Whether the run goes on to the end of the budget after touching the threshold.
    """

    start: Start
    lr: float
    steps: int | None = None
    to_end: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        kind: `trained`, `diverged`, `dead`, `short`, or `partial` for a partial run that was not
            cut off by divergence.
        step: Optimizer steps until this was decided; for `trained` the first touch of the
            threshold.
        metric: The metric at the last evaluation.
        cause: Of `short`: `collapsed` or `slow`.
        first_loss: Training loss at step 0; of partial runs.
        last_loss: Training loss at the end of a partial run.
        held: Of runs to the end of the budget: whether the metric still met the threshold there.
        given_up: Steps really taken of a run that was left before its budget ended; None if `step`
            tells.
    """

    kind: CurveKind
    step: int
    metric: float | None = None
    cause: Cause | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    held: bool | None = None
    given_up: int | None = None
