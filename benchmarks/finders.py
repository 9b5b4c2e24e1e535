r"""Learning-rate finders beside `maximal_lr`: what they suggest, and whether it trains.

    python benchmarks/finders.py --json benchmarks/results/finders.json \
        --figure docs/images/finders.png

For every cell (model × data set × optimizer) and seed, from the same initial weights and with the
same batches:

- pytorch-lr-finder (`LRFinder.range_test`, the suggestion of its `plot`) and Lightning
  (`Tuner.lr_find`, its `suggestion`) sweep the rate, with their default settings (Lightning's
  `min_lr=1e-8, max_lr=1, num_training=100`; for pytorch-lr-finder, whose start is the optimizer's
  rate, the 1e-7 of its README, to `end_lr=10`) and with others, one changed at a time;
- `etastar.maximal_lr` brackets η* with its default range and resolution.

Then a plain PyTorch loop (`finders_cases.train`) trains from initialisation at what each suggests,
at 2, 4 and 8 times that, at the rate where each sees divergence (its smoothed loss exceeds its
threshold times the best one) and a tenth of it; at both ends of the bracket, η*, half of it and the
safe rate.
A rate *trains* if the validation accuracy meets the threshold within the budget. Where a suggestion
fails, it gets four budgets, to tell a rate that is only slow from one that never gets there.
Rates are tried on the seed that they were found with, and those to be used on a fresh seed too.

MNIST and Fashion-MNIST are left out, with a message, unless ETASTAR_DATA_DIR has them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import math
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from finders_cases import BATCH, MODELS, MODELS_OF, OPTIMIZERS, PROBLEMS, TIGHT, Cell, train
from finders_tables import tables
from matplotlib import pyplot as plt
from torch import nn

import etastar

FRESH = 100
"""Added to a seed: one that nothing was measured with."""
PATIENCE = 4
REREAD = "Lightning, per step"
FACTORS = (2, 4, 8)
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "pytorch-lr-finder": {
        "default": {},
        "50 steps": {"num_iter": 50},
        "200 steps": {"num_iter": 200},
        "no smoothing": {"smooth_f": 0.0},
        "linear": {"step_mode": "linear"},
        "from 1e-5": {"start_lr": 1e-5},
        "to 1": {"end_lr": 1.0},
        "to 100": {"end_lr": 100.0},
    },
    "Lightning": {
        "default": {},
        "50 steps": {"num_training": 50},
        "200 steps": {"num_training": 200},
        "linear": {"mode": "linear"},
        "from 1e-5": {"min_lr": 1e-5},
        "to 10": {"max_lr": 10.0},
    },
}


def main() -> None:
    args = arguments()
    record = json.loads(Path(args.read).read_text()) if args.read else measured(args)
    print(tables(record))
    if args.figure:
        from finders_figure import draw

        draw(record, args.figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--models", nargs="+", choices=MODELS, help="instead of those per data set")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--tight", action="store_true", help=f"thresholds {TIGHT}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--engine", default="auto", help="of maximal_lr")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="digits, MLP 2 and CNN, about a minute"
    )
    parser.add_argument("--read", metavar="FILE", help="a record to draw instead of measuring")
    parser.add_argument("--json", metavar="FILE", help="write the record, after every cell")
    parser.add_argument("--resume", action="store_true", help="go on with the record in --json")
    parser.add_argument("--figure", metavar="FILE", help="draw it, as PNG, PDF or SVG")
    args = parser.parse_args()
    if args.quick:
        args.datasets, args.models = ["digits"], args.models or ["MLP 2", "CNN"]
    return args


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The record; it is on disk after every cell, and a run that was cut off goes on there."""
    torch.set_num_threads(args.threads)
    packages = ("torch", "torch-lr-finder", "lightning", "etastar")
    record: dict[str, Any] = {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "threads": args.threads,
        "seeds": args.seeds,
        "engine": args.engine,
        "tight": args.tight,
        "batch": BATCH,
        "seconds": 0.0,
        "cpu_seconds": 0.0,
        "cells": [],
    }
    if args.resume and args.json and Path(args.json).exists():
        record = resumed(record, json.loads(Path(args.json).read_text()))
    done = {(c["dataset"], c["model"], c["optimizer"]) for c in record["cells"]}
    for cell in cells_of(args):
        if (cell.problem.name, cell.model, cell.optimizer) in done:
            continue
        began, worked = time.perf_counter(), time.process_time()
        record["cells"].append(measure(cell, range(args.seeds), args.engine))
        record["seconds"] += time.perf_counter() - began
        record["cpu_seconds"] += time.process_time() - worked
        print(f"{record['seconds']:6.0f} s  {line(record['cells'][-1])}", flush=True)
        if args.json:
            text = json.dumps(record, allow_nan=False, ensure_ascii=False)
            Path(args.json).write_text(text.replace('{"dataset"', '\n{"dataset"') + "\n")
    return record


