"""What a study has measured, sorted into groups that share one law, with everything fitted to them.

A *group* is all networks that differ in width and depth only. A *family* is the groups that differ
in κ and loss only, and is what the page gives a chapter. Every fit is made when it is first asked
for; one that cannot be made says why, and the page prints that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from etastar.errors import ConfigError
from etastar.report.chart import BoolArray, FloatArray
from etastar.scaling import (
    CellEstimates,
    CellTable,
    Comparison,
    HeldOut,
    PowerLawFit,
    Region,
    Response,
    SlopeFit,
    compare_forms,
    estimate_cells,
    extrapolate,
    find_region,
    fit_cell_slope,
    fit_power_law,
)
from etastar.settings import DEFAULTS
from etastar.study.cell import Cell
from etastar.study.laws import OF_THE_SEARCH
from etastar.study.plan import State
from etastar.study.specification import Study
from etastar.study.store import Store
from etastar.study.tables import NOT_A_COLUMN, Columns, seed_columns, trial_columns

N_BOOT = 1000
"""Bootstrap replicates of the exponents that are quoted."""
FRACTION = 0.25
"""Predictions are made from networks with n·L up to this share of the largest."""
LEVEL = 0.9
"""Coverage of prediction intervals."""
LAW_FORMS = ("product", "separate")
"""The laws that figures show: one exponent of n·L, and separate exponents."""
_OWN = {"width", "depth", "input_lr_ratio", "loss"}
_LABELS = ("input_lr_ratio", "loss", "inputs", "output_variance")

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """A fit, or why there is none."""

    value: T | None
    reason: str = ""

    @classmethod
    def of(cls, make: Callable[[], T]) -> Attempt[T]:
        """Try it."""
        try:
            return cls(make())
        except ConfigError as error:
            return cls(None, str(error))


@dataclass(frozen=True, eq=False)
class HeldOutCells:
    """Networks that were predicted from smaller ones; arrays are `[T]`, in η.

    Attributes:
        fit: To the smaller networks.
        width, depth: Of the predicted ones.
        measured: Median over seeds.
        predicted: By the law.
        low, high: Prediction interval at `LEVEL`.
        summary: Error and coverage.
    """

    fit: PowerLawFit
    width: FloatArray
    depth: FloatArray
    measured: FloatArray
    predicted: FloatArray
    low: FloatArray
    high: FloatArray
    summary: HeldOut


@dataclass(frozen=True, eq=False)
class Group:
    """All networks under one set of conditions.

    Attributes:
        cells: Of the study, measured or not.
        rows: Columns of `study.tables.SEED_COLUMNS`, only those of these cells.
        trials: Columns of `study.tables.TRIAL_COLUMNS`, likewise.
        seconds: Wall-clock seconds and seeds of every finished task, `{hash: (seconds, seeds)}`.
    """

    cells: tuple[Cell, ...]
    rows: Columns
    trials: Columns
    seconds: Mapping[str, tuple[float, int]]

    @property
    def kappa(self) -> float:
        """κ."""
        return float(self.cells[0].fields["input_lr_ratio"])

    @property
    def loss(self) -> str:
        """The loss."""
        return str(self.cells[0].fields["loss"])

    @property
    def name(self) -> str:
        """`cross-entropy, κ = 0.1`."""
        return f"{self.loss}, κ = {self.kappa:g}"

    @property
    def wanted(self) -> int:
        """Seeds of η* that the study asks for."""
        return sum(len(cell.seeds) for cell in self.cells)

    @property
    def measured(self) -> int:
        """Seeds of η* whose search has ended."""
        return len(self.rows["seed"])

    @cached_property
    def statuses(self) -> Counter[str]:
        """Seeds by status."""
        return Counter(self.rows["status"])

    @cached_property
    def ends(self) -> Counter[str]:
        """Bracketed seeds by what ended the bracket: `diverged`, `dead` or `short`."""
        return Counter(why for why in self.rows["hi_outcome"] if why)

    @cached_property
    def ids(self) -> dict[tuple[int, int], str]:
        """Hashes of the cells, by width and depth."""
        return {(cell.settings.width, cell.settings.depth): cell.id for cell in self.cells}

    def cell_id(self, width: float, depth: float) -> str:
        """Hash of the cell of this width and depth."""
        return self.ids[round(width), round(depth)]

    @cached_property
    def table(self) -> Attempt[CellTable]:
        """What scaling laws are fitted to."""
        if not self.measured:
            return Attempt(None, "nothing has been measured yet.")
        labels = [name for name in _LABELS if None not in self.rows[name]]
        return Attempt.of(lambda: CellTable.from_columns(self.rows, group_by=labels))

    def _with_table(self, make: Callable[[CellTable], T]) -> Attempt[T]:
        table = self.table
        if table.value is None:
            return Attempt(None, table.reason)
        cells = table.value
        return Attempt.of(lambda: make(cells))

    @cached_property
    def _estimates(self) -> dict[Response, Attempt[CellEstimates]]:
        return {}

    def estimates(self, response: Response = "eta_star") -> Attempt[CellEstimates]:
        """Medians of η* or λ1, per cell of `table`."""
        if response not in self._estimates:
            self._estimates[response] = self._with_table(lambda t: estimate_cells(t, response))
        return self._estimates[response]

    @cached_property
    def _fits(self) -> dict[tuple[str, Response], Attempt[PowerLawFit]]:
        return {}

    def law(self, form: str = "product", response: Response = "eta_star") -> Attempt[PowerLawFit]:
        """A law fitted to all networks of the group, with bootstrap intervals."""
        key = form, response
        if key not in self._fits:
            self._fits[key] = self._with_table(
                lambda t: fit_power_law(t, form=form, response=response, n_boot=N_BOOT)
            )
        return self._fits[key]

    @cached_property
    def comparison(self) -> Attempt[Comparison]:
        """Several laws, and rules in use, judged by networks that they have not seen."""
        return self._with_table(_compare)

    @cached_property
    def region(self) -> Attempt[Region]:
        """Where the law with separate exponents holds."""
        return self._with_table(lambda t: find_region(t, n_boot=0))

    @cached_property
    def slope(self) -> Attempt[SlopeFit]:
        """Of log η* on log λ1 over the networks."""
        return self._with_table(fit_cell_slope)

    @cached_property
    def _held_out(self) -> dict[str, Attempt[HeldOutCells]]:
        return {}

    def held_out(self, form: str) -> Attempt[HeldOutCells]:
        """The large networks, predicted from the small ones."""
        if form not in self._held_out:
            self._held_out[form] = self._with_table(lambda t: _hold_out(t, form))
        return self._held_out[form]

    def budget_share(self) -> FloatArray:
        """Share of the bracketed seeds whose bracket ends for lack of time, per cell of `table`.

        NaN for a cell without a bracketed seed.
        """
        cells = self.table.value
        if cells is None:
            return np.zeros(0)
        short, all_of = Counter[str](), Counter[str]()
        for identity, why in zip(self.rows["cell"], self.rows["hi_outcome"], strict=True):
            if why:
                all_of[identity] += 1
                short[identity] += why == "short"
        return np.array(
            [
                short[i] / all_of[i] if all_of[i] else np.nan
                for i in (self.cell_id(n, d) for n, d in zip(cells.width, cells.depth, strict=True))
            ]
        )


def _small(cells: CellTable, estimates: CellEstimates) -> BoolArray:
    """The networks that the others are predicted from."""
    size = cells.width * cells.depth
    largest = size[estimates.used].max(initial=0.0)
    return estimates.used & (size <= FRACTION * largest * (1 + 1e-9))


def _compare(cells: CellTable) -> Comparison:
    """`scaling.compare_forms`, with nothing held out where nothing is small enough to fit."""
    fraction = FRACTION if _small(cells, estimate_cells(cells)).any() else 1.0
    return compare_forms(cells, fraction=fraction, level=LEVEL, n_boot=0)


def _hold_out(cells: CellTable, form: str) -> HeldOutCells:
    """What `scaling.extrapolate` judges, network by network."""
    estimates = estimate_cells(cells)
    small = _small(cells, estimates)
    if not small.any():
        raise ConfigError(
            f"no network with a known η* has n·L up to {FRACTION:g} of the largest, so there is "
            "nothing to predict from."
        )
    summary = extrapolate(cells, form=form, fraction=FRACTION, level=LEVEL)
    fit = fit_power_law(cells.subset(small), form=form, n_boot=0)
    test = estimates.used & ~small
    width, depth = cells.width[test], cells.depth[test]
    centre = fit.predict_log(width, depth)
    half = fit.half_width_log(width, depth, estimates.informative[test].astype(float), LEVEL)
    return HeldOutCells(
        fit=fit,
        width=width,
        depth=depth,
        measured=np.exp(estimates.value[test]),
        predicted=np.exp(centre),
        low=np.exp(centre - half),
        high=np.exp(centre + half),
        summary=summary,
    )


@dataclass(frozen=True, eq=False)
class Family:
    """Groups that differ in κ and loss only, in that order.

    Attributes:
        groups: At least one.
        settings: What they share: every setting but width, depth, κ and loss.
        apart: Of these, what tells the family from the study's others; empty if it is alone.
    """

    groups: tuple[Group, ...]
    settings: Mapping[str, Any]
    apart: Mapping[str, Any]

    @property
    def losses(self) -> list[str]:
        """In the order of the study."""
        return list(dict.fromkeys(group.loss for group in self.groups))

    @property
    def kappas(self) -> list[float]:
        """Ascending."""
        return sorted({group.kappa for group in self.groups})

    @property
    def name(self) -> str:
        """The dataset, and what else tells the family from others."""
        others = [f"{k} = {v}" for k, v in self.apart.items() if k != "dataset"]
        return ", ".join([str(self.settings["dataset"]), *others]).replace("_", " ")

    def of_loss(self, loss: str) -> list[Group]:
        """Its groups, by κ."""
        return [group for group in self.groups if group.loss == loss]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that the report says is drawn from here.

    Attributes:
        study: The study.
        families: At least one.
        rows: All rows of seeds.
        trials: Number of trials.
        failures: Cells that were given up, with the error.
        environments: Versions and machines, each with the number of tasks that it did.
    """

    study: Study
    families: tuple[Family, ...]
    rows: Columns
    trials: int
    failures: Sequence[tuple[Cell, str]]
    environments: Sequence[tuple[Mapping[str, Any], int]]

    @property
    def groups(self) -> list[Group]:
        """Of all families."""
        return [group for family in self.families for group in family.groups]


