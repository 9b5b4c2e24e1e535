"""Results as tables: one row per network and seed, or per trial; as CSV, Parquet or Python values.

Rows are in the order of the study's cells, then of seeds, then of rates, so the same results give
the same file, whatever was computed when.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TextIO, TypeAlias

import numpy as np

from etastar.errors import ConfigError
from etastar.problem.trial import Start, Trial
from etastar.scaling.cells import LAMBDA1_ERROR
from etastar.scaling.estimates import median_inefficiency
from etastar.search.curve_counts import CAUSES
from etastar.settings import Settings
from etastar.study.cell import NOT_IDENTITY, Cell
from etastar.study.specification import Study
from etastar.study.store import Store

Columns: TypeAlias = dict[str, list[Any]]
"""One list per column, all of one length."""

SETTINGS = [name for name in Settings.model_fields if name not in NOT_IDENTITY]
"""Columns that are settings: those that a result is a function of."""
FACTS = ["inputs", "classes"]
"""Columns that the data decide."""
NETWORK = ("width", "depth", "input_lr_ratio", "loss")
"""Columns that tell the networks of a usual study apart: these come first."""
SEED = ["seed", "status", "eta_lo", "eta_hi", "eta", "hi_outcome", "re_entries", "trials", "steps"]
NEW = ("parametrization",)
"""Settings that 0.1.0 did not have: these come last, since scripts count columns."""
CURVE = ["eta_ci_low", "eta_ci_high", "eta_95", "safe", "p_max"]
"""Columns of a study with success curves, after those of seeds. A curve is one row, without a seed
and a bracket: `eta` is η_50, then its 95 % interval, the rate where p falls through 0.95, its lower
90 % bound, and the highest p seen; λ1 is the median over seeds."""
ABOVE = {f"above_{cause}": cause for cause in CAUSES}
"""The last columns of such a study: runs at rates above η* that failed, by cause. Before them
stands `lambda1_error`, the standard error of the logarithm of the median λ1."""
SHARPNESS = [
    *("lambda1_preconditioned", "lambda1_gauss_newton", "lambda1_plain", "lambda1_residual"),
]
"""λ1 at initialisation: of D^½HD^½, of D^½GD^½, of H, and the residual of the first. H is the
Hessian, G the Gauss-Newton matrix, D the layers' learning-rate ratios (κ on the input layer)."""
SEED_COLUMNS = [
    *NETWORK,
    *SEED,
    *SHARPNESS,
    *("lambda1_converged", "sharpness_samples"),
    *(name for name in SETTINGS if name not in (*NETWORK, *NEW)),
    *FACTS,
    "cell",
    *NEW,
]
"""Columns of the table of seeds. `eta` is the geometric mean of the bracket; `eta_lo`, `eta_hi` and
λ1 are empty where they do not exist; `cell` is the hash of the specification."""
KNOWN = {*SEED_COLUMNS, *NOT_IDENTITY}
TEXT = {"status", "hi_outcome", "outcome", "cell", "loss", "dataset", "batch_size"}
"""Columns of strings, as far as a table may have them empty."""
TRIAL_COLUMNS = [
    *NETWORK,
    *("dataset", "seed", "lr", "outcome", "step", "accuracy", "slow", "cell"),
]
"""Columns of the table of trials: those that the searches used, of finished seeds."""

_SEED_QUERY = """
SELECT s.seed, status, eta_lo, eta_hi, hi_outcome, re_entries, trials, steps,
    lambda1 AS lambda1_preconditioned, lambda1_gauss_newton, lambda1_plain,
    residual AS lambda1_residual, converged AS lambda1_converged
FROM seed s LEFT JOIN sharpness l ON l.cell = ? AND l.seed = s.seed
WHERE s.cell = ? AND s.seed >= ? AND s.seed < ? ORDER BY s.seed
"""
_LAMBDA1_QUERY = """
SELECT lambda1, lambda1_gauss_newton, lambda1_plain, residual, converged FROM sharpness
WHERE cell = ? AND seed >= ? AND seed < ?
"""
_TRIAL_QUERY = """
SELECT t.seed, lr, outcome, step, accuracy, slow FROM trial t JOIN seed s USING (cell, seed)
WHERE t.cell = ? AND t.seed >= ? AND t.seed < ? ORDER BY t.seed, lr
"""


def seed_columns(study: Study, store: Store) -> Columns:
    """Return one row per network and seed whose η* is known: see `SEED_COLUMNS` and `CURVE`.

    Of a `model` of the user's, its name, the fingerprint of its code and its keys come last, then
    those of `ABOVE`.
    """
    last = SEED_COLUMNS.index("steps") + 1
    more = CURVE if any(cell.curve for cell in study.cells) else []
    own = [n for n in dict.fromkeys(n for c in study.cells for n in c.fields) if n not in KNOWN]
    names = [
        *SEED_COLUMNS[:last],
        *more,
        *SEED_COLUMNS[last:],
        *own,
        *((LAMBDA1_ERROR, *ABOVE) if more else ()),
    ]
    columns: Columns = {name: [] for name in names}
    keys, resolved = store.keys(), store.resolved()
    with store.decoded():
        for cell in study.cells:
            if cell.id not in keys:
                continue
            facts = _cell_values(cell, resolved)
            sharpness = keys.get(cell.sharpness_id or "")
            rows: Iterable[dict[str, Any]]
            if cell.curve:
                rows = _curve_rows(cell, store, sharpness)
            else:
                rows = store.records(_SEED_QUERY, (sharpness, keys[cell.id], *_span(cell)))
            for row in rows:
                converged = row["lambda1_converged"]
                if not cell.curve:
                    lo, hi = row["eta_lo"], row["eta_hi"]
                    row["eta"] = math.sqrt(lo * hi) if lo and hi else None
                    row["re_entries"] = len(json.loads(row["re_entries"]))
                row["lambda1_converged"] = None if converged is None else bool(converged)
                row |= facts
                for name, column in columns.items():
                    column.append(row.get(name))
    return columns


