"""Prediction of the networks beyond a quarter of the largest n·L, from the committed rows.

    python benchmarks/prediction.py

reads every `studies/results/*.csv`, predicts with the Gaussian process (`etastar.scaling.process`)
and with separate powers, and writes `benchmarks/results/prediction.json` and tables on stdout.

The rows of a data set, brackets and curves, are predicted with the hyperparameters that all other
data sets choose: of 27 round sets those of the highest density of what was measured, averaged
over networks, then over the brackets and the curves of every data set. The package's own are what
all choose. The form of the process, with networks of two layers apart, and the 27 sets were chosen
with these rows in sight; what `NEVER_USED` names was measured after all of it.

The parts *deep and unstable* hold the networks of at least four layers whose η* instability ends:
the region that the ledger of 0.1.0 named on its own rows, before there were any curves.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from etastar.errors import ConfigError
from etastar.scaling import CellTable, HeldOut, Kernel, estimate_cells, extrapolate, fit_process

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "benchmarks" / "results" / "prediction.json"
LABELS = ("dataset", "loss", "input_lr_ratio", "epochs", "from_step", "threshold")
NUMBERS = (
    *("width", "depth", "input_lr_ratio", "seed", "eta_lo", "eta_hi", "eta", "eta_ci_low"),
    *("eta_ci_high", "eta_95", "start_lr", "end_lr", "lambda1", "lambda1_preconditioned"),
    "lambda1_error",
)
FRACTION, LEVEL, LEAST_TRAIN, LEAST_TEST = 0.25, 0.9, 6, 3
KERNELS = [
    Kernel(sd=sd, lengths=lengths, slopes=slopes)
    for sd in (0.25, 0.35, 0.5)
    for lengths in ((1.2, 0.8), (1.6, 1.2), (2.0, 1.5))
    for slopes in ((-0.5, -0.8), (-0.6, -1.0), (-0.7, -1.0))
]
NEVER_USED = ("curves-vehicles", "curves-teacher")
"""Studies of networks that were measured after all choices."""


Keep = Callable[[dict[str, str]], bool]


BEYOND = "curves-beyond"
"""The rows of the 1,024×8 networks, which no law is fitted to."""


def is_curves(file: str) -> bool:
    """Whether a file has the success curves of a study; the 1,024×8 networks are apart."""
    return file.startswith("curves-") and file != BEYOND


def data_of(row: Mapping[str, Any]) -> str:
    """The data set of a row, as pages name it."""
    return str(row["dataset"]).removeprefix("unseen:")


def depth_of(row: Mapping[str, Any]) -> int:
    """L, the number of hidden layers; the `depth` of `studies/unseen.py` counts matrices."""
    return int(row["depth"]) - str(row["dataset"]).startswith("unseen:")


def everything(row: dict[str, str]) -> bool:
    return True


def deep(row: dict[str, str]) -> bool:
    return depth_of(row) >= 4


def unstable(row: dict[str, str]) -> bool:
    """Whether instability or collapse is known to end η*, and not the budget."""
    return row["hi_outcome"] not in ("short", "")


def table_of(path: Path, keep: Keep = everything) -> CellTable | None:
    """The networks of an exported file that are to be kept; None if there are none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if keep(row)]
    if not rows:
        return None
    columns: dict[str, list[Any]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "depth":
            columns[name] = [depth_of(row) for row in rows]
        elif name in NUMBERS:
            columns[name] = [float(value) if value else None for value in values]
        elif name in (*LABELS, "status"):
            columns[name] = [data_of(row) for row in rows] if name == "dataset" else values
    return CellTable.from_columns(columns, group_by=LABELS)


def groups(keep: Keep = everything) -> Iterator[tuple[str, dict[str, Any], CellTable]]:
    """Every group of every file, with the file's name."""
    for path in sorted((ROOT / "studies" / "results").glob("*.csv")):
        table = table_of(path, keep)
        for labels, cells in table.groups() if table else ():
            yield path.stem, labels, cells


def held_out(cells: CellTable, kind: str, kernel: Kernel | None = None) -> HeldOut | None:
    """The networks beyond a quarter of the largest n·L; None if too few are known."""
    try:
        held = extrapolate(cells, kind, fraction=FRACTION, level=LEVEL, kernel=kernel)
    except ConfigError:
        return None
    return held if held.train >= LEAST_TRAIN and held.test >= LEAST_TEST else None


def judged(cells: CellTable, kernel: Kernel) -> dict[str, Any] | None:
    """Errors of the process and of separate powers; None if there are too few networks."""
    process, separate = held_out(cells, "process", kernel), held_out(cells, "separate")
    if process is None:
        return None
    return {"train": process.train, "test": process.test} | {
        kind: held and _record(held.log_predicted - held.log_measured, held.half)
        for kind, held in (("process", process), ("separate", separate))
    }


def densities(cells: CellTable) -> np.ndarray | None:
    """Log density of what was measured under every kernel, `[K, T]`; None if cells are too few."""
    held = [each for kernel in KERNELS if (each := held_out(cells, "process", kernel))]
    if not held:
        return None
    scale = norm.ppf(0.5 + 0.5 * LEVEL)
    each = [norm.logpdf(h.log_measured, h.log_predicted, h.half / scale) for h in held]
    return np.stack(each)


def chosen(found: dict[tuple[str, bool], list[np.ndarray]], without: str | None = None) -> Kernel:
    """The kernel of the highest density on all data sets but one.

    Brackets and curves of a data set weigh 1 each.
    """
    scores = [np.hstack(each).mean(1) for (data, _), each in found.items() if data != without]
    return KERNELS[int(np.mean(scores, 0).argmax())]


def _record(error: np.ndarray, half: np.ndarray) -> dict[str, list[float]]:
    return {"log_error": error.round(4).tolist(), "log_half_width": half.round(4).tolist()}


def summary(records: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Median error, coverage and median factor over the networks of these groups."""
    known = [record[kind] for record in records if record[kind]]
    error = np.abs(np.concatenate([each["log_error"] for each in known]))
    signed = np.concatenate([each["log_error"] for each in known])
    half = np.concatenate([each["log_half_width"] for each in known])
    return {
        "networks": len(error),
        "median_error": round(float(np.median(np.abs(np.expm1(signed)))), 3),
        "coverage": round(float(np.mean(error <= half)), 3),
        "factor": round(float(np.exp(np.median(2 * half))), 2),
    }


def largest(
    measured: list[tuple[str, dict[str, Any], CellTable]], kernels: dict[str, Kernel]
) -> list[dict[str, Any]]:
    """What the curves predict of the 1,024×8 networks, and what those turned out to be."""
    found = []
    targets = {str(labels): cells for file, labels, cells in measured if file == BEYOND}
    for file, labels, cells in measured:
        target = targets.get(str(labels))
        if not is_curves(file) or target is None:
            continue
        turned_out = estimate_cells(target)
        if turned_out.used.all() and estimate_cells(cells).used.sum() >= LEAST_TRAIN:
            told = fit_process(cells, kernel=kernels[labels["dataset"]]).predict(
                1024, 8, level=LEVEL
            )
            value = float(np.exp(turned_out.value[0]))
            found.append(
                {**labels, "predicted": told.value, "low": told.low, "high": told.high}
                | {"measured": value}
            )
    return found


def main() -> None:
    """Predict, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    measured = list(groups())
    scored: dict[tuple[str, bool], list[np.ndarray]] = {}
    for file, labels, cells in measured:
        density = densities(cells) if file not in NEVER_USED else None
        if density is not None:
            scored.setdefault((labels["dataset"], is_curves(file)), []).append(density)
    kernels = {labels["dataset"]: chosen(scored, labels["dataset"]) for _, labels, _ in measured}
    records = [
        {"file": file, **labels, **found}
        for file, labels, cells in measured
        if (found := judged(cells, kernels[labels["dataset"]]))
    ]
    curves = [record for record in records if is_curves(record["file"])]
    parts = {"brackets": [r for r in records if r not in curves], "curves": curves}
    parts["curves, never used in a choice"] = [r for r in curves if r["file"] in NEVER_USED]
    parts["curves, used in choices"] = [r for r in curves if r["file"] not in NEVER_USED]
    for data in sorted({record["dataset"] for record in curves}):
        parts[f"curves, {data}"] = [r for r in curves if r["dataset"] == data]
    region = [
        {"file": file, **labels, **found}
        for file, labels, cells in groups(lambda row: deep(row) and unstable(row))
        if is_curves(file) and (found := judged(cells, kernels[labels["dataset"]]))
    ]
    parts["curves, deep and unstable"] = region
    totals = {
        name: {kind: summary(part, kind) for kind in ("process", "separate")}
        for name, part in parts.items()
    }
    beyond = largest(measured, kernels)
    choices = {"all": chosen(scored)} | kernels
    told = {
        "kernels": {name: asdict(kernel) for name, kernel in choices.items()},
        "totals": totals,
        "groups": records,
        "1024x8": beyond,
    }
    text = json.dumps(told, indent=1, ensure_ascii=False)
    output.write_text(text + "\n", encoding="utf-8")
    for name, kernel in choices.items():
        print(f"for {name}: {kernel}" if name in kernels else f"all choose {kernel}")
    for row in beyond:
        print(json.dumps(row))
    print("| rows | law | networks | median error | 90 % intervals cover | factor |")
    print("|---|---|---|---|---|---|")
    for name, kinds in totals.items():
        for kind, row in kinds.items():
            print(
                f"| {name} | {kind} | {row['networks']} | {row['median_error']:.1%} "
                f"| {row['coverage']:.0%} | {row['factor']} |"
            )


if __name__ == "__main__":
    main()
