"""The studies behind docs/reproduction.md: which they are, how they are run, their rows.

A part of `benchmarks/reproduction.py`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results"
LAW_STUDIES = (
    ("mnist-cross-entropy", "mnist-cross-entropy-kappa"),
    ("mnist-mse",),
    ("cifar10-cross-entropy",),
    ("cifar10-mse",),
    ("gaussians",),
)
LATER_STUDIES = ("mnist-later", "mnist-mse-later", "cifar10-later", "gaussians-later")
_LAWS = tuple(study for studies in LAW_STUDIES for study in studies)
CLAIMS = {
    "a": (*_LAWS, "mnist-cross-entropy-budget"),
    "b": _LAWS,
    "c": _LAWS,
    "d": _LAWS,
    "e": LATER_STUDIES,
}
"""The studies behind each claim of docs/reproduction.md."""
STORES = {"mnist-cross-entropy-kappa": "mnist-cross-entropy"}
"""Studies that share the store of another."""
SECONDS = {
    "mnist-cross-entropy": 5382,
    "mnist-cross-entropy-kappa": 1201,
    "mnist-mse": 3372,
    "cifar10-cross-entropy": 3693,
    "cifar10-mse": 3345,
    "gaussians": 1925,
    "mnist-cross-entropy-budget": 1492,
    "mnist-later": 833,
    "mnist-mse-later": 121,
    "cifar10-later": 908,
    "gaussians-later": 77,
}
"""Of all tasks of the exported cells, from table `work` of our stores; two cores."""

RENAMED = {"lambda1": "lambda1_preconditioned"}
"""Columns of rows that 0.1.0 exported, and what they are called since."""

Row = dict[str, Any]


def rows_of(*studies: str) -> list[Row]:
    """Exported rows, numbers as floats and empty fields as None, columns under today's names."""
    rows = []
    for study in studies:
        with open(RESULTS / f"{study}.csv", newline="") as file:
            for row in csv.DictReader(file):
                rows.append({RENAMED.get(k, k): _value(v) for k, v in row.items()})
    return rows


def _value(text: str) -> Any:
    if text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text


def studies_of(claim: str) -> tuple[str, ...]:
    """The studies behind a claim, or all of them, each once and in a fixed order."""
    if claim != "all":
        return CLAIMS.get(claim, ())
    return tuple(dict.fromkeys(study for studies in CLAIMS.values() for study in studies))


def hours_of(claim: str) -> float:
    """What the studies behind a claim took us."""
    return sum(SECONDS[study] for study in studies_of(claim)) / 3600


def commands_of(study: str) -> list[list[str]]:
    """Arguments of `etastar` that run a study and export its rows."""
    here = ROOT / "studies"
    store = ("--store", str(here / f"{STORES.get(study, study)}.sqlite"))
    rows = str(RESULTS / f"{study}.csv")
    return [
        ["study", "run", str(here / f"{study}.toml"), *store],
        ["study", "export", str(here / f"{study}.toml"), *store, "--output", rows],
    ]
