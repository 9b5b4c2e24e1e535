"""What the entries for Lightning and Hugging Face share: both read a training, and measure it."""

from __future__ import annotations

import dis
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import FunctionType
from typing import Any

from etastar.errors import ConfigError, NotBracketedWarning, warn
from etastar.maximal import maximal_lr
from etastar.problem.batches import Grouped, LoaderBatches
from etastar.problem.user_code import is_users
from etastar.result import Result, number
from etastar.run import CTRL_C
from etastar.schedule import Warmup

READ = ("model", "train_data", "val_data", "loss_fn", "optimizer", "step_fn", "batch_size")
"""Options of `maximal_lr` that are read from objects instead."""


@dataclass(frozen=True)
class AppliedResult(Result):
    """A `Result` whose recommended rate can be set where the training was read from.

    Attributes:
        setter: Sets a rate.
        warmup: The shortest warm-up to its `target_lr`, where one was asked for.
    """

    setter: Callable[[Any, float, Warmup | None], None] | None = field(default=None, repr=False)
    warmup: Warmup | None = None

    def apply(self, target: Any) -> float:
        """Set the recommended rate, or the verified warm-up with the rate that it leads to.

        Args:
            target: What was measured: a LightningModule, or a Trainer of Hugging Face.

        Returns:
            The rate that was set, which is that of the schedule's peak if there is a schedule.

        Raises:
            ConfigError: There is no recommended rate, or it cannot be set; nothing has changed.
        """
        assert self.setter is not None
        schedule = self.warmup if self.warmup and self.warmup.verified else None
        rate = schedule.target_lr if schedule else self.recommended_lr
        if rate is None:
            more = "measure with more `trials`, as the notes say"
            if not self.found:
                more = "use `strategy='curve'`"
            half = f", e.g. half of η*, {number(self.lr / 2)}" if self.lr else ""
            raise ConfigError(
                f"apply: the result recommends no rate. {self.reason or ''}".rstrip()
                + f" For one that fresh seeds have tried {more}; or set a rate yourself{half}."
            )
        self.setter(target, rate, schedule)
        return rate

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types, with the warm-up; None where there is none."""
        return {**super().to_dict(), "warmup": self.warmup and self.warmup.to_dict()}


class Reported:
    """A metric by the name under which a framework reports it, of all validation data at once.

    The data are `LoaderBatches` that count as one batch, as a framework evaluates them.

    Args:
        validate: Maps a copy of the model, the data and the name to the name and the value.
        name: Of the metric; None where the first validation decides.
    """

    def __init__(self, validate: Callable[..., tuple[str, float]], name: str | None) -> None:
        self.validate, self.name, self.__name__ = validate, name, name or "compute_metrics"

    @property
    def identity(self) -> list[Any]:
        """Return what its values depend on besides the model, see `problem.fingerprint`."""
        return [self.validate, self.__name__]

    def __deepcopy__(self, memo: Any) -> Reported:
        """Return the same, for what it learns is its name."""
        return self

    def __call__(self, model: Any, data: LoaderBatches) -> float:
        """Validate a copy of the model."""
        self.__name__, value = self.validate(model, data, self.name)
        self.name = self.__name__
        return value


def measured(
    options: Mapping[str, Any],
    *,
    where: str,
    notes: Sequence[str],
    settings: Mapping[str, Any],
    setter: Callable[[Any, float, Warmup | None], None],
    on_training: bool = False,
    warmup: Callable[[Result], Warmup | None] | None = None,
    **training: Any,
) -> AppliedResult:
    """Measure a training that was read from the objects of a framework.

    Args:
        options: Of the user, as for `maximal_lr`.
        where: What the rest is read from, for messages.
        notes: What was not carried over.
        settings: How a step is taken, for the record.
        setter: Of the result.
        on_training: Whether the metric is evaluated on the training data.
        warmup: Finds a warm-up, given the result; None where none was asked for.
        **training: The arguments of `maximal_lr` that were read; options come before these.

    Returns:
        The result.

    Raises:
        ConfigError: An option is read from the objects.
    """
    for name in READ:
        if name in options:
            raise ConfigError(f"`{name}` is read from {where}: change it there, and leave it out.")
    if {"epochs", "max_steps"} & options.keys():
        training = {k: v for k, v in training.items() if k not in ("epochs", "max_steps")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotBracketedWarning)
        found = maximal_lr(**(training | dict(options)))
    if found.reason:
        warn(found.reason, NotBracketedWarning)
    values, schedule = dict(vars(found)), None
    try:
        schedule = warmup(found) if warmup and not found.interrupted else None
    except KeyboardInterrupt:
        values["interrupted"] = True
    told = tuple(n for n in schedule.notes if n not in found.notes) if schedule else ()
    if warmup and values["interrupted"]:
        told = (f"it was not found, {CTRL_C}: with `store` it can go on.",)
    values["notes"] = (*found.notes, *notes, *(f"warm-up: {note}" for note in told))
    values["settings"] = {**found.settings, "step": dict(settings)}
    if on_training:
        values["settings"]["evaluated_on"] = "training data"
        values["heading"] = found.heading.replace("reach validation", "reach training")
    return AppliedResult(**values, setter=setter, warmup=schedule)


def steps_of(loader: Iterable[Any], size: int, limit: int | None = None) -> Iterable[Any]:
    """Return a loader whose items are those of one optimizer step.

    Args:
        loader: Of the training data.
        size: Batches over which gradients are accumulated.
        limit: Batches of an epoch; None for all.
    """
    return loader if size == 1 and limit is None else Grouped(loader, size, limit)


def not_of(entry: str, expected: str, given: Any, extra: tuple[str, str]) -> ConfigError:
    """Return the error of an object that is not the framework's.

    Args:
        entry: The name of the entry.
        expected: What should have been given, in words.
        given: What was.
        extra: The framework's package, and the extra of etastar that installs it.
    """
    package, name = extra
    absent = f", and {package} is not installed: pip install 'etastar[{name}]'"
    return ConfigError(
        f"{entry}: {expected}, got {type(given).__name__}{'' if find_spec(package) else absent}."
    )


def check_carried(entry: str, found: Mapping[str, bool]) -> None:
    """Raise for the first thing that cannot be measured.

    Args:
        entry: The name of the entry.
        found: What it is and what to do, in words → whether it is there.

    Raises:
        ConfigError: Something is.
    """
    for words, there in found.items():
        if there:
            raise ConfigError(f"{entry}: {words}.")


RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""What a group of an optimizer holds of rates; all but the first are of a schedule."""
OF_A_CYCLE = (*RATES[1:], "max_momentum", "base_momentum")


