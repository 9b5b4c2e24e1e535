"""Every number of the ledger again, from the committed rows: two minutes.

    python benchmarks/ledger.py            # --check: write nothing; exit code 1 if a number differs

runs the scripts that make the ledger's numbers and the tables of its pages, and then writes the
blocks of `docs/reproduction.md` that none of them makes: what training again by other code gave,
and the exponents of η* under parametrisations and batch sizes. `--without NAME` leaves one out.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from curve_tables import LEDGER, LOSSES, RESULTS, filled
from reproduction_tables import table
from scipy.stats import binomtest

NAMES = {"gaussians": "Gaussians", "digits": "digits", "mnist": "MNIST"}
NEAR = 1e-6
"""Relative difference of a number that another processor may make."""


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the scripts beside this one."""
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def numbers_of(text: str) -> list[float]:
    """Every number of a text, in order."""
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def close(made: str, kept: str) -> bool:
    """Whether two texts have the same numbers, but for rounding."""
    pair = numbers_of(made), numbers_of(kept)
    return len(pair[0]) == len(pair[1]) and np.allclose(*pair, rtol=NEAR, atol=1e-12)


def results(name: str, check: bool) -> str:
    """A script that writes its numbers into a file: what is wrong, or nothing."""
    if not check:
        return run(name).stderr
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.json"
        done = run(name, "--output", str(made))
        if done.returncode:
            return done.stderr
        kept = RESULTS / f"{name}.json"
        same = close(made.read_text(encoding="utf-8"), kept.read_text(encoding="utf-8"))
        return "" if same else f"{kept.name} is not what the rows give."


def pages(name: str, check: bool) -> str:
    """A script that writes pages."""
    done = run(name, *(["--check"] if check else []))
    return (done.stdout + done.stderr or "it failed") if done.returncode else ""


def twice(name: str, check: bool) -> str:
    """A script that prints: whether the page has its exponents."""
    page = LEDGER.read_text(encoding="utf-8").replace("−", "-")
    found = re.findall(r"-\d\.\d\d \[.*?\]", run(name).stdout)
    missing = [number for number in found if number not in page]
    return "" if len(found) == 2 and not missing else f"not on the page: {missing or found}"


def blocks(name: str, check: bool) -> str:
    """The blocks that are made here."""
    before = LEDGER.read_text(encoding="utf-8")
    after = filled(before, {"retraining": retraining(), **slopes()})
    if after == before:
        return ""
    if check:
        return f"{LEDGER.name} has blocks that are not what the rows give."
    LEDGER.write_text(after, encoding="utf-8")
    return ""


PARTS: dict[str, Callable[[str, bool], str]] = {
    "phase": results,
    "prediction": results,
    "curve_tables": pages,
    "reproduction": pages,
    "twice": twice,
    "blocks": blocks,
}


def share(trained: int, of: int, digits: int = 0) -> str:
    """So many of so many, and the exact 95 % interval of the share."""
    if trained == of:
        return f"{trained} of {of}"
    ends = binomtest(trained, of).proportion_ci(0.95, method="exact")
    span = f"{100 * ends.low:.{digits}f}–{100 * ends.high:.{digits}f} %"
    return f"{trained} of {of} = {100 * trained / of + 1e-9:.{digits}f} % ({span})"


