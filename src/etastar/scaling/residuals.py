"""What a law misses, laid out over width and depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etastar.scaling.cells import FloatArray
from etastar.scaling.power_law import PowerLawFit


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """Residuals over (n, L); NaN where no network was fitted.

    Attributes:
        widths: Distinct n, ascending, `[W]`.
        depths: Distinct L, ascending, `[D]`.
        log_residual: log measured − log fitted, `[W, D]`; positive where the network took more
            than the law says.
        in_noise: The residual in standard deviations of the cell's own seed noise, `[W, D]`: far
            beyond ±2 the law is missing something that more seeds would not change.
    """

    widths: FloatArray
    depths: FloatArray
    log_residual: FloatArray
    in_noise: FloatArray


def residual_map(fit: PowerLawFit) -> ResidualMap:
    """Residuals of the fitted cells on the grid of their widths and depths."""
    widths, row = np.unique(fit.width, return_inverse=True)
    depths, column = np.unique(fit.depth, return_inverse=True)
    log_residual = np.full((len(widths), len(depths)), np.nan)
    in_noise = log_residual.copy()
    log_residual[row, column] = fit.residual
    in_noise[row, column] = fit.residual / np.sqrt(fit.variance)
    return ResidualMap(widths, depths, log_residual, in_noise)
