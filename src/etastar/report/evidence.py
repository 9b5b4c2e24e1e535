"""What a study has measured, sorted into groups that share one law, with everything fitted to them.

A *group* is all networks that differ in width and depth only. A *family* is the groups that differ
in κ and loss only, and is what the page gives a chapter. Every fit is made when it is first asked
for; one that cannot be made says why, and the page prints that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from etastar.study.cell import Cell
from etastar.study.export import Columns
from etastar.study.specification import Study

N_BOOT = 1000
"""Bootstrap replicates of the exponents that are quoted."""
FRACTION = 0.25
"""Predictions are made from networks with n·L up to this share of the largest."""
LEVEL = 0.9
"""Coverage of prediction intervals."""
LAW_FORMS = ("product", "separate")
"""The laws that figures show: one exponent of n·L, and separate exponents."""
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
    return np.asarray(estimates.used & (size <= FRACTION * largest * (1 + 1e-9)))


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
