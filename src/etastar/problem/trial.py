"""What is trained, until when, and what came of it: `Recipe`, `Criterion`, `Trial`, `Outcome`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from etastar.problem.losses import Loss

UNSTABLE = 1.5
"""A loss this many times the first batch's is taken for instability, not for sampling noise."""

CHECK_DEAD_AFTER = 4
"""Steps in a row without a gradient in the input layer before a replica is checked for death."""

OutcomeKind: TypeAlias = Literal["trained", "diverged", "dead", "short", "partial"]
Cause: TypeAlias = Literal["collapsed", "slow"]

LAST_LOSSES = 8
"""Batches over which the training loss at the end of a run is averaged."""


class Criterion(BaseModel):
    """When a run counts as trained, and when it is given up. All lengths in optimizer steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    metric: Literal["accuracy"] = "accuracy"
    """What is asked of the network: the fraction of samples that it classifies correctly."""
    evaluated_on: Literal["validation"] = "validation"
    """On which samples."""
    kind: Literal["reach", "hold"] = "reach"
    """`reach`: the metric touches the threshold at any evaluation. `hold`: it stands at or above
    the threshold when the budget ends; only then is it evaluated."""
    threshold: float = Field(gt=0.0, le=1.0)
    """t: fraction of validation samples that must be right."""
    max_steps: int = Field(ge=1)
    """The budget."""
    eval_every: int = Field(ge=1)
    """Steps between evaluations; the end of the budget is always evaluated."""
    epochs: float | None = None
    """The budget in passes over the training data, where it was given so."""


class Recipe(BaseModel):
    """How a trial of the paper's networks trains, apart from its start and learning rate."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    loss: Loss
    """`"cross-entropy"` or `"mse"`, normalised as in `etastar.problem.losses`."""
    optimizer: Literal["sgd"] = "sgd"
    """Plain SGD; with `momentum`, heavy-ball."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """μ of heavy-ball momentum as PyTorch writes it: `v ← μ·v + g`, `w ← w − η·v`."""
    batch_size: int | Literal["full"] = 128
    """Samples per step; `"full"`, or more than there are, is all of them, never shuffled."""
    from_step: int = Field(default=0, ge=0)
    """Steps of a common run before the trial begins: its checkpoint is where every rate starts. The
    trial goes on with the next batch; its own steps, and momentum, begin at zero."""
    from_lr: float | None = Field(default=None, gt=0.0)
    """Learning rate of that run."""
    criterion: Criterion
    """Threshold and budget."""


@dataclass(frozen=True, order=True)
class Start:
    """What a trial starts from, beside its problem."""

    initialisation: int
    """Draws the initial weights; of no effect where the model is given."""
    order: int
    """Draws the order of the data (`problem.order`) and the random numbers of training."""


@dataclass(frozen=True, order=True)
class Trial:
    """One training run. Its outcome is a pure function of this and the problem."""

    start: Start
    """Its seeds."""
    lr: float
    """η: the constant learning rate, which parameter groups take at their own fixed ratios."""
    steps: int | None = None
    """Length of a partial run, which is never evaluated; None for a whole one."""
    to_end: bool = False
    """Whether the run goes on to the end of the budget after touching the threshold."""

    @classmethod
    def of(cls, seed: int, lr: float) -> Trial:
        """Make the trial whose initialisation and order have the same seed.

        Args:
            seed: Of both.
            lr: η.
        """
        return cls(Start(seed, seed), lr)

    @property
    def seed(self) -> int:
        """Return the seed of the order, by which a measurement's searches are named."""
        return self.start.order


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        kind: `trained`, `diverged` (non-finite loss or parameters), `dead` (a hidden ReLU layer is
            zero on every training input; said only of networks we build), `short` (budget spent
            below the threshold) or `partial` (the end of a partial run).
        step: Optimizer steps after which this was so: for `trained` the first evaluation that met
            the criterion, for `diverged` the step whose loss was not finite, for `dead` the first
            step of the run of steps on whose batches that layer was silent, else the budget.
        metric: At the last full evaluation; None where there was none.
        slow: For `short`: the run was stable, no batch having a loss above `UNSTABLE` times the
            first one's, and it ended better than one class for all, so that the rate was merely too
            slow for the budget. A network that collapses may be stable too.
        given_up: The step after which a run was not trained on although its budget was not spent:
            of `short` ones, since it could only have predicted one class for ever; of runs to the
            end, since it diverged after touching the threshold. None if it was.
        nans: Evaluations, before any divergence, at which the metric was not a number.
        score: The metric as searches compare it, higher is better; the metric itself by default.
        cause: Of `short`: `collapsed` (the training loss at the end is no lower than at the start,
            or all outputs are one class) or `slow` (every other).
        first_loss: Training loss of the first batch, before any step.
        last_loss: Mean training loss of the last `LAST_LOSSES` batches; None of dead runs and of
            those given up, whose end depends on when it is looked for.
        held: Of runs to the end: whether the metric was at or above the threshold there.
    """

    kind: OutcomeKind
    step: int
    metric: float | None = None
    slow: bool = False
    given_up: int | None = None
    nans: int = 0
    score: float | None = None
    cause: Cause | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    held: bool | None = None

    def __post_init__(self) -> None:
        if self.score is None:
            object.__setattr__(self, "score", self.metric)

    def steps_taken(self, max_steps: int) -> int:
        """Return the optimizer steps that the trial cost.

        Args:
            max_steps: The budget, which a run to the end spends.
        """
        if self.given_up is not None:
            return self.given_up
        return max_steps if self.held is not None and self.kind == "trained" else self.step
