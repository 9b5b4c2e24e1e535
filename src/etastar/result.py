"""The result of a measurement: what was found, how, at what cost; as JSON and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from etastar.problem.networks import Network
    from etastar.problem.trial import Outcome, Recipe, Trial
    from etastar.search.base import SeedResult
    from etastar.search.estimate import EtaStar, SuccessAt

SCHEMA_VERSION = 1
"""Of the JSON form; raised whenever a key changes its meaning or goes away."""


def number(value: float | None) -> str:
    """Four significant digits, or a dash where there is no number."""
    return "–" if value is None else f"{value:.4g}"


@dataclass(frozen=True)
class Cost:
    """What a measurement took.

    Attributes:
        trials: Trials that the searches used.
        steps: Optimizer steps of these trials, summed.
        seconds: Wall-clock time.
    """

    trials: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """η* of one network on one data set.

    Attributes:
        eta_star: Median over seeds, its 95 % interval, and the safe rate.
        seeds: The bracket of each seed.
        trials: Outcome of every trial that a search used.
        curve: p(η), by cause of failure.
        network: The architecture.
        recipe: Loss, optimizer, batch size and the full criterion.
        data: Provenance of the data set.
        search: Strategy and range.
        cost: Trials, steps, seconds.
        environment: Versions, device, threads.
        warnings: What to know before trusting the number.
    """

    eta_star: EtaStar
    seeds: dict[int, SeedResult]
    trials: dict[Trial, Outcome]
    curve: list[SuccessAt]
    network: Network
    recipe: Recipe
    data: dict[str, Any]
    search: dict[str, Any]
    cost: Cost
    environment: dict[str, Any]
    warnings: tuple[str, ...] = field(default=())

    @property
    def set_by(self) -> str | None:
        """What ends most brackets: `stability` (divergence, death), `budget`, or None."""
        reasons = [seed.hi_outcome for seed in self.seeds.values() if seed.hi_outcome]
        if not reasons:
            return None
        return "budget" if 2 * reasons.count("short") > len(reasons) else "stability"

    @property
    def heading(self) -> str:
        """Network, data, training and criterion, in two lines."""
        net = self.network.model_dump()
        recipe, criterion = self.recipe, self.recipe.criterion
        size = f" {net['width']}×{net['depth']}" if {"width", "depth"} <= net.keys() else ""
        batch = "full batch" if recipe.batch_size == "full" else f"batch {recipe.batch_size}"
        momentum = f" with momentum {recipe.momentum:g}" if recipe.momentum else ""
        start = (
            f" from step {recipe.from_step} at rate {recipe.from_lr}" if recipe.from_step else ""
        )
        return (
            f"{net['architecture']}{size}, κ = {net['input_lr_ratio']:g}, on {self.data['name']}; "
            f"{recipe.loss}, SGD{momentum}, {batch}\n"
            f"{criterion.kind} validation accuracy {criterion.threshold:g} within "
            f"{criterion.max_steps} steps{start}, evaluated every "
            f"{criterion.eval_every}"
        )

    def __str__(self) -> str:
        """What was measured, η*, the brackets and the warnings, in a few lines."""
        star = self.eta_star
        brackets = ", ".join(
            f"{seed}: {number(r.lo)} – {number(r.hi)}" if r.lo and r.hi else f"{seed}: {r.status}"
            for seed, r in self.seeds.items()
        )
        return "\n".join(
            [
                self.heading,
                f"η* = {number(star.median)} (95 % {number(star.ci_low)} – "
                f"{number(star.ci_high)}), safe {number(star.safe)}",
                f"brackets: {brackets}",
                *(f"note: {warning}" for warning in self.warnings),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON types; keys are fixed by `schema_version`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "eta_star": {**asdict(self.eta_star), "set_by": self.set_by},
            "seeds": [
                {
                    "seed": seed,
                    "status": result.status,
                    "lo": result.lo,
                    "hi": result.hi,
                    "hi_outcome": result.hi_outcome,
                    "re_entries": list(result.re_entries),
                }
                for seed, result in self.seeds.items()
            ],
            "success": [asdict(point) for point in self.curve],
            "trials": [
                {
                    "seed": trial.seed,
                    "lr": trial.lr,
                    "outcome": outcome.kind,
                    "step": outcome.step,
                    "accuracy": outcome.accuracy,
                }
                for trial, outcome in self.trials.items()
            ],
            "network": self.network.model_dump(),
            "training": self.recipe.model_dump(exclude={"criterion"}),
            "criterion": self.recipe.criterion.model_dump(),
            "data": self.data,
            "search": self.search,
            "cost": asdict(self.cost),
            "environment": self.environment,
            "warnings": list(self.warnings),
        }

    def to_json(self) -> str:
        """`to_dict` as strict JSON: null where a number does not exist, never NaN."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw p(η), with η*, its interval and the safe rate (`etastar.report.figures`).

        Args:
            ax: Where to draw; a new figure if None.

        Returns:
            The Axes.
        """
        from etastar.report.figures import success_figure

        return success_figure(self, ax=ax)
