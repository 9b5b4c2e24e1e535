"""A Gaussian process that predicts η* of unseen networks around a linear law, in closed form.

In logarithms, `y = a + b·x + f(x) + e` over `x = (ln n, ln L)`, and ln λ1 where it is given: b has
a normal prior, f is a Gaussian process with a squared exponential kernel, e is the noise of the
cell's own interval and a nugget. All hyperparameters are fixed: no cell that is predicted has set
them. The equations are those of Rasmussen & Williams, *Gaussian Processes for Machine Learning*
(2006), eqs. 2.25-2.26.
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
    Results on success curves had been seen when the prior of the slopes was fixed.

    Attributes:
        sd: Standard deviation of the smooth departure f from the linear law.
        lengths: Correlation lengths of f along ln n and ln L.
        slopes: Prior means of the exponents of n and L.
        slope_sd: Prior standard deviation of the exponents.
        lambda1_slope_sd: That of the exponent of λ1, whose prior mean is 0.
        intercept_sd: That of the intercept, around the cells' mean: wide enough not to matter.
        nugget: Standard deviation of what each network misses on its own.
    """

    sd: float = 0.3
    lengths: tuple[float, float] = (1.2, 0.8)
    slopes: tuple[float, float] = (-0.5, -0.8)
    slope_sd: float = 0.3
    lambda1_slope_sd: float = 0.5
    intercept_sd: float = 10.0
    nugget: float = 0.08

    def covariance(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Prior covariance of the law plus f between points `[A, k]` and `[B, k]`, `[A, B]`."""
        scale = np.array([self.slope_sd, self.slope_sd, self.lambda1_slope_sd])[: a.shape[1]]
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
        log_lambda1: ln λ1, the median over seeds; None if it is not a term.
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
    log_lambda1: FloatArray | None
    log_value: FloatArray
    variance: FloatArray
    seeds: IntArray
    domain: Domain
    usage: Usage

    form = "process"

    def predict_log(
        self, width: FloatArray, depth: FloatArray, log_lambda1: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the logarithm at these networks, both `[T]`.

        The deviation holds the doubt of law and process, and the nugget; not the noise of a
        measurement.

        Args:
            width: n, `[T]`.
            depth: L, `[T]`.
            log_lambda1: ln λ1 of the targets, `[T]`, if λ1 is a term.
        """
        x = _points(self.width, self.depth, self.log_lambda1)
        target = _points(width, depth, log_lambda1)
        centre, level = x.mean(0), float(self.log_value.mean())
        x, target = x - centre, target - centre
        slopes = np.zeros(x.shape[1])
        slopes[:2] = self.kernel.slopes
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
        lambda1: float | None = None,
    ) -> Prediction:
        """Predict η* of an unseen network, with an interval for its measurement.

        Args:
            width: n.
            depth: L.
            level: Nominal coverage of the interval.
            seeds: Seeds that the median is taken over; by default the measurement is as noisy as
                those fitted. `math.inf` leaves its noise out.
            strict: Raise for a network outside the domain instead of warning.
            lambda1: λ1 of the network at initialisation, which is needed if λ1 is a term.

        Raises:
            ConfigError: Width, depth, level or λ1 cannot be; or `strict`, and the network is
                outside the domain.
        """
        n, d = check_target(width, depth, level)
        if (lambda1 is None) != (self.log_lambda1 is None) or (
            lambda1 is not None and lambda1 <= 0
        ):
            wanted = "a positive number" if self.log_lambda1 is not None else "left out"
            raise ConfigError(f"lambda1 must be {wanted} for this process; got {lambda1!r}.")
        outside = self.domain.checked(float(width), float(depth), strict=strict)
        log_lambda1 = None if lambda1 is None else np.array([math.log(lambda1)])
        (mean,), (sd,) = self.predict_log(n, d, log_lambda1)
        half = float(ndtri(0.5 + 0.5 * level)) * math.sqrt(sd**2 + self.noise(seeds))
        return Prediction.around((n, d), (mean, half), level, outside)


def fit_process(
    cells: CellTable,
    *,
    response: Response = "eta_star",
    cutoff: float | None = None,
    kernel: Kernel | None = None,
    lambda1: bool = False,
) -> Process:
    """Condition the process on the cells of one group.

    Args:
        cells: One loss, κ, dataset, ....
        response: `"eta_star"`, `"lambda1"` or `"eta_lambda1"`.
        cutoff: Use only cells with n/L at least this.
        kernel: The hyperparameters; by default those of `Kernel`.
        lambda1: Add the logarithm of the median λ1 as a further linear term; cells without a known
            λ1 are then left out.

    Raises:
        ConfigError: The cells mix groups, fewer than 4 can be used, or the rows have no λ1.
    """
    labels = cells.the_labels()
    estimates = estimate_cells(cells, response)
    beyond = below_cutoff(cells.width, cells.depth, cutoff)
    use = estimates.used & ~beyond
    sharpness = estimate_cells(cells, "lambda1") if lambda1 else None
    if sharpness is not None:
        use &= sharpness.used
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
        log_lambda1=None if sharpness is None else sharpness.value[use],
        log_value=estimates.value[use],
        variance=estimates.variance[use],
        seeds=estimates.informative[use],
        domain=Domain.of(cells.width[use], cells.depth[use], cutoff),
        usage=usage,
    )


def _points(width: FloatArray, depth: FloatArray, log_lambda1: FloatArray | None) -> FloatArray:
    """The networks as points, `[M, 2]`, or `[M, 3]` with λ1."""
    columns = [np.log(width), np.log(depth)]
    return np.stack(columns if log_lambda1 is None else [*columns, log_lambda1], 1)
