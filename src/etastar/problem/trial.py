"""What is trained, until when, and what came of it: `Recipe`, `Criterion`, `Trial`, `Outcome`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from etastar.problem.losses import Loss

UNSTABLE = 1.5
"""A loss this many times the first batch's is taken for instability, not for sampling noise."""

OutcomeKind: TypeAlias = Literal["trained", "diverged", "dead", "short"]


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
    """How a trial trains, apart from its seed and learning rate."""

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
class Trial:
    """One training run. Its outcome is a pure function of this, the network, data and recipe."""

    seed: int
    """Draws the initialisation (`Network.init`) and the order of the data (`training.order`)."""
    lr: float
    """η: the constant learning rate of every layer but the input layer, which has κ·η."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        kind: `trained`, `diverged` (non-finite loss or parameters), `dead` (a hidden ReLU layer is
            zero on every training input) or `short` (budget spent below the threshold).
        step: Optimizer steps after which this was so: for `trained` the first evaluation that met
            the criterion, for `diverged` the step whose loss was not finite, for `dead` the first
            step of the run of steps on whose batches that layer was silent, else the budget.
        accuracy: Validation accuracy at the last full evaluation; None where there was none.
        slow: For `short`: the run was stable, no batch having a loss above `UNSTABLE` times the
            first one's, and it ended better than one class for all, so that the rate was merely too
            slow for the budget. A network that collapses may be stable too.
    """

    kind: OutcomeKind
    step: int
    accuracy: float | None = None
    slow: bool = False
