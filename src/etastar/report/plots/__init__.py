"""Figures of a study. A new one is a file here and a line in `FIGURES`."""

from __future__ import annotations

from etastar.report.plots import (
    cost_per_seed,
    eta_axes,
    eta_law,
    eta_sharpness,
    lambda1_law,
    predicted,
    residual_map,
    success,
)
from etastar.report.plots.base import Drawing, Figure

FIGURES: dict[str, Figure] = {
    "eta-law": Figure("η* against depth × width", eta_law.make),
    "eta-axes": Figure("η* against width and batch size", eta_axes.make),
    "success": Figure("p(η): where seeds train", success.make),
    "residuals": Figure("What one exponent misses", residual_map.make),
    "lambda1-law": Figure("λ₁ against depth × width", lambda1_law.make),
    "eta-lambda1": Figure("η* against λ₁", eta_sharpness.make),
    "prediction": Figure("Predicted against measured", predicted.make),
    "cost": Figure("What it took", cost_per_seed.make),
}
"""By the name of their files, in the order of the page."""

__all__ = ["FIGURES", "Drawing", "Figure"]
