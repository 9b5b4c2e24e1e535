"""The table that scaling laws are fitted to: cells (networks) and their seeds, checked and sorted.

A *cell* is one network under one set of conditions: (width, depth) and the group labels κ, loss,
dataset, .... A cell holds one row per seed. Seeds are clusters, nested in their cell: seed 3 of one
network and seed 3 of another share a name and nothing else, because networks of different shapes
draw different weights from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from etastar.checking import check_choice
from etastar.errors import ConfigError, unknown_name
from etastar.search.base import Status

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Response: TypeAlias = Literal["eta_star", "lambda1", "eta_lambda1"]
SeedValues: TypeAlias = tuple[IntArray, FloatArray, FloatArray]
"""What the seeds say of one response, each `[S]` and sorted by cell: the index of the cell, and the
lower and upper end of the logarithm. η* is (−∞, −∞) for a seed that trained nowhere in its range,
and ends in ∞ for one that trained at the top of it."""

RESPONSES: tuple[Response, ...] = ("eta_star", "lambda1", "eta_lambda1")
"""What a law may be fitted to: η*, λ1, or their product, taken seed by seed."""
STATUSES: tuple[Status, ...] = get_args(Status)
"""What the search for a seed may end as, in the order of the codes below."""
BRACKETED, ALL_TRAINED, NONE_TRAINED = range(len(STATUSES))
SHARPNESS_NAMES = ("lambda1_preconditioned", "lambda1")
"""The field that λ1 is read from, and what it was called in 0.1.0; the first one given is taken."""
LAMBDA1_ERROR = "lambda1_error"
"""The field of a curve's error of λ1."""
INTERRUPTED = "interrupted"
"""Status of a curve that a cap ended before anything of η* was known: it tells nothing."""
CURVE = ("eta", "eta_ci_low", "eta_ci_high")
"""Fields that stand for the bracket in the row of a curve: η_50 and its 95 % interval."""
_HALF_WIDTH = math.sqrt(3) / (2 * 1.959964)
"""Half the width of a uniform law over that of the normal 95 % interval of equal variance."""
_OF_SEEDS = ("seed", "status", "log_lo", "log_hi", "log_lambda1", "lambda1_error")
_NUMBER_LABELS = frozenset({"input_lr_ratio", "inputs", "output_variance"})
_NOT_LABELS = frozenset(
    {"width", "depth", "seed", "status", "eta_lo", "eta_hi", *SHARPNESS_NAMES, "cell", "hi_outcome"}
)


