"""Tasks that are left of a study, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etastar.errors import ConfigError, EmptyStoreError
from etastar.study.cell import Asked, Cell
from etastar.study.cost import Cost
from etastar.study.measuring import Task
from etastar.study.specification import Study
from etastar.study.store import Store


@dataclass(frozen=True)
class State:
    """Results and failures that a store holds.

    Attributes:
        done: Finished seeds, or curves by how far they go, by specification.
        failures: Last error of specifications that were given up.
    """

    done: dict[str, set[Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> State:
        """The present state of a store."""
        return cls(store.finished(), store.failures())

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

    def missing(self, asked: Asked) -> tuple[Any, ...]:
        """What is wanted of a specification and has no result."""
        done = self.done.get(asked.id, set())
        return tuple(one for one in asked.wanted if one not in done)

    def is_done(self, cell: Cell) -> bool:
        """Tell whether everything that a cell asks for is there."""
        return not any(map(self.missing, cell.asked))

    def error(self, cell: Cell) -> str | None:
        """The error for which a cell was given up; None if it was not."""
        return next((self.failures[a.id] for a in cell.asked if a.id in self.failures), None)


def costs(study: Study) -> dict[str, Cost]:
    """The cost of each cell, by its hash; reads all data sets and checks the cells against them.

    Raises:
        ConfigError: A cell's settings do not fit its data.
        DataError: A data set cannot be read.
    """
    # in the order of the data sets: only two are kept in memory
    found = {}
    for cell in sorted(study.cells, key=_data_key):
        try:
            found[cell.id] = Cost.of(cell.settings)
        except ConfigError as error:
            raise ConfigError(f"study file {study.path}: cell {cell.title}: {error}") from None
    return found


def plan(
    study: Study, known: Mapping[str, Cost], state: State, *, retry_failed: bool = False
) -> list[tuple[Task, float]]:
    """List the tasks that are left: those of the longest cell first, so that cells get done.

    Args:
        study: The study.
        known: The costs of its cells.
        state: What the store holds.
        retry_failed: Whether to try again what was given up.

    Returns:
        Tasks, each with the seconds of one core that it is expected to take.
    """
    tasks: dict[str, tuple[Task, float]] = {}
    rank: dict[str, float] = {}
    for cell in study.cells:
        found = _tasks(cell, known[cell.id], state)
        total = sum(seconds for _, seconds in found)
        for task, seconds in found:
            rank[task.id] = max(rank.get(task.id, 0.0), total)
            if retry_failed or task.id not in state.failures:
                other, expected = tasks.setdefault(task.id, (task, seconds))
                seeds = tuple(sorted({*other.seeds, *task.seeds}))
                if seeds != other.seeds:  # λ1 that several cells share
                    expected *= len(seeds) / len(other.seeds)
                    tasks[task.id] = replace(other, seeds=seeds), expected
    return sorted(tasks.values(), key=lambda found: (-rank[found[0].id], -found[1]))


def _tasks(cell: Cell, cost: Cost, state: State) -> list[tuple[Task, float]]:
    """Return the tasks of one cell, at most two: η* and λ1."""
    found = []
    for asked in cell.asked:
        if seeds := state.missing(asked):
            wanted = cell.sharpness if asked.kind == "sharpness" else None
            task = Task(*asked[:3], cell.settings, seeds, wanted)
            seconds = cost.sharpness(wanted, len(seeds)) if wanted else cost.lr(len(seeds))
            found.append((task, seconds))
    return found


def _data_key(cell: Cell) -> str:
    return repr(cell.settings.model_dump(include={"dataset", "data_dir", "train_size", "val_size"}))
