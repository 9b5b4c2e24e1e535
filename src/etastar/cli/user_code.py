"""Code of the user's own, named on a command line: imported and called, its errors in one line."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etastar.errors import ConfigError, unknown_name


def imported(option: str, place: str) -> Any:
    """What MODULE:NAME or FILE.py:NAME names; its code is run.

    Raises:
        ConfigError: It is not of that form, not there, or importing it fails.
    """
    module_name, _, name = place.rpartition(":")
    if not module_name or not name:
        raise ConfigError(f"{option} {place!r}: expected MODULE:NAME, such as my_module:build.")
    if module_name.endswith(".py") and not Path(module_name).is_file():
        raise ConfigError(f"{option} {place}: there is no file {module_name}.")
    try:
        module = _module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise ConfigError(
                f"{option} {place}: there is no module {error.name!r} here ({os.getcwd()}) nor "
                "among the installed ones."
            ) from None
        raise ConfigError(f"{option} {place}: importing it failed{_cause(error)}") from error
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{option} {place}: importing it failed{_cause(error)}") from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise unknown_name(f"name in {module_name}", part, public)
        found = getattr(found, part)
    return found


def _module(name: str) -> Any:
    if name.endswith(".py"):
        path = Path(name)
        if str(path.parent.resolve()) not in sys.path:
            sys.path.insert(0, str(path.parent.resolve()))
        name = path.stem
    elif os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def called(option: str, place: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value; what it raises is told in one line.

    Raises:
        ConfigError: In place of whatever the function raises.
    """
    try:
        return function(*arguments)
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{option} {place} failed{_cause(error)}") from error


def _cause(error: Exception) -> str:
    """` in FILE, line N: KIND: message`, of where the user's code raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if __file__ != f.filename]
    frames = [f for f in frames if "importlib" not in f.filename]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"


def takes_an_argument(function: Callable[..., Any]) -> bool:
    """Whether it must, or may, be called with a seed."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [p for p in parameters if p.kind in kinds]
    return any(p.default is p.empty for p in places) or any(p.name == "seed" for p in places)