@dataclass(frozen=True, eq=False)
class CellTable:
    """Cells and their seeds; made by `CellTable.from_rows` or `CellTable.from_columns`.

    Cells are sorted by labels, width and depth, seeds by their number, so a table, and every
    bootstrap drawn from it, does not depend on the order of the rows it was made of.

    Attributes:
        width: n of every cell, `[M]`.
        depth: L of every cell, `[M]`.
        labels: Group labels (κ, loss, dataset, ...) of every cell, each `[M]`.
        cell: Index of the cell of every seed, non-decreasing, `[S]`.
        seed: The seed's number, `[S]`.
        status: Index into `STATUSES`, `[S]`.
        log_lo: log of the highest learning rate that trained, `[S]`; −∞ if none did.
        log_hi: log of the next one, which failed, `[S]`; ∞ if all trained, −∞ if none did.
        log_lambda1: log of the sharpness at initialisation, `[S]`; NaN where not measured.
        lambda1_error: Its standard error, `[S]`, where it is itself a median over seeds; else 0.
        capped: Success curves that were left out, since a cap ended them before anything of η* was
            known; of a subset not told.
    """

    width: FloatArray
    depth: FloatArray
    labels: Mapping[str, npt.NDArray[Any]]
    cell: IntArray
    seed: IntArray
    status: IntArray
    log_lo: FloatArray
    log_hi: FloatArray
    log_lambda1: FloatArray
    lambda1_error: FloatArray
    capped: int = 0

    @classmethod
    def from_rows(
        cls, rows: Sequence[Mapping[str, Any]], *, group_by: Sequence[str] | None = None
    ) -> CellTable:
        """Build a table from one mapping per network and seed.

        Args:
            rows: Each with `width`, `depth`, `input_lr_ratio`, `loss`, `seed`, `status`,
                `eta_lo`, `eta_hi`, and optionally `lambda1_preconditioned` and further labels;
                of curves `lambda1_error` too, the standard error of the logarithm of that median.
                `eta_hi` is not read where the status is all-trained, nor either end where it is
                none-trained. A row whose `seed` is None is of a success curve, one per network:
                in place of the bracket it has `eta`, `eta_ci_low` and `eta_ci_high`.
            group_by: Labels beside width and depth that tell cells apart. By default
                `input_lr_ratio`, `inputs` (input dimension d), `output_variance` and every field
                whose values are strings.

        Returns:
            The table, sorted.

        Raises:
            ConfigError: A row lacks a field or holds a value that cannot be; the message names
                the row, by its index, and the field.
        """
        if not rows:
            raise ConfigError("no rows to fit: expected at least one seed of one network, got 0.")
        names = list(rows[0])
        for index, row in enumerate(rows):
            if missing := [name for name in names if name not in row]:
                raise _bad_row(index, missing[0], "a value, as in row 0", "no such field")
        columns = {name: [row[name] for row in rows] for name in names}
        return cls.from_columns(columns, group_by=group_by)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Sequence[Any]], *, group_by: Sequence[str] | None = None
    ) -> CellTable:
        """Build a table from one sequence per field: see `from_rows`.

        Raises:
            ConfigError: As `from_rows`.
        """
        required = ("width", "depth", "input_lr_ratio", "loss", "seed", "status", "eta_lo")
        for name in (*required, "eta_hi"):
            if name not in columns:
                raise ConfigError(
                    f"the rows have no field {name!r}; expected {', '.join(required)} and eta_hi, "
                    f"got {', '.join(columns)}."
                )
        capped = list(columns["status"]).count(INTERRUPTED)
        columns = _with_curves(_told(columns))
        count = len(columns["width"])
        status = _status_codes(columns)
        width = _whole(columns, "width", 1)
        depth = _whole(columns, "depth", 1)
        seed = _whole(columns, "seed", 0)
        log_lo = _log_rates(columns, "eta_lo", status != NONE_TRAINED)
        log_hi = _log_rates(columns, "eta_hi", status == BRACKETED)
        log_hi[status == ALL_TRAINED] = np.inf
        log_lo[status == NONE_TRAINED] = log_hi[status == NONE_TRAINED] = -np.inf
        below = (status == BRACKETED) & (log_hi < log_lo)
        _refuse(below, columns, "eta_hi", "at least eta_lo = {eta_lo}")
        sharpness = next((name for name in SHARPNESS_NAMES if name in columns), SHARPNESS_NAMES[0])
        known = ~np.isnan(_numbers(columns, sharpness, missing=True))
        log_lambda1 = _log_rates(columns, sharpness, known)
        error = np.nan_to_num(_numbers(columns, LAMBDA1_ERROR, missing=True))
        labels = {name: _label(columns, name) for name in _label_names(columns, group_by)}
        keys = [*labels.values(), width.astype(float), depth.astype(float)]
        codes = [np.unique(key, return_inverse=True)[1] for key in keys]
        order = np.lexsort([seed, *reversed(codes)])
        stacked = np.stack(codes, 1)[order]
        new = np.ones(count, dtype=bool)
        new[1:] = np.any(stacked[1:] != stacked[:-1], 1)
        cell = np.cumsum(new) - 1
        twice = np.flatnonzero(~new[1:] & (seed[order][1:] == seed[order][:-1]))
        if twice.size:
            i, j = sorted((int(order[twice[0]]), int(order[twice[0] + 1])))
            raise ConfigError(
                f"rows {i} and {j} hold the same seed {seed[i]} of the same cell (width "
                f"{width[i]}, depth {depth[i]}); expected one row per cell and seed. Name what "
                f"tells them apart in group_by, now: {', '.join(labels)}."
            )
        first = order[new]
        return cls(
            width=width[first].astype(float),
            depth=depth[first].astype(float),
            labels={name: label[first] for name, label in labels.items()},
            cell=cell.astype(np.int64),
            seed=seed[order],
            status=status[order],
            log_lo=log_lo[order],
            log_hi=log_hi[order],
            log_lambda1=log_lambda1[order],
            lambda1_error=error[order],
            capped=capped,
        )

    def __len__(self) -> int:
        """Number of cells M."""
        return len(self.width)

    def subset(self, cells: BoolArray) -> CellTable:
        """The table of the cells where the mask `[M]` is true."""
        kept = cells[self.cell]
        of_seeds = {name: getattr(self, name)[kept] for name in _OF_SEEDS}
        return CellTable(
            width=self.width[cells],
            depth=self.depth[cells],
            labels={name: label[cells] for name, label in self.labels.items()},
            cell=(np.cumsum(cells) - 1)[self.cell[kept]].astype(np.int64),
            **of_seeds,
        )

    def select(self, **labels: str | float) -> CellTable:
        """The cells with these labels, e.g. `select(loss="mse", input_lr_ratio=0.1)`.

        Raises:
            ConfigError: A label, or its value, is in no cell.
        """
        mask = np.ones(len(self), dtype=bool)
        for name, value in labels.items():
            if name not in self.labels:
                raise unknown_name("label", name, self.labels)
            here = self.labels[name] == value
            if not here.any():
                known = ", ".join(str(v) for v in np.unique(self.labels[name]))
                raise ConfigError(f"{name} = {value!r} was never measured; measured: {known}.")
            mask &= here
        if not mask.any():
            wanted = ", ".join(f"{k} = {v!r}" for k, v in labels.items())
            raise ConfigError(f"no cell has {wanted} together; each occurs with other labels only.")
        return self.subset(mask)

    def groups(self) -> Iterator[tuple[dict[str, str | float], CellTable]]:
        """Every combination of labels that occurs, with its cells, in sorted order."""
        codes = [np.unique(label, return_inverse=True)[1] for label in self.labels.values()]
        stacked = np.stack(codes, 1) if codes else np.zeros((len(self), 1), dtype=np.int64)
        for key in np.unique(stacked, axis=0):
            mask = np.all(stacked == key, 1)
            index = int(np.argmax(mask))
            values = {name: label[index].item() for name, label in self.labels.items()}
            yield values, self.subset(mask)

    def the_labels(self) -> dict[str, str | float]:
        """The labels that all cells share.

        Raises:
            ConfigError: A label takes several values: one law cannot be fitted across them.
        """
        for name, label in self.labels.items():
            values = np.unique(label)
            if len(values) > 1:
                raise ConfigError(
                    f"the cells mix several values of {name}: "
                    f"{', '.join(str(v) for v in values)}. A law is fitted to one group: choose "
                    f"with cells.select({name}=...), or loop over cells.groups()."
                )
        return {name: label[0].item() for name, label in self.labels.items()}

    def values(self, response: Response = "eta_star") -> SeedValues:
        """The seeds of one response: for η* all of them, else those with a known λ1.

        Raises:
            ConfigError: The response is unknown, or needs λ1 and the rows have none.
        """
        check_choice("response", response, RESPONSES)
        if response == "eta_star":
            lo, hi = self.log_lo, self.log_hi
        else:
            if np.all(np.isnan(self.log_lambda1)):
                raise ConfigError(
                    f"{response} needs the field {SHARPNESS_NAMES[0]!r}, and no row has it: a "
                    "study measures it whose file sets sharpness to true."
                )
            with_eta = float(response == "eta_lambda1")
            # 0 · inf is NaN, so λ1 alone is not written as a product with the censored η*
            lo = self.log_lambda1 + self.log_lo if with_eta else self.log_lambda1
            hi = self.log_lambda1 + self.log_hi if with_eta else self.log_lambda1
            # as of curves: log λ1 uniform in a bracket has the standard deviation of its error
            half = np.where(np.isfinite(lo) & np.isfinite(hi), (hi - lo) / 2, 0.0)
            more = np.hypot(half, np.sqrt(3.0) * self.lambda1_error) - half
            lo, hi = lo - more, hi + more
        known = ~np.isnan(lo)
        return self.cell[known], lo[known], hi[known]


