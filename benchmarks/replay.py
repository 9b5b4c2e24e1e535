"""Replay measurements of the success curve from tables of outcomes, and score them.

    python benchmarks/replay.py TABLES --measurements 500 --json benchmarks/results/replay.json

TABLES is a folder of tables NAME.npz (`benchmarks/tables.py` makes them). Each measurement draws
the table's seeds with replacement, independently, one draw a start; the truth is the table's own
curve, fitted as one that rises to a peak and falls behind it (least squares). Printed per task:

    cover        measurements whose 95 % interval of η* covers η_50, with its Monte Carlo error
    p(η*)        mean p at η* (one half is right)
    safe         share of measurements with p ≥ 0.95, and below 0.90, at `safe`; share that is null
    rec          the same at the recommended rate
    search, all  median cost in budgets without and with the confirmation
    trials       median of whole trials of the fit
    set_by       where NAME.double.npz exists: share whose η_50 moves out of the interval with the
                 doubled budget, where `budget` is said and where it is not

Shares of p leave out the measurements whose rate is null. The JSON also has each task's reference
error (what its seeds leave unknown of log η_50), its first measurement, by which a test sees
whether the code still does the same, and a digest of the source of the strategy that measured.

A table is one compressed file of arrays, K rates and S seeds, no pickles:

    rates        [K] float64, ascending; best on the lattice that the strategy asks
    seeds        [S] int64
    kind         [K, S] uint8, index into KINDS
    cause        [K, S] uint8, index into CAUSES; 0 unless kind is `short`
    step         [K, S] int32, first touch of the threshold, or where the failure was decided
    given_up     [K, S] int32, steps really taken by a run that ends when it is decided
    first_loss   [K, S] float32, training loss at step 0
    losses       [K, S, P] float32, training loss at `loss_steps`; not finite once it has diverged
    loss_steps   [P] int32, ascending, in optimizer steps; 1/8 of the budget must be among them
    final_metric [K, S] float32, the metric at the end of the budget; NaN where it diverged
    max_steps, eval_every    int
    threshold    float
    task         JSON: {"name": ..., and any `CurveOptions` that the task needs, such as "start_lr",
                 "end_lr" (default: the ends of `rates`), "round_size", "precision", "counts_steps"}

A rate between two rows is answered by one of the two, drawn in proportion to its nearness in log η,
so that p is linear between rows, as the truth is; `spacing` says how far apart rows are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import etastar.search
from etastar.problem.trial import Outcome, Trial
from etastar.search.curve import Curve
from etastar.search.curve_options import CurveOptions

RESAMPLED = 100
"""Draws of a table's seeds from which its reference error comes."""
KINDS = ("trained", "diverged", "dead", "short")
CAUSES = (None, "collapsed", "slow")


@dataclass(frozen=True)
class Table:
    """What every seed does at every rate: the fields of the file."""

    rates: np.ndarray
    seeds: np.ndarray
    kind: np.ndarray
    cause: np.ndarray
    step: np.ndarray
    given_up: np.ndarray
    first_loss: np.ndarray
    losses: np.ndarray
    loss_steps: np.ndarray
    final_metric: np.ndarray
    max_steps: int
    eval_every: int
    threshold: float
    task: dict[str, Any]

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> Table:
        """Check the shapes of a table and make one."""
        table = cls(
            **{
                field.name: np.asarray(arrays[field.name])
                for field in fields(cls)
                if field.name != "task"
            },
            task=json.loads(str(arrays["task"])),
        )
        shape = (len(table.rates), len(table.seeds))
        for name in ("kind", "cause", "step", "given_up", "first_loss", "final_metric"):
            if getattr(table, name).shape != shape:
                raise ValueError(
                    f"{name} must have the shape {shape}, got {getattr(table, name).shape}"
                )
        if table.losses.shape != (*shape, len(table.loss_steps)):
            raise ValueError(f"losses must have the shape {(*shape, len(table.loss_steps))}")
        if not (np.diff(table.rates) > 0).all():
            raise ValueError("rates must ascend")
        return table

    @property
    def spacing(self) -> float:
        """The largest factor between neighbouring rates."""
        return float(np.exp(np.diff(np.log(self.rates)).max()))

    def outcome(self, trial: Trial, column: int, part: float = 0.5) -> Outcome:
        """What a trial does whose seed is that column; `part`, uniform, chooses between rows."""
        row = row_of(self.rates, trial.lr, part)
        kind, step = KINDS[self.kind[row, column]], int(self.step[row, column])
        taken, first = int(self.given_up[row, column]), float(self.first_loss[row, column])
        if trial.steps is not None:
            at = int(np.searchsorted(self.loss_steps, trial.steps, side="right")) - 1
            last = float(self.losses[row, column, max(at, 0)])
            if not math.isfinite(last):
                return Outcome("diverged", min(taken, trial.steps), first_loss=first)
            return Outcome("partial", trial.steps, first_loss=first, last_loss=last)
        metric = float(self.final_metric[row, column])
        cause = CAUSES[self.cause[row, column]]
        if trial.to_end and kind == "trained":
            held = metric >= self.threshold
            return Outcome("trained", step, metric, held=held, given_up=int(self.max_steps))
        return Outcome(kind, step, metric, cause=cause, given_up=taken)


