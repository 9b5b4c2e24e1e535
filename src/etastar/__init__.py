"""etastar measures the maximal initial learning rate η* of a neural network.

import etastar
found = etastar.measure(etastar.MLP(width=128, depth=4, input_lr_ratio=0.1), "mnist", seeds=5)
found.eta_star.median, found.plot()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from etastar.api import measure as measure
    from etastar.curvature import SharpnessResult as SharpnessResult
    from etastar.curvature import sharpness as sharpness
    from etastar.data import Dataset as Dataset
    from etastar.data import load as load
    from etastar.errors import ConfigError as ConfigError
    from etastar.errors import DataError as DataError
    from etastar.errors import EtaStarError as EtaStarError
    from etastar.errors import ModelError as ModelError
    from etastar.errors import NotBracketedWarning as NotBracketedWarning
    from etastar.maximal import maximal_lr as maximal_lr
    from etastar.problem.networks import MLP as MLP
    from etastar.problem.networks import LayerNormMLP as LayerNormMLP
    from etastar.result import Result as Result
    from etastar.schedule import Warmup as Warmup
    from etastar.warm_up import warmup as warmup

_HOME = {
    # what is called
    "measure": "api",
    "maximal_lr": "maximal",
    "warmup": "warm_up",
    "sharpness": "curvature",
    # what comes back
    "Result": "result",
    "Warmup": "schedule",
    "SharpnessResult": "curvature",
    # what is measured
    "MLP": "problem.networks",
    "LayerNormMLP": "problem.networks",
    "Dataset": "data",
    "load": "data",
    # errors
    "EtaStarError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "ModelError": "errors",
    "NotBracketedWarning": "errors",
}
"""Public name → its module, imported on first use, so that `import etastar` is quick."""

_RENAMED = {"Measurement": "Result", "MaximalLR": "Result"}
"""Names of 0.1.0, kept for one release."""

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    known = _RENAMED.get(name, name)
    if known not in _HOME:
        raise AttributeError(f"module 'etastar' has no attribute {name!r}")
    value = getattr(import_module(f"etastar.{_HOME[known]}"), known)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
