"""How η* is looked for: seeds, range, strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Search:
    """How η* is looked for.

    Attributes:
        seeds: One search each.
        start_lr: Lower end of the range.
        end_lr: Upper end.
        resolution: Relative width of a bracket.
        strategy: Name in `STRATEGIES`.
        scan_ratio: Largest factor between neighbouring rates of `section`'s scan; its own if None.
        apart: Whether further searches keep the first initialisation and vary the order of the
            data, so that the two sources of spread can be told apart.
    """

    seeds: tuple[int, ...]
    start_lr: float
    end_lr: float
    resolution: float
    strategy: str = "section"
    scan_ratio: float | None = None
    apart: bool = False

    def record(self) -> dict[str, Any]:
        """Return what a result tells of the search."""
        own = ("strategy", "start_lr", "end_lr", "resolution")
        return {name: getattr(self, name) for name in own} | {
            "seeds": len(self.seeds),
            "first_seed": self.seeds[0],
        }
