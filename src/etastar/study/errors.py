"""What can go wrong with a store."""

from __future__ import annotations

from etastar.errors import EtaStarError


class StoreError(EtaStarError):
    """A store cannot be opened, read or written; what it holds was not touched."""
