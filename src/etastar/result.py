"""What a measurement found, how, and at what cost: as text, as JSON, as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from etastar.problem.trial import Outcome, Recipe, Trial
from etastar.search.base import SeedResult
from etastar.search.curve_blocks import Cost as Cost
from etastar.search.curve_blocks import (
    CurveBlock,
    CurvePoint,
    CurveResult,
    LocatedRun,
    Recommended,
    WindowBlock,
)
from etastar.search.estimate import LEVEL, EtaStar, Spread, SuccessAt, level_of, middle_bracket

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from etastar.problem.networks import Network

SCHEMA_VERSION = 2
"""Of the JSON form; raised whenever a key changes its meaning or goes away."""


def number(value: float | None) -> str:
    """Return four significant digits, or a dash where there is no number."""
    return "–" if value is None else f"{value:.4g}"


def span(low: float | None, high: float | None) -> str:
    """Return `0.1 – 0.2`, or what is known of an interval that is open to a side."""
    if low is None or high is None:
        return "not known" if low is high else f"from {low:.4g}" if low else f"up to {high:.4g}"
    return f"{low:.4g} – {high:.4g}"


def counted(count: int, noun: str) -> str:
    """Return `1 seed`, `3 seeds`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class TrialRecord:
    """One trial that a search used.

    Attributes:
        initialisation: Seed of the initial weights; None if the model was given.
        order: Seed of the order of the data and of the random numbers of training.
        lr: η.
        outcome: `trained`, `diverged`, `dead` or `short` (budget spent below the threshold).
        step: Optimizer steps after which this was so.
        metric: The metric then; None if the trial diverged.
        given_up: The step after which a `short` run was not trained on, since it could only have
            predicted one class for ever; None if it was.
    """

    initialisation: int | None
    order: int
    lr: float
    outcome: str
    step: int
    metric: float | None
    given_up: int | None = None