def row_of(rates: np.ndarray, lr: float, part: float) -> int:
    """The row that answers a rate: the upper one for the part of their distance it is along."""
    above = int(np.searchsorted(rates, lr * (1 - 1e-9)))
    if above in (0, len(rates)):
        return min(above, len(rates) - 1)
    along = math.log(lr / rates[above - 1]) / math.log(rates[above] / rates[above - 1])
    return above if part < along else above - 1


def load(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as arrays:
        return Table.of(arrays)


# the truth


def falling(values: np.ndarray) -> np.ndarray:
    """The nearest sequence, by least squares, that never rises (pool adjacent violators)."""
    blocks: list[list[float]] = []  # mean, size
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            mean, size = blocks.pop()
            total = blocks[-1][1] + size
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * size) / total, total]
    return np.concatenate([[mean] * int(size) for mean, size in blocks])


@dataclass(frozen=True)
class Truth:
    """The table's own curve: log rates and p, rising to a peak and falling behind it."""

    x: np.ndarray
    p: np.ndarray

    @classmethod
    def of(cls, table: Table) -> Truth:
        """Fit the table's curve: the peak with the least squared error, isotonic to either side."""
        seen = (table.kind == KINDS.index("trained")).mean(axis=1)
        best: tuple[float, np.ndarray] | None = None
        for peak in range(len(seen)):
            fit = np.concatenate(
                [falling(seen[:peak][::-1])[::-1] if peak else [], falling(seen[peak:])]
            )
            error = float(((fit - seen) ** 2).sum())
            if best is None or error < best[0] - 1e-12:
                best = error, fit
        assert best is not None
        return cls(np.log(table.rates), best[1])

    def at(self, lr: float) -> float:
        """P at a rate, linear in log η between rows."""
        return float(np.interp(math.log(lr), self.x, self.p))

    def rate(self, level: float) -> float | None:
        """Where p falls through a level; None where it does not inside of the table."""
        above = np.flatnonzero(self.p >= level)
        if not len(above) or above[-1] == len(self.p) - 1:
            return None
        k = above[-1]
        part = (self.p[k] - level) / (self.p[k] - self.p[k + 1])
        return float(np.exp(self.x[k] + part * (self.x[k + 1] - self.x[k])))


def reference_error(table: Table) -> float | None:
    """Standard error of log η_50 of the table's own curve, by drawing its seeds anew."""
    found, size = [], len(table.seeds)
    for draw in range(RESAMPLED):
        columns = np.random.default_rng(draw).integers(size, size=size)
        rate = Truth.of(replace(table, kind=table.kind[:, columns])).rate(0.5)
        found += [] if rate is None else [math.log(rate)]
    return float(np.std(found)) if len(found) > RESAMPLED / 2 else None


# the replay


def source() -> str:
    """Digest of the source of the strategy, but for what only words or draws its answer."""
    folder = Path(etastar.search.__file__).parent
    files = sorted({*folder.glob("curve*.py"), folder / "choosing.py", folder / "lattice.py"})
    placing = [file for file in files if file.stem not in ("curve_blocks", "curve_remarks")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in placing)).hexdigest()[:12]


def options_of(table: Table, given: Mapping[str, Any]) -> CurveOptions:
    """The task's own options, and those given over them."""
    known = {field.name for field in fields(CurveOptions)}
    own = {name: value for name, value in table.task.items() if name in known}
    ends = {"start_lr": float(table.rates[0]), "end_lr": float(table.rates[-1])}
    budget = {"max_steps": int(table.max_steps), "eval_every": int(table.eval_every)}
    return CurveOptions(**{**ends, **own, **budget, **given})


def measure(table: Table, options: CurveOptions, measurement: int) -> Curve:
    """One measurement, its seeds drawn from the table's."""
    curve = Curve(options)
    while not curve.done:
        for trial in curve.ask(options.round_size):
            draw = np.random.default_rng([measurement, trial.start.initialisation])
            column, part = int(draw.integers(len(table.seeds))), float(draw.random())
            curve.tell(trial, table.outcome(trial, column, part))
    return curve


