"""Room 5: what is known of λ1 at initialisation before any network is drawn."""

from __future__ import annotations

from etastar.theory.kernel import expected_gradient_norm as expected_gradient_norm
from etastar.theory.sharpness_bounds import SharpnessBounds as SharpnessBounds
from etastar.theory.sharpness_bounds import sharpness_bounds as sharpness_bounds
from etastar.theory.theorem import Entry as Entry
from etastar.theory.theorem import theorem_entries as theorem_entries