def _told(columns: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    """Leave out the curves that a cap ended before anything was known; raise if all are such."""
    if INTERRUPTED not in columns["status"]:
        return columns
    told = [i for i, status in enumerate(columns["status"]) if status != INTERRUPTED]
    if not told:
        raise ConfigError(
            "nothing is known of any η*: caps ended every search. Raise `trials` or `budgets`."
        )
    return {name: [values[i] for i in told] for name, values in columns.items()}


def _with_curves(columns: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    """Give the rows of success curves, which have no seed, one of their own and a bracket.

    The bracket lies around η_50, and log η uniform in it has the standard deviation that the 95 %
    interval has. An end of the interval beyond the range that was searched is the range's end. A
    curve that trains (p above ½) but whose η_50 is not known is censored from below: at the lower
    end of its interval; without one at the top of the range if p stays above 0.95 up to there, and
    else, since η_50 may be anywhere in the range, at its bottom.
    """
    seed = _numbers(columns, "seed", missing=True)
    curve = np.isnan(seed)
    if not curve.any():
        return columns
    lo, hi, eta, low, high, start, end, falls = (
        _numbers(columns, name, missing=True)
        for name in ("eta_lo", "eta_hi", *CURVE, "start_lr", "end_lr", "eta_95")
    )
    status = np.array(columns["status"])
    found = curve & (status == "bracketed")
    ends = np.where(np.isnan(low), start, low), np.where(np.isnan(high), end, high)
    for name, values in zip(CURVE, (eta, *ends), strict=True):
        given: dict[str, Any] = {name: values, **columns}
        _refuse(found & ~(values > 0), given, name, "positive, or seed a number")
    floor = np.where(np.isnan(low), np.where(np.isnan(falls), end, start), low)
    factor = (ends[1] / ends[0]) ** _HALF_WIDTH
    lo = np.where(found, eta / factor, np.where(curve & (status == "all-trained"), floor, lo))
    hi = np.where(found, eta * factor, hi)
    changed = {"seed": np.where(curve, 0, seed), "eta_lo": lo, "eta_hi": hi}
    return {**columns, **{name: values.tolist() for name, values in changed.items()}}


def _bad_row(index: int, field: str, expected: str, got: str) -> ConfigError:
    return ConfigError(f"row {index}: {field} must be {expected}; got {got}.")


def _refuse(
    bad: BoolArray, columns: Mapping[str, Sequence[Any]], field: str, expected: str
) -> None:
    """Raise for the first row `[S]` whose field is not what is expected, if there is one."""
    if bad.any():
        i = int(bad.argmax())
        row = {name: values[i] for name, values in columns.items()}
        raise _bad_row(i, field, expected.format(**row), repr(row[field]))


def _numbers(
    columns: Mapping[str, Sequence[Any]], field: str, *, missing: bool = False
) -> FloatArray:
    """A column as floats `[S]`; None and no column are NaN, which is refused unless `missing`."""
    if missing and field not in columns:
        return np.full(len(columns["status"]), np.nan)
    try:
        array = np.asarray(columns[field], dtype=np.float64)
    except (TypeError, ValueError):
        for i, value in enumerate(columns[field]):
            if value is not None and not isinstance(value, (int, float, np.number)):
                raise _bad_row(i, field, "a number", repr(value)) from None
        raise
    if not missing:
        _refuse(np.isnan(array), columns, field, "a number")
    return array


def _whole(columns: Mapping[str, Sequence[Any]], field: str, least: int) -> IntArray:
    array = _numbers(columns, field)
    bad = (array < least) | (array != np.floor(array)) | np.isinf(array)
    _refuse(bad, columns, field, f"a whole number of at least {least}")
    return array.astype(np.int64)


def _log_rates(columns: Mapping[str, Sequence[Any]], field: str, needed: BoolArray) -> FloatArray:
    """Logarithm of a positive column where it is needed, NaN elsewhere, `[S]`."""
    array = _numbers(columns, field, missing=True)
    _refuse(needed & ~((array > 0) & np.isfinite(array)), columns, field, "positive and finite")
    logs = np.full(len(array), np.nan)
    logs[needed] = np.log(array[needed])
    return logs


def _status_codes(columns: Mapping[str, Sequence[Any]]) -> IntArray:
    codes = {name: code for code, name in enumerate(STATUSES)}
    out = np.array([codes.get(status, -1) for status in columns["status"]], dtype=np.int64)
    _refuse(out < 0, columns, "status", f"one of {', '.join(STATUSES)}")
    return out


def _label_names(columns: Mapping[str, Sequence[Any]], group_by: Sequence[str] | None) -> list[str]:
    if group_by is None:
        return [
            name
            for name, values in columns.items()
            if name in _NUMBER_LABELS
            or (name not in _NOT_LABELS and len(values) and isinstance(values[0], str))
        ]
    for name in group_by:
        if name not in columns:
            raise unknown_name("field in group_by", name, columns)
    return list(dict.fromkeys(group_by))


def _label(columns: Mapping[str, Sequence[Any]], name: str) -> npt.NDArray[Any]:
    """A label column `[S]`: strings, or finite numbers (κ: not negative)."""
    if all(isinstance(value, str) for value in columns[name]):
        return np.asarray(columns[name], dtype=np.str_)
    array = _numbers(columns, name)
    least = 0.0 if name == "input_lr_ratio" else -np.inf
    _refuse((array < least) | np.isinf(array), columns, name, "finite and not negative")
    return array
