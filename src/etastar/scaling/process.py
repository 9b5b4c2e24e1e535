"""A Gaussian process that predicts η* of unseen networks around a linear law, in closed form.

In logarithms, `y = a + b·x + s·(c + d·ln n) + f(x) + e` over `x = (ln n, ln L)`: a, b, c and d have
normal priors, f is a Gaussian process with a squared exponential kernel, e is the noise of the
cell's own interval and a nugget. s is 1 for networks of two layers, which have no n × n matrix, and
so an intercept and an exponent of n of their own. All hyperparameters are fixed: no cell that is
predicted has set them. The equations are those of Rasmussen & Williams, *Gaussian Processes for
Machine Learning* (2006), eqs. 2.25-2.26.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtri

from etastar.errors import ConfigError
from etastar.scaling.cells import CellTable, FloatArray, IntArray, Response
from etastar.scaling.domain import Domain, below_cutoff
from etastar.scaling.estimates import Usage, estimate_cells, tally
from etastar.scaling.prediction import Prediction, check_target

LEAST_CELLS = 4
"""Fewer cells say next to nothing beyond the prior."""


@dataclass(frozen=True)
class Kernel:
    """Hyperparameters, in natural logarithms.

    The defaults are round numbers from the brackets of version 0.1.0 (MNIST, CIFAR-10, Gaussians).
    Results on success curves had been seen when the prior of the slopes was fixed and two layers
    were set apart.

    Attributes:
        sd: Standard deviation of the smooth departure f from the linear law.
        lengths: Correlation lengths of f along ln n and ln L.
        slopes: Prior means of the exponents of n and L.
        slope_sd: Prior standard deviation of the exponents.
        two_layers: Those of what networks of two layers add to intercept and exponent of n.
        intercept_sd: That of the intercept, around the cells' mean: wide enough not to matter.
        nugget: Standard deviation of what each network misses on its own.
    """

    sd: float = 0.25
    lengths: tuple[float, float] = (1.2, 0.8)
    slopes: tuple[float, float] = (-0.5, -0.8)
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


@dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian process conditioned on the cells of one group. Arrays are over them, `[M]`.

    Attributes:
        kernel: The hyperparameters.
        response: What was fitted.
        labels: The group it holds for: loss, κ, dataset, ....
        width: n.
        depth: L.
        log_value: log of the measured medians.
        variance: Their variances, from the cells' own intervals.
        seeds: Seeds of every cell that its median is over.
        domain: Where it was measured.
        usage: Counts of cells and seeds.
    """

    kernel: Kernel
    response: Response
    labels: Mapping[str, str | float]
    width: FloatArray
    depth: FloatArray
    log_value: FloatArray
    variance: FloatArray
    seeds: IntArray
    domain: Domain
    usage: Usage

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

    def predict(
        self,
        width: float,
        depth: float,
        *,
        level: float = 0.9,
        seeds: float | None = None,
        strict: bool = False,
    ) -> Prediction:
        """Predict η* of an unseen network, with an interval for its measurement.

        Args:
            width: n.
            depth: L.
            level: Nominal coverage of the interval.
            seeds: Seeds that the median is taken over; by default the measurement is as noisy as
                those fitted. `math.inf` leaves its noise out.
            strict: Raise for a network outside the domain instead of warning.

        Raises:
            ConfigError: Width, depth or level cannot be; or `strict`, and the network is outside
                the domain.
        """
        n, d = check_target(width, depth, level)
        outside = self.domain.checked(float(width), float(depth), strict=strict)
        (mean,), (sd,) = self.predict_log(n, d)
        half = float(ndtri(0.5 + 0.5 * level)) * math.sqrt(sd**2 + self.noise(seeds))
        return Prediction.around((n, d), (mean, half), level, outside)


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
        kernel: The hyperparameters; by default those of `Kernel`.

    Raises:
        ConfigError: The cells mix groups, or fewer than 4 can be used.
    """
    labels = cells.the_labels()
    estimates = estimate_cells(cells, response)
    beyond = below_cutoff(cells.width, cells.depth, cutoff)
    use = estimates.used & ~beyond
    usage = tally(cells, estimates, beyond)
    if use.sum() < LEAST_CELLS:
        raise ConfigError(
            f"a prediction needs at least {LEAST_CELLS} cells with a known value; got "
            f"{int(use.sum())} of {len(cells)}. Measure more networks, or widen their range of "
            f"learning rates{'' if cutoff is None else ', or lower the cutoff'}."
        )
    return Process(
        kernel=kernel or Kernel(),
        response=response,
        labels=labels,
        width=cells.width[use],
        depth=cells.depth[use],
        log_value=estimates.value[use],
        variance=estimates.variance[use],
        seeds=estimates.informative[use],
        domain=Domain.of(cells.width[use], cells.depth[use], cutoff),
        usage=usage,
    )


def _points(width: FloatArray, depth: FloatArray, centre: tuple[float, float]) -> FloatArray:
    """Networks as points (ln n, ln L, s, s·ln n), from a centre, `[M, 4]`."""
    n, d, two = np.log(width) - centre[0], np.log(depth) - centre[1], depth == 2
    return np.stack([n, d, two, two * n], 1)