def scored(
    table: Table, options: CurveOptions, truth: Truth, doubled: Truth | None, measurement: int
) -> dict[str, Any]:
    """What one measurement said, and what is true."""
    curve = measure(table, options, measurement)
    found = curve.result()
    star, lr = found.eta_star, found.recommended.lr if found.recommended else None
    eta_50 = truth.rate(0.5)
    low, high = star.ci_low or 0.0, star.ci_high or math.inf
    confirming = sum(curve.steps_of(attempt.runs) for attempt in curve.attempts)
    moved = None
    if doubled is not None and star.median is not None:
        then = doubled.rate(0.5) or math.inf
        moved = not low <= then <= high
    return {
        "covers": None if eta_50 is None else star.median is not None and low <= eta_50 <= high,
        "p_at_eta": None if star.median is None else truth.at(star.median),
        "eta": star.median,
        "log_error": None if not (star.median and eta_50) else math.log(star.median / eta_50),
        "p_at_safe": None if star.safe is None else truth.at(star.safe),
        "p_at_recommended": None if lr is None else truth.at(lr),
        "recommended": lr,
        "attempts": len(curve.attempts),
        "trials": len(curve.whole),
        "search": found.cost.budgets - confirming / options.max_steps,
        "budgets": found.cost.budgets,
        "set_by": star.set_by,
        "moved": moved,
        "ended_by": found.ended_by,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of a task from its measurements."""

    def of(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows if row[name] is not None], dtype=float)

    def share(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    def moved(said: bool) -> tuple[float | None, int]:
        among = [
            r["moved"] for r in rows if r["moved"] is not None and (r["set_by"] == "budget") is said
        ]
        return share(np.array(among, dtype=float)), len(among)

    n, covers = len(rows), share(of("covers"))
    scores: dict[str, Any] = {
        "measurements": n,
        "covers": covers,
        "covers_error": None if covers is None else math.sqrt(covers * (1 - covers) / n),
        "p_at_eta": share(of("p_at_eta")),
        "eta_null": 1 - len(of("p_at_eta")) / n,
        "sd": float(of("log_error").std()) if len(of("log_error")) else None,
        "bias": share(of("log_error")),
        "eta_low": float(np.quantile(of("eta"), 0.005)) if len(of("eta")) else None,
        "eta_high": float(np.quantile(of("eta"), 0.995)) if len(of("eta")) else None,
    }
    for name in ("safe", "recommended"):
        p = of(f"p_at_{name}")
        scores |= {
            f"{name}_95": share(p >= 0.95),
            f"{name}_below_90": share(p < 0.90),
            f"{name}_null": 1 - len(p) / n,
        }
    said, said_n = moved(True)
    unsaid, unsaid_n = moved(False)
    return scores | {
        "search": float(np.median(of("search"))),
        "budgets": float(np.median(of("budgets"))),
        "trials": float(np.median(of("trials"))),
        "attempts": float(of("attempts").mean()),
        "moved_where_said": said,
        "said": said_n,
        "moved_where_not_said": unsaid,
        "not_said": unsaid_n,
    }


def replay(path: Path, given: Mapping[str, Any], measurements: int, workers: int) -> dict[str, Any]:
    """Score a table."""
    table = load(path)
    double = path.with_suffix(".double.npz")
    doubled = Truth.of(load(double)) if double.is_file() else None
    truth, options = Truth.of(table), options_of(table, given)
    one = partial(scored, table, options, truth, doubled)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            rows = list(pool.map(one, range(measurements), chunksize=10))
    else:
        rows = [one(k) for k in range(measurements)]
    name = table.task.get("name", path.stem)
    return {
        "task": name,
        "seeds": len(table.seeds),
        "spacing": table.spacing,
        "eta_50": truth.rate(0.5),
        "eta_95": truth.rate(0.95),
        "reference_error": reference_error(table),
        **summary(rows),
        "first": rows[0],
        "source": source(),
    }


HEADER = (
    "task                      cover        p(η*)    sd | safe ≥.95 <.90  null | rec ≥.95 <.90  "
    "null | search   all trials | moved if said, if not"
)


def line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""

    def text(name: str, width: int = 5, digits: int = 3) -> str:
        value = row[name]
        return f"{'–':>{width}}" if value is None else f"{value:{width}.{digits}f}"

    moved, unmoved = text("moved_where_said"), text("moved_where_not_said")
    name = row["task"][:24]
    return (
        f"{name:24}  {text('covers')}±{text('covers_error')}  {text('p_at_eta', 5, 2)}  "
        f"{text('sd')} |    {text('safe_95')} {text('safe_below_90')} {text('safe_null')} |   "
        f"{text('recommended_95')} {text('recommended_below_90')} {text('recommended_null')} | "
        f"{text('search', 6, 1)} {text('budgets', 5, 1)} {text('trials', 6, 0)} | "
        f"{moved} ({row['said']}), {unmoved} ({row['not_said']})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tables", type=Path)
    parser.add_argument("--measurements", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of tables, without .npz")
    for name, kind in (
        ("precision", float),
        ("trials", int),
        ("confirm", int),
        ("round-size", int),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    given = {
        name: getattr(args, name)
        for name in ("precision", "trials", "confirm", "round_size")
        if getattr(args, name) is not None
    }
    paths = [
        path
        for path in sorted(args.tables.glob("*.npz"))
        if not path.name.endswith(".double.npz") and (not args.only or path.stem in args.only)
    ]
    rows = []
    print(HEADER)
    for path in paths:
        rows.append(replay(path, given, args.measurements, args.workers))
        print(line(rows[-1]), flush=True)
        if args.json:  # after every task, keeping those of earlier calls
            kept = json.loads(args.json.read_text())["tasks"] if args.json.is_file() else []
            mine = [row for row in kept if row["task"] != rows[-1]["task"]] + rows[-1:]
            args.json.write_text(json.dumps({"options": given, "tasks": mine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
