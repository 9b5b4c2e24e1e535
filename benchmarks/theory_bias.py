"""How far the prediction of λ1 lies below its median at n = 16 L and κ = 1, with many networks.

    python benchmarks/theory_bias.py --data-dir DIR --json benchmarks/results/theory_bias.json

The same as a cell of `benchmarks/theory_table.py` (Gauss-Newton, MSE, MNIST), with 512 networks of
seeds that it does not use instead of 64.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from etastar.curvature import stack_sharpness
from etastar.data import load
from etastar.problem.networks import MLP
from etastar.theory import sharpness_bounds

CELLS = [(64, 4, 500), (64, 4, 300), (64, 2, 300), (16, 1, 300), (128, 8, 300)]
"""Width, depth, samples."""
FIRST_SEED = 7000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-dir")
    parser.add_argument("--networks", type=int, default=512)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = [row(*cell, args.networks, args.data_dir) for cell in CELLS]
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"networks": args.networks, "rows": rows}, file, indent=1)
            file.write("\n")


def row(
    width: int, depth: int, samples: int, networks: int, folder: str | None
) -> dict[str, float]:
    """Prediction over measured median, with the standard error of the median by bootstrap."""
    data = load("mnist", data_dir=folder, train_size=samples)
    network = MLP(width=width, depth=depth, input_lr_ratio=1.0)
    seeds = range(FIRST_SEED, FIRST_SEED + networks)
    found = stack_sharpness(
        *(network, network.init(seeds, data.inputs, 10), data.x_train, data.y_train),
        loss="mse",
        kind="gauss-newton",
        tol=1e-2,
    )
    values = np.array(found.values)
    draws = values[np.random.default_rng(0).integers(networks, size=(2000, networks))]
    bounds = sharpness_bounds(network, data.x_train, 10, loss="mse", kind="gauss-newton")
    ratio = bounds.kernel_prediction / float(np.median(values))
    error = ratio * float(np.std(np.median(draws, 1)) / np.median(values))
    print(f"{width}×{depth}, {samples} samples: {ratio:.3f} ± {error:.3f}", flush=True)
    return {"width": width, "depth": depth, "samples": samples, "ratio": ratio, "error": error}


if __name__ == "__main__":
    main()
