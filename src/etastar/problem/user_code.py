"""Code of the user's own, named as MODULE:NAME: found, fingerprinted, imported.

Errors are one line each.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from etastar.errors import ConfigError, unknown_name
from etastar.problem.user_errors import is_users_file, told


def imported(option: str, place: str) -> Any:
    """What MODULE:NAME or FILE.py:NAME names; its code is run.

    Raises:
        ConfigError: It is not of that form, not there, or importing it fails.
    """
    module_name, name = split_place(option, place)
    if module_name.endswith(".py") and not Path(module_name).is_file():
        raise ConfigError(f"{option} {place}: there is no file {module_name}.")
    try:
        with told(lambda: f"{option} {place}: importing it"):
            module = _module(module_name)
    except ConfigError as error:
        missing = getattr(error.__cause__, "name", None)
        if missing and (module_name + ".").startswith(f"{missing}."):
            raise _not_there(option, place, missing, [os.getcwd()]) from None
        raise
    return _named(module, name, module_name)


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
        if is_users_file(getattr(module, "__file__", None) or ""):
            cloudpickle.register_pickle_by_value(module)


def split_place(option: str, place: str) -> tuple[str, str]:
    """Return module and name of MODULE:NAME.

    Args:
        option: What the user called it, for messages.
        place: The text.

    Raises:
        ConfigError: It is not of that form.
    """
    module_name, _, name = place.rpartition(":")
    if not module_name or not name:
        raise ConfigError(f"{option} {place!r}: expected MODULE:NAME, such as my_module:build.")
    return module_name, name


def _not_there(option: str, place: str, module: str, folders: Sequence[str]) -> ConfigError:
    where = " or ".join(dict.fromkeys(folders))
    return ConfigError(
        f"{option} {place}: there is no module {module!r} here ({where}) nor among the installed "
        "ones."
    )


def _named(module: Any, name: str, module_name: str) -> Any:
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


def code_of(option: str, place: str, folders: Sequence[str]) -> str:
    """Return the fingerprint of the code that MODULE:NAME stands for; nothing is run.

    It is the first 20 digits of the SHA-256 of the module's file and of all that it imports, itself
    or by others, from the folder where it lies. Installed libraries are no part of it.

    Args:
        option: What the user called it, for messages.
        place: MODULE:NAME.
        folders: Where modules are looked for, before Python's own path.

    Raises:
        ConfigError: There is no such module, or it is not Python.
    """
    name, root, file = _located(option, place, folders)
    files = {file} | {Path(path) for path in _imports(option, place, name, root).values()}
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:20]


def _located(option: str, place: str, folders: Sequence[str]) -> tuple[str, Path, Path]:
    """Return the module's name, the folder that it is imported from, and its file."""
    name = split_place(option, place)[0]
    if name.endswith(".py"):
        files = [Path(folder, name) for folder in folders if Path(folder, name).is_file()]
        if not files:
            raise ConfigError(f"{option} {place}: there is no file {name} in {folders[0]}.")
        return files[0].stem, files[0].parent.resolve(), files[0].resolve()
    path, parts = [*folders, *sys.path], name.split(".")
    importlib.invalidate_caches()
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), path)
        if spec is None or (count == len(parts) and spec.origin is None):
            raise _not_there(option, place, ".".join(parts[:count]), folders)
        path = list(spec.submodule_search_locations or [])
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).resolve()
    return name, file.parents[len(parts) - (not path)], file


def _imports(option: str, place: str, name: str, root: Path) -> dict[str, str]:
    """Files of the modules that a module needs from its folder, by name, itself among them."""
    from modulefinder import ModuleFinder

    if not is_users_file(str(root)):
        return {}  # what it imports there is a library
    finder = ModuleFinder(path=[str(root)])
    try:
        finder.import_hook(name)
    except (SyntaxError, ImportError, ValueError) as error:
        raise ConfigError(f"{option} {place}: {type(error).__name__}: {error}.") from None
    files = {key: getattr(module, "__file__", None) for key, module in finder.modules.items()}
    return {key: file for key, file in files.items() if file}


@lru_cache(maxsize=8)
def imported_code(option: str, place: str, folders: tuple[str, ...], code: str) -> Any:
    """Import what MODULE:NAME names, once per process and fingerprint.

    Args:
        option: What the user called it, for messages.
        place: MODULE:NAME.
        folders: Where modules are looked for, before Python's own path.
        code: The fingerprint that it must have: see `code_of`.

    Raises:
        ConfigError: The code is not there, has changed, or cannot be imported.
    """
    if code_of(option, place, folders) != code:
        raise ConfigError(
            f"{option} {place}: its code has changed since the study file was read. Run the "
            "command again."
        )
    name, root, _ = _located(option, place, folders)
    for other in _imports(option, place, name, root):
        sys.modules.pop(other, None)  # of another study's folder, or as it was before a change
    if str(root) in sys.path:
        sys.path.remove(str(root))
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    with told(lambda: f"{option} {place}: importing it"):
        module = importlib.import_module(name)
    return _named(module, split_place(option, place)[1], name)
