"""Room 5: the sharpness λ1, of any module (`module.py`) or a stack of networks (`batched.py`).

Names are looked up on first use, so that importing the room does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etastar.curvature.batched import stack_sharpness as stack_sharpness
    from etastar.curvature.module import SharpnessResult as SharpnessResult
    from etastar.curvature.module import sharpness as sharpness
    from etastar.curvature.stack_result import StackSharpness as StackSharpness

_HOME = {
    "SharpnessResult": "module",
    "StackSharpness": "stack_result",
    "sharpness": "module",
    "stack_sharpness": "batched",
}

__all__ = ["SharpnessResult", "StackSharpness", "sharpness", "stack_sharpness"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
