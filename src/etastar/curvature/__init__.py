"""Room 5: the sharpness λ1, of any module (`module.py`) or a stack of networks (`stack.py`).

Names are looked up on first use, so that importing the room does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etastar.curvature.errors import CurvatureError as CurvatureError
    from etastar.curvature.module import SharpnessResult as SharpnessResult
    from etastar.curvature.module import sharpness as sharpness
    from etastar.curvature.stack import StackSharpness as StackSharpness
    from etastar.curvature.stack import stack_sharpness as stack_sharpness

_HOME = {
    "CurvatureError": "errors",
    "SharpnessResult": "module",
    "StackSharpness": "stack",
    "sharpness": "module",
    "stack_sharpness": "stack",
}

__all__ = ["CurvatureError", "SharpnessResult", "StackSharpness", "sharpness", "stack_sharpness"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
