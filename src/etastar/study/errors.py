"""What can go wrong with a store or an executor."""

from __future__ import annotations

from etastar.errors import EtaStarError


class StoreError(EtaStarError):
    """A store cannot be opened, read or written; what it holds was not touched."""


class EmptyStoreError(StoreError):
    """Nothing has been computed yet: there is no store, or only an empty file."""


class ExecutorError(EtaStarError):
    """An executor takes no more tasks, or has dropped some; what had ended is stored."""
