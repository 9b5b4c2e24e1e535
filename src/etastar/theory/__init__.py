"""Room 5: what is known of λ1 at initialisation before any network is drawn."""

from __future__ import annotations

from etastar.theory.kernel import expected_gradient_norm
from etastar.theory.sharpness_bounds import SharpnessBounds, sharpness_bounds
from etastar.theory.theorem import Entry, theorem_entries

__all__ = [
    "Entry",
    "SharpnessBounds",
    "expected_gradient_norm",
    "sharpness_bounds",
    "theorem_entries",
]
