"""What can go wrong with a store or an executor."""

from __future__ import annotations

from etastar.errors import EtaStarError


class StoreError(EtaStarError):
    """A store cannot be opened, read or written; what it holds was not touched."""


class ExecutorError(EtaStarError):
    """An executor takes no more tasks, or has dropped some; what had ended is stored."""
