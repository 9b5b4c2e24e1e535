"""Does a replay agree with the engine, and what does the curve cost beside other ways?

    python benchmarks/replay_checks.py live TABLES --replays REPLAY.json --json CHECKS.json
    python benchmarks/replay_checks.py cost TABLES --json CHECKS.json
    python benchmarks/replay_checks.py defaults --first-seeds 3 --json CHECKS.json

live      Two measurements a task by the engine, with the first seeds of the table and with others
          of it: how many of their whole trials lie at a row of the table, and in how many kind,
          cause and step are the same there; whether η* lies within all but 1 % of the replays.
cost      On the tables: optimizer steps that `section` takes for 8 seeds, and those that the curve
          takes to an interval that reaches as far, locating included and confirmation not.
defaults  `maximal_lr` as it is by default on the CNN of examples/five_lines.py and on the
          transformer of examples/hugging_face_trainer.py: `cost.budgets` by first seed.

Each writes its own key of the JSON file and leaves the others.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import runpy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from replay import KINDS, Table, load, options_of
from tables_tasks import TASKS

import etastar
from etastar.engines import choose
from etastar.problem.trial import Outcome, Trial
from etastar.search import Lattice, Section
from etastar.search.curve import Curve
from etastar.search.curve_options import CurveOptions
from etastar.search.estimate import eta_star
from etastar.search.queue import CurveQueue

SEEDS, RESOLUTION = 8, 0.05
"""Of `section`, by default."""
EXAMPLES = Path(__file__).parent.parent / "examples"


def live(name: str, table: Table, replayed: dict[str, Any], data_dir: str | None) -> Any:
    """Measure a task with the engine, and compare."""
    problem, rows = TASKS[name].make(data_dir, 1), []
    engine, _ = choose(problem, threads=1)
    for first in (0, len(table.seeds) // 2):
        curve = Curve(replace(options_of(table, {}), first_seed=first))
        engine.run(problem, CurveQueue(curve))
        same, compared = agreement(table, curve)
        eta = curve.result().eta_star.median
        low, high = replayed["eta_low"], replayed["eta_high"]
        inside = None if eta is None or low is None else low <= eta <= high
        row = {"first_seed": first, "eta": eta, "low": low, "high": high, "inside": inside}
        rows.append({**row, "compared": compared, "same": same})
        print(
            f"{name:24} {first:4} {same} of {compared} the same; {eta} inside: {inside}", flush=True
        )
    return rows


def agreement(table: Table, curve: Curve) -> tuple[int, int]:
    """Whole trials at a row of the table that end as it says, and all such trials."""
    columns = {int(seed): k for k, seed in enumerate(table.seeds)}
    same = compared = 0
    for trial, outcome in curve.runs():
        row = int(np.abs(table.rates - trial.lr).argmin())
        here = math.isclose(table.rates[row], trial.lr, rel_tol=1e-12)
        if trial.steps is None and here and trial.seed in columns:
            told = table.outcome(trial, columns[trial.seed])
            compared += 1
            same += all(getattr(told, k) == getattr(outcome, k) for k in ("kind", "cause", "step"))
    return same, compared


def cost(table: Table, draws: int) -> Any:
    """Compare the steps of the curve with those of `section`, replayed."""
    rows, options = [], options_of(table, {})
    for draw in range(draws):
        rng = np.random.default_rng([draw, 8])
        steps, reach = section(table, options, rng.permutation(len(table.seeds))[:SEEDS])
        if reach is None:
            continue
        asked = replace(options, precision=reach, confirm=0, trials=4000)
        curve = Curve(asked)
        while not curve.done:
            for trial in curve.ask(asked.round_size):
                one = np.random.default_rng([draw, trial.start.initialisation])
                column = int(one.integers(len(table.seeds)))
                curve.tell(trial, table.outcome(trial, column, float(one.random())))
        rows.append((steps / table.max_steps, reach, curve.spent() / steps))
    if not rows:
        return None
    budgets, reach, ratio = np.median(np.array(rows), axis=0).tolist()
    return {"section_budgets": budgets, "reach": reach, "ratio": ratio, "draws": len(rows)}


def section(table: Table, options: CurveOptions, columns: Any) -> tuple[int, float | None]:
    """Steps of `section` on some seeds, and how far its interval reaches, as a factor − 1."""
    lattice, steps, results = Lattice(options.start_lr, options.end_lr, RESOLUTION), 0, []
    for column in columns:
        search = Section(lattice)
        while not search.done:
            lr = search.ask()[0]
            outcome = told(table, Trial.of(0, lr), int(column))
            steps += outcome.steps_taken(int(table.max_steps))
            search.tell(lr, outcome)
        results.append(search.result())
    star = eta_star(results)
    if star.median is None or star.ci_low is None or star.ci_high is None:
        return steps, None
    return steps, max(star.ci_high / star.median, star.median / star.ci_low) - 1


def told(table: Table, trial: Trial, column: int) -> Outcome:
    """A table's outcome as `section` reads it."""
    outcome = table.outcome(trial, column)
    if outcome.kind == KINDS[0] or outcome.metric is None or math.isnan(outcome.metric):
        return replace(outcome, metric=None, score=None)
    return replace(outcome, slow=outcome.cause == "slow")