def collect(study: Study, store: Store) -> Evidence:
    """Read a study's results.

    Args:
        study: The study.
        store: Its store.

    Raises:
        StoreError: The store cannot be read.
    """
    rows, trials = seed_columns(study, store), trial_columns(study, store)
    seconds, environments = _work(store, study)
    state = State.of(store)
    sorted_cells = _grouped(study.cells)
    rows_of, trials_of = (_split(table, sorted_cells) for table in (rows, trials))
    groups = [
        Group(tuple(cells), rows_of[key], trials_of[key], seconds)
        for key, cells in sorted_cells.items()
    ]
    failures = [(cell, error) for cell in study.cells if (error := state.error(cell))]
    return Evidence(study, _families(groups), rows, len(trials["lr"]), failures, environments)


def _grouped(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by all that is not their width and depth, nor how η* was looked for.

    Where the search is itself what is varied, so that a network would stand twice in one group, it
    counts too.
    """
    found = _by_fields(cells, OF_THE_SEARCH)
    networks = Counter(
        (key, cell.settings.width, cell.settings.depth)
        for key, members in found.items()
        for cell in members
    )
    if networks and max(networks.values()) > 1:
        return _by_fields(cells, {"width", "depth"})
    return found


def _by_fields(cells: Sequence[Cell], without: Set[str]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        fields = {k: v for k, v in cell.fields.items() if k not in without | NOT_A_COLUMN}
        found.setdefault(json.dumps(fields), []).append(cell)
    return found


def _split(table: Columns, groups: Mapping[str, Sequence[Cell]]) -> dict[str, Columns]:
    """The rows of every group."""
    group_of = {cell.id: number for number, cells in enumerate(groups.values()) for cell in cells}
    number = np.array([group_of[identity] for identity in table["cell"]], dtype=np.int64)
    if len(groups) == 1:
        return dict.fromkeys(groups, table)
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(len(groups) + 1))
    picks = [order[ends[i] : ends[i + 1]].tolist() for i in range(len(groups))]
    return {
        key: {name: [column[i] for i in pick] for name, column in table.items()}
        for key, pick in zip(groups, picks, strict=True)
    }


def _families(groups: Sequence[Group]) -> tuple[Family, ...]:
    """Groups by all that is not κ and loss, nor follows from the loss by default."""
    sorted_groups: dict[str, list[Group]] = {}
    for group in groups:
        settings = {k: v for k, v in group.cells[0].fields.items() if k not in _OWN | NOT_A_COLUMN}
        default = DEFAULTS.get(settings["dataset"])
        if default and settings["epochs"] == default.epochs[group.loss]:
            settings["epochs"] = "default"
        sorted_groups.setdefault(json.dumps(settings), []).append(group)
    shared = [json.loads(key) for key in sorted_groups]
    varied = [k for k in shared[0] if len({repr(s[k]) for s in shared}) > 1]
    return tuple(
        Family(
            tuple(sorted(members, key=lambda g: (losses.index(g.loss), g.kappa))),
            settings,
            {k: settings[k] for k in varied},
        )
        for settings, members in zip(shared, sorted_groups.values(), strict=True)
        for losses in [list(dict.fromkeys(g.loss for g in members))]
    )


def _work(
    store: Store, study: Study
) -> tuple[dict[str, tuple[float, int]], list[tuple[Mapping[str, Any], int]]]:
    """Time and seeds by specification, and the environments, of this study's tasks."""
    wanted = {identity for cell in study.cells for identity in (cell.id, cell.sharpness_id)}
    seconds: dict[str, tuple[float, int]] = {}
    environments: Counter[str] = Counter()
    query = "SELECT id, seeds, seconds, environment FROM work JOIN specification ON key = cell"
    for identity, seeds, spent, environment in store.rows(query):
        if identity in wanted:
            before = seconds.get(identity, (0.0, 0))
            seconds[identity] = before[0] + spent, before[1] + len(json.loads(seeds))
            environments[environment] += 1
    return seconds, [(json.loads(text), tasks) for text, tasks in environments.most_common()]
