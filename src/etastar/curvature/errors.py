"""Why λ1 could not be computed, where no setting is at fault."""

from __future__ import annotations

from etastar.errors import EtaStarError


class CurvatureError(EtaStarError):
    """The loss has no curvature to speak of: not finite, not deterministic, or not a function."""