def defaults(first_seeds: int) -> Any:
    """Run `maximal_lr` at its defaults on two examples."""
    found: dict[str, list[float]] = {}
    for name, call in (("five_lines", five_lines()), ("transformer", transformer())):
        found[name] = []
        for first in range(first_seeds):
            result = call(first_seed=100 * first, progress=False)
            found[name].append(result.cost.budgets)
            print(name, first, result.cost, result.lr, result.recommended_lr, flush=True)
    return {
        name: {"budgets": each, "median": float(np.median(each))} for name, each in found.items()
    }


def five_lines() -> Callable[..., Any]:
    """The call of examples/five_lines.py, with the model as a factory."""
    digits = etastar.load("digits")

    def build(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        nn = torch.nn
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )

    data = (digits.x_train, digits.y_train), (digits.x_val, digits.y_val)
    return functools.partial(etastar.maximal_lr, build, *data, epochs=5, batch_size=32)


def transformer() -> Callable[..., Any]:
    """The call of examples/hugging_face_trainer.py, with the default precision."""
    from transformers.utils import logging

    from etastar.huggingface import trainer_maximal_lr

    logging.set_verbosity_error()
    example = runpy.run_path(str(EXAMPLES / "hugging_face_trainer.py"))
    trainer = example["new_trainer"](tempfile.mkdtemp())
    return functools.partial(trainer_maximal_lr, trainer, threshold=0.6, end_lr=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("live", "cost", "defaults"))
    parser.add_argument("tables", type=Path, nargs="?")
    parser.add_argument("--replays", type=Path, help="what replay.py wrote")
    parser.add_argument("--data-dir", default=os.environ.get("ETASTAR_DATA_DIR"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first-seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=TASKS)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(args.json.read_text()) if args.json.is_file() else {}
    if args.what == "defaults":
        known["defaults"] = defaults(args.first_seeds)
    else:
        mine = known.setdefault(args.what, {})
        if args.what == "live":
            rows = {row["task"]: row for row in json.loads(args.replays.read_text())["tasks"]}
        for name in args.only or TASKS:
            table = load(args.tables / f"{name}.npz")
            if args.what == "live":
                mine[name] = live(name, table, rows[name], args.data_dir)
            else:
                mine[name] = cost(table, args.draws)
                print(f"{name:24}", mine[name], flush=True)
            args.json.write_text(json.dumps(known, indent=1) + "\n")
        if args.what == "cost":
            print("median of ratios", np.median([r["ratio"] for r in mine.values() if r]))
    args.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
