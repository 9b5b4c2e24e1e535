"""λ1 of many networks: the stack, against loops of the ways in use today, in one run.

    python benchmarks/sharpness.py --data-dir DIR --json benchmarks/results/sharpness.json

All find the largest eigenvalue of the Hessian of the full-batch loss at initialisation, in float32,
on the same networks and samples, weights and data already in memory:

- stack: `etastar.curvature.stack_sharpness`, all networks;
- stack, loose: the same at tolerance 1e-2, whose error is of the order of power iteration's;
- arpack: a loop of curvlinops' `HessianLinearOperator` and `scipy.sparse.linalg.eigsh`
  (`k=1, which="LA"`, the same tolerance, which ARPACK too applies to the relative residual);
- power: a loop of power iteration as PyHessian does it, with its defaults: Gaussian start, 100
  iterations at most, until the eigenvalue changes by less than 1e-3 of itself. Written out here
  from its published description, with the gradient's graph built once, which is its faster mode;
- power, same error: the same, until its error is at most the stack's on that network (or 1e-5,
  well above float32's rounding), which it is told: no stopping rule could be better.

The loops run on a subset of the networks, and their time is scaled to all; the table says so. They
take turns with the stack, and the best of a few rounds counts for every piece of work (64 networks
of the stack, one network of a loop): on a shared machine only ratios within one run mean anything.
Errors are relative to ARPACK in float64 at tolerance 1e-9 on the subset. Products are products with
all samples per network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable

# SciPy's threads would go on spinning beside PyTorch's, and slow down whatever runs after ARPACK
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from etastar.curvature import stack_sharpness
from etastar.data import load
from etastar.problem.networks import MLP

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from curvlinops import HessianLinearOperator


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    data = load(args.dataset, data_dir=args.data_dir, train_size=args.samples)
    x, labels = data.x_train, data.y_train
    network = MLP(width=args.width, depth=args.depth)
    params = network.init(range(args.networks), data.inputs, data.classes)
    loss_fn = losses(data.classes)[args.loss]
    subset = np.linspace(0, args.networks - 1, args.subset).round().astype(int)

    truth = {
        row: arpack(module(network, params, row).double(), loss_fn, x.double(), labels, 1e-9)[0]
        for row in subset.tolist()
    }

    def stack(rows: list[int], tol: float = args.tol) -> list[Found]:
        few = [p[rows] for p in params]
        found = stack_sharpness(network, few, x, labels, loss=args.loss, tol=tol)
        assert all(found.converged)
        return list(zip(found.values, found.iterations, strict=True))

    reached = {
        row: value for row, (value, _) in zip(subset.tolist(), stack(subset.tolist()), strict=True)
    }

    def loop_arpack(rows: list[int]) -> list[Found]:
        return [arpack(module(network, params, r), loss_fn, x, labels, args.tol) for r in rows]

    def loop_power(rows: list[int]) -> list[Found]:
        return [power(module(network, params, r), loss_fn, x, labels, defaults()) for r in rows]

    def loop_power_on(rows: list[int]) -> list[Found]:
        stops = [as_good_as(reached[r], truth[r]) for r in rows]
        return [
            power(module(network, params, r), loss_fn, x, labels, stop, max_iter=1000)
            for r, stop in zip(rows, stops, strict=True)
        ]

    singly = [[r] for r in subset.tolist()]
    together = [part.tolist() for part in torch.arange(args.networks).split(64)]
    ways: Ways = {
        "stack": (stack, together),
        "stack, loose": (lambda rows: stack(rows, 1e-2), together),
        "arpack": (loop_arpack, singly),
        "power": (loop_power, singly),
        "power, same error": (loop_power_on, singly),
    }
    busy = os.getloadavg()
    found, seconds = timed(ways, args.rounds)
    report(args, ways, found, seconds, truth, busy)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", help="folder with the image files; default: see etastar.data")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=256)
    parser.add_argument("--subset", type=int, default=16, help="networks given to the loops")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--loss", choices=["cross-entropy", "mse"], default="cross-entropy")
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    return parser.parse_args()


Found = tuple[float, int]
"""λ1 of a network, and the products it took."""

Ways = dict[str, tuple[Callable[[list[int]], list[Found]], list[list[int]]]]
"""A function from networks to their λ1, and the pieces of work it is timed on."""


def timed(ways: Ways, rounds: int) -> tuple[dict[str, dict[int, Found]], dict[str, float]]:
    """Values and products by network, and best seconds per network, of each way."""
    values: dict[str, dict[int, Found]] = {name: {} for name in ways}
    best = {name: [float("inf")] * len(pieces) for name, (_, pieces) in ways.items()}
    for way, pieces in ways.values():
        way(pieces[0][:1])  # first calls load libraries
    for round_ in range(rounds):
        order = list(ways.items())
        order = order[round_ % len(order) :] + order[: round_ % len(order)]
        for turn in range(max(len(pieces) for _, pieces in ways.values())):
            for name, (way, pieces) in order:
                if turn >= len(pieces):
                    continue
                start = time.perf_counter()
                found = way(pieces[turn])
                best[name][turn] = min(best[name][turn], time.perf_counter() - start)
                values[name].update(zip(pieces[turn], found, strict=True))
    return values, {
        name: sum(best[name]) / sum(map(len, pieces)) for name, (_, pieces) in ways.items()
    }


def report(
    args: argparse.Namespace,
    ways: Ways,
    found: dict[str, dict[int, Found]],
    seconds: dict[str, float],
    truth: dict[int, float],
    busy: tuple[float, float, float],
) -> None:
    print(
        f"{args.networks} networks {args.width}x{args.depth}, {args.samples} samples of "
        f"{args.dataset}, {args.loss}, tolerance {args.tol:g}, {args.threads} threads; loops timed "
        f"on {args.subset} networks and scaled"
    )
    print(f"{'':19}ms/network  products  time / stack's  largest error  median error")
    rows = []
    for name in ways:
        errors = [abs(found[name][r][0] / true - 1) for r, true in truth.items()]
        products = float(np.mean([count for _, count in found[name].values()]))
        row = {
            "way": name,
            "networks_timed": sum(map(len, ways[name][1])),
            "seconds_per_network": seconds[name],
            "seconds_all_networks": seconds[name] * args.networks,
            "mean_products": products,
            "time_over_stack": seconds[name] / seconds["stack"],
            "largest_relative_error": max(errors),
            "median_relative_error": float(np.median(errors)),
        }
        rows.append(row)
        print(
            f"{name:19}{1e3 * seconds[name]:10.1f}  {products:8.1f}"
            f"  {row['time_over_stack']:14.2f}  {max(errors):13.1e}"
            f"  {row['median_relative_error']:12.1e}"
        )
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k not in ("json", "data_dir")}
        machine = {
            "torch": torch.__version__,
            "processor": processor(),
            "load_average_before": busy,
        }
        with open(args.json, "w") as file:
            json.dump({"settings": settings, "machine": machine, "rows": rows}, file, indent=2)
            file.write("\n")


def module(network: MLP, params: list[Tensor], row: int) -> nn.Module:
    """One replica as anybody would write it."""
    weights, biases = network.split(params)
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        layer.weight.data = weight[row].T.contiguous()
        assert bias is not None
        layer.bias.data = bias[row].clone()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line[:10] == "model name"]
    return names[0] if names else platform.machine()


def losses(classes: int) -> dict[str, nn.Module]:
    class HalfSquare(nn.MSELoss):
        """Half the sum over outputs, mean over samples, as in `etastar.problem.losses`."""

        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
            targets = nn.functional.one_hot(labels, classes).to(outputs)
            return super().forward(outputs, targets) * (classes / 2)

    return {"cross-entropy": nn.CrossEntropyLoss(), "mse": HalfSquare()}


def arpack(model: nn.Module, loss_fn: nn.Module, x: Tensor, labels: Tensor, tol: float) -> Found:
    parameters = list(model.parameters())
    hessian = HessianLinearOperator(
        model, loss_fn, parameters, [(x, labels)], check_deterministic=False
    ).to_scipy()
    products = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return hessian @ vector

    counted = LinearOperator(hessian.shape, matvec=product, dtype=hessian.dtype)
    value = eigsh(counted, k=1, which="LA", tol=tol, return_eigenvectors=False)[0]
    return float(value), products


def power(
    model: nn.Module,
    loss_fn: nn.Module,
    x: Tensor,
    labels: Tensor,
    stop: Callable[[float], bool],
    max_iter: int = 100,
) -> Found:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_fn(model(x), labels), parameters, create_graph=True)
    vector = normalised([torch.randn_like(p) for p in parameters])
    eigenvalue, products = float("nan"), 0
    while products < max_iter:
        image = torch.autograd.grad(gradients, parameters, grad_outputs=vector, retain_graph=True)
        eigenvalue = float(sum((a * b).sum() for a, b in zip(image, vector, strict=True)))
        vector = normalised(image)
        products += 1
        if stop(eigenvalue):
            break
    return eigenvalue, products


def defaults(tol: float = 1e-3) -> Callable[[float], bool]:
    """PyHessian's rule: the eigenvalue has changed by less than `tol` of itself."""
    previous: list[float] = []

    def stop(eigenvalue: float) -> bool:
        settled = bool(previous) and abs(eigenvalue - previous[-1]) < tol * (
            abs(previous[-1]) + 1e-6
        )
        previous.append(eigenvalue)
        return settled

    return stop


def as_good_as(reached: float, truth: float) -> Callable[[float], bool]:
    allowed = max(abs(reached / truth - 1), 1e-5)
    return lambda eigenvalue: abs(eigenvalue / truth - 1) <= allowed


def normalised(vector: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    norm = float(sum((v * v).sum() for v in vector)) ** 0.5
    return [v / (norm + 1e-6) for v in vector]


if __name__ == "__main__":
    main()
