"""Time to η* of several seeds, five ways: etastar, bisection, vmap stacks, JAX, Optuna.

    pip install -c constraints.txt -r requirements-benchmarks.txt
    python benchmarks/side_by_side.py --data-dir DATA --json benchmarks/results/side_by_side.json

The same network, initialisations, order of batches, criterion and range for all, at 5 % resolution.
The bisection and Optuna train one `nn.Sequential` at a time and leave a trial as soon as it touches
the threshold or diverges. The stacks of `torch.func.vmap` and of JAX (`vmap` over replicas,
`lax.scan` over steps, compiled) train all rates of all seeds in lockstep and stop when none is left
to decide. They and Optuna's grid search in two rounds, as one would by hand: rates a factor 1.6
apart, then every 5 % between the best one and the next. JAX's time is given with and without
compilation. Every way runs once, in turn, in one process.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from engine import machine, settings_of
from measure import sequential, stacked
from torch import nn

from etastar.data import Dataset, load
from etastar.engines.reference import batches, train_one
from etastar.problem.networks import MLP
from etastar.problem.trial import Recipe, Trial
from etastar.settings import Settings

COARSE, FINE = 1.6, 1.05
START, END = 1e-3, 10.0
Lockstep = Callable[[list[Trial]], list[bool]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--input-lr-ratio", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load(args.dataset, data_dir=args.data_dir)
    network = MLP(width=args.width, depth=args.depth, input_lr_ratio=args.input_lr_ratio)
    recipe = Settings.checked(dataset=data.name).recipe(data)
    rows: list[dict[str, Any]] = []

    def add(name: str, run: dict[str, Any]) -> None:
        rows.append(
            {"way": name, **run, "times": run["seconds"] / rows[0]["seconds"] if rows else 1.0}
        )
        row = rows[-1]
        print(
            f"{name:28} {row['seconds']:8.1f} s  {row['times']:6.1f} ×  {row['trials']:5} trials  "
            f"median η* {row['median']:.4g}",
            flush=True,
        )

    add("etastar", stacked(network, data, args.seeds))
    add("sequential bisection", sequential(network, data, args.seeds))
    add("torch.func.vmap stacks", grids(VmapStack(network, data, recipe), args.seeds))
    stack = JaxStack(network, data, recipe)
    first = grids(stack, args.seeds)
    add("JAX, compilation included", first)
    add("JAX, compiled before", grids(stack, args.seeds))
    add("Optuna grid", optuna_grid(network, data, recipe, args.seeds))
    if args.json:
        with open(args.json, "w") as file:
            record = {"machine": machine("cpu"), "settings": settings_of(args), "rows": rows}
            json.dump(record, file, indent=1)
            file.write("\n")


def coarse_rates() -> list[float]:
    count = math.ceil(math.log(END / START) / math.log(COARSE))
    return [START * (END / START) ** (i / count) for i in range(count + 1)]


def fine_rates(low: float, high: float) -> list[float]:
    """Between two coarse rates, exclusive."""
    count = math.ceil(math.log(high / low) / math.log(FINE))
    return [low * (high / low) ** (i / count) for i in range(1, count)]


def bracket(rates: list[float], trained: list[bool]) -> tuple[float | None, float | None]:
    """The highest rate that trained and the next above it."""
    best = max((i for i, ok in enumerate(trained) if ok), default=None)
    if best is None:
        return None, None
    return rates[best], rates[best + 1] if best + 1 < len(rates) else None


def summary(
    brackets: list[tuple[float | None, float | None]], trials: int, start: float
) -> dict[str, Any]:
    middles = [math.log(lo * hi) / 2 for lo, hi in brackets if lo and hi]
    return {
        "seconds": time.perf_counter() - start,
        "trials": trials,
        "median": float(np.exp(np.median(middles))),
        "brackets": brackets,
    }


def grids(train: Lockstep, seeds: int) -> dict[str, Any]:
    """Both rounds, every seed in the same stack."""
    start = time.perf_counter()
    rates = coarse_rates()
    trained = train([Trial.of(s, lr) for s in range(seeds) for lr in rates])
    table = np.array(trained).reshape(seeds, len(rates))
    rough = [bracket(rates, list(row)) for row in table]
    fine = [fine_rates(lo, hi) if lo and hi else [] for lo, hi in rough]
    trials = [Trial.of(s, lr) for s in range(seeds) for lr in fine[s]]
    found = dict(zip(trials, train(trials), strict=True))
    brackets = []
    for seed, (lo, hi) in enumerate(rough):
        if lo and hi:
            inner = [found[Trial.of(seed, lr)] for lr in fine[seed]]
            lo, hi = bracket([lo, *fine[seed], hi], [True, *inner, False])
        brackets.append((lo, hi))
    return summary(brackets, seeds * len(rates) + len(trials), start)


class VmapStack:
    """One replica per trial through `torch.func.vmap(grad)`."""

    def __init__(self, network: MLP, data: Dataset, recipe: Recipe) -> None:
        self.network, self.data, self.recipe = network, data, recipe

    def __call__(self, trials: list[Trial]) -> list[bool]:
        """Whether each trial trains."""
        data, criterion = self.data, self.recipe.criterion
        names = [t.seed for t in trials]
        params = self.network.init(names, data.inputs, data.classes)
        lr = torch.tensor([t.lr for t in trials])
        ratios = self.network.lr_ratios()
        gradient = torch.func.vmap(torch.func.grad(_loss))
        orders = {s: batches(len(data.y_train), self.recipe, s) for s in set(names)}
        trained = torch.zeros(len(trials), dtype=torch.bool)
        for step in range(1, criterion.max_steps + 1):
            chosen = {s: next(order) for s, order in orders.items()}
            rows = torch.stack([chosen[s] for s in names])
            grads = gradient(params, data.x_train[rows], data.y_train[rows])
            for p, g, ratio in zip(params, grads, ratios, strict=True):
                p.sub_(g * (ratio * lr).view(-1, *[1] * (p.ndim - 1)))
            if step % criterion.eval_every == 0 or step == criterion.max_steps:
                accuracy = torch.stack(
                    [
                        (_forward([p[i] for p in params], data.x_val).argmax(1) == data.y_val)
                        .double()
                        .mean()
                        for i in range(len(trials))
                    ]
                )
                trained |= accuracy >= criterion.threshold
                finite = torch.stack([p.flatten(1).isfinite().all(1) for p in params]).all(0)
                if not (finite & ~trained).any():
                    break
        return trained.tolist()


def _forward(params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for layer in range(0, len(params), 2):
        x = torch.addmm(params[layer + 1], x, params[layer])
        x = x.relu() if layer < len(params) - 2 else x
    return x


def _loss(params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(_forward(params, x), y)


class JaxStack:
    """The same as one compiled program per evaluation interval: vmap, grad, lax.scan."""

    def __init__(self, network: MLP, data: Dataset, recipe: Recipe) -> None:
        import jax
        from jax import numpy as jnp

        self.network, self.data, self.recipe = network, data, recipe
        x_train, y_train = jnp.asarray(data.x_train.numpy()), jnp.asarray(data.y_train.numpy())
        x_val, y_val = jnp.asarray(data.x_val.numpy()), jnp.asarray(data.y_val.numpy())
        ratios = network.lr_ratios()

        def forward(params: Any, x: Any) -> Any:
            for layer in range(0, len(params), 2):
                x = x @ params[layer] + params[layer + 1]
                x = jax.nn.relu(x) if layer < len(params) - 2 else x
            return x

        def loss(params: Any, rows: Any) -> Any:
            logits = jax.nn.log_softmax(forward(params, x_train[rows]))
            return -jnp.take_along_axis(logits, y_train[rows][:, None], 1).mean()

        def interval(params: Any, lr: Any, rows: Any) -> Any:
            def step(state: Any, now: Any) -> Any:
                grads = jax.grad(loss)(state, now)
                return [
                    p - ratio * lr * g for p, g, ratio in zip(state, grads, ratios, strict=True)
                ], None

            params, _ = jax.lax.scan(step, params, rows)
            accuracy = (forward(params, x_val).argmax(1) == y_val).mean()
            finite = jnp.array([jnp.isfinite(p).all() for p in params]).all()
            return params, accuracy, finite

        self.interval = jax.jit(jax.vmap(interval))

    def __call__(self, trials: list[Trial]) -> list[bool]:
        """Whether each trial trains."""
        import jax.numpy as jnp

        data, criterion = self.data, self.recipe.criterion
        names = [t.seed for t in trials]
        params = [
            jnp.asarray(p.numpy()) for p in self.network.init(names, data.inputs, data.classes)
        ]
        lr = jnp.asarray([t.lr for t in trials])
        orders = {s: batches(len(data.y_train), self.recipe, s) for s in set(names)}
        trained = np.zeros(len(trials), dtype=bool)
        done = 0
        while done < criterion.max_steps:
            count = min(criterion.eval_every, criterion.max_steps - done)
            chosen = {
                s: np.stack([next(order).numpy() for _ in range(count)])
                for s, order in orders.items()
            }
            rows = jnp.asarray(np.stack([chosen[s] for s in names]).astype(np.int32))
            params, accuracy, finite = self.interval(params, lr, rows)
            trained |= np.asarray(accuracy) >= criterion.threshold - 1e-7
            done += count
            if not (np.asarray(finite) & ~trained).any():
                break
        return [bool(t) for t in trained]


def optuna_grid(network: MLP, data: Dataset, recipe: Recipe, seeds: int) -> dict[str, Any]:
    """Optuna's `GridSampler`, a study per seed and round, one plain trial at a time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    start, trials, brackets = time.perf_counter(), 0, []

    def search(seed: int, rates: list[float]) -> list[bool]:
        nonlocal trials

        def objective(trial: Any) -> float:
            lr = trial.suggest_float("lr", START / 2, END * 2)
            return float(train_one(network, data, recipe, Trial.of(seed, lr)).kind == "trained")

        sampler = optuna.samplers.GridSampler({"lr": rates}, seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=len(rates))
        trials += len(rates)
        value = {t.params["lr"]: bool(t.value) for t in study.trials}
        return [value[lr] for lr in rates]

    for seed in range(seeds):
        rates = coarse_rates()
        lo, hi = bracket(rates, search(seed, rates))
        if lo and hi:
            fine = fine_rates(lo, hi)
            lo, hi = bracket([lo, *fine, hi], [True, *search(seed, fine), False])
        brackets.append((lo, hi))
    return summary(brackets, trials, start)


if __name__ == "__main__":
    main()
