"""What the outcomes of a problem's trials depend on, as JSON: by it a store tells problems apart.

The record has the settings, a hash of every value (initial weights, data, what functions hold), and
by name a hash of the code of every function and class that the user has written. Another value
makes another record; other code under the same name can be told from another function.

One walk finds both. From the arguments it follows attributes, containers, closures, class
attributes, hooks, and the names that code of the user looks up in its own module or in others of
the user's. Objects of installed libraries are taken apart as pickle does it. Of those that pickle
refuses, such as an open file, the class alone is known, and the record says so as `unseen`.
"""

from __future__ import annotations

import argparse
import dis
import functools
import hashlib
import platform
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as of_modules

from etastar import __version__
from etastar.problem.batches import Batches, LoaderBatches, TensorBatches
from etastar.problem.held import global_names
from etastar.problem.hooks import PARAMETER_HOOKS
from etastar.problem.optimizers import parts_of
from etastar.problem.problem import Problem
from etastar.problem.streams import KINDS, PARTS
from etastar.problem.user_code import is_users, is_users_file

PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
LAMBDA = "<lambda>"
OPEN = (nn.Module, SimpleNamespace, argparse.Namespace)
"""Classes of others whose objects are looked into by attribute, as those of the user's own are."""
NO_VALUES = ("_abc_impl", "_backward_cls")
"""Attributes of a class that Python and PyTorch add, which tell nothing."""
NO_CONTENT = (weakref.ReferenceType, MemberDescriptorType, GetSetDescriptorType, *KINDS)
"""Objects of which nothing counts: generators are seeded for every trial."""