@dataclass(frozen=True)
class Result:
    """The largest learning rate that a network or model can start training with, η*.

    Attributes:
        eta_star: Median over seeds, its 95 % interval, and the safe rate.
        seeds: The bracket of each seed.
        success: p(η), by cause of failure.
        trials: Outcome of every trial that a search used.
        heading: What was measured, in two lines.
        varies: What seeds vary.
        spread: Sources of the spread over seeds, apart.
        groups: Names of the parameters of each group of the optimizer; empty for our networks.
        ratios: Rate of each group over η.
        engine, engine_reason: Name of the engine that trained, and why that one.
        settings: What was really used, options of the loss and the optimizer included.
        data: Provenance of the data.
        search: Strategy, range and seeds.
        cost: Trials, steps, seconds.
        environment: Versions, device, threads.
        notes: What to know, the most important first; a word in backticks is an option.
        network, recipe: The architecture and how it trained; None for a model of the user's.
        reason: Why there is no η*; None if there is one.
        found: What the strategy `curve` found; None under the others.
        interrupted: Whether Ctrl-C or `minutes` ended the search: a note says which.
    """

    eta_star: EtaStar
    seeds: dict[int, SeedResult]
    success: list[SuccessAt] | list[CurvePoint]
    trials: dict[Trial, Outcome] = field(repr=False)
    heading: str
    varies: str
    spread: Spread
    groups: tuple[tuple[str, ...], ...] = field(repr=False)
    ratios: tuple[float, ...] = field(repr=False)
    engine: str
    engine_reason: str
    settings: dict[str, Any] = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    search: dict[str, Any] = field(repr=False)
    cost: Cost
    environment: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...]
    network: Network | None = None
    recipe: Recipe | None = None
    reason: str | None = None
    found: CurveResult | None = None
    interrupted: bool = False

    @property
    def curve(self) -> CurveBlock | None:
        """The success curve p(η), with its edges; None under the strategies that bracket seeds."""
        return self.found.curve if self.found else None

    @property
    def window(self) -> WindowBlock | None:
        """The rates with p ≥ 0.95; None likewise."""
        return self.found.window if self.found else None

    @property
    def recommended(self) -> Recommended | None:
        """The rate to train with, and how fresh seeds fared at it; None where none was found."""
        return self.found.recommended if self.found else None

    @property
    def recommended_lr(self) -> float | None:
        """The rate to train with."""
        return self.recommended.lr if self.recommended else None

    @property
    def located(self) -> tuple[LocatedRun, ...]:
        """The partial runs that located the window."""
        return self.found.located if self.found else ()

    @property
    def lr(self) -> float | None:
        """η*: the value to pass as `lr`; None if the range searched does not determine it."""
        return self.eta_star.median

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of η*; None where an end is not determined, or for one seed."""
        low, high = self.eta_star.ci_low, self.eta_star.ci_high
        return (low, high) if low and high else None

    @property
    def safe_lr(self) -> float | None:
        """A lower rate that allows for the spread over seeds: see `EtaStar.safe`."""
        return self.eta_star.safe

    @property
    def status(self) -> str:
        """`bracketed`, `all-trained`, `none-trained`, or `interrupted` (by a cap, too) before."""
        if self.interrupted and not self.lr:
            return "interrupted"
        if self.found:
            if self.lr:
                return "bracketed"
            if any(remark.code == "above-range" for remark in self.found.remarks):
                return "all-trained"
            some = not self.success or any(point.trained for point in self.found.curve.points)
            return "interrupted" if self.found.capped and some else "none-trained"
        return middle_bracket(list(self.seeds.values()))[0]

    @property
    def bracket(self) -> tuple[float | None, float | None]:
        """The bracket of the median seed, for an even number the geometric mean of two.

        `(end_lr, None)` if all of the range trains, `(None, None)` if none of it. Under `curve`,
        which brackets no seed, it is the interval of η*.
        """
        if self.found and self.lr:
            return self.eta_star.ci_low, self.eta_star.ci_high
        if self.found:
            low = self.eta_star.ci_low or self.search["end_lr"]
            return (low, None) if self.status == "all-trained" else (None, None)
        status, lo, hi = middle_bracket(list(self.seeds.values()))
        return (self.search["end_lr"], None) if status == "all-trained" else (lo, hi)

    @property
    def set_by(self) -> str | None:
        """What ends η*: see `EtaStar.set_by`."""
        return self.eta_star.set_by

    @property
    def group_lrs(self) -> tuple[float, ...] | None:
        """What η* means for each parameter group of the optimizer."""
        return tuple(self.lr * ratio for ratio in self.ratios) if self.lr else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The same as `notes`."""
        return self.notes

    @property
    def history(self) -> tuple[TrialRecord, ...]:
        """Every trial that the searches used, search by search."""
        drawn = self.settings["factory"]
        return tuple(
            TrialRecord(
                trial.start.initialisation if drawn else None,
                trial.start.order,
                trial.lr,
                outcome.kind,
                outcome.step,
                None if outcome.kind == "diverged" else outcome.metric,
                outcome.given_up,
            )
            for trial, outcome in self.trials.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types; keys are fixed by `schema_version`."""
        accuracy = self.settings["metric"].partition(" ")[0] == "accuracy"
        names = ("kind", "metric", "evaluated_on", "threshold", "max_steps", "eval_every", "epochs")
        own = self.recipe.criterion.model_dump() if self.recipe else self.settings
        criterion = {name: own.get(name) for name in names}
        criterion["kind"] = self.settings["criterion"]
        shown = ("loss", "optimizer", "optimizer_options", "batch_size", "from_step", "from_lr")
        record = {
            "schema_version": SCHEMA_VERSION,
            "eta_star": asdict(self.eta_star),
            "seeds": [{"seed": seed, **asdict(r)} for seed, r in self.seeds.items()],
            "success": [asdict(point) for point in self.success],
            "trials": [
                {
                    "seed": trial.seed,
                    "lr": trial.lr,
                    "outcome": outcome.kind,
                    "step": outcome.step,
                    "accuracy": outcome.metric if accuracy else None,
                    "metric": outcome.metric,
                    "cause": outcome.cause,
                    "held": outcome.held,
                }
                for trial, outcome in self.own_trials.items()
            ],
            "network": self._described_network(),
            "training": self.recipe.model_dump(exclude={"criterion"})
            if self.recipe
            else {name: self.settings[name] for name in shown},
            "criterion": criterion,
            "data": self.data,
            "search": self.search,
            "cost": asdict(self.cost),
            "environment": self.environment,
            "warnings": self.notes,
            "curve": self.curve and asdict(self.curve),
            "window": self.window and asdict(self.window),
            "recommended": self.recommended and asdict(self.recommended),
            "located": [asdict(run) for run in self.located],
            **{name: getattr(self, name) for name in OF_A_MODEL},
            "spread": asdict(self.spread),
            "history": [asdict(trial) for trial in self.history],
        }
        ready: dict[str, Any] = json_ready(record)
        return ready

    @property
    def own_trials(self) -> dict[Trial, Outcome]:
        """The trials of the seeds' own searches, without those that vary the order only."""
        return {t: o for t, o in self.trials.items() if t.start.initialisation == t.start.order}

    def _described_network(self) -> dict[str, Any]:
        if self.network is not None:
            return self.network.model_dump()
        unknown = ("width", "depth", "input_lr_ratio", "output_variance", "biases")
        return {"architecture": self.settings["model"], **dict.fromkeys(unknown)}

    def to_json(self) -> str:
        """Return `to_dict` as strict JSON: null where a number does not exist, never NaN."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw p(η) with binomial intervals, failures by cause, and η*.

        Args:
            ax: Where to draw; a new figure if None.

        Returns:
            The Axes.
        """
        from etastar.report.figures import success_figure

        return success_figure(self, ax)

    @property
    def summary(self) -> str:
        """The line about η*: its value, bracket, interval and safe rate."""
        if self.lr is None:
            return f"η* = – ({self.status})"
        text = f"η* = {number(self.lr)}"
        if not self.found:
            text += f", bracket {' – '.join(map(number, self.bracket))}"
        if self.interval or (self.found and (self.eta_star.ci_low or self.eta_star.ci_high)):
            level = 100 * (LEVEL if self.found else level_of(len(self.seeds)))
            text += f", {level:.3g} % interval {span(self.eta_star.ci_low, self.eta_star.ci_high)}"
        return f"{text}; safe {number(self.safe_lr)}" if self.safe_lr else text

    def __str__(self) -> str:
        """Tell what was measured, η*, the brackets and the notes, in a few lines."""
        lines = [self.heading, self.summary, *self.promise]
        if not self.found and self.group_lrs and len(self.group_lrs) > 1:
            lines.append("per parameter group: " + ", ".join(map(number, self.group_lrs)))
        if not self.found:
            brackets = ", ".join(
                f"{seed}: {span(r.lo, r.hi) if r.lo and r.hi else r.status}"
                for seed, r in self.seeds.items()
            )
            lines.append(f"{counted(len(self.seeds), 'seed')} ({self.varies}): {brackets}")
        took = f"; {self.spent}" if self.found else ""
        lines.append(f"engine {self.engine}: {self.engine_reason}{took}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def fresh(self) -> str:
        """What trials under `curve` are over: fresh seeds, or of a module only fresh orders."""
        return "fresh seeds" if "initialisation" in self.varies else "fresh orders of the data"

    @property
    def promise(self) -> list[str]:
        """What to train with, and what was seen of fresh seeds there, under `curve`."""
        advice, window = self.recommended, self.window
        fresh, lines = self.fresh, []
        if window and self.eta_star.safe:
            begin = f"from {number(window.low)} " * (window.low is not None)
            known = f"up to {number(self.eta_star.safe)}"
            known = f"up to {number(window.high)} (90 % sure: {known})" if window.high else known
            lines.append(f"{fresh} train with p ≥ 0.95 {begin}{known}")
        if window and self.search["slow_edge"] and not (lines and window.low):
            low = number(window.low) if window.low else window.low_status
            if low == "not looked for" and self.found:
                early = f"{low}: the cap ended the search before"
                low = early if self.found.capped else "not found"
            lines.append(f"slow edge: {low}")
        if advice and advice.lr:
            lines.append(f"recommended rate: {number(advice.lr)}")
            if not advice.tried:
                lines[-1] += f", not tried on {fresh}"
            elif advice.p_low is not None:
                steps = advice.median_steps
                lines[-1] += (
                    f". Trained {advice.trained} of {advice.tried} {fresh}: p ≥ "
                    f"{advice.p_low:.2f} with {100 * (advice.confidence or 0):.0f} % confidence"
                    + ("" if steps is None else f"; {steps:.0f} steps in the median")
                    + f"; {advice.held} of {advice.tried} still there at the end."
                )
        return lines

    @property
    def spent(self) -> str:
        """What it took."""
        return taken(self.cost)


def taken(cost: Cost) -> str:
    """Return what a measurement took, in words."""
    return (
        f"{counted(cost.trials, 'trial')}, {counted(cost.steps, 'step')}, "
        f"{cost.budgets:.1f} budgets, {cost.seconds or 0:.1f} s"
    )


OF_A_MODEL = (
    *("lr", "bracket", "safe_lr", "interval", "status", "set_by", "group_lrs", "groups", "varies"),
    *("engine", "engine_reason", "settings", "notes", "interrupted"),
)
"""Keys of the JSON that 0.1.0 wrote for a user's model; they stay for one release."""


def json_ready(value: Any) -> Any:
    """Return containers as lists and dictionaries, non-finite numbers as None, the rest as text."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_ready(part) for part in value]
    if hasattr(value, "tolist") and not hasattr(value, "requires_grad"):  # of NumPy
        return json_ready(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, too, such as a member of an enumeration
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)
