"""What is left to do of a study, in the order in which it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etastar.errors import ConfigError, EmptyStoreError
from etastar.study.cell import Cell
from etastar.study.cost import Sizes, lr_seconds, sharpness_seconds
from etastar.study.measuring import Task
from etastar.study.specification import Study
from etastar.study.store import Store

if TYPE_CHECKING:
    from etastar.problem.trial import Recipe


@dataclass(frozen=True)
class State:
    """What a store holds of a study.

    Attributes:
        done: Finished seeds, by specification.
        failures: Last error of specifications that were given up.
    """

    done: dict[str, set[int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> State:
        """The present state of a store."""
        return cls(store.seeds_done(), store.failures())

    @classmethod
    def of_file(cls, path: Path) -> State:
        """The state of a store that may not exist yet.

        Raises:
            StoreError: It exists, and is damaged, newer, or something else.
        """
        if not path.exists() or not path.stat().st_size:
            return cls()
        try:
            with Store(path) as store:
                return cls.of(store)
        except EmptyStoreError:
            return cls()

    def missing(self, identity: str, seeds: range) -> tuple[int, ...]:
        """Seeds of a specification that have no result."""
        done = self.done.get(identity, set())
        return tuple(seed for seed in seeds if seed not in done)

    def is_done(self, cell: Cell) -> bool:
        """Whether everything that a cell asks for is there."""
        return not any(self.missing(i, cell.seeds) for i in identities(cell))

    def error(self, cell: Cell) -> str | None:
        """Why a cell was given up, if it was."""
        return next((self.failures[i] for i in identities(cell) if i in self.failures), None)


@dataclass(frozen=True)
class Planned:
    """A task with its expected cost, in seconds of one core."""

    task: Task
    seconds: float


@dataclass(frozen=True)
class Facts:
    """What the data sets of a study say of each cell, by the cell's hash."""

    cells: Mapping[str, tuple[Recipe, Sizes]]

    @classmethod
    def of(cls, study: Study) -> Facts:
        """Read every data set that is needed, once, and check every cell against it.

        Raises:
            ConfigError: A cell's settings do not fit its data.
            DataError: A data set cannot be read.
        """
        # in the order of the data sets: only two are kept in memory
        found = {}
        for cell in sorted(study.cells, key=_data_key):
            try:
                sizes, recipe = Sizes.of(cell.settings)
            except ConfigError as error:
                raise ConfigError(f"study file {study.path}: cell {cell.title}: {error}") from None
            found[cell.id] = recipe, sizes
        return cls(found)


def plan(study: Study, facts: Facts, state: State, *, retry_failed: bool = False) -> list[Planned]:
    """The tasks that are left: those of the longest cell first, together, so that cells get done.

    Args:
        study: The study.
        facts: Of its cells.
        state: What the store holds.
        retry_failed: Whether to try again what was given up.
    """
    tasks: dict[str, Planned] = {}
    rank: dict[str, float] = {}
    for cell in study.cells:
        found = _tasks(cell, *facts.cells[cell.id], state)
        total = sum(planned.seconds for planned in found)
        for planned in found:
            task = planned.task
            rank[task.id] = max(rank.get(task.id, 0.0), total)
            if retry_failed or task.id not in state.failures:
                other = tasks.setdefault(task.id, planned)
                seeds = tuple(sorted({*other.task.seeds, *task.seeds}))
                if seeds != other.task.seeds:  # λ1 that several cells share
                    seconds = other.seconds * len(seeds) / len(other.task.seeds)
                    merged = dataclasses.replace(other.task, seeds=seeds)
                    tasks[task.id] = Planned(merged, seconds)
    return sorted(tasks.values(), key=lambda p: (-rank[p.task.id], -p.seconds))


def identities(cell: Cell) -> list[str]:
    """Hashes of all specifications that a cell asks for."""
    return [cell.id] + ([cell.sharpness_id] if cell.sharpness_id else [])


def _tasks(cell: Cell, recipe: Recipe, sizes: Sizes, state: State) -> list[Planned]:
    """At most two: η*, and λ1."""
    found = []
    if seeds := state.missing(cell.id, cell.seeds):
        task = Task("maximal-lr", cell.id, cell.specification, cell.settings, seeds)
        seconds = lr_seconds(cell.settings, recipe, sizes, len(seeds))
        found.append(Planned(task, seconds))
    wanted, identity, text = cell.sharpness, cell.sharpness_id, cell.sharpness_specification
    if wanted and identity and text and (seeds := state.missing(identity, cell.seeds)):
        task = Task("sharpness", identity, text, cell.settings, seeds, wanted)
        seconds = sharpness_seconds(cell.settings, wanted, sizes, len(seeds))
        found.append(Planned(task, seconds))
    return found


def _data_key(cell: Cell) -> str:
    return repr(cell.settings.model_dump(include={"dataset", "data_dir", "train_size", "val_size"}))
