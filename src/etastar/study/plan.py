"""Tasks that are left of a study, in the order in which they are done."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from etastar.errors import ConfigError, EmptyStoreError
from etastar.study.cell import Cell, Task
from etastar.study.cost import Cost
from etastar.study.export import seed_columns
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
        with suppress(EmptyStoreError), Store(path) as store:
            return cls.of(store)
        return cls()

    def missing(self, task: Task) -> tuple[Any, ...]:
        """What a task is to measure and has no result."""
        done = self.done.get(task.id, set())
        return tuple(one for one in task.seeds if one not in done)

    def count(self, study: Study) -> tuple[int, int]:
        """Results of a study (η* and λ1, by seed) that are missing, and all; each counts once."""
        wanted = {(t.id, one) for cell in study.cells for t in cell.tasks for one in t.seeds}
        return len(wanted) - sum(one in self.done.get(i, ()) for i, one in wanted), len(wanted)

    def gaps(self, study: Study) -> str:
        """Say how much of a study is missing, and what to do; empty if nothing is."""
        missing, wanted = self.count(study)
        if not missing:
            return ""
        cells = sum(not self.is_done(cell) for cell in study.cells)
        return (
            f"{missing} of {wanted} results (η* and λ1, by seed) are missing, in {cells} of "
            f"{len(study.cells)} cells: etastar study run {study.path}"
        )

    def is_done(self, cell: Cell) -> bool:
        """Tell whether everything that a cell asks for is there."""
        return not any(map(self.missing, cell.tasks))

    def error(self, cell: Cell) -> str | None:
        """The error for which a cell was given up; None if it was not."""
        return next((self.failures[t.id] for t in cell.tasks if t.id in self.failures), None)


def require_results(study: Study, store: Store) -> State:
    """Return the state of a store that holds some η* of a study.

    Raises:
        ConfigError: It holds none, so that nothing can be made of it.
    """
    state = State.of(store)
    if any(state.done.get(cell.id, set()) & set(cell.wanted) for cell in study.cells):
        return state
    raise ConfigError(
        f"{store.path} holds no η* of this study yet. Run: etastar study run {study.path}"
        + elsewhere(study, store, state)
    )


def elsewhere(study: Study, store: Store, state: State) -> str:
    """Say which settings differ where a store holds networks, but none of a study; else nothing."""
    ours = {cell.id for cell in study.cells}
    query = "SELECT id, json FROM specification WHERE kind = 'maximal-lr'"
    with store.decoded():
        others = [json.loads(t) for i, t in store.rows(query) if i in state.done and i not in ours]
    if not others or ours & state.done.keys():
        return ""
    wanted = json.loads(study.cells[0].specification)

    def differing(other: dict[str, Any]) -> list[str]:
        names = sorted(wanted.keys() | other.keys())
        return [name for name in names if wanted.get(name) != other.get(name)]

    near = min(others, key=lambda other: len(differing(other)))
    told = ", ".join(
        f"{name} = {near.get(name)!r} (in the study file {wanted.get(name)!r})"
        for name in differing(near)
    )
    return (
        f". The store holds {len(others)} networks of other settings, nearest to the first of the "
        f"study with {told}: was the file edited, or is the store another study's?"
    )


def costs(study: Study) -> dict[str, Cost]:
    """The cost of each cell, by its hash; reads all data sets and checks the cells against them.

    Raises:
        ConfigError: A cell's settings do not fit its data.
        DataError: A data set cannot be read.
    """
    # in the order of the data sets: only two are kept in memory
    data = {"dataset", "data_dir", "train_size", "val_size"}
    found = {}
    for cell in sorted(study.cells, key=lambda cell: repr(cell.settings.model_dump(include=data))):
        try:
            found[cell.id] = Cost.of(cell.settings)
        except ConfigError as error:
            raise ConfigError(
                f"study file {study.path}: cell {cell.settings.title}: {error}"
            ) from None
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
        left = [replace(task, seeds=state.missing(task)) for task in cell.tasks]
        found = [(task, known[cell.id].of_task(task)) for task in left if task.seeds]
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


def like_before(
    study: Study, known: Mapping[str, Cost], tasks: Sequence[tuple[Task, float]], store: Path
) -> tuple[float, float] | None:
    """Predict trials and seconds of tasks from the results of the study that a store holds.

    Per kind (bracket, curve, λ1), a result takes as many trials as one took in the mean, and as
    many times its expected time as all of them took together.

    Returns:
        Trials and seconds; None if the store has no result of a kind that is to do.
    """
    try:
        opened = Store(store)
    except EmptyStoreError:
        return None
    with opened:
        state, rows = State.of(opened), seed_columns(study, opened)
        taken = dict(
            opened.rows(
                "SELECT id, sum(seconds) FROM work JOIN specification ON key = cell GROUP BY id"
            )
        )
    trials: dict[str, list[int]] = {"sharpness": [0]}
    for strategy, count in zip(rows["strategy"], rows["trials"], strict=True):
        kind = "curve" if strategy == "curve" else "maximal-lr"
        trials.setdefault(kind, []).append(count)
    expected, seconds = defaultdict[str, float](float), defaultdict[str, float](float)
    for cell in study.cells:
        for task in cell.tasks:
            there = tuple(one for one in task.seeds if one in state.done.get(task.id, ()))
            if there and task.id in taken:
                expected[_kind(task)] += known[cell.id].of_task(replace(task, seeds=there))
                seconds[_kind(task)] += taken.pop(task.id)
    kinds = [_kind(task) for task, _ in tasks]
    if not set(kinds) <= trials.keys() & expected.keys():
        return None
    return (
        sum(mean(trials[k]) * len(t.seeds) for k, (t, _) in zip(kinds, tasks, strict=True)),
        sum(s * seconds[k] / expected[k] for k, (_, s) in zip(kinds, tasks, strict=True)),
    )


def _kind(task: Task) -> str:
    """What a task measures: λ1, a curve, or brackets."""
    return "curve" if task.curve else task.kind
