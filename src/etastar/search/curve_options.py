"""What a measurement of the success curve is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etastar.errors import ConfigError

NEIGHBOURS = 0.04
"""Largest relative distance of neighbouring rates."""


@dataclass(frozen=True)
class CurveOptions:
    """What a measurement of the curve is to do.

    Attributes:
        start_lr: The lowest rate.
        end_lr: The highest rate.
        max_steps: The budget of a run, in optimizer steps.
        eval_every: Steps between evaluations.
        counts_steps: Whether steps to the threshold mean anything (not with `hold`, nor where the
            budget holds a single evaluation).
        first_seed: Whole trial i has the start (first_seed + i, first_seed + i).
        precision: The 95 % interval of η* reaches at most the factor 1 + precision to either side.
        trials: Cap of whole trials. Confirmations count where they fail, which may lead beyond it:
            it cuts rounds, and an attempt is begun all the same, so by at most three times
            `confirm`.
        budgets: Cap of all steps, in budgets; None for none.
        before: Steps taken before, as to find the threshold: they count towards `budgets`.
        confirm: Fresh runs at the recommended rate; 0 for none.
        round_size: Trials that are asked at once.
        slow_edge: Whether the slow edge is looked for.
        only_order: Whether only the order of the data varies between starts.
        guess: Where η* is expected; None for the middle of the range.
    """

    start_lr: float
    end_lr: float
    max_steps: int
    eval_every: int
    counts_steps: bool = True
    first_seed: int = 0
    precision: float = 0.1
    trials: int = 400
    budgets: float | None = None
    confirm: int = 20
    round_size: int = 16
    slow_edge: bool = False
    only_order: bool = False
    guess: float | None = None
    before: int = 0

    def check(self) -> None:
        """Raise if a value is out of range.

        Raises:
            ConfigError: Naming the first such value.
        """
        for name in ("start_lr", "precision", "trials", "round_size", "max_steps", "eval_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        if not self.start_lr < self.end_lr < math.inf:
            raise ConfigError(
                f"`start_lr` must be below `end_lr`, got {self.start_lr} and {self.end_lr}."
            )
        if self.confirm < 0:
            raise ConfigError(f"confirm must not be negative, got {self.confirm}.")
        for name in ("budgets", "guess"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}.")

    @property
    def neighbours(self) -> float:
        """Largest relative distance of neighbouring rates: finer where more precision is asked.

        Down to a precision of `NEIGHBOURS` it is the same, so that a measurement that is narrowed
        goes on from the trials that there are.
        """
        return min(NEIGHBOURS, self.precision)
