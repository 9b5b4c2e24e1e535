"""Room 4: search strategies. A new one is a file here and a line in `STRATEGIES`."""

from __future__ import annotations

from etastar.search.base import SeedResult as SeedResult
from etastar.search.base import Status as Status
from etastar.search.base import Strategy as Strategy
from etastar.search.base import bracket as bracket
from etastar.search.bisection import Bisection as Bisection
from etastar.search.lattice import Lattice as Lattice
from etastar.search.section import Section as Section

STRATEGIES: dict[str, type[Strategy]] = {
    "section": Section,
    "bisection": Bisection,
}
