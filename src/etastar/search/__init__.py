"""Room 4: search strategies. A new one is a file here and a line in `STRATEGIES`."""

from __future__ import annotations

from etastar.search.base import SeedResult, Status, Strategy, bracket
from etastar.search.bisection import Bisection
from etastar.search.lattice import Lattice
from etastar.search.section import Section

STRATEGIES: dict[str, type[Strategy]] = {
    "section": Section,
    "bisection": Bisection,
}

__all__ = [
    "STRATEGIES",
    "Bisection",
    "Lattice",
    "Section",
    "SeedResult",
    "Status",
    "Strategy",
    "bracket",
]
