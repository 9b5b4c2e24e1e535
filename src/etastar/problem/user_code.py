"""Code of the user's own: whose code is whose, how it is found, and what it raised, in one line.

Code that is named as MODULE:NAME is imported, or fingerprinted without being run.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from etastar.errors import ConfigError, EtaStarError, ModelError, unknown_name

NOT_THE_USERS = (str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib")))
"""Folders whose frames say nothing to the user: this package, Python and what is installed."""
INSTALLED = {"site-packages", "dist-packages"}
"""What such folders are called elsewhere."""

REMEDIES = {
    r"more than 1 value per channel": "A batch of one sample has no statistics for batch "
    "normalisation: set drop_last=True in the loader, or another batch size.",
    r"backward through the graph a second time": "Something keeps a tensor of an earlier step, or "
    "step_fn(model, batch) calls backward() itself: detach() what is kept; to do the whole step, "
    "take (model, batch, optimizer).",
    r"modified by an inplace operation": "A tensor that the gradient needs was changed in place: "
    "replace x += y by x = x + y, or clone() it first.",
    r"create_graph|does not have grad_fn": "Do the whole step in "
    "step_fn(model, batch, optimizer), with loss.backward(create_graph=True).",
    r"does not require grad": "Look for detach(), no_grad() or .item() between parameters and "
    "loss; evaluation records no gradients: pass `eval_grad=True` if it needs derivatives.",
    r"out of memory|can't allocate memory": "Lower the batch size, or train on another device.",
    r"[Ii]nference tensor": "A tensor was made in torch.inference_mode: clone() it outside.",
    r"same device|on device .* but": "Say where to train, and make new tensors in the "
    "model on the device of its inputs.",
    r"channels|[34]D .*input to conv": "PyTorch's images are [N, channels, height, width]: "
    "permute(0, 3, 1, 2) those whose channels come last, unsqueeze(1) grey ones.",
    r"scalar type (Long|Int)|'target' in call|floating point type for target|not implemented for "
    r"'(Int|Short|Char|Byte)'|Long but found|to be Long|for tensor argument #. 'indices'": "Class "
    "indices are int64: y.long(). Targets of a regression are floats, and need another `loss_fn`.",
    r"same dtype|scalar type|type .* should be the same|[Bb]yte[Tt]ensor|Double and Float": ""
    "Inputs and model need one type: x.float() for float64 or integer inputs, or model.double().",
    r"[Tt]arget .* out of bounds|label|class_index|index out of range": "Class "
    "indices count from 0 and are below the number of outputs.",
    r"sys\.exit": "Return the loss instead: one that is not finite counts as a diverged run.",
}
"""What helps against what PyTorch says; the first that fits is told."""


def is_users_file(file: str) -> bool:
    """Tell whether a file or folder is of the user, rather than of Python or of what is installed.

    Args:
        file: Its path.
    """
    return not file.startswith(NOT_THE_USERS) and INSTALLED.isdisjoint(Path(file).parts)


def is_users(code: Any) -> bool:
    """Tell whether the user has written a function, a class or a module.

    Args:
        code: One of them.
    """
    if isinstance(code, FunctionType):
        return is_users_file(code.__code__.co_filename)
    own = isinstance(code, ModuleType)
    name = code.__name__ if own else code.__module__  # the module `_io` calls itself `io`
    module = code if own else sys.modules.get(name)
    if module is None or name in sys.builtin_module_names:
        return False
    return is_users_file(getattr(module, "__file__", None) or "")


def cause(error: BaseException) -> str:
    """Return `raised KIND: message (in FILE, line N)`, the place in the user's own code."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if is_users_file(f.filename) and not f.filename.startswith("<")
    ]
    where = f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)}){where}"
    lines = str(error).strip().splitlines()
    lines = lines if len(lines) < 4 else [lines[0], "...", lines[-1]]  # as of a worker's traceback
    text = " ".join(" ".join(lines).split()).rstrip(".").replace("`", "'")  # no options of ours
    return f"raised {type(error).__name__}: {text}".removesuffix(": ") + where


@contextmanager
def told(doing: Callable[[], str], otherwise: str = "") -> Iterator[None]:
    """Raise what the user's code raises inside as an error that says what was going on.

    Args:
        doing: Says what was going on, and is asked only if it went wrong.
        otherwise: Remedy where none is known.

    Raises:
        ModelError: Instead of any other error, `sys.exit` and `GeneratorExit` included; Ctrl-C
            stays what it is.
    """
    try:
        yield
    except EtaStarError:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        text = cause(error)
        known = (remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, text))
        raise ModelError(f"{doing()} {text}. {next(known, otherwise)}".rstrip()) from error


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
        if is_users(module):
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


def _named(found: Any, name: str, module_name: str) -> Any:
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise unknown_name(f"name in {module_name}", part, public)
        found = getattr(found, part)
    return found


def _module(name: str) -> Any:
    folder = os.getcwd()
    if name.endswith(".py"):
        folder, name = str(Path(name).parent.resolve()), Path(name).stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
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
