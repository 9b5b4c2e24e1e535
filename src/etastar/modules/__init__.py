"""Rooms 2 to 4 for a user's own `nn.Module`: η* of any model, and the warm-up that goes with it.

`maximal.py` is the pipeline; `choice.py` says which of three engines trains, and why.
"""

from __future__ import annotations

from etastar.errors import ModelError, NotBracketedWarning
from etastar.modules.maximal import maximal_lr
from etastar.modules.result import MaximalLR
from etastar.modules.warm_up import warmup
from etastar.modules.warm_up_result import Warmup

__all__ = ["MaximalLR", "ModelError", "NotBracketedWarning", "Warmup", "maximal_lr", "warmup"]
