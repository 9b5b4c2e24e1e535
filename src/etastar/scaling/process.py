"""A Gaussian process that predicts η* of unseen networks around a linear law, in closed form.

In logarithms, `y = a + b·x + s·(c + d·ln n) + f(x) + e` over `x = (ln n, ln L)`: a, b, c and d have
normal priors, f is a Gaussian process with a squared exponential kernel, e is the noise of the
cell's own interval and a nugget. s is 1 for the paper's networks of two layers, which follow no law
of deeper ones and have an intercept and an exponent of n of their own; of other architectures
nothing of the kind is known, so c and d are 0. All hyperparameters are fixed: the
cells that a process is conditioned on do not set them. The equations are those of Rasmussen &
Williams, *Gaussian Processes for Machine Learning* (2006), eqs. 2.25-2.26.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtri

from etastar.errors import ConfigError
from etastar.scaling.cells import CellTable, FloatArray, Response
from etastar.scaling.domain import Domain
from etastar.scaling.fitted import Fitted, chosen_cells

LEAST_CELLS = 4
"""Fewer cells say next to nothing beyond the prior."""


@dataclass(frozen=True)
class Kernel:
    """Hyperparameters, in natural logarithms.

    The defaults are those of 27 sets of round numbers that give networks beyond a quarter of the
    largest n·L the highest density, over brackets and success curves of five data sets:
    `benchmarks/prediction.py`, which predicts each of them with what the other four choose.

    Attributes:
        sd: Standard deviation of the smooth departure f from the linear law.
        lengths: Correlation lengths of f along ln n and ln L.
        slopes: Prior means of the exponents of n and L.
        slope_sd: Prior standard deviation of the exponents.
        two_layers: Those of what networks of two layers add to intercept and exponent of n.
        intercept_sd: That of the intercept, around the cells' mean: wide enough not to matter.
        nugget: Standard deviation of what each network misses on its own.
    """

    sd: float = 0.35
    lengths: tuple[float, float] = (1.2, 0.8)
    slopes: tuple[float, float] = (-0.7, -1.0)
    slope_sd: float = 0.3
    two_layers: tuple[float, float] = (1.0, 0.3)
    intercept_sd: float = 10.0
    nugget: float = 0.05

    def covariance(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Prior covariance of the law plus f between points `[A, 4]` and `[B, 4]`, `[A, B]`."""
        scale = np.array([self.slope_sd, self.slope_sd, *self.two_layers])
        linear = self.intercept_sd**2 + (a * scale) @ (b * scale).T
        apart = (a[:, None, :2] - b[None, :, :2]) / self.lengths
        return np.asarray(linear + self.sd**2 * np.exp(-0.5 * np.square(apart).sum(-1)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Process(Fitted):
    """A Gaussian process conditioned on the cells of one group: see `Fitted`.

    Attributes:
        kernel: The hyperparameters.
    """

    kernel: Kernel

    form = "process"

    def predict_log(self, width: FloatArray, depth: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the logarithm at these networks, both `[T]`.

        The deviation holds the doubt of law and process, and the nugget; not the noise of a
        measurement.

        Args:
            width: n, `[T]`.
            depth: L, `[T]`.
        """
        centre = np.log(self.width).mean(), np.log(self.depth).mean()
        x, target = _points(self.width, self.depth, centre), _points(width, depth, centre)
        level, slopes = float(self.log_value.mean()), np.array([*self.kernel.slopes, 0.0, 0.0])
        noise = self.variance + self.kernel.nugget**2
        factor = cho_factor(self.kernel.covariance(x, x) + np.diag(noise), lower=True)
        cross = self.kernel.covariance(target, x)
        mean = cross @ cho_solve(factor, self.log_value - level - x @ slopes)
        prior = np.diagonal(self.kernel.covariance(target, target))
        known = (cross * cho_solve(factor, cross.T).T).sum(1)
        variance = np.maximum(prior - known, 0.0) + self.kernel.nugget**2
        return np.asarray(level + target @ slopes + mean), np.sqrt(variance)

    def noise(self, seeds: float | None = None) -> float:
        """Variance of a measurement like those fitted, or of a median over so many seeds."""
        usual = float(np.median(self.variance))
        return usual if seeds is None else usual * float(np.median(self.seeds)) / seeds

    def interval_log(
        self, width: FloatArray, depth: FloatArray, level: float, seeds: float | None
    ) -> tuple[float, float]:
        """See `Fitted`."""
        (mean,), (sd,) = self.predict_log(width, depth)
        half = float(ndtri(0.5 + 0.5 * level)) * math.sqrt(sd**2 + self.noise(seeds))
        return float(mean), half


def fit_process(
    cells: CellTable,
    *,
    response: Response = "eta_star",
    cutoff: float | None = None,
    kernel: Kernel | None = None,
) -> Process:
    """Condition the process on the cells of one group.

    Args:
        cells: One loss, κ, dataset, ....
        response: `"eta_star"`, `"lambda1"` or `"eta_lambda1"`.
        cutoff: Use only cells with n/L at least this.
        kernel: The hyperparameters; by default those of `Kernel`, without `two_layers` for cells
            that have no κ, `input_lr_ratio`, as a label: they are of other architectures.

    Raises:
        ConfigError: The cells mix groups, or fewer than 4 can be used.
    """
    _, _, chosen = chosen_cells(cells, response, cutoff)
    width, depth = chosen["width"], chosen["depth"]
    if len(width) < LEAST_CELLS:
        raise ConfigError(
            f"a prediction needs at least {LEAST_CELLS} cells with a known value; got "
            f"{len(width)} of {len(cells)}. Measure more networks, or widen their range of "
            f"learning rates{'' if cutoff is None else ', or lower the cutoff'}."
        )
    if kernel is None:
        ours = "input_lr_ratio" in chosen["labels"]
        kernel = Kernel() if ours else Kernel(two_layers=(0.0, 0.0))
    return Process(**chosen, kernel=kernel, domain=Domain.of(width, depth, cutoff))


def _points(width: FloatArray, depth: FloatArray, centre: tuple[float, float]) -> FloatArray:
    """Networks as points (ln n, ln L, s, s·ln n), from a centre, `[M, 4]`."""
    n, d, two = np.log(width) - centre[0], np.log(depth) - centre[1], depth == 2
    return np.stack([n, d, two, two * n], 1)
