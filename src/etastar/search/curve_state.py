"""What a measurement of the success curve knows: what its answer and its remarks are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from etastar.problem.trial import Outcome, Trial
from etastar.search.choosing import enough
from etastar.search.curve_counts import cause_of
from etastar.search.curve_fit import Fit
from etastar.search.curve_options import CurveOptions
from etastar.search.lattice import Lattice


@dataclass(frozen=True)
class Attempt:
    """An attempt to confirm a rate.

    Attributes:
        point: The rate, as a lattice point.
        runs: Its trials with outcomes.
        error: Its one-sided error.
    """

    point: int
    runs: tuple[tuple[Trial, Outcome], ...]
    error: float

    @property
    def trained(self) -> int:
        """Runs that reached the threshold."""
        return sum(outcome.kind == "trained" for _, outcome in self.runs)

    @property
    def too_slow(self) -> bool:
        """Whether most of the others were too slow for the budget."""
        slow = sum(cause_of(outcome) == "slow" for _, outcome in self.runs)
        return 2 * slow > len(self.runs) - self.trained

    @property
    def passed(self) -> bool:
        """Whether enough of them trained."""
        return self.trained >= enough(len(self.runs))


class CurveState(ABC):
    """The runs so far, and what is known from them."""

    options: CurveOptions
    lattice: Lattice
    step: float
    """Distance of neighbouring rates in log η."""
    located: list[tuple[Trial, Outcome]]
    """Partial runs, in the order asked."""
    whole: list[tuple[int, Trial, Outcome]]
    """Whole runs of the fit with their lattice points, in the order asked."""
    attempts: list[Attempt]
    ended_by: str
    """Why the search for the edge ended; empty while it goes on."""

    @abstractmethod
    def fit(self) -> Fit:
        """Return the fit to all whole runs but those of a confirmation that passed."""

    @abstractmethod
    def choice(self) -> int | None:
        """Return the recommended rate as a lattice point; None where there is none."""

    @abstractmethod
    def runs(self) -> list[tuple[Trial, Outcome]]:
        """Return every run of whole rounds, partial and confirming ones included."""

    @abstractmethod
    def taken(self, trial: Trial, outcome: Outcome) -> int:
        """Return the optimizer steps that a run really took."""

    @abstractmethod
    def spent(self) -> int:
        """Return the optimizer steps taken so far."""
