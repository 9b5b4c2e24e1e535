"""A warm-up: its rates, the η* that allow them, and what training with it came to."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from etastar.errors import ConfigError
from etastar.result import Cost, Result, json_ready, number, taken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

    from etastar.problem.trial import Outcome
    from etastar.search.base import SeedResult

Shape: TypeAlias = Literal["linear", "piecewise"]
WarmupStatus: TypeAlias = Literal["found", "not-needed", "unreachable", "none-trained"]


@dataclass(frozen=True)
class LadderStep:
    """η* at one step of a training run.

    Attributes:
        step: Optimizer steps taken before.
        seeds: The bracket of each seed.
    """

    step: int
    seeds: Mapping[int, SeedResult]

    @property
    def lowest(self) -> float | None:
        """The highest rate that trained, of the seed where it is lowest; None if none did."""
        lows = [result.lo for result in self.seeds.values()]
        known = [lo for lo in lows if lo is not None]
        return min(known) if len(known) == len(lows) else None


@dataclass(frozen=True)
class Warmup:
    """The shortest warm-up to a target rate, and what `etastar.Result` says of step 0.

    Attributes:
        target_lr: The rate to warm up to.
        shape: `linear` or `piecewise`.
        status: `found`; `not-needed` (η* at step 0 is above the target); `unreachable` (no length
            will do); `none-trained` (no rate trains from the start).
        length: Shortest length in steps that the measured η* allow; None if there is none. See
            `total` for what was needed.
        stretch: Factor by which the check had to lengthen it.
        ladder: η* along the run.
        pace_lr: Rate of that run.
        with_warmup: Outcome of training with the warm-up, by seed.
        without: Outcome at the target rate from the first step on, by seed.
        notes: What to know before trusting it.
        ratios: Rate of each group of the optimizer over that of the schedule.
        at_start: The result at step 0, of all seeds. Its attributes (`lr`, `seeds`, `settings`,
            `environment`, ...) are the warm-up's too, where it has none of that name.
        cost: All that it took: brackets along the ladder, the run along it, and the check.
    """

    target_lr: float
    shape: Shape
    status: WarmupStatus
    length: int | None
    stretch: int
    ladder: tuple[LadderStep, ...]
    pace_lr: float | None
    with_warmup: Mapping[int, Outcome] = field(repr=False)
    without: Mapping[int, Outcome] = field(repr=False)
    notes: tuple[str, ...]
    ratios: tuple[float, ...] = (1.0,)
    at_start: Result | None = field(default=None, repr=False, compare=False)
    cost: Cost = field(default=Cost(0, 0, None, 0.0), compare=False)

    def __getattr__(self, name: str) -> Any:
        """Return what the result at step 0 has under that name."""
        if name.startswith("_") or name == "at_start" or self.at_start is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.at_start, name)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The same as `notes`."""
        return self.notes

    @property
    def total(self) -> int | None:
        """Length of the warm-up in steps, as checked: from this step on the rate is the target."""
        return None if self.length is None else self.length * self.stretch

    @property
    def verified(self) -> bool:
        """Whether training with it reached the threshold on every seed."""
        runs = self.with_warmup.values()
        return bool(runs) and all(run.kind == "trained" for run in runs)

    def bound(self, step: int) -> float:
        """η* at a step: the smaller one of the two steps of the ladder around it, 0 if unknown.

        Args:
            step: Optimizer steps taken before.
        """
        steps = [rung.step for rung in self.ladder]
        index = bisect.bisect_right(steps, step) - 1
        around = [self.ladder[index]]
        if step > steps[index] and index + 1 < len(steps):
            around.append(self.ladder[index + 1])
        return min(rung.lowest or 0.0 for rung in around)

    def lr_at(self, step: int) -> float:
        """The rate of a step, η.

        Args:
            step: Counted from 0: optimizer steps taken before.

        Raises:
            ConfigError: There is no warm-up.
        """
        total = self.total
        if total is None:
            raise ConfigError(
                f"there is no warm-up to {self.target_lr:g} ({self.status}), so it has no rates: "
                f"{' '.join(self.notes[:1])}"
            )
        if step >= total:
            return self.target_lr
        if self.shape == "linear":
            return self.target_lr * (step + 1) / (total + 1)
        # a stretched one rises later, but must dip where η* does: the dip stays at its steps
        return min(self.target_lr, self.bound(step // self.stretch), self.bound(step))

    def scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """A scheduler of PyTorch; call its `step` after every optimizer step.

        Args:
            optimizer: Made with `lr=target_lr`, or with groups at the multiples of it that the
                warm-up was checked with.

        Raises:
            ConfigError: There is no warm-up, or the optimizer's rates are not those checked.
        """
        from torch.optim.lr_scheduler import LambdaLR

        self.lr_at(0)
        allowed = [ratio * self.target_lr for ratio in self.ratios]
        for key in ("lr", "initial_lr"):  # the second is what PyTorch's schedulers start from
            rates = [float(group.get(key, group["lr"])) for group in optimizer.param_groups]
            same = np.isclose(np.array(rates)[:, None], allowed, rtol=1e-6, atol=0)
            # parameters may be grouped otherwise, e.g. for weight decay
            if not (same.diagonal().all() if len(rates) == len(allowed) else same.any()):
                raise ConfigError(
                    f"the optimizer's rates are {', '.join(map(number, rates))}, but the warm-up "
                    f"was checked at {', '.join(map(number, allowed))}: make the optimizer with "
                    f"lr={self.target_lr:g}, before any other scheduler, or check another rate as "
                    "target_lr."
                )
        return LambdaLR(optimizer, lambda step: self.lr_at(step) / self.target_lr)

    def to_dict(self) -> dict[str, Any]:
        """The record of step 0 as JSON types, with the warm-up's own keys in it and instead."""
        apart = ("ladder", "with_warmup", "without", "at_start", "cost")
        ready: dict[str, Any] = json_ready(
            {
                **(self.at_start.to_dict() if self.at_start else {}),
                "heading": self.at_start.heading if self.at_start else "",
                **{name: value for name, value in vars(self).items() if name not in apart},
                "warnings": self.warnings,
                "cost": asdict(self.cost),
                "total": self.total,
                "verified": self.verified,
                "ladder": [
                    {
                        "step": rung.step,
                        "lowest": rung.lowest,
                        "seeds": [{"seed": s, **asdict(r)} for s, r in rung.seeds.items()],
                    }
                    for rung in self.ladder
                ],
                "with_warmup": {s: asdict(run) for s, run in self.with_warmup.items()},
                "without": {s: asdict(run) for s, run in self.without.items()},
            }
        )
        return ready

    def to_json(self) -> str:
        """The same as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw η* along the run, by seed, and the schedule below it.

        Args:
            ax: Where to draw; a new figure if None.

        Returns:
            The Axes.
        """
        from etastar.report.figures import warmup_figure

        return warmup_figure(self, ax=ax)

    def __str__(self) -> str:
        """Tell the schedule, what it rests on, and what training with it came to."""
        head = f"warm-up to {number(self.target_lr)}: {self.total} steps, {self.shape}"
        if self.total is None:
            head = f"no warm-up to {number(self.target_lr)}"
        rungs = ", ".join(f"step {rung.step}: {number(rung.lowest)}" for rung in self.ladder)
        ends = [
            f"{sum(o.kind == 'trained' for o in runs.values())} of {len(runs)} seeds train {how}"
            for how, runs in (("with it", self.with_warmup), ("without", self.without))
            if runs
        ]
        lines = [
            *([self.at_start.heading] if self.at_start else []),
            f"{head} ({self.status})",
            f"η* along the run: {rungs}",
            "; ".join(ends),
        ]
        if self.at_start:
            lines.append(f"{self.at_start.summary} (at step 0); {taken(self.cost)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