def retraining() -> list[str]:
    """What training the networks of the curves again gave."""
    told = json.loads((RESULTS / "retrain_curves.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = told["rows"]

    def sums(some: list[dict[str, Any]], rate: str, digits: int) -> str:
        trained = sum(row["trained"][rate] for row in some)
        return share(trained, sum(row["fresh"] for row in some), digits)

    studies = {name: [r for r in rows if r["study"] == f"curves-{name}"] for name in NAMES}
    parts = {"all": rows} | {NAMES[name]: some for name, some in studies.items()}
    parts["n·L > 512"] = [r for r in rows if int(r["width"]) * int(r["depth"]) > 512]
    lines = table(
        ("", "networks", "train at η_50 (95 %)", "at the safe rate (95 %)"),
        [[n, str(len(s)), sums(s, "eta_50", 0), sums(s, "safe", 1)] for n, s in parts.items()],
    )
    digits = studies["digits"]
    counts = [row["trained"]["eta_50"] for row in rows]
    above = [row["trained"]["eta_50"] for row in digits]
    high = sum(2 * row["trained"]["eta_50"] > row["fresh"] for row in digits)
    worst = min(rows, key=lambda row: row["trained"]["safe"] / row["fresh"])
    (fresh,) = {row["fresh"] for row in rows}
    ends = [binomtest(count, fresh).proportion_ci(0.99, method="exact") for count in counts]
    agree = sum(end.low <= 0.5 <= end.high for end in ends)
    where = NAMES[worst["study"].removeprefix("curves-")]
    return [
        *lines,
        "",
        f"**By themselves {agree} of {len(rows)} networks agree**: each has {min(counts)} to "
        f"{max(counts)} of {fresh}, and the exact 99 % binomial interval of so many contains one "
        f"half. But **on the digits {high} of {len(digits)} are above one half**, {min(above)} to "
        f"{max(above)} of {fresh} and together {sums(digits, 'eta_50', 0)}, so their η_50 is a "
        f"little low. The lowest at its safe rate is {worst['width']}×{worst['depth']} on the "
        f"{where} under {LOSSES[worst['loss']]}, {worst['trained']['safe']} of {fresh}.",
    ]


Lines = dict[tuple[str, str], dict[int, float]]


def lines_of(name: str, x: str, keys: tuple[str, str]) -> Lines:
    """η_50 against a column, a line for each value of two others."""
    found: Lines = {}
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row[keys[0]], row[keys[1]]), {})[int(row[x])] = float(row["eta"])
    return {key: dict(sorted(line.items())) for key, line in found.items()}


def exponent(line: dict[int, float]) -> str:
    """That of a line, with its standard error."""
    x, y = np.log(list(line)), np.log(list(line.values()))
    found, covariance = np.polyfit(x, y, 1, cov=True)
    return f"{found[0]:.2f} ± {math.sqrt(covariance[0, 0]):.2f}".replace("-", "−")


def between(line: dict[int, float], first: int, last: int) -> float:
    """The exponent between two places of a line."""
    return math.log(line[last] / line[first]) / math.log(last / first)


def slopes() -> dict[str, list[str]]:
    """The exponents of n by parametrisation, and those of the batch size."""
    kinds = lines_of("parametrizations", "width", ("parametrization", "depth"))
    depths = list(dict.fromkeys(depth for _, depth in kinds))
    names = list(dict.fromkeys(kind for kind, _ in kinds))
    deep = kinds["standard", "4"]
    widths = table(
        ("exponent of n", *(f"L = {depth}" for depth in depths)),
        [[f"`{name}`", *(exponent(kinds[name, depth]) for depth in depths)] for name in names],
    )
    fall = (
        "From width 128 to 512 the standard one at four layers, which instability ends there, "
        f"falls by a factor of {deep[128] / deep[512]:.2f}."
    )
    sizes = list(lines_of("batch-sizes", "batch_size", ("width", "depth")).values())
    ends = {pair: sorted(between(line, *pair) for line in sizes) for pair in ((8, 16), (128, 256))}
    batches = table(
        ("exponent of B", "least", "largest"),
        [
            [f"{a} to {b}", *(f"{v:.2f}".replace("-", "−") for v in (found[0], found[-1]))]
            for (a, b), found in ends.items()
        ],
    )
    return {"parametrizations": [*widths, "", fall], "batches": batches}


def main(given: list[str] | None = None) -> int:
    """Run what was not left out; 1 if something differs or fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="Write nothing; compare.")
    parser.add_argument("--without", action="append", default=[], choices=PARTS)
    options = parser.parse_args(given)
    failed = 0
    for name, part in PARTS.items():
        if name not in options.without:
            wrong = part(name, options.check)
            failed |= bool(wrong)
            print(f"{name}: {wrong.strip() or 'ok'}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
