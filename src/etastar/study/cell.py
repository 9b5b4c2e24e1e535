"""A cell of a study: one network under one set of conditions, and the identity of its results.

Two results are the same thing exactly when their specifications are the same JSON. What cannot
change a result (how many seeds, how many threads, where the files lie) is not part of it, so a
study that is given more seeds computes only the new ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from etastar.problem.trial import Outcome, Trial
from etastar.search.search import OF_THE_CURVE, SEEDS
from etastar.settings import Settings
from etastar.validation import Options

IDENTITY_VERSION = 1
"""Raised when the meaning of a specification changes: results under the old one stay apart."""

NOT_IDENTITY = {"seeds", "first_seed", "threads", "data_dir", *OF_THE_CURVE}
"""Settings that do not change what a seed's result is, nor what a trial of a curve is."""

ESTIMATOR_VERSION = 1
"""Raised when the same trials of a curve give another result: results are then computed again."""

TaskKind = Literal["maximal-lr", "sharpness", "model"]


class SharpnessSettings(Options):
    """Options of λ1 at initialisation, which is measured beside η* for every seed."""

    samples: int = Field(1000, ge=1)
    """λ1 is of the loss over the first so many training samples."""
    tol: float = Field(1e-3, gt=0.0, lt=1.0)
    """Relative residual at which the Lanczos iteration stops."""
    max_iter: int = Field(200, ge=1)
    """Hessian-vector products before it is given up."""


@dataclass(frozen=True)
class Task:
    """Work for one executor slot: seeds of one specification, as one stack.

    Attributes:
        kind: `maximal-lr` or `sharpness`.
        id: Hash of the specification.
        specification: As canonical JSON.
        settings: Of the measurement; its seeds are not read.
        seeds: What to measure; of a curve one text, which says how far it goes: see `Cell.wanted`.
        sharpness: How, for λ1; the defaults if None.
        known: Outcomes from an interrupted search, which then need no second run.
    """

    kind: TaskKind
    id: str
    specification: str
    settings: Settings
    seeds: tuple[Any, ...]
    sharpness: SharpnessSettings | None = None
    known: Mapping[Trial, Outcome] = field(default_factory=dict)

    @property
    def curve(self) -> bool:
        """Whether a success curve is measured, rather than brackets or λ1."""
        return self.kind == "maximal-lr" and self.settings.strategy == "curve"


@dataclass(frozen=True)
class Cell:
    """One network under one set of conditions, with its seeds.

    Attributes:
        settings: Settings of the measurement of η*.
        sharpness: How λ1 is measured; None if it is not.
    """

    settings: Settings
    sharpness: SharpnessSettings | None = None

    @property
    def curve(self) -> bool:
        """Whether the success curve is measured, rather than brackets of seeds."""
        return self.settings.strategy == "curve"

    @property
    def seeds(self) -> range:
        """The seeds that the study wants; of a curve, which has none, those of λ1."""
        first = self.settings.first_seed
        return range(first, first + (self.settings.seeds or SEEDS))

    @cached_property
    def wanted(self) -> tuple[Any, ...]:
        """The results of η* that the study wants: a seed each, or the curve's one.

        What a curve's trials are does not depend on where they begin and how far they go, so the
        store keeps its result by these, as canonical JSON.
        """
        if not self.curve:
            return tuple(self.seeds)
        search = self.settings.search()
        how = {name: getattr(search, name) for name in OF_THE_CURVE}
        first = {"estimator": ESTIMATOR_VERSION, "first_seed": self.settings.first_seed}
        return (canonical(first | how),)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Every setting, with the defaults of data set and loss filled in."""
        return _unsigned_zeros(self._full.told())

    @property
    def _full(self) -> Settings:
        settings = self.settings if self.curve else self.settings.bracketing()
        return settings.resolved()

    @cached_property
    def specification(self) -> str:
        """All that a trial depends on beside its seed and rate, and a seed's bracket, as JSON."""
        full = _unsigned_zeros(self._full.identity())
        fields = {k: v for k, v in full.items() if k not in NOT_IDENTITY}
        fields["device"] = self._device_kind
        if self.curve:
            del fields["resolution"]
        if not fields["from_step"]:  # from initialisation: as before there were checkpoints
            del fields["from_step"], fields["from_lr"]
        if fields.get("parametrization") == "standard":  # the only one that 0.1.0 had
            del fields["parametrization"]
        return canonical({"kind": "maximal-lr", "identity": IDENTITY_VERSION, **fields})

    @cached_property
    def id(self) -> str:
        """Hash of the specification."""
        return digest(self.specification)

    @cached_property
    def sharpness_specification(self) -> str | None:
        """All that λ1 of a seed depends on: no threshold, budget or search is part of it."""
        if self.sharpness is None:
            return None
        settings = self.settings
        wanted = self.sharpness.model_dump()
        # the first samples of a smaller training set are those of the larger one, bit for bit
        wanted["samples"] = min(wanted["samples"], settings.train_size or wanted["samples"])
        machine = settings.model_dump(include={"dataset", "loss", "dtype"})
        machine["device"] = self._device_kind
        network = _unsigned_zeros(settings.network().model_dump())
        version = {"kind": "sharpness", "identity": IDENTITY_VERSION}
        return canonical({**version, **machine, "network": network, **wanted})

    @cached_property
    def sharpness_id(self) -> str | None:
        """Hash of `sharpness_specification`."""
        return self.sharpness_specification and digest(self.sharpness_specification)

    @property
    def tasks(self) -> list[Task]:
        """All that the cell asks for: η*, and λ1 of its seeds."""
        settings, seeds = self.settings, tuple(self.seeds)
        found = [Task("maximal-lr", self.id, self.specification, settings, self.wanted)]
        if self.sharpness_id and self.sharpness_specification:
            lambda1 = self.sharpness_id, self.sharpness_specification
            found.append(Task("sharpness", *lambda1, settings, seeds, self.sharpness))
        return found

    @property
    def _device_kind(self) -> str:
        """`cuda` for `cuda:1`: which of several is no part of a result, rounding by kind is."""
        return self.settings.device.split(":")[0]


def _unsigned_zeros(values: dict[str, Any]) -> dict[str, Any]:
    """Replace −0.0, which trains as 0.0 does but is written differently, by 0.0."""
    return {k: v + 0.0 if isinstance(v, float) else v for k, v in values.items()}


def canonical(specification: dict[str, Any]) -> str:
    """The one JSON text of a specification: sorted keys, no spaces, ASCII, finite numbers.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(specification, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    """The first 20 hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:20]
