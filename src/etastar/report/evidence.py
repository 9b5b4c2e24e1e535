"""What a study has measured, sorted into groups that share one law, with everything fitted to them.

A *group* is all networks that differ in width and depth only. A *family* is the groups that differ
in κ and loss only, and is what the page gives a chapter. Every fit is made when it is first asked
for; one that cannot be made says why, and the page prints that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from etastar.errors import ConfigError
from etastar.report.chart import FloatArray
from etastar.scaling import (
    CellTable,
    Comparison,
    HeldOut,
    PowerLawFit,
    Region,
    Response,
    SlopeFit,
    compare_forms,
    extrapolate,
    find_region,
    fit_cell_slope,
    fit_power_law,
)
from etastar.study.cell import Cell
from etastar.study.export import Columns
from etastar.study.specification import Study

FRACTION = 0.25
"""Predictions are made from networks with n·L up to this share of the largest."""
LEVEL = 0.9
"""Coverage of prediction intervals."""
PREDICTORS = {
    "process": "Gaussian process around a·n^{b}L^{c}",
    "product": "one exponent, a·(nL)^{b}",
    "separate": "separate exponents, a·n^{b}L^{c}",
}
"""What predicts large networks from small ones, as figures call it; what `predict` uses first."""
OF_BRACKETS = {
    "axis": "η*, median over seeds",
    "eta": "the median over its seeds, with its 95 % interval from the spread over seeds and the "
    "width of the brackets",
    "ended": "most of the network's brackets end because the budget was spent",
    "share": "share of brackets that the budget ends",
    "lost": "whose median seed trains nowhere",
    "none": "No network has a bracketed η*, so there is nothing to draw.",
    "noise": "the seed noise of the measured median",
}
OF_CURVES = {
    "axis": "η₅₀, where half of fresh seeds train",
    "eta": "the rate at which half of fresh seeds train (η₅₀ of its success curve), with the "
    "95 % interval of the curve",
    "ended": "η₅₀ ends because the budget was spent",
    "share": "ended by the budget (1: yes)",
    "lost": "of which no rate trains half of fresh seeds",
    "none": "No network has a known η₅₀, so there is nothing to draw.",
    "noise": "the noise of the measured curve",
}
_LABELS = ("input_lr_ratio", "loss", "inputs", "output_variance")

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """Up to so many of these, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


