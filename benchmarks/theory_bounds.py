"""Measured mean of λ1(G) ÷ every proved bound, at the settings of the tests: a table in markdown.

python benchmarks/theory_bounds.py --docs docs/theory.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "curvature"))

from test_theory_theorem import SETTINGS, drawn, inputs, lambda1

from etastar.problem.networks import MLP
from etastar.theory import theorem_entries

BEGIN, END = "<!-- settings: written by benchmarks/theory_bounds.py -->", "<!-- /settings -->"
NAMES = {
    "mse": (
        *("lower product", "lower gradient", "lower layers"),
        *("upper blocks", "upper trace", "upper product"),
    ),
    "cross-entropy": (
        *("lower sample", "lower output layer", "upper softmax trace"),
        *("upper blocks", "upper trace", "upper product"),
    ),
}


def line(setting: tuple, positive: bool) -> str:
    """The row of one setting."""
    n, depth, kappa, v, classes, d, m, biases = setting
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa, output_variance=v, biases=biases)
    x = inputs(m, d, positive)
    total, outputs = drawn(x, setting, 4000 if n < 10 else 800, seed=3)
    sizes = ", ".join(f"{value:g}" for value in setting[:-1])
    cells = [sizes, "yes" if biases else "no", "yes" if positive else "no"]
    for loss, names in NAMES.items():
        mean = lambda1(total, outputs, loss).mean()
        found = {f"{e.side} {e.name}": e.value for e in theorem_entries(net, x, classes, loss)}
        cells += [f"{mean / found[k]:.3g}" if found[k] > 1e-9 else "∞" for k in names]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    heads = ["n, L, κ, v, C, d, m", "β", "x·x′ ≥ 0"]
    for loss, names in NAMES.items():
        short = "MSE" if loss == "mse" else "CE"
        heads += [f"{short} {name.split()[0]} `{name.split(' ', 1)[1]}`" for name in names]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    print("\n".join(lines))
    for setting in SETTINGS:
        for positive in (False, True):
            lines.append(line(setting, positive))
            print(lines[-1], flush=True)
    if args.docs:
        text = args.docs.read_text("utf-8")
        head, after = text.split(BEGIN)
        text = "\n".join([f"{head}{BEGIN}\n", *lines, f"\n{END}{after.split(END)[1]}"])
        args.docs.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
