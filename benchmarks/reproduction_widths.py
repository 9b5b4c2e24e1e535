"""λ1 against width on CIFAR-10, measured without training, for docs/reproduction.md.

A part of `benchmarks/reproduction.py`, as `--run widths`.
"""

from __future__ import annotations

import json
from typing import Any

from reproduction_studies import RESULTS

WIDTHS_FILE = RESULTS / "cifar10-widths.json"


def measure_widths() -> None:
    """λ1 of plain Hessian and Gauss-Newton matrix against width, on CIFAR-10, MSE, L = 4, κ = 1.

    The widths are those of the published exponents and two below; standard (v = 1) and zero
    (v = 0) last layer. Writes `WIDTHS_FILE`.
    """
    from etastar.curvature import stack_sharpness
    from etastar.data import load
    from etastar.problem.networks import MLP

    data = load("cifar10", train_size=500)
    x = data.x_train.flatten(1)
    found: list[dict[str, Any]] = []
    for variance in (1.0, 0.0):
        for width in (64, 128, 256, 512, 1024, 2048):
            net = MLP(width=width, depth=4, output_variance=variance)
            params = net.init(range(3), data.inputs, data.classes)
            row: dict[str, Any] = {"output_variance": variance, "width": width}
            for kind in ("hessian", "gauss-newton"):
                result = stack_sharpness(
                    *(net, params, x, data.y_train),
                    loss="mse",
                    kind=kind,  # type: ignore[arg-type]
                    tol=1e-2,
                )
                assert all(result.converged)
                row[kind] = [float(f"{value:.5g}") for value in result.values]
            found.append(row)
            print(row, flush=True)
    WIDTHS_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
