"""Peak memory of 64 and of 1,024 replicas: it grows with the stack, not with the number of trials.

    python benchmarks/memory.py --json benchmarks/results/memory.json

Each count runs in a process of its own, which reports its peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from engine import machine, synthetic

from etastar.engines import StackEngine, train_all
from etastar.problem.networks import MLP
from etastar.problem.problem import of_network
from etastar.problem.trial import Criterion, Recipe, Trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(peak(args.one, args.width)))
        return
    rows = []
    for replicas in args.replicas:
        command = [sys.executable, __file__, "--one", str(replicas), "--width", str(args.width)]
        row = json.loads(subprocess.check_output(command))
        rows.append(row)
        print(
            f"{replicas:6} trials, {row['slots']} at once: peak {row['peak_mib']:.0f} MiB"
            f" (all weights at once would be {row['weights_mib']:.0f} MiB)",
            flush=True,
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"machine": machine("cpu"), "settings": vars(args), "rows": rows}, file, indent=1
            )


def peak(replicas: int, width: int) -> dict[str, float]:
    network = MLP(width=width, depth=4)
    criterion = Criterion(threshold=1.0, max_steps=2, eval_every=2)
    recipe = Recipe(loss="cross-entropy", criterion=criterion)
    data = synthetic(784)
    problem = of_network(network, data, recipe)
    engine = StackEngine()
    plan = engine.plan(problem)
    train_all(engine, problem, [Trial.of(seed, 0.01) for seed in range(replicas)])
    return {
        "replicas": replicas,
        "slots": plan.slots * plan.threads,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "weights_mib": 4 * network.parameter_count(784, data.classes) * replicas / 2**20,
    }


if __name__ == "__main__":
    main()
