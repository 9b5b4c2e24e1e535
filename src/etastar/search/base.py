"""What a search strategy is: `ask` for rates, `tell` outcomes, read the `result`.

A strategy searches for one seed, on a fixed lattice of rates. It knows nothing of networks, devices
or other seeds, so its answer is a function of that seed's outcomes alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from etastar.problem.trial import Outcome
from etastar.search.lattice import Lattice

Status: TypeAlias = Literal["bracketed", "all-trained", "none-trained"]


@dataclass(frozen=True)
class SeedResult:
    """The answer for one seed.

    Attributes:
        status: `bracketed`; `all-trained` (the whole range trains: it ends too low);
            `none-trained`.
        lo: The highest rate that trained among all probes; None if none did.
        hi: The next tried rate above `lo`, which failed; None if unbracketed.
        hi_outcome: Why `hi` failed: `diverged`, `dead` or `short`; None if unbracketed.
        re_entries: Failed rates below `lo` that have a trained one beneath them, ascending.
    """

    status: Status
    lo: float | None
    hi: float | None
    hi_outcome: str | None
    re_entries: tuple[float, ...]


@dataclass(frozen=True)
class Descent:
    """A request of a plan: the first of these lattice points, in their order, that trains.

    Points are tried in order; those after the first that trains are not needed. `give_up` may end
    the descent early: it sees the outcomes so far, in order, after each failure.
    """

    points: tuple[int, ...]
    give_up: Callable[[list[Outcome]], bool] = lambda failures: False


Plan: TypeAlias = Generator[Descent, int | None, None]


class Strategy(ABC):
    """A search for the boundary of trainability of one seed.

    Subclasses write `plan`, a generator that yields `Descent`s and is sent the first point that
    trained, or None. Everything else is here: several points of a descent may be tried at once, in
    any order, and the result is the same as one at a time.

    Args:
        lattice: The rates that may be tried.
    """

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.tried: dict[int, Outcome] = {}
        """Outcomes that the search has used, by lattice point."""
        self._told: dict[int, Outcome] = {}
        self._index = {lattice.rate(i): i for i in range(lattice.cells + 1)}
        self._plan = self.plan()
        self._descent: Descent | None = next(self._plan)
        self._advance()

    @abstractmethod
    def plan(self) -> Plan:
        """The search itself."""

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        return self._descent is None

    def ask(self, most: int = 1) -> list[float]:
        """The next rates to try, the most useful first; [] when done.

        The first is certain to be needed; each further one only if all before it fail.

        Args:
            most: At most so many.
        """
        if self._descent is None:
            return []
        missing = [i for i in self._descent.points if i not in self._told]
        return [self.lattice.rate(i) for i in missing[:most]]

    def wanted(self, rate: float) -> bool:
        """Whether the outcome of a rate asked for earlier can still matter.

        Args:
            rate: Of the lattice.
        """
        index = self._index[rate]
        points = () if self._descent is None else self._descent.points
        if index not in points or index in self._told:
            return False
        before = points[: points.index(index)]
        return not any(self._trained(i) for i in before if i in self._told)

    def tell(self, rate: float, outcome: Outcome) -> None:
        """Report the outcome of a rate; in any order, repeating is harmless.

        Args:
            rate: Of the lattice.
            outcome: What became of the trial.

        Raises:
            KeyError: The rate is not on the lattice.
        """
        self._told.setdefault(self._index[rate], outcome)
        self._advance()

    def has(self, rate: float) -> bool:
        """Whether a rate is on the lattice.

        Args:
            rate: Any.
        """
        return rate in self._index

    @property
    def outcomes(self) -> dict[float, Outcome]:
        """Outcomes that the search has used, by rate, ascending."""
        return {self.lattice.rate(i): self.tried[i] for i in sorted(self.tried)}

    def result(self) -> SeedResult:
        """The bracket, from the outcomes used so far."""
        return bracket(self.outcomes)

    def _trained(self, index: int) -> bool:
        return self._told[index].kind == "trained"

    def _advance(self) -> None:
        """Consume outcomes in the order of the descent, and move on where it is settled."""
        while self._descent is not None:
            found = None
            failures: list[Outcome] = []
            for index in self._descent.points:
                if index not in self._told:
                    return
                self.tried[index] = self._told[index]
                if self._trained(index):
                    found = index
                    break
                failures.append(self._told[index])
                if self._descent.give_up(failures):
                    break
            try:
                self._descent = self._plan.send(found)
            except StopIteration:
                self._descent = None


def bracket(tried: Mapping[float, Outcome]) -> SeedResult:
    """The bracket that a set of tried rates supports: see `SeedResult`.

    Args:
        tried: Outcome of every rate that was used.
    """
    rates = sorted(tried)
    trained = [rate for rate in rates if tried[rate].kind == "trained"]
    if not trained:
        return SeedResult("none-trained", None, None, None, ())
    lo = trained[-1]
    re_entries = tuple(r for r in rates if trained[0] < r < lo and tried[r].kind != "trained")
    above = [rate for rate in rates if rate > lo]
    if not above:
        return SeedResult("all-trained", lo, None, None, re_entries)
    return SeedResult("bracketed", lo, above[0], tried[above[0]].kind, re_entries)
