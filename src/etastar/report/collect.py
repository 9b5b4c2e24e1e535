"""From a store to the evidence of a report: one group per law, one family per chapter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

from etastar.report.evidence import Evidence, Family, Group
from etastar.settings import DEFAULTS
from etastar.study.cell import NOT_IDENTITY, Cell
from etastar.study.cell_rows import OF_THE_SEARCH
from etastar.study.export import Columns, seed_columns, trial_columns
from etastar.study.plan import State
from etastar.study.specification import Study
from etastar.study.store import Store

_OWN = {"width", "depth", "input_lr_ratio", "loss"}


def collect(study: Study, store: Store) -> Evidence:
    """Read a study's results.

    Args:
        study: The study.
        store: Its store.

    Raises:
        StoreError: The store cannot be read.
    """
    rows, trials = seed_columns(study, store), trial_columns(study, store)
    work, environments = _work(store, study)
    state = State.of(store)
    groups = [
        Group(tuple(cells), _of_cells(rows, cells), _of_cells(trials, cells), work)
        for cells in _grouped(study.cells, study.sizes)
    ]
    failures = [(cell, error) for cell in study.cells if (error := state.error(cell))]
    return Evidence(
        study, _families(groups, study.sizes), rows, len(trials["lr"]), failures, environments
    )


def _grouped(cells: Sequence[Cell], sizes: Set[str]) -> list[list[Cell]]:
    """Cells by all that is not their width and depth, nor how η* was looked for.

    Where the search is itself what is varied, so that a network would stand twice in one group, it
    counts too.
    """
    found = _by_fields(cells, OF_THE_SEARCH | sizes)
    for members in found:
        if len(members) > len({(cell.settings.width, cell.settings.depth) for cell in members}):
            return _by_fields(cells, sizes)
    return found


def _by_fields(cells: Sequence[Cell], without: Set[str]) -> list[list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        fields = {k: v for k, v in cell.fields.items() if k not in without | NOT_IDENTITY}
        found.setdefault(json.dumps(fields), []).append(cell)
    return list(found.values())


def _of_cells(table: Columns, cells: Sequence[Cell]) -> Columns:
    """The rows of these cells."""
    own = {cell.id for cell in cells}
    keep = [i for i, identity in enumerate(table["cell"]) if identity in own]
    return {name: [column[i] for i in keep] for name, column in table.items()}


def _families(groups: Sequence[Group], sizes: Set[str]) -> tuple[Family, ...]:
    """Groups by all that is not κ and loss, nor follows from the loss by default."""
    sorted_groups: dict[str, list[Group]] = {}
    for group in groups:
        settings = {
            k: v for k, v in group.cells[0].fields.items() if k not in _OWN | sizes | NOT_IDENTITY
        }
        default = DEFAULTS.get(settings["dataset"])
        if default and settings["epochs"] == default.epochs[group.loss]:
            settings["epochs"] = "default"
        sorted_groups.setdefault(json.dumps(settings), []).append(group)
    shared = [json.loads(key) for key in sorted_groups]
    varied = [k for k in shared[0] if len({repr(s[k]) for s in shared}) > 1 and k != "dataset"]
    losses = list(dict.fromkeys(group.loss for group in groups))
    members = [
        tuple(sorted(some, key=lambda g: (losses.index(g.loss), g.kappa)))
        for some in sorted_groups.values()
    ]
    families = list(zip(shared, members, strict=True))
    return tuple(
        Family(
            own,
            settings,
            ", ".join([settings["dataset"], *(f"{k} = {settings[k]}" for k in varied)]).replace(
                "_", " "
            ),
            {k: _beside(families, settings, k) for k in ("parametrization", "batch_size")},
        )
        for settings, own in families
    )


def _beside(
    families: Sequence[tuple[dict[str, Any], tuple[Group, ...]]], own: dict[str, Any], name: str
) -> list[tuple[Any, tuple[Group, ...]]]:
    """Values of a setting, each with the groups of the family that differs in it alone."""
    apart = OF_THE_SEARCH | {name}  # rates that are tried may go with it

    def others(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key not in apart}

    return [(s[name], groups) for s, groups in families if others(s) == others(own)]


def _work(
    store: Store, study: Study
) -> tuple[dict[str, tuple[float, int]], list[tuple[Mapping[str, Any], int]]]:
    """Time and seeds by specification, and the environments, of this study's tasks."""
    wanted = {identity for cell in study.cells for identity in (cell.id, cell.sharpness_id)}
    work: dict[str, tuple[float, int]] = {}
    environments: Counter[str] = Counter()
    query = "SELECT id, seeds, seconds, environment FROM work JOIN specification ON key = cell"
    for identity, seeds, spent, environment in store.rows(query):
        if identity in wanted:
            seconds, before = work.get(identity, (0.0, 0))
            work[identity] = seconds + spent, before + len(json.loads(seeds))
            environments[environment] += 1
    return work, [(json.loads(text), tasks) for text, tasks in environments.most_common()]
