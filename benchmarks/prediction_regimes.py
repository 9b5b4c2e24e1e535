"""Whether two laws, one for what ends η*, predict better than one: they do not.

    python benchmarks/prediction_regimes.py        # six minutes

η* is the lower of two rates: the one that instability sets, and the one that the budget sets. Each
has a Gaussian process of its own; which of the two a known network shows is read off what the runs
above its η* fail of, the other is then known to lie above. Elliptical slice sampling (Murray, Adams
& MacKay 2010) of both, in 128 chains, gives the median and the 90 % interval of a larger network,
for which nobody knows beforehand which of the two it will be. Printed as by `prediction.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from prediction import (
    FRACTION,
    LEAST_TEST,
    LEAST_TRAIN,
    NEVER_USED,
    Keep,
    groups,
    is_curves,
)
from scipy.special import log_ndtr

from etastar.scaling import CellTable, Kernel, estimate_cells, fit_process
from etastar.scaling.process import _points

STABILITY = Kernel(slopes=(-0.6, -0.9), intercept_sd=1.5, sd=0.25)
BUDGET = Kernel(slopes=(0.0, -0.5), two_layers=(0.01, 0.01), intercept_sd=1.5, sd=0.25)
CHAINS, STEPS, WARM, SETTLED = 128, 250, 100, 150
SHARPNESS, BLUR, UNSURE = 8.0, 0.15, 0.02
"""Of the minimum; of the comparison of the two rates; that a cause was told wrongly."""


def soft_minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.logaddexp(-SHARPNESS * a, -SHARPNESS * b) / SHARPNESS


class Posterior:
    """Both processes at the networks known and to be predicted, given the known ones."""

    def __init__(
        self, x: np.ndarray, level: float, y: np.ndarray, sd: np.ndarray, slow: np.ndarray
    ):
        jitter = 1e-6 * np.eye(len(x))
        self.mean, self.root = [], []
        for kernel in (STABILITY, BUDGET):
            self.mean.append(level + x @ np.array([*kernel.slopes, 0.0, 0.0]))
            self.root.append(np.linalg.cholesky(kernel.covariance(x, x) + jitter))
        self.y, self.sd = y, sd
        self.slow = np.clip(slow, UNSURE, 1 - UNSURE)

    def rates(self, z: np.ndarray) -> list[np.ndarray]:
        """Logarithms of both rates, each `[C, M]`, from white noise `[C, 2, M]`."""
        return [
            m + z[:, i] @ r.T for i, (m, r) in enumerate(zip(self.mean, self.root, strict=True))
        ]

    def log_likelihood(self, z: np.ndarray) -> np.ndarray:
        """Log likelihood of the known networks and of what ended their η*, `[C]`."""
        stable, budget = (rate[:, : len(self.y)] for rate in self.rates(z))
        misfit = np.square((self.y - soft_minimum(stable, budget)) / self.sd) / 2
        lower = (budget - stable) / BLUR
        causes = np.logaddexp(
            log_ndtr(lower) + np.log1p(-self.slow), log_ndtr(-lower) + np.log(self.slow)
        )
        return np.asarray((causes - misfit).sum(1))

    def draws(self, rng: np.random.Generator) -> np.ndarray:
        """Draws of ln η* of all networks, `[draws, M]`; the likelihood comes in by and by."""
        z = np.zeros((CHAINS, 2, len(self.mean[0])))
        now, found = self.log_likelihood(z), []
        for step in range(STEPS):
            heat = min(1.0, (step + 1) / WARM)
            other, bar = rng.standard_normal(z.shape), heat * now + np.log(rng.random(CHAINS))
            angle = rng.uniform(0, 2 * math.pi, CHAINS)
            low, high, open_ = angle - 2 * math.pi, angle.copy(), np.ones(CHAINS, bool)
            while open_.any():
                turn = angle[:, None, None]
                tried = z * np.cos(turn) + other * np.sin(turn)
                value = self.log_likelihood(tried)
                taken = open_ & (heat * value > bar)
                z[taken], now[taken] = tried[taken], value[taken]
                open_ &= ~taken
                low, high = np.where(angle < 0, angle, low), np.where(angle < 0, high, angle)
                other[~open_], angle = 0.0, np.where(open_, rng.uniform(low, high), 0.0)
            if step >= SETTLED:
                found.append(soft_minimum(*self.rates(z)))
        return np.concatenate(found)


def seeds(keep: Keep) -> Counter[tuple[Any, ...]]:
    """Rows that are to be kept of every network, by file, labels, width and depth."""
    return Counter(
        {
            (file, str(labels), n, d): count
            for file, labels, cells in groups(keep)
            for n, d, count in zip(cells.width, cells.depth, np.bincount(cells.cell), strict=True)
        }
    )


def judged(cells: CellTable, slow: Callable[[float, float], float]) -> np.ndarray | None:
    """Error, whether the interval holds it, and its width, `[3, T]`; None for too few networks.

    `slow` gives the share of the seeds of a network, by width and depth, whose η* the budget ends.
    """
    estimates = estimate_cells(cells)
    size = cells.width * cells.depth
    if not estimates.used.any():
        return None
    small = size <= FRACTION * size[estimates.used].max() * (1 + 1e-9)
    known, test = estimates.used & small, estimates.used & ~small
    if known.sum() < LEAST_TRAIN or test.sum() < LEAST_TEST:
        return None
    process = fit_process(cells.subset(known))
    centre = np.log(process.width).mean(), np.log(process.depth).mean()
    width, depth = (np.concatenate([a[known], a[test]]) for a in (cells.width, cells.depth))
    shares = [slow(*size) for size in zip(process.width, process.depth, strict=True)]
    variance = process.variance + STABILITY.nugget**2
    posterior = Posterior(
        _points(width, depth, centre),
        float(process.log_value.mean()),
        process.log_value,
        np.sqrt(variance),
        np.array(shares),
    )
    rng = np.random.default_rng(0)
    draws = posterior.draws(rng)[:, known.sum() :]
    draws += rng.standard_normal(draws.shape) * math.sqrt(np.median(variance))
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95), axis=0)
    measured = estimates.value[test]
    return np.stack([middle - measured, (low <= measured) & (measured <= high), high - low])


def main() -> None:
    """Predict every group, print every part."""
    short = seeds(lambda row: row["hi_outcome"] == "short")
    known = seeds(lambda row: row["hi_outcome"] != "")
    parts: dict[str, list[np.ndarray]] = {}
    for file, labels, cells in groups():
        key = file, str(labels)

        def slow(n: float, d: float, key: tuple[str, str] = key) -> float:
            return short[*key, n, d] / known[*key, n, d] if known[*key, n, d] else 0.5

        found = judged(cells, slow) if file not in NEVER_USED else None
        if found is not None:
            part = "curves" if is_curves(file) else "brackets"
            for name in (part, f"{part}, {labels['dataset']}"):
                parts.setdefault(name, []).append(found)
    print("| rows | networks | median error | 90 % intervals cover | factor |")
    print("|---|---|---|---|---|")
    for name, each in sorted(parts.items()):
        error, inside, width = np.hstack(each)
        off, factor = np.median(np.abs(np.expm1(error))), math.exp(np.median(width))
        print(f"| {name} | {len(error)} | {off:.1%} | {inside.mean():.0%} | {factor:.2f} |")


if __name__ == "__main__":
    main()