def _curve_rows(cell: Cell, store: Store, sharpness: int | None) -> list[dict[str, Any]]:
    """Return the row of a cell's curve, if it is known."""
    found = store.curve(cell)
    if found is None:
        return []
    star, curve = found["eta_star"], found["curve"]
    lambda1 = list(zip(*store.rows(_LAMBDA1_QUERY, (sharpness, *_span(cell))), strict=True))
    known = [[value for value in values if value is not None] for values in lambda1]
    eta = star["median"]
    above = [at for at in curve["points"] if eta and at["lr"] > eta]
    row = {
        **{name: sum(at[c] for at in above) if eta else None for name, c in ABOVE.items()},
        **{name: found[name] for name in ("status", "hi_outcome")},
        **{"eta": eta, "eta_ci_low": star["ci_low"], "eta_ci_high": star["ci_high"]},
        **{"eta_95": curve["eta_95"], "safe": star["safe"]},
        "p_max": curve["p_max"] and curve["p_max"]["p"],
        **{name: found["cost"][name] for name in ("trials", "steps")},
        "lambda1_converged": all(lambda1[-1]) if lambda1 else None,
    }
    medians = zip(SHARPNESS, known, strict=False)
    row[LAMBDA1_ERROR] = error_of_median(known[0]) if known else None
    return [row | {name: median(values) if values else None for name, values in medians}]


def error_of_median(values: Sequence[float]) -> float | None:
    """The standard error of the logarithm of a median of positive values; None for fewer than two.

    Args:
        values: One a seed.
    """
    if len(values) < 2:
        return None
    seed = float(np.log(values).std(ddof=1))
    return seed * math.sqrt(float(median_inefficiency(len(values))) / len(values))


def _span(cell: Cell) -> tuple[int, int]:
    return cell.seeds.start, cell.seeds.stop


def trial_columns(study: Study, store: Store) -> Columns:
    """One row per trial, column by column: see `TRIAL_COLUMNS`."""
    columns: Columns = {name: [] for name in TRIAL_COLUMNS}
    keys = store.keys()
    own = ["seed", "lr", "outcome", "step", "accuracy", "slow"]
    for cell in study.cells:
        if cell.id not in keys:
            continue
        if cell.curve:
            found = _curve_trials(cell, store)
        else:
            found = store.rows(_TRIAL_QUERY, (keys[cell.id], *_span(cell)))
        for name, values in zip(own, zip(*found, strict=True), strict=False):
            columns[name].extend(map(bool, values) if name == "slow" else values)
        columns["cell"].extend([cell.id] * len(found))
        for name in (*NETWORK, "dataset"):
            columns[name].extend([cell.fields[name]] * len(found))
    return columns


def _curve_trials(cell: Cell, store: Store) -> list[tuple[Any, ...]]:
    """Return the whole trials that a cell's curve was made of, as `_TRIAL_QUERY` does."""
    known, curve = store.runs(cell.id), store.curve(cell) or {"runs": []}
    with store.decoded():
        used = sorted(Trial(Start(s, s), lr, to_end=end) for s, lr, end in curve["runs"])
        outcomes = [(trial, known[trial]) for trial in used]
    return [(t.seed, t.lr, o.kind, o.step, o.metric, o.slow) for t, o in outcomes]


def _cell_values(cell: Cell, resolved: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The columns that all seeds of a cell share, with the defaults that the data decided."""
    values = {name: value for name, value in cell.fields.items() if name not in NOT_IDENTITY}
    known = resolved.get(cell.id)
    if known:
        recipe = known["recipe"]
        values |= {name: known[name] for name in FACTS}
        values |= {name: known["data"][name] for name in ("train_size", "val_size")}
        values |= {name: recipe["criterion"][name] for name in ("max_steps", "eval_every")}
        values["batch_size"] = recipe["batch_size"]
    # one type per column: "full" would make a column of mixed values
    values["batch_size"] = str(values["batch_size"])
    values["cell"] = cell.id
    if cell.sharpness_id and cell.sharpness_id in resolved:
        values["sharpness_samples"] = resolved[cell.sharpness_id]["samples"]
    return values


TABLES: dict[str, Callable[[Study, Store], Columns]] = {
    "seeds": seed_columns,
    "trials": trial_columns,
}
"""Tables of an export. A new one is a function here and a line."""


def write_csv(columns: Columns, path: Path) -> None:
    """Comma-separated values in UTF-8: see `write_rows`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        write_rows(columns, file)


def write_rows(columns: Columns, file: TextIO) -> None:
    """Comma-separated values with a header; floats exact, missing values empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))


def write_parquet(columns: Columns, path: Path) -> None:
    """Apache Parquet.

    Raises:
        ConfigError: PyArrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            "the format parquet needs PyArrow: pip install 'etastar[parquet]', or use csv."
        ) from None
    arrays = {}
    for name, values in columns.items():
        # a column without any value would have no type, and be read as one of objects
        empty = all(value is None for value in values)
        kind = (pyarrow.string() if name in TEXT else pyarrow.float64()) if empty else None
        arrays[name] = pyarrow.array(values, type=kind)
    parquet.write_table(pyarrow.table(arrays), path)


FORMATS: dict[str, Callable[[Columns, Path], None]] = {
    "csv": write_csv,
    "parquet": write_parquet,
}
"""Formats of an export. A new one is a function here and a line."""
