"""Replica-steps per second of the stack, against vmap, a loop of modules, and bare matrix products.

    python benchmarks/engine.py --json benchmarks/results/engine.json

All take the same steps: gather a batch of 128 per replica, forward, cross-entropy, backward, SGD.
They take turns, round after round, and the best round of each counts: on a shared machine only
ratios within one run mean anything. The *ceiling* is the time of the matrix products alone
(forward, input gradients but the first layer's, weight gradients) as `torch.bmm` at the same
shapes, all replicas in one call, PyTorch's own threads.

The stack is timed as `measure` runs it, from drawing the networks to their outcomes. A measurement
trains a few initialisations at many rates each, and the stack keeps what it draws. So more than 32
replicas, as a GPU takes, are 8 seeds at many rates; otherwise what is timed would be the drawing of
hundreds of networks on the CPU. Up to 32 replicas have a seed each.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from etastar.data import Dataset
from etastar.engines import StackEngine, train_all
from etastar.problem.networks import MLP
from etastar.problem.problem import Problem, of_network
from etastar.problem.trial import Criterion, Recipe, Trial

BATCH, SAMPLES, CLASSES, STEPS = 128, 20_000, 10, 192
SEEDS, MOST_SEEDS = 8, 32
"""Seeds of many replicas; replicas up to which each is a seed of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--inputs", type=int, nargs="+", default=[784, 64], help="input dimensions")
    parser.add_argument("--slots", type=int, help="replicas per thread")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    print("inputs width replicas | stack/s  % of ceiling  × vmap  × loop")
    for inputs in args.inputs:
        data = synthetic(inputs)
        for width in args.widths:
            row = compare(MLP(width=width, depth=args.depth), data, args)
            rows.append(row)
            print(
                f"{inputs:6} {width:5} {row['replicas']:8} | {row['stack_per_second']:7.0f}"
                f"  {row['stack_over_ceiling']:12.0%}  {row['stack_over_vmap']:6.2f}"
                f"  {row['stack_over_loop']:6.2f}",
                flush=True,
            )
    if args.json:
        record = {"machine": machine(args.device), "settings": settings_of(args), "rows": rows}
        with open(args.json, "w") as file:
            json.dump(record, file, indent=1)


def synthetic(inputs: int) -> Dataset:
    """Standard normal inputs, random labels: the arithmetic of a step does not depend on them."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, inputs, generator=g)
    y = torch.randint(CLASSES, (SAMPLES,), generator=g)
    return Dataset.from_tensors(x, y, x[:CLASSES], torch.arange(CLASSES), name="synthetic")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a run, without the folders and files of the machine that it ran on."""
    return {k: v for k, v in vars(args).items() if k not in ("data_dir", "json")}


def machine(device: str) -> dict[str, object]:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor()


def compare(network: MLP, data: Dataset, args: argparse.Namespace) -> dict[str, float]:
    """Best time per replica-step of the four, taking turns."""
    criterion = Criterion(threshold=1.0, max_steps=STEPS, eval_every=STEPS)
    recipe = Recipe(loss="cross-entropy", batch_size=BATCH, criterion=criterion)
    problem = of_network(network, data, recipe, device=args.device)
    engine = StackEngine(args.threads, slots=args.slots)
    plan = engine.plan(problem)
    replicas = plan.slots * plan.threads
    there = data.to(device=torch.device(args.device))
    ways = {
        "stack": stack(engine, problem, replicas),
        "vmap": vmapped(network, there, replicas, args.device),
        "ceiling": ceiling(network, data.inputs, replicas, args.device),
        "loop": loop(network, there, args.device),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(args.rounds):
        for way, run in ways.items():
            synchronise(args.device)
            start = time.perf_counter()
            steps = run()
            synchronise(args.device)
            best[way] = min(best[way], (time.perf_counter() - start) / steps)
    return {
        "inputs": data.inputs,
        "width": network.width,
        "depth": network.depth,
        "replicas": replicas,
        **{f"{way}_per_second": 1 / seconds for way, seconds in best.items()},
        **{f"stack_over_{way}": best[way] / best["stack"] for way in ("ceiling", "vmap", "loop")},
    }


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def stack(engine: StackEngine, problem: Problem, replicas: int) -> Callable[[], int]:
    """The engine as `measure` runs it, from drawing the networks to their outcomes."""
    trials = trials_of(replicas)

    def run() -> int:
        before = engine.steps_taken
        train_all(engine, problem, trials)
        return engine.steps_taken - before

    return run


def trials_of(replicas: int) -> list[Trial]:
    """One seed each; of more than `MOST_SEEDS`, `SEEDS` seeds at rates up to a tenth apart."""
    seeds = replicas if replicas <= MOST_SEEDS else SEEDS
    rates = [0.01 * (1 + 0.1 * i / replicas) for i in range(replicas)]
    return [Trial.of(i % seeds, rates[i // seeds]) for i in range(replicas)]


def vmapped(network: MLP, data: Dataset, replicas: int, device: str) -> Callable[[], int]:
    """`torch.func.vmap` of `grad` of the same network written for one replica."""
    params = network.init(range(replicas), data.inputs, data.classes, device=device)
    lr = torch.full((replicas,), 0.01, device=device)

    def loss(params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = x
        for layer in range(0, len(params), 2):
            h = torch.addmm(params[layer + 1], h, params[layer])
            h = h.relu() if layer < len(params) - 2 else h
        return nn.functional.cross_entropy(h, y)

    gradient = torch.func.vmap(torch.func.grad(loss))

    def run() -> int:
        rows = torch.randint(len(data.y_train), (replicas, BATCH), device=device)
        for p, g in zip(
            params, gradient(params, data.x_train[rows], data.y_train[rows]), strict=True
        ):
            p.sub_(g * lr.view(-1, *[1] * (p.ndim - 1)))
        return replicas

    return run


def loop(network: MLP, data: Dataset, device: str) -> Callable[[], int]:
    """One `nn.Sequential` and `torch.optim.SGD`, as in any tutorial."""
    sizes = network.layer_sizes(data.inputs, data.classes)
    layers = [layer for i, o in sizes for layer in (nn.Linear(i, o), nn.ReLU())][:-1]
    module = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)

    def run(steps: int = 8) -> int:
        for _ in range(steps):
            rows = torch.randint(len(data.y_train), (BATCH,), device=device)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(data.x_train[rows]), data.y_train[rows])
            loss.backward()
            optimizer.step()
        return steps

    return run


def ceiling(network: MLP, inputs: int, replicas: int, device: str) -> Callable[[], int]:
    """The matrix products of a step and nothing else."""
    shapes = []
    for layer, (i, o) in enumerate(network.layer_sizes(inputs, CLASSES)):
        h, w, g = (
            torch.randn(replicas, *shape, device=device)
            for shape in ((BATCH, i), (i, o), (BATCH, o))
        )
        shapes.append(
            (layer, h, w, g, torch.empty_like(g), torch.empty_like(h), torch.empty_like(w))
        )

    def run() -> int:
        for layer, h, w, g, out, below, update in shapes:
            torch.bmm(h, w, out=out)
            torch.bmm(h.transpose(1, 2), g, out=update)
            if layer:
                torch.bmm(g, w.transpose(1, 2), out=below)
        return replicas

    return run


if __name__ == "__main__":
    main()
