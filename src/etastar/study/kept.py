"""Trials of a user's model in a store: found again by a fingerprint of all that they depend on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etastar.engines.base import Engine, TrialList
from etastar.errors import ConfigError, StoreError
from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial
from etastar.result import json_ready
from etastar.run import Early
from etastar.study.cell import TaskKind, canonical, digest
from etastar.study.store import StoreWriter

KIND: TaskKind = "model"
VERSION = 2
"""Raised when the meaning of a fingerprint changes: trials under the old one stay apart."""


@dataclass
class Shelf:
    """The trials of one problem; they are kept nowhere if there is no store.

    Attributes:
        known: Outcomes of earlier runs and of this one.
        keep: Called with every other one.
    """

    known: dict[Trial, Outcome] = field(default_factory=dict)
    keep: Callable[[Trial, Outcome], None] = lambda trial, outcome: None

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Keep an outcome; it is on the disk when this returns."""
        if trial not in self.known:
            self.known[trial] = outcome
            self.keep(trial, outcome)


class Keeper:
    """Where the trials of a measurement are kept.

    Args:
        store: None for nowhere.

    Attributes:
        trials, steps: Of what `trained` returned, summed.
    """

    def __init__(self, store: StoreWriter | None) -> None:
        self.store, self.trials, self.steps = store, 0, 0
        self._fingerprints: dict[int, tuple[Problem, dict[str, Any]]] = {}

    def shelf(self, problem: Problem, apart: int | None = None, **where: Any) -> Shelf:
        """Return the trials of a problem.

        Args:
            problem: Of a user's model.
            apart: An initialisation of which trials with other orders are kept, too.
            where: What outcomes depend on beside the problem, as JSON types.

        Raises:
            StoreError: The store has trials of other code under the same name.
        """
        store = self.store
        if store is None:
            return Shelf()
        record = self._record(problem, store) | where
        key, known = _opened(store, record)
        keys: dict[int | None, int] = {None: key}
        if apart is not None:
            keys[apart], others = _opened(store, record | {"initialisation": apart})
            known |= {replace(t, start=Start(apart, t.seed)): o for t, o in others.items()}

        def keep(trial: Trial, outcome: Outcome) -> None:
            start = trial.start
            same = start.initialisation == start.order
            store.add_run(keys[None if same else start.initialisation], trial, outcome)
            store.flush()

        return Shelf(known, keep)

    def trained(
        self,
        problem: Problem,
        trials: Sequence[Trial],
        engine: Engine,
        early: Early | None = None,
        **where: Any,
    ) -> dict[Trial, Outcome]:
        """Train these trials, but those that are known; return all.

        Args:
            problem: Of a user's model.
            trials: Any.
            engine: What trains them.
            early: What may end it before: then `TimeoutError` is raised.
            where: As for `shelf`.
        """
        shelf = self.shelf(problem, **where)
        queue = TrialList([trial for trial in trials if trial not in shelf.known], shelf.add)
        if queue.waiting:
            engine.run(problem, early.over(queue) if early else queue)
        found = {trial: (shelf.known | queue.outcomes)[trial] for trial in trials}
        whole = problem.max_steps
        self.trials += len(found)
        self.steps += sum(o.steps_taken(t.steps or whole) for t, o in found.items())
        return found

    def _record(self, problem: Problem, store: StoreWriter) -> dict[str, Any]:
        """Return the fingerprint of a problem, once it is known that no code has changed."""
        from etastar.problem.fingerprint import changed_code, fingerprint

        if id(problem) not in self._fingerprints:
            record = json_ready({"kind": KIND, "identity": VERSION, **fingerprint(problem)})
            for (text,) in store.rows("SELECT json FROM specification WHERE kind = ?", (KIND,)):
                if changed := changed_code(record, json.loads(text)):
                    raise StoreError(
                        f"{store.path} has trials of other code under the same name: "
                        f"{', '.join(changed)} was changed since. They are not mixed: give the "
                        "new code a store of its own, or its old name back to the old code."
                    )
            if record["unseen"]:
                _tell(
                    f"cannot read the content of {', '.join(record['unseen'])}, to which your code "
                    "refers: when that changes, take a store of its own."
                )
            self._fingerprints[id(problem)] = problem, record
        return self._fingerprints[id(problem)][1]


def _opened(store: StoreWriter, record: dict[str, Any]) -> tuple[int, dict[Trial, Outcome]]:
    """Return the key of a record, and the trials under it."""
    text = canonical(record)
    key = store.specify(digest(text), KIND, text)
    return key, store.runs(digest(text))


@contextmanager
def keeper(place: str | Path | None) -> Iterator[Keeper]:
    """Open a store for the trials of a measurement, or make it.

    Args:
        place: The file; None keeps nothing.

    Raises:
        ConfigError: There can be no such file.
        StoreError: It is damaged, newer, or something else.
    """
    if place is None:
        yield Keeper(None)
        return
    if not isinstance(place, str | Path) or not str(place).strip():
        raise ConfigError(f"store must be the name of a file, got {place!r}.")
    with StoreWriter(
        Path(place), on_wait=lambda holder: _tell(f"is being written by {holder}; waiting.")
    ) as store:
        yield Keeper(store)


def _tell(what: str) -> None:
    print(f"etastar: the store {what}", file=sys.stderr)
