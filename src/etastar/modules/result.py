"""What was found for a user's model, how, and at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from etastar.modules.task import RunKind
    from etastar.search.base import SeedResult, Status

SCHEMA_VERSION = 1
"""Of the JSON form; raised whenever a key changes its meaning or goes away."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial that a search used.

    Attributes:
        initialisation: Seed of the initial weights; None if the model was given.
        order: Seed of the order of the data and of the random numbers of training.
        lr: η.
        outcome: `trained`, `diverged` or `short` (budget spent below the threshold).
        step: Optimizer steps after which this was so.
        metric: The metric then; None if the trial diverged.
        given_up: The step after which a `short` run was not trained on, since it could only have
            predicted one class for ever; None if it was.
    """

    initialisation: int | None
    order: int
    lr: float
    outcome: RunKind
    step: int
    metric: float | None
    given_up: int | None = None


@dataclass(frozen=True)
class Spread:
    """Standard deviations of log η*, about the relative spread; None where not measured.

    Attributes:
        total: Over seeds that change all that seeds change here.
        order: Over orders of the data (and random numbers of training) from one initialisation.
        initialisation: What is left of the total: `√(total² − order²)`, at least 0.
    """

    total: float | None
    order: float | None
    initialisation: float | None


@dataclass(frozen=True)
class MaximalLR:
    """The largest learning rate that a model can start training with.

    Attributes:
        lr: η*, the geometric mean of the bracket: the value to pass as `lr`. None if the range
            searched does not determine it; `status` then says why.
        bracket: A rate that trained and the next one tried, which failed, of the median seed (for
            an even number of seeds the geometric means of the two middle ones). `(end_lr, None)`
            if all of the range trains, `(None, None)` if none of it.
        safe_lr: A lower rate that allows for the spread over seeds: where p, the share of seeds
            that train, is 0.95, estimated from the spread of these few brackets. No guarantee:
            from 3 seeds it trained on 59 of 84 new ones (docs/finders.md).
        interval: 95 % bootstrap interval of the median over seeds; None for one seed.
        status: `bracketed`, `all-trained` or `none-trained`, of the median seed.
        set_by: What ends most brackets: `stability`, `budget` (the next rate was stable or not, but
            only ran out of steps) or None.
        group_lrs: What `lr` means for each parameter group of the optimizer.
        groups: The parameters of each group.
        seeds: The bracket of each seed.
        varies: What seeds vary.
        spread: Sources of the spread over seeds, apart.
        history: Every trial that the searches used, by seed and rate.
        engine: `stack`, `vmap` or `loop`.
        engine_reason: Why that one.
        settings: All that was asked for.
        cost: Trials, steps, seconds.
        environment: Versions and device.
        notes: What to know before trusting the number.
    """

    lr: float | None
    bracket: tuple[float | None, float | None]
    safe_lr: float | None
    interval: tuple[float, float] | None
    status: Status
    set_by: str | None
    group_lrs: tuple[float, ...] | None
    groups: tuple[tuple[str, ...], ...] = field(repr=False)
    seeds: dict[int, SeedResult]
    varies: str
    spread: Spread
    history: tuple[TrialRecord, ...] = field(repr=False)
    engine: str
    engine_reason: str
    settings: dict[str, Any] = field(repr=False)
    cost: dict[str, float] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types; keys are fixed by `schema_version`."""
        data = {key: value for key, value in vars(self).items() if key not in ("seeds", "history")}
        ready: dict[str, Any] = json_ready(
            {
                "schema_version": SCHEMA_VERSION,
                **data,
                "spread": asdict(self.spread),
                "seeds": [{"seed": s, **asdict(result)} for s, result in self.seeds.items()],
                "history": [asdict(trial) for trial in self.history],
            }
        )
        return ready

    def to_json(self) -> str:
        """`to_dict` as strict JSON: null where a number does not exist, never NaN."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw every trial: its rate against its seed, marked by outcome, with the brackets.

        Args:
            ax: Where to draw; a new figure if None.

        Returns:
            The Axes.
        """
        from etastar.modules.figure import trials_figure

        return trials_figure(self, ax=ax)

    def __str__(self) -> str:
        if self.lr is None:
            head = f"η* not found ({self.status})"
        else:
            head = f"η* = {self.lr:.4g}, bracket {self.bracket[0]:.4g} – {self.bracket[1]:.4g}"
        if self.interval:
            head += f", 95 % interval {self.interval[0]:.4g} – {self.interval[1]:.4g}"
        if self.safe_lr:
            head += f"; safe {self.safe_lr:.4g}"
        who = f"{len(self.seeds)} seeds ({self.varies}); engine {self.engine}: {self.engine_reason}"
        return "\n".join([head, who, *self.notes])


def middle_bracket(
    results: Sequence[SeedResult], end_lr: float
) -> tuple[Status, float | None, float | None]:
    """Status and bracket of the median seed.

    Seeds are ordered by the geometric mean of their brackets, those that train nowhere first and
    those that train everywhere last. For an even number the two middle brackets are averaged
    geometrically; if one of them is unbracketed, its status counts.
    """

    def place(result: SeedResult) -> float:
        if result.lo is None:
            return -math.inf
        return math.inf if result.hi is None else math.log(result.lo * result.hi)

    ordered = sorted(results, key=place)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    for result in middle:
        if result.status == "none-trained":
            return "none-trained", None, None
    for result in middle:
        if result.status == "all-trained":
            return "all-trained", end_lr, None
    lows = [math.log(r.lo) for r in middle if r.lo]
    highs = [math.log(r.hi) for r in middle if r.hi]
    if len(middle) == 1:
        return "bracketed", middle[0].lo, middle[0].hi
    return "bracketed", math.exp(sum(lows) / 2), math.exp(sum(highs) / 2)


def log_spread(results: Sequence[SeedResult]) -> float | None:
    """Standard deviation of log η* over the seeds with a bracket; None for fewer than two."""
    logs = [math.log(r.lo * r.hi) / 2 for r in results if r.lo and r.hi]
    return float(np.std(logs, ddof=1)) if len(logs) > 1 else None


def spread_of(
    results: Sequence[SeedResult], same_model: Sequence[SeedResult] | None, varies_model: bool
) -> Spread:
    """The sources of spread, see `Spread`.

    Args:
        results: One per seed.
        same_model: Of the first initialisation under every order; None if not measured.
        varies_model: Whether seeds change the initialisation.
    """
    total = log_spread(results)
    if not varies_model:
        return Spread(total, total, None)
    order = None if same_model is None else log_spread(same_model)
    if total is None or order is None:
        return Spread(total, order, None)
    return Spread(total, order, math.sqrt(max(0.0, total**2 - order**2)))


def json_ready(value: Any) -> Any:
    """Containers as lists and dictionaries, non-finite numbers as None, the rest as text."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
