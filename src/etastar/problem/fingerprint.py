"""What the outcomes of a problem's trials depend on, as JSON: by it a store tells problems apart.

The record has the settings, a hash of every value (initial weights, data, what functions hold), and
by name a hash of the code of every function and class that the user has written. Another value
makes another record; other code under the same name can be told from another function.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from etastar import __version__
from etastar.problem import own_loss
from etastar.problem.batches import Batches, LoaderBatches, TensorBatches
from etastar.problem.held import global_names
from etastar.problem.nested import leaves
from etastar.problem.problem import Problem
from etastar.problem.user_code import is_users

PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
LAMBDA = "<lambda>"


def fingerprint(problem: Problem) -> dict[str, Any]:
    """Return all that the outcome of a trial depends on, beside its start and rate, as JSON types.

    The training data are read once, at most as far as one trial reads them, and so are the
    validation data.

    Args:
        problem: Of a user's model.
    """
    objective, model = problem.objective, problem.origin.copy(0)
    walk = _Walk()
    parts = {
        "model": [getattr(problem.origin, "given", None), model],
        "step_fn": objective.step_fn,
        "loss_fn": [objective.loss_fn, own_loss.modules(model)[1:]],
        "metric": objective.metric,
        "optimizer": [problem.optimizer.given, problem.optimizer.state],
        "scheduler": problem.scheduler,
    }
    values = {name: walk.digest(part) for name, part in parts.items()}
    values["train_data"] = _digest_of_data(problem.train, problem.max_steps)
    values["val_data"] = _digest_of_data(problem.val, None)
    return {
        "settings": {**problem.described(0), "hold": objective.hold},
        "values": values,
        "code": dict(sorted(walk.code.items())),
        "anonymous": sorted(walk.anonymous),
        "device": problem.origin.device.type,
        "versions": {
            "etastar": __version__,
            "torch": torch.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
        },
    }


def changed_code(record: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names whose code is not the same in two records of one version of Python.

    Args:
        record: Of `fingerprint`.
        other: Another one.
    """
    if record["versions"]["python"] != other["versions"]["python"]:
        return []
    mine, its = record["code"], other["code"]
    return sorted(name for name in mine.keys() & its.keys() if mine[name] != its[name])


def _digest_of_data(data: Batches, most: int | None) -> str:
    """Return a hash of tensors as they are, of other data as they are read."""
    found = hashlib.sha256()
    if isinstance(data, TensorBatches):
        _add(found, data.batch, data.eval_size, *data.parts)
        return found.hexdigest()
    assert isinstance(data, LoaderBatches)
    epoch = data.steps_per_epoch
    batches = data.once() if most is None else islice(data.stream(0), min(epoch, most))
    for batch in batches:
        _add(found, *leaves(batch))
    return found.hexdigest()


def _add(found: Any, *values: Any) -> None:
    for value in values:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous()
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy())
        else:
            found.update(repr(value).encode())


class _Walk:
    """Hashes values, and gathers the code that is met on the way.

    Attributes:
        code: Qualified name → hash of its code, of what the user has written.
        anonymous: Hashes of the code of functions without a name.
    """

    def __init__(self) -> None:
        self.code: dict[str, str] = {}
        self.anonymous: set[str] = set()
        self._seen: dict[int, Any] = {}

    def digest(self, value: Any) -> str:
        """Return a hash of a value with all that it holds; code is left to `code`."""
        found = hashlib.sha256()
        self._walk(found, value)
        return found.hexdigest()

    def _walk(self, found: Any, value: Any) -> None:
        found.update(type(value).__name__.encode())
        if isinstance(value, (*PLAIN, torch.Tensor)):
            _add(found, value)
            return
        if isinstance(value, np.ndarray | np.generic):
            found.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value  # kept, so that no other gets its number
        if isinstance(value, Mapping):
            for key, part in value.items():
                found.update(repr(key).encode())
                self._walk(found, part)
        elif isinstance(value, set | frozenset):
            found.update(repr(sorted(map(repr, value))).encode())
        elif isinstance(value, list | tuple):
            for part in value:
                self._walk(found, part)
        else:
            self._object(found, value)

    def _object(self, found: Any, value: Any) -> None:
        """Hash a function, a class, a module or an object."""
        if isinstance(value, functools.partial):
            self._walk(found, [value.func, value.args, value.keywords])
        elif isinstance(value, MethodType):
            self._walk(found, [value.__func__, value.__self__])
        elif isinstance(value, FunctionType):
            self._function(found, value)
        elif isinstance(value, type):
            self._class(found, value)
        elif isinstance(value, ModuleType) or not hasattr(value, "__dict__"):
            found.update(getattr(value, "__name__", type(value).__qualname__).encode())
        else:
            self._class(found, type(value))
            if isinstance(value, nn.Module):
                found.update(repr(value).encode() if " at 0x" not in repr(value) else b"")
                self._walk(found, dict(value.state_dict()))
                for module in value.modules():
                    self._class(found, type(module))
                    own = {k: v for k, v in vars(module).items() if not k.startswith("_")}
                    self._walk(found, own)
            elif is_users(type(value)):
                self._walk(found, vars(value))
            elif type(value).__module__.startswith("etastar."):  # reads a training elsewhere
                self._walk(found, getattr(value, "identity", None))

    def _function(self, found: Any, value: FunctionType) -> None:
        """Hash what a function holds and note its code, if the user has written it."""
        found.update(value.__qualname__.encode())
        if not is_users(value):
            return
        self._note(value, _digest_of_code(value.__code__))
        self._walk(found, [value.__defaults__, value.__kwdefaults__])
        for cell in value.__closure__ or ():
            try:
                self._walk(found, cell.cell_contents)
            except ValueError:  # a name that is not bound yet
                continue
        for name in sorted(set(global_names(value.__code__))):
            if name in value.__globals__:
                self._walk(found, value.__globals__[name])

    def _class(self, found: Any, value: type) -> None:
        """Hash the attributes of a class and note the code of its methods, likewise."""
        found.update(value.__qualname__.encode())
        for kind in value.__mro__:
            if not is_users(kind) or (id(kind) in self._seen and kind is not value):
                continue
            self._seen[id(kind)] = kind
            for name, part in sorted(vars(kind).items()):
                inner = getattr(part, "__func__", getattr(part, "fget", part))
                if isinstance(inner, FunctionType):
                    self._walk(found, inner)
                elif isinstance(part, PLAIN) and not name.startswith("__"):
                    _add(found, name, part)

    def _note(self, value: FunctionType, digest: str) -> None:
        if LAMBDA in value.__qualname__:
            self.anonymous.add(digest)
            return
        name = f"{_place(value)}.{value.__qualname__}"
        # two functions of one name, as a factory makes them: their hashes together
        before = self.code.get(name, digest)
        self.code[name] = digest if before == digest else _sha(*sorted((before, digest)))


def _place(value: Any) -> str:
    """Return the module's name; of a script its file's."""
    if value.__module__ != "__main__":
        return str(value.__module__)
    return str(value.__code__.co_filename).rpartition("/")[2].removesuffix(".py")


def _digest_of_code(code: CodeType) -> str:
    """Return a hash of compiled code, the same wherever in a file it stands."""
    told = [repr(code.co_code), repr((code.co_names, code.co_varnames, code.co_freevars))]
    for const in code.co_consts:
        if isinstance(const, CodeType):
            told.append(_digest_of_code(const))
        elif isinstance(const, frozenset):
            told.append(repr(sorted(map(repr, const))))
        else:
            told.append(repr(const))
    return _sha(*told)


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
