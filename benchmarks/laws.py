"""Coverage, size and power of the laws' intervals and tests when lack of fit is shared.

    python benchmarks/laws.py

plants laws over full and holed grids of widths and depths, with a share of the lack of fit common
to all networks of one width or of one depth, and writes `benchmarks/results/laws.json`: coverage of
the 95 % intervals of both exponents, how often the test of equal exponents rejects at 5 % where
they are equal (size) and where they differ by 0.4 (power), with effects of width and depth
(`two_way`), and the size with lack of fit taken as independent between networks, as in 0.1.0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from etastar.scaling import two_way
from etastar.scaling.least_squares import fit_random_effects

OUTPUT = Path(__file__).parent / "results" / "laws.json"
MISFIT, NOISE, APART = 0.2, 0.05, 0.4
WIDTHS = (32, 64, 128, 256, 512, 1024)
DEPTHS = (2, 3, 4, 6, 8, 12)
GRIDS = {"5 × 5": (5, 5, 0), "5 × 5, five missing": (5, 5, 5), "4 × 4": (4, 4, 0)}


def simulated(grid: tuple[int, int, int], share: float, studies: int, seed: int) -> dict[str, Any]:
    """Rates over planted studies of one grid and one share."""
    rng = np.random.default_rng(seed)
    width, depth = (
        axis.ravel().astype(float) for axis in np.meshgrid(WIDTHS[: grid[0]], DEPTHS[: grid[1]])
    )
    rejected = {"size": 0, "power": 0, "size_independent": 0}
    inside = np.zeros(2)
    for _ in range(studies):
        keep = np.sort(rng.permutation(len(width))[grid[2] :])
        n, d = width[keep], depth[keep]
        row = np.unique(n, return_inverse=True)[1]
        column = np.unique(d, return_inverse=True)[1]
        effects = rng.normal(size=grid[0])[row] + rng.normal(size=grid[1])[column]
        own = rng.normal(size=len(n))
        missed = MISFIT * (np.sqrt(share / 2) * effects + np.sqrt(1 - share) * own)
        x = np.stack([np.ones(len(n)), np.log(n), np.log(d)], 1)
        y = x @ [0.0, -0.6, -0.6] + missed + NOISE * rng.normal(size=len(n))
        v = np.full(len(n), NOISE**2)
        (beta,), (alone,), (tau2,) = fit_random_effects(x, y, v)
        found = two_way(x, y, v, n, d, 1 / (v + tau2))
        contrast = np.array([0.0, 1.0, -1.0])
        rejected["size"] += found.p_value(contrast, beta) < 0.05
        rejected["power"] += found.p_value(contrast, beta - APART * np.eye(3)[2]) < 0.05
        t = abs(contrast @ beta) / np.sqrt(contrast @ alone @ contrast)
        rejected["size_independent"] += 2 * stdtr(len(n) - 3, -t) < 0.05
        for k, axis in enumerate(np.eye(3)[1:]):
            half = stdtrit(found.freedom(axis), 0.975) * np.sqrt(axis @ found.covariance @ axis)
            inside[k] += abs(axis @ beta + 0.6) <= half
    rates = {name: round(count / studies, 4) for name, count in rejected.items()}
    return {**dict(zip(("width", "depth"), (inside / studies).round(4), strict=True)), **rates}


def main() -> None:
    """Simulate, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    rows = []
    for name, grid in GRIDS.items():
        for share in (0.0, 0.9):
            found = simulated(grid, share, options.studies, seed=len(rows))
            rows.append({"grid": name, "shared": share, **found})
            print(rows[-1], flush=True)
    record = {"studies": options.studies, "misfit_sd": MISFIT, "apart": APART, "rows": rows}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
