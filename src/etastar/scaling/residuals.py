"""What a law misses, laid out over width and depth."""

from __future__ import annotations

import numpy as np

from etastar.scaling.cells import FloatArray
from etastar.scaling.power_law import PowerLawFit


def residual_map(fit: PowerLawFit) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Lay the residuals of the fitted cells on the grid of their widths and depths.

    Args:
        fit: The law.

    Returns:
        The distinct widths `[W]` and depths `[D]`, ascending; log measured − log fitted, `[W, D]`,
        positive where the network took more than the law says; and the same in standard deviations
        of the cell's own seed noise: far beyond ±2 the law is missing something that more seeds
        would not change. NaN where no network was fitted.
    """
    widths, row = np.unique(fit.width, return_inverse=True)
    depths, column = np.unique(fit.depth, return_inverse=True)
    log_residual = np.full((len(widths), len(depths)), np.nan)
    in_noise = log_residual.copy()
    log_residual[row, column] = fit.residual
    in_noise[row, column] = fit.residual / np.sqrt(fit.variance)
    return widths, depths, log_residual, in_noise