def resumed(record: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The older record, if it was measured in the same way."""
    for key in record.keys() - {"seconds", "cpu_seconds", "cells"}:
        if record[key] != old.get(key):
            raise SystemExit(
                f"--resume: the record was made with {key} = {old.get(key)!r}, this is "
                f"{record[key]!r}. Choose another --json, or leave --resume out to start anew."
            )
    return old


def cells_of(args: argparse.Namespace) -> Iterator[Cell]:
    """What was asked for; an image data set that is not there is left out with a message."""
    for name in args.datasets:
        if name != "digits" and not os.environ.get("ETASTAR_DATA_DIR"):
            print(f"{name} left out: set ETASTAR_DATA_DIR to the folder that holds it.")
            continue
        problem = PROBLEMS[name]
        if args.tight:
            problem = replace(problem, threshold=TIGHT[name])
        data = problem.load()
        for model in args.models or MODELS_OF[name]:
            for optimizer in args.optimizers:
                yield Cell(problem, model, optimizer, data)


def measure(cell: Cell, seeds: range, engine: Any) -> dict[str, Any]:
    """Everything about one cell, as JSON types."""
    star = eta_star(cell, seeds, engine)
    sweeps = {
        finder: {
            label: [FINDERS[finder](cell, seed, **changed) for seed in seeds]
            for label, changed in settings.items()
        }
        for finder, settings in SETTINGS.items()
    }
    sweeps[REREAD] = {
        label: [reread(sweep) for sweep in found] for label, found in sweeps["Lightning"].items()
    }
    for found in sweeps.values():
        for label, seed in itertools.product(found, seeds):
            if (label, seed) != ("default", seeds[0]):
                del found[label][seed]["curve"]
    runs = runs_of_eta_star(cell, seeds, star)
    for finder, found in sweeps.items():
        for seed, sweep in zip(seeds, found["default"], strict=True):
            runs += runs_of_sweep(cell, seed, finder, sweep)
    return {
        "dataset": cell.problem.name,
        "model": cell.model,
        "optimizer": cell.optimizer,
        "threshold": cell.problem.threshold,
        "budget": cell.problem.epochs * cell.steps_per_epoch,
        "eta_star": star,
        "sweeps": sweeps,
        "runs": runs,
    }


def eta_star(cell: Cell, seeds: range, engine: Any) -> dict[str, Any]:
    """η* by `maximal_lr`, with its own range and resolution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", etastar.NotBracketedWarning)
        found = etastar.maximal_lr(
            cell.build,
            cell.data,
            optimizer=OPTIMIZERS[cell.optimizer],
            threshold=cell.problem.threshold,
            epochs=cell.problem.epochs,
            batch_size=BATCH,
            seeds=list(seeds),
            engine=engine,
            progress=False,
        )
    return {
        "lr": found.lr,
        "bracket": found.bracket,
        "safe_lr": found.safe_lr,
        "status": found.status,
        "set_by": found.set_by,
        "engine": found.engine,
        "seeds": [{"lo": s.lo, "hi": s.hi} for s in found.seeds.values()],
        "re_entries": [len(s.re_entries) for s in found.seeds.values()],
        **found.cost,
    }


def pytorch_lr_finder(cell: Cell, seed: int, **changed: Any) -> dict[str, Any]:
    """One range test of pytorch-lr-finder, and the suggestion of its plot."""
    from torch_lr_finder import LRFinder

    settings = {"start_lr": 1e-7, "end_lr": 10.0, "num_iter": 100, **changed}
    model = cell.build(seed)
    optimizer = cell.optimize(model, settings["start_lr"])
    finder = LRFinder(model, optimizer, nn.CrossEntropyLoss(), device="cpu")
    began = time.perf_counter()
    with quiet():
        finder.range_test(cell.loader(seed), **settings)
    seconds = time.perf_counter() - began
    figure, ax = plt.subplots()
    try:
        with quiet():
            suggestion = finder.plot(ax=ax)[1]
    except RuntimeError:  # it stopped before the 17 steps that a suggestion takes
        suggestion = None
    plt.close(figure)
    return sweep(finder.history["lr"], finder.history["loss"], suggestion, 5.0, seconds)


def lightning(cell: Cell, seed: int, **changed: Any) -> dict[str, Any]:
    """One sweep of Lightning's tuner, and its suggestion."""
    with quiet():
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.tuner import Tuner

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = cell.build(seed), 1e-3

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return cell.optimize(self, self.lr)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        found = Tuner(trainer).lr_find(Module(), cell.loader(seed), **changed)
    assert found is not None
    seconds = time.perf_counter() - began
    with quiet():
        suggestion = found.suggestion()
    return sweep(found.results["lr"], found.results["loss"], suggestion, 4.0, seconds)


FINDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "pytorch-lr-finder": pytorch_lr_finder,
    "Lightning": lightning,
}


