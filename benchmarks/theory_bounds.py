"""Measured mean of λ1(G) ÷ every proved bound, at the settings of the tests: a table in markdown.

python benchmarks/theory_bounds.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "curvature"))

from test_theory_theorem import SETTINGS, drawn, inputs, lambda1

from etastar.problem.networks import MLP
from etastar.theory import theorem_entries

NAMES = {
    "mse": ("lower gradient", "lower layers", "upper blocks", "upper trace"),
    "cross-entropy": ("lower sample", "lower output layer", "upper softmax trace", "upper blocks"),
}


def main() -> None:
    heads = [f"{name.replace(' ', ': ', 1)}" for names in NAMES.values() for name in names]
    print("| n, L, κ, v, C, d, m | β | x·x′ ≥ 0 |", " | ".join(heads), "| constant vector |")
    print("|---" * (len(heads) + 4) + "|")
    for setting in SETTINGS:
        n, depth, kappa, v, classes, d, m, biases = setting
        net = MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v, biases=biases)
        for positive in (False, True):
            x = inputs(m, d, positive)
            total, outputs = drawn(x, setting, 4000 if n < 10 else 800, seed=3)
            cells, constant = [], 0.0
            for loss, names in NAMES.items():
                mean = lambda1(total, outputs, loss).mean()
                found = {
                    f"{e.side} {e.name}": e.value for e in theorem_entries(net, x, classes, loss)
                }
                cells += [f"{mean / found[k]:.3g}" if found[k] > 1e-9 else "∞" for k in names]
                constant = constant or mean / found["lower constant vector"]
            sizes = ", ".join(f"{value:g}" for value in setting[:-1])
            shown = ["yes" if biases else "no", "yes" if positive else "no", *cells]
            print(f"| {sizes} |", " | ".join(shown), f"| {constant:.3g} |", flush=True)


if __name__ == "__main__":
    main()