def schedules(given: Iterable[Any]) -> list[Any]:
    """Return schedulers with those that they are made of.

    Args:
        given: Of PyTorch, or wrapped by accelerate.
    """
    found = []
    for each in (getattr(one, "scheduler", one) for one in given):
        found += [each, *schedules(getattr(each, "_schedulers", ()))]
    return found


def peaks(optimizer: Any, schedulers: Iterable[Any]) -> list[Any]:
    """Return the rate of each group of an optimizer at the peak of its schedule.

    Args:
        optimizer: Any with `param_groups`.
        schedulers: Of the optimizer.
    """
    cyclic = [each.max_lrs for each in schedules(schedulers) if hasattr(each, "max_lrs")]
    names = ("max_lr", "initial_lr", "lr")
    highest = [next(group[n] for n in names if n in group) for group in optimizer.param_groups]
    return list(cyclic[0]) if cyclic else highest


def cycles_momentum(schedulers: Iterable[Any]) -> bool:
    """Tell whether a schedule sets the momentum, too, and so overwrites what it was.

    Args:
        schedulers: Any.
    """
    return any(getattr(each, "cycle_momentum", False) for each in schedules(schedulers))


def unscheduled(optimizer: Any, schedulers: Iterable[Any]) -> Any:
    """Give the groups of an optimizer the rates of the peak, for good; return the optimizer.

    Momentum that a schedule overwrote is that of the optimizer's defaults again.

    Args:
        optimizer: Any with `param_groups`.
        schedulers: Which it had.
    """
    schedulers = list(schedulers)
    for group, peak in zip(optimizer.param_groups, peaks(optimizer, schedulers), strict=True):
        group["lr"] = peak
        for name in OF_A_CYCLE:
            if name not in optimizer.defaults:
                group.pop(name, None)
        if cycles_momentum(schedulers) and "betas" in group:
            group["betas"] = (optimizer.defaults["betas"][0], *group["betas"][1:])
        elif cycles_momentum(schedulers):
            group["momentum"] = optimizer.defaults["momentum"]
    return optimizer


def scaled(optimizer: Any, lr: float, schedulers: Iterable[Any] = ()) -> Any:
    """Scale all groups of an optimizer so that the first has a rate; return the optimizer.

    Args:
        optimizer: Any with `param_groups`.
        lr: The rate, of the first group whose rate is not 0, at the peak of its schedule.
        schedulers: Of the optimizer, which are scaled with it.

    Raises:
        ConfigError: All rates are 0.
    """
    schedulers = list(schedulers)
    base = next((float(rate) for rate in peaks(optimizer, schedulers) if rate), None)
    if base is None:
        raise ConfigError("every group of the optimizer has the rate 0: give one another rate.")
    for group in optimizer.param_groups:
        for name in (name for name in RATES if name in group):
            group[name] *= lr / base
    for each in schedules(schedulers):
        for name in {"base_lrs", "max_lrs"} & vars(each).keys():
            setattr(each, name, [rate * lr / base for rate in getattr(each, name)])
    return optimizer


def left_out(schedulers: Sequence[Any], where: str) -> str:
    """Return the note that a schedule is no part of the measurement.

    Args:
        schedulers: Some.
        where: Whose they are.
    """
    momentum = " So is the momentum, at the optimizer's default." * cycles_momentum(schedulers)
    return (
        f"{named(schedulers)} of {where} was left out: every rate is constant.{momentum} Take the "
        "recommended one for the schedule's peak, or measure with `scheduler`."
    )


def points_down(name: str) -> bool:
    """Tell by its name whether a metric is better when it is lower.

    Args:
        name: As a framework reports it.
    """
    return "loss" in name or "error" in name


def named(things: Collection[Any]) -> str:
    """Return the classes of objects, for a note.

    Args:
        things: Any objects.
    """
    return ", ".join(type(thing).__name__ for thing in things)


def own_attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes of an object that no method of a library's class sets.

    Args:
        thing: Of a library's class or of one derived from it.
    """
    theirs = [f for k in type(thing).__mro__ if not is_users(k) for f in vars(k).values()]
    codes = [inspect.unwrap(f).__code__ for f in theirs if isinstance(f, FunctionType)]
    steps = (step for code in codes for step in dis.get_instructions(code))
    known = {step.argval for step in steps if step.opname == "STORE_ATTR"}
    return {name: value for name, value in vars(thing).items() if name not in known}
