"""Room 5: the sharpness λ1, of any module (`module.py`) or a stack of networks (`stack.py`).

Beside it, what theory says of it before any network is drawn (`theory.py`).

Names are looked up on first use, so that importing the room does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etastar.curvature.errors import CurvatureError as CurvatureError
    from etastar.curvature.kernel import expected_gradient_norm as expected_gradient_norm
    from etastar.curvature.module import SharpnessResult as SharpnessResult
    from etastar.curvature.module import sharpness as sharpness
    from etastar.curvature.stack import stack_sharpness as stack_sharpness
    from etastar.curvature.stack_result import StackSharpness as StackSharpness
    from etastar.curvature.theory import SharpnessBounds as SharpnessBounds
    from etastar.curvature.theory import sharpness_bounds as sharpness_bounds

_HOME = {
    "CurvatureError": "errors",
    "SharpnessBounds": "theory",
    "SharpnessResult": "module",
    "StackSharpness": "stack_result",
    "expected_gradient_norm": "kernel",
    "sharpness": "module",
    "sharpness_bounds": "theory",
    "stack_sharpness": "stack",
}

__all__ = [
    "CurvatureError",
    "SharpnessBounds",
    "SharpnessResult",
    "StackSharpness",
    "expected_gradient_norm",
    "sharpness",
    "sharpness_bounds",
    "stack_sharpness",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
