"""How η* is looked for: strategy, range, seeds, precision, caps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from etastar.errors import ConfigError
from etastar.search import STRATEGIES

STRATEGY_NAMES = ("curve", *STRATEGIES)
"""The success curve of the network, and the strategies that bracket one seed each."""
SEEDS = 8
"""Of the strategies that bracket seeds, where none are asked for."""
RESOLUTION = 0.05
"""Likewise."""


@dataclass(frozen=True)
class Search:
    """How η* is looked for.

    Attributes:
        start_lr: Lower end of the range.
        end_lr: Upper end.
        strategy: A name in `STRATEGY_NAMES`.
        seeds: One search each; under `curve` the first one counts, and every trial has the next.
        resolution: Relative width of a bracket; None under `curve`.
        scan_ratio: Largest factor between neighbouring rates of `section`'s scan; its own if None.
        apart: Whether further searches keep the first initialisation and vary the order of the
            data, so that the two sources of spread can be told apart.
        precision: Under `curve`, the 95 % interval of η* reaches at most the factor 1 + precision
            to either side.
        trials: Cap of the curve's whole trials.
        budgets: Cap of all steps, in budgets; None for none.
        confirm: Fresh runs at the recommended rate; 0 for none.
        round_size: Trials of a round.
        slow_edge: Whether the slow edge of the window is looked for.
    """

    start_lr: float
    end_lr: float
    strategy: str = "section"
    seeds: tuple[int, ...] = (0,)
    resolution: float | None = RESOLUTION
    scan_ratio: float | None = None
    apart: bool = False
    precision: float = 0.1
    trials: int = 400
    budgets: float | None = None
    confirm: int = 20
    round_size: int = 16
    slow_edge: bool = False

    def record(self) -> dict[str, Any]:
        """Return what a result tells of the search, None for what has no effect."""
        curve = self.strategy == "curve"
        told = {k: v for k, v in asdict(self).items() if k not in ("scan_ratio", "apart")}
        if not curve:
            told |= dict.fromkeys(OF_THE_CURVE)
        seeds = None if curve else len(self.seeds)
        return {**told, "seeds": seeds, "first_seed": self.seeds[0]}


OF_THE_CURVE = ("precision", "trials", "budgets", "confirm", "round_size", "slow_edge")
"""Options without effect under the other strategies."""


def chosen_strategy(
    strategy: str | None, seeds: Any, resolution: Any, given: Mapping[str, Any]
) -> str:
    """Return the strategy: the one that was asked for, `section` beside its options, or `curve`.

    Args:
        strategy: As it was asked for, or None.
        seeds: Likewise.
        resolution: Likewise.
        given: The options of `OF_THE_CURVE`, None (or False) where they were not asked for.

    Raises:
        ConfigError: An option has no effect beside another; names both.
    """
    ours = {"seeds": seeds, "resolution": resolution}
    brackets = [name for name, value in ours.items() if value is not None]
    if strategy == "curve" and brackets:
        raise ConfigError(
            f"`{brackets[0]}` has no effect beside `strategy='curve'`, which takes a fresh seed "
            "for every trial: leave one of them out. `precision` and `trials` say how far curve "
            "goes."
        )
    found = strategy or ("section" if brackets else "curve")
    wasted = [
        name for name in OF_THE_CURVE if given.get(name) is not None and given[name] is not False
    ]
    if found != "curve" and wasted:
        why = f"`strategy='{found}'`" if strategy else f"`{brackets[0]}`, which means section"
        raise ConfigError(
            f"`{wasted[0]}` has no effect beside {why}: it is of `strategy='curve'`. Leave one of "
            "them out."
        )
    return found
