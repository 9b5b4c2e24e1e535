"""Code of the user's own, named on a command line: imported, its errors in one line."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from etastar.errors import ConfigError, unknown_name
from etastar.problem.user_errors import NOT_THE_USERS, told


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
        with told(lambda: f"{option} {place}: importing it"):
            module = _module(module_name)
    except ConfigError as error:
        missing = getattr(error.__cause__, "name", None)
        if missing and (module_name + ".").startswith(f"{missing}."):
            raise ConfigError(
                f"{option} {place}: there is no module {missing!r} here ({os.getcwd()}) nor "
                "among the installed ones."
            ) from None
        raise
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise unknown_name(f"name in {module_name}", part, public)
        found = getattr(found, part)
    return found


def sent_whole(*places: str | None) -> None:
    """Let the modules that these name be sent to workers with what they define: they lack them.

    Args:
        places: As for `imported`, each imported before; None for none.
    """
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError:
        return
    for place in filter(None, places):
        module = _module(place.rpartition(":")[0])
        if not (getattr(module, "__file__", None) or "").startswith(NOT_THE_USERS):
            cloudpickle.register_pickle_by_value(module)


def _module(name: str) -> Any:
    if name.endswith(".py"):
        path = Path(name)
        if str(path.parent.resolve()) not in sys.path:
            sys.path.insert(0, str(path.parent.resolve()))
        name = path.stem
    elif os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)