def fingerprint(problem: Problem) -> dict[str, Any]:
    """Return all that the outcome of a trial depends on, beside its start and rate, as JSON types.

    The training data are read once, at most as far as one trial reads them, and so are the
    validation data.

    Args:
        problem: Of a user's model.
    """
    objective, model = problem.objective, problem.origin.copy(0)
    given = getattr(problem.origin, "given", None)
    walk = _Walk()
    values = {
        "train_data": walk.data(problem.train, problem.max_steps),
        "val_data": walk.data(problem.val, None),
        "model": walk.digest([None if isinstance(given, nn.Module) else given, model]),
    }
    built = parts_of(problem.optimizer.build(model, 1.0))
    parts = {
        "step_fn": objective.step_fn,
        "loss_fn": objective.loss_fn,
        "metric": objective.metric,
        "optimizer": [problem.optimizer.given, problem.optimizer.state],
        "groups": [[type(part), part.param_groups, _hooks_of(part)] for part in built],
        "scheduler": problem.scheduler,
        "hooks": _hooks_of(of_modules),
    }
    values |= {name: walk.digest(part) for name, part in parts.items()}
    return {
        "settings": {**problem.described(0), "hold": objective.hold},
        "values": values,
        "code": {name: _sha(*sorted(found)) for name, found in sorted(walk.code.items())},
        "anonymous": sorted(walk.anonymous),
        "unseen": sorted(walk.unseen),
        "device": problem.origin.device.type,
        "arithmetic": [str(torch.get_default_dtype()), torch.get_float32_matmul_precision()],
        "versions": {
            **dict(sorted(walk.packages.items())),
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


def _hooks_of(owner: Any) -> list[Any]:
    """Return the hooks on an object, in order; the numbers under which they hang are no matter."""
    hooks = (
        held for name, held in sorted(getattr(owner, "__dict__", {}).items()) if "_hooks" in name
    )
    return [list(held.values()) for held in hooks if isinstance(held, Mapping)]


class _Walk:
    """Hashes values, and gathers the code that is met on the way.

    Attributes:
        code: Qualified name → hashes of its code, of what the user has written.
        anonymous: Hashes of the code of functions without a name.
        packages: Installed package → its version.
        unseen: Classes of objects whose content cannot be read.
    """

    def __init__(self) -> None:
        self.code: dict[str, set[str]] = {}
        self.anonymous: set[str] = set()
        self.packages: dict[str, str] = {}
        self.unseen: set[str] = set()
        self._seen: dict[Any, tuple[int, Any]] = {}  # number and object: no other gets its id
        self._inside = False  # an object of a library

    def digest(self, value: Any) -> str:
        """Return a hash of a value with all that it holds; code is left to `code`."""
        found = hashlib.sha256()
        self._walk(found, value)
        return found.hexdigest()

    def data(self, data: Batches, most: int | None) -> str:
        """Return a hash of tensors as they are, of other data as they are read.

        Args:
            data: Training or validation data.
            most: Batches that a trial reads; None for one pass.
        """
        if isinstance(data, TensorBatches):
            return self._apart([data.batch, data.eval_size, data.data])
        assert isinstance(data, LoaderBatches)
        epoch, found = data.steps_per_epoch, [self.digest(list(_code_of(data.loader)))]
        batches = data.once() if most is None else islice(data.stream(0), min(epoch, most))
        return _sha(*found, *map(self._apart, batches))

    def _apart(self, value: Any) -> str:
        """Return a hash of a value, of which nothing is remembered."""
        before = dict(self._seen)
        digest = self.digest(value)
        self._seen = before
        return digest

    def _walk(self, found: Any, value: Any) -> None:
        found.update(f"{type(value).__name__} ".encode())
        if isinstance(value, PLAIN):
            found.update(repr(value).encode())
        elif isinstance(value, tuple):
            self._items(found, value)
        elif id(value) in self._seen:
            found.update(f"#{self._seen[id(value)][0]}".encode())
        else:
            self._seen[id(value)] = len(self._seen), value
            self._new(found, value)

    def _items(self, found: Any, values: Any) -> None:
        found.update(f"{len(values)} ".encode())
        for part in values:
            self._walk(found, part)

    def _new(self, found: Any, value: Any) -> None:
        """Hash what is met for the first time."""
        if isinstance(value, torch.Tensor):
            flat = value.detach().to_dense().resolve_conj().cpu().contiguous().reshape(-1)
            found.update(f"{value.dtype}{tuple(value.shape)}{value.requires_grad}".encode())
            found.update(flat.view(torch.uint8).numpy())
            hooks = [getattr(value, name, None) or {} for name in PARAMETER_HOOKS]
            self._items(found, [vars(value), *(list(each.values()) for each in hooks)])
        elif isinstance(value, np.ndarray | np.generic):
            found.update(f"{value.dtype}{value.shape}".encode())
            if value.dtype.hasobject:
                self._walk(found, value.tolist())
            else:
                found.update(value.tobytes())
        elif isinstance(value, Mapping):
            self._items(found, [part for pair in value.items() for part in pair])
        elif isinstance(value, set | frozenset):
            found.update(repr(sorted(map(self._apart, value))).encode())
        elif isinstance(value, list | deque):
            self._items(found, value)
        else:
            self._object(found, value)
            return
        if is_users(type(value)):
            self._own(found, value)

    def _object(self, found: Any, value: Any) -> None:
        """Hash a function, a class, a module or an object."""
        if isinstance(value, functools.partial):
            self._items(found, [value.func, value.args, value.keywords])
        elif isinstance(value, MethodType):
            self._items(found, [value.__func__, value.__self__])
        elif isinstance(value, FunctionType):
            self._function(found, value)
        elif isinstance(value, type):
            self._class(found, value)
        elif isinstance(value, ModuleType):
            self._module(found, value, tuple(vars(value)))
        elif isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            found.update(value.__qualname__.encode())
            self._walk(found, owner.__name__ if isinstance(owner, ModuleType) else owner)
        elif isinstance(value, LoaderBatches | TensorBatches):
            found.update(self.data(value, None).encode())
        elif type(value).__module__.startswith("etastar.") and hasattr(value, "identity"):
            self._items(found, [type(value), value.identity])  # reads a training elsewhere
        elif isinstance(value, OPEN) or is_users(type(value)):
            self._own(found, value)
        elif not isinstance(value, NO_CONTENT):
            self._foreign(found, value)

    def _own(self, found: Any, value: Any) -> None:
        """Hash the class and the attributes of an object, private ones too."""
        self._walk(found, type(value))
        if isinstance(value, torch.jit.ScriptModule):
            self._items(found, [str(value.inlined_graph), dict(value.state_dict())])
            return
        state = object.__getstate__(value)
        for held in state if isinstance(state, tuple) else (state,):
            for name, part in (held or {}).items():
                found.update(name.encode())
                hooks = isinstance(value, nn.Module) and "_hooks" in name
                self._walk(found, list(part.values()) if hooks else part)

    def _foreign(self, found: Any, value: Any) -> None:
        """Hash an object of a library by what pickle makes of it; its class, if that fails."""
        self._walk(found, type(value))
        outermost, before, self._inside = not self._inside, self._seen, True
        if outermost:
            self._seen = dict(before)
        try:
            made = value.__reduce_ex__(2)
            if isinstance(made, str):  # a name, maybe of a function that wraps another
                made = (made, getattr(value, "__dict__", None))
            items = [list(each) for each in made[3:5] if each is not None]
            found.update(self.digest([*made[:3], *items]).encode())
        except Exception:  # whatever a class raises that was not made to be taken apart
            if not outermost:
                raise
            self._seen = before
            if type(value).__module__ != "_thread":  # a lock has no content
                self.unseen.add(f"{type(value).__module__}.{type(value).__qualname__}")
        finally:
            self._inside = not outermost

    def _function(self, found: Any, value: FunctionType) -> None:
        """Hash what a function holds and note its code, if the user has written it."""
        found.update(value.__qualname__.encode())
        code, names = value.__code__, tuple(sorted(set(global_names(value.__code__))))
        for cell in value.__closure__ or ():
            try:
                self._named(found, cell.cell_contents, names)
            except ValueError:  # a name that is not bound yet
                continue
        if not is_users(value):
            self._installed(found, value)
            return
        if LAMBDA in value.__qualname__:
            self.anonymous.add(_digest_of_code(code))
        else:  # two functions may have one name, as a factory makes them
            name = f"{_place(value)}.{value.__qualname__}"
            self.code.setdefault(name, set()).add(_digest_of_code(code))
        self._items(found, [value.__defaults__, value.__kwdefaults__, vars(value)])
        for name in names:
            if name in value.__globals__:
                self._named(found, value.__globals__[name], names)
        package = value.__globals__.get("__package__") or ""
        for name in _imported(code):
            for place in (name, f"{package}.{name}".rstrip(".")):
                if place in sys.modules:
                    self._named(found, sys.modules[place], names)

    def _named(self, found: Any, value: Any, names: tuple[str, ...]) -> None:
        """Hash what code has by a name; of a module, what it looks up in it."""
        if isinstance(value, ModuleType):
            self._module(found, value, names)
        else:
            self._walk(found, value)

    def _module(self, found: Any, value: ModuleType, names: tuple[str, ...]) -> None:
        """Hash what code looks up by these names in a module, if it is the user's."""
        found.update(value.__name__.encode())
        if not is_users_file(getattr(value, "__file__", None) or sys.prefix):
            self._installed(found, value)
        elif (id(value), names) not in self._seen:
            self._seen[id(value), names] = len(self._seen), value
            for name in names:
                if name in vars(value) and not name.startswith("__"):
                    found.update(name.encode())
                    self._named(found, vars(value)[name], names)

    def _class(self, found: Any, value: type) -> None:
        """Hash bases and attributes of a class and note the code of its methods, likewise."""
        found.update(value.__qualname__.encode())
        if not is_users(value):
            self._installed(found, value)
            return
        self._items(found, value.__bases__)
        for name, part in sorted(vars(value).items()):
            if isinstance(part, property):
                part = (part.fget, part.fset, part.fdel)
            part = getattr(part, "__func__", part)  # of a classmethod or a staticmethod
            if isinstance(part, FunctionType) or not name.startswith("__"):
                found.update(name.encode())
                self._walk(found, None if name in NO_VALUES else part)

    def _installed(self, found: Any, value: Any) -> None:
        """Note where a thing of a library comes from."""
        place = str(value.__name__ if isinstance(value, ModuleType) else value.__module__)
        found.update(place.encode())
        package = place.partition(".")[0]
        version = getattr(sys.modules.get(package), "__version__", None)
        if version is not None:
            self.packages[package] = str(version)


def _code_of(loader: Any) -> Iterator[Any]:
    """Yield the classes of a loader and its parts, and the functions that they call."""
    waiting = [loader]
    while waiting:
        owner = waiting.pop()
        held = getattr(owner, "__dict__", {})
        yield type(owner)
        for part in held.values():
            if callable(part):
                yield part if isinstance(part, FunctionType) else type(part)
        waiting += [held[name] for name in PARTS if held.get(name) is not None]


def _imported(code: CodeType) -> Iterator[str]:
    """Yield the modules that a function imports when it is called."""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            yield str(step.argval)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _imported(const)


def _place(value: Any) -> str:
    """Return the module's name; of a script that of its file, which a cell of a notebook lacks."""
    file = str(value.__code__.co_filename)
    if value.__module__ != "__main__" or file.startswith("<") or "/ipykernel_" in file:
        return str(value.__module__)
    return file.rpartition("/")[2].removesuffix(".py")


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