def sweep(
    rates: list[float],
    losses: list[float],
    suggestion: float | None,
    threshold: float,
    seconds: float,
) -> dict[str, Any]:
    """What a sweep found: its suggestion, and where its smoothed loss gave divergence away."""
    return {
        "suggestion": suggestion,
        "divergence": divergence(rates, losses, threshold),
        "finite": all(map(math.isfinite, losses)),
        "steps": len(losses),
        "seconds": seconds,
        "curve": [
            [float(f"{lr:.4g}"), float(f"{loss:.4g}")]
            for lr, loss in zip(rates, losses, strict=True)
        ],
    }


def reread(sweep: dict[str, Any]) -> dict[str, Any]:
    """Lightning's sweep, read where the loss falls most per step.

    `suggestion` did so until pull request 21055 (August 2025). Since then it takes the slope per
    unit of the rate, which in an exponential sweep is steepest among the smallest rates.
    """
    losses = np.array([loss for _, loss in sweep["curve"][10:-1]])
    suggestion = None
    if len(losses) > 1 and np.isfinite(losses).all():
        suggestion = sweep["curve"][10 + int(np.gradient(losses).argmin())][0]
    return sweep | {"suggestion": suggestion, "divergence": None}


def divergence(rates: list[float], losses: list[float], threshold: float) -> float | None:
    """The first rate whose smoothed loss exceeds `threshold` times the best before it."""
    best = math.inf
    for rate, loss in zip(rates, losses, strict=True):
        if loss > threshold * best:
            return rate
        best = min(best, loss)
    return None


def runs_of_sweep(
    cell: Cell, seed: int, finder: str, sweep: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train at what a sweep gave."""
    runs = []
    if lr := sweep["suggestion"]:
        runs.append(run(cell, finder, "suggestion", seed, seed, lr, PATIENCE))
        runs.append(run(cell, finder, "suggestion", seed, FRESH + seed, lr))
        runs += [run(cell, finder, f"suggestion × {f}", seed, seed, f * lr) for f in FACTORS]
    if lr := sweep["divergence"]:
        runs.append(run(cell, finder, "divergence", seed, seed, lr))
        for used in (seed, FRESH + seed):
            runs.append(run(cell, finder, "divergence ÷ 10", seed, used, lr / 10))
    return runs


def runs_of_eta_star(cell: Cell, seeds: range, star: dict[str, Any]) -> list[dict[str, Any]]:
    """Train at both ends of each seed's bracket, at η*, half of it and the safe rate."""
    runs = []
    for seed, bracket in zip(seeds, star["seeds"], strict=True):
        for end in ("lo", "hi"):
            if bracket[end]:
                runs.append(run(cell, "etastar", end, seed, seed, bracket[end]))
        half = star["lr"] and star["lr"] / 2
        for name, lr in (("η*", star["lr"]), ("η* ÷ 2", half), ("safe", star["safe_lr"])):
            if lr:
                for used in (seed, FRESH + seed):
                    runs.append(run(cell, "etastar", name, seed, used, lr))
    return runs


def run(
    cell: Cell, source: str, name: str, found_with: int, seed: int, lr: float, budgets: int = 1
) -> dict[str, Any]:
    """One training run, with where its rate came from."""
    fresh = found_with != seed
    where = {"source": source, "rate": name, "found_with": found_with, "fresh": fresh, "lr": lr}
    return where | train(cell, seed, lr, budgets)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, tips and warnings of the peers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.CRITICAL)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def line(cell: dict[str, Any]) -> str:
    """One cell in one line, for whoever waits."""
    parts = [f"{cell['dataset']}, {cell['model']}, {cell['optimizer']}:"]
    star = cell["eta_star"]
    parts.append("η* " + (f"{star['lr']:.3g}" if star["lr"] else star["status"]))
    for finder, found in cell["sweeps"].items():
        given = [f"{s['suggestion']:.2g}" if s["suggestion"] else "–" for s in found["default"]]
        parts.append(f"{finder} {' '.join(given)}")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
