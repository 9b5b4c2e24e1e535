"""The stack on a GPU: a step recorded as a CUDA graph against the same step launched anew.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

The same trials are run in both ways; every outcome must be equal, losses included.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

from engine import machine

import etastar
from etastar.engines import StackEngine, train_all
from etastar.engines.replicas import Stack
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.problem.problem import of_network
from etastar.problem.trial import Criterion, Recipe, Trial

RATES, SEEDS = [0.02 * 1.25**i for i in range(24)], range(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    args = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(args.device)}
    record["recorded"] = [recorded(case, args.device) for case in cases()]
    print(json.dumps(record, indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(record, file, indent=1)


def cases() -> list[tuple[str, Any, dict[str, Any]]]:
    """Return a name, a network and settings of the training for each case."""
    return [
        ("plain", MLP(width=64, depth=4), {}),
        ("kappa 0.1, mse", MLP(width=64, depth=4, input_lr_ratio=0.1), {"loss": "mse"}),
        ("momentum", MLP(width=32, depth=2), {"momentum": 0.9}),
        ("normalised", LayerNormMLP(width=32, depth=3), {}),
        ("full batch", MLP(width=32, depth=2), {"batch_size": "full"}),
    ]


def outcomes(case: tuple[str, Any, dict[str, Any]], device: str) -> list[dict[str, Any]]:
    _, network, options = case
    criterion = Criterion(threshold=0.9, max_steps=150, eval_every=10)
    recipe = Recipe(**({"loss": "cross-entropy", "batch_size": 64} | options), criterion=criterion)
    problem = of_network(network, etastar.load("digits"), recipe, device=device)
    trials = [Trial.of(seed, lr) for seed in SEEDS for lr in RATES]
    told = train_all(StackEngine(1, slots=len(trials)), problem, trials)
    return [asdict(told[trial]) for trial in trials]


def recorded(case: tuple[str, Any, dict[str, Any]], device: str) -> dict[str, Any]:
    """Return how many outcomes differ when no step is recorded, and how long both took."""
    outcomes(case, device)
    start = time.perf_counter()
    quick = outcomes(case, device)
    middle = time.perf_counter()
    advance, Stack._advance = Stack._advance, Stack._take  # type: ignore[assignment, method-assign]
    try:
        slow = outcomes(case, device)
    finally:
        Stack._advance = advance  # type: ignore[method-assign]
    end = time.perf_counter()
    differ = sum(a != b for a, b in zip(quick, slow, strict=True))
    return {
        "case": case[0],
        "trials": len(quick),
        "differ": differ,
        "launched_over_recorded": (end - middle) / (middle - start),
    }


if __name__ == "__main__":
    main()