@dataclass(frozen=True, eq=False)
class Group:
    """All networks under one set of conditions.

    Attributes:
        cells: Its cells in the study, measured or not.
        rows: Columns of `study.export.SEED_COLUMNS`, only those of these cells.
        trials: Columns of `study.export.TRIAL_COLUMNS`, likewise.
        work: Wall-clock seconds and seeds of finished tasks, by the hash of their specification.
    """

    cells: tuple[Cell, ...]
    rows: Columns
    trials: Columns
    work: Mapping[str, tuple[float, int]]
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

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
        """Number of seeds of η*, or of curves, that the study asks for."""
        return sum(len(cell.wanted) for cell in self.cells)

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
        """Seeds by what ended η*: `diverged`, `dead`, `short`, of curves `collapsed`, too."""
        return Counter(why for why in self.rows["hi_outcome"] if why)

    @cached_property
    def ids(self) -> dict[tuple[int, int], str]:
        """Hashes of the cells, by width and depth."""
        return {(cell.settings.width, cell.settings.depth): cell.id for cell in self.cells}

    def by_cell(self, *names: str) -> dict[str, list[list[Any]]]:
        """The values of these columns of `rows`, row by row, by the hash of the cell."""
        found: dict[str, list[list[Any]]] = {}
        columns = (self.rows[name] for name in ("cell", *names))
        for identity, *values in zip(*columns, strict=True):
            found.setdefault(identity, []).append(values)
        return found

    def cell_id(self, width: float, depth: float) -> str:
        """Hash of the cell of this width and depth."""
        return self.ids[round(width), round(depth)]

    @property
    def cost(self) -> dict[str, float]:
        """What the group took; λ1 that several groups share counts for each of them in full."""
        ids = {i for cell in self.cells for i in (cell.id, cell.sharpness_id)}
        return {
            "networks": len(set(self.rows["cell"])),
            "seeds": self.measured,
            "trials": sum(self.rows["trials"]),
            "steps": sum(self.rows["steps"]),
            "seconds": sum((spent for i, (spent, _) in self.work.items() if i in ids), 0.0),
        }

    @property
    def lambda1_open(self) -> int | None:
        """Seeds whose λ1 did not converge; None if it was not measured."""
        flags = [flag for flag in self.rows["lambda1_converged"] if flag is not None]
        return len(flags) - sum(flags) if flags else None

    @cached_property
    def table(self) -> CellTable:
        """What scaling laws are fitted to.

        Raises:
            ConfigError: Nothing has been measured yet, or a row holds what cannot be.
        """
        if not self.measured:
            raise ConfigError("nothing has been measured yet.")
        labels = [name for name in _LABELS if None not in self.rows[name]]
        return CellTable.from_columns(self.rows, group_by=labels)

    def found(self, find: Callable[..., T], **options: Any) -> T | str:
        """What a function of `scaling` finds in `table`, or why it finds nothing.

        Args:
            find: Takes the table first; it is called once for the same options.
            **options: Its other arguments.
        """
        key = find, *options.items()
        if key not in self._known:
            try:
                self._known[key] = find(self.table, **options)
            except ConfigError as error:
                self._known[key] = str(error)
        return cast("T | str", self._known[key])

    def law(self, form: str = "product", response: Response = "eta_star") -> PowerLawFit | str:
        """A law fitted to all networks of the group."""
        return self.found(fit_power_law, form=form, response=response)

    @property
    def comparison(self) -> Comparison | str:
        """Several laws, and rules in use, judged by networks that they have not seen."""
        return self.found(compare_forms, fraction=FRACTION, level=LEVEL)

    @property
    def region(self) -> Region | str:
        """Where the law with separate exponents holds."""
        return self.found(find_region)

    @property
    def slope(self) -> SlopeFit | str:
        """The slope of log η* on log λ1 over the networks."""
        return self.found(fit_cell_slope)

    def held_out(self, form: str) -> HeldOut | str:
        """The large networks, predicted from the small ones."""
        return self.found(extrapolate, form=form, fraction=FRACTION, level=LEVEL)

    def budget_share(self) -> FloatArray:
        """Share of the bracketed seeds whose bracket ends for lack of time, per cell of `table`.

        NaN for a cell without a bracketed seed.
        """
        shares = {}
        for identity, rows in self.by_cell("hi_outcome").items():
            if ends := [why for (why,) in rows if why]:
                shares[identity] = ends.count("short") / len(ends)
        networks = zip(self.table.width, self.table.depth, strict=True)
        return np.array([shares.get(self.cell_id(n, d), np.nan) for n, d in networks])


@dataclass(frozen=True, eq=False)
class Family:
    """Groups that differ in κ and loss only, in that order.

    Attributes:
        groups: At least one.
        settings: What they share: every setting but width, depth, κ and loss.
        name: The dataset, and what else tells the family from the study's others.
        beside: By setting, its values and the groups of the families that differ in it alone, this
            one among them.
    """

    groups: tuple[Group, ...]
    settings: Mapping[str, Any]
    name: str
    beside: Mapping[str, Sequence[tuple[Any, tuple[Group, ...]]]]

    @property
    def losses(self) -> list[str]:
        """Its losses, in the order of the study."""
        return list(dict.fromkeys(group.loss for group in self.groups))

    @property
    def kappas(self) -> list[float]:
        """Its values of κ, ascending."""
        return sorted({group.kappa for group in self.groups})

    @property
    def curve(self) -> bool:
        """Whether success curves were measured, rather than brackets of seeds."""
        return bool(self.settings["strategy"] == "curve")

    @property
    def words(self) -> Mapping[str, str]:
        """What captions call η*, its interval and its ends."""
        return OF_CURVES if self.curve else OF_BRACKETS

    def sizes(self, name: str) -> list[int]:
        """Its widths or depths, ascending: `width` or `depth`."""
        return sorted({getattr(cell.settings, name) for g in self.groups for cell in g.cells})

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
        """The groups of all families."""
        return [group for family in self.families for group in family.groups]
