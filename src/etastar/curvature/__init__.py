"""Room 5: the sharpness λ1, of any module (`module.py`) or a stack of networks (`batched.py`)."""

from __future__ import annotations

from etastar.curvature.batched import StackSharpness, stack_sharpness
from etastar.curvature.module import SharpnessResult, sharpness

__all__ = ["SharpnessResult", "StackSharpness", "sharpness", "stack_sharpness"]
