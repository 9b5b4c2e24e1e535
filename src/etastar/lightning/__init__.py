"""η* of a `LightningModule`, read from the module, its data and its Trainer; extra `lightning`."""

from __future__ import annotations

from etastar.lightning.fit_reader import lightning_maximal_lr as lightning_maximal_lr

__all__ = ["lightning_maximal_lr"]
