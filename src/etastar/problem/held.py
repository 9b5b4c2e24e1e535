"""What a user's functions hold besides their arguments, of which every trial gets its own copies.

A gradient scaler, a moving average of the weights or a generator that a step reads from its
closure, its defaults, a class or a module would carry what one trial does into the next. While a
trial runs, such names are bound to copies; afterwards they are bound to the originals again, which
nothing has touched.
"""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from enum import EnumMeta
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, TypeAlias

from torch import nn
from torch.utils.data import DataLoader, Dataset

from etastar.errors import ModelError
from etastar.problem.streams import KINDS, mixed, seed_generator
from etastar.problem.user_code import is_users

DEEPEST = 6
"""Objects between a function and what is looked for in it."""
LARGEST = 2**26
"""Bytes from which on a tensor or an array is taken for data, not for a state."""
MOST = 1000
"""Entries from which on a container is taken for data."""
NO_STATE = (ModuleType, type, BuiltinFunctionType, Dataset, DataLoader)
"""What is not copied."""
PLAIN = (FunctionType, type)
"""What holds a count or a list as a record of the user's, rather than as a state of its own."""


Slot: TypeAlias = tuple[Callable[[], Any], Callable[[Any], None]]
"""A name through which a function reaches an object: how to read it, and to bind it anew."""


class Held:
    """What functions hold: objects with a state that they can tell and load, and generators.

    Args:
        functions: Any objects, classes among them; of those that the user has not written nothing
            is held.
        everything: Whether numbers, lists, tensors and other objects count, too; attributes of an
            object that is called, or whose method is, always do.
    """

    def __init__(self, functions: Iterable[Any], *, everything: bool = False) -> None:
        self.functions, self.everything = tuple(functions), everything
        seen: set[int] = set()
        self._slots = [
            slot
            for f in self.functions
            if _is_written(f)
            for slot in _slots(f, seen, DEEPEST, everything or not isinstance(f, PLAIN))
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the functions; what they hold is found again."""
        return functools.partial(Held, everything=self.everything), (self.functions,)

    def copies(self, *numbers: int, after: list[Any] | None = None) -> list[Any]:
        """Return copies of what is held; generators among them are seeded.

        Args:
            numbers: Seeds.
            after: Copies of before, of which all go on but objects with a state, and generators.

        Raises:
            ModelError: An object with a state cannot be copied.
        """
        memo: dict[int, Any] = {}
        made = [_copied(read(), memo) for read, _ in self._slots]
        if after is not None:
            made = [new if has_state(new) else old for new, old in zip(made, after, strict=True)]
        for place, value in enumerate(made):
            if isinstance(value, tuple(KINDS)):
                seed_generator(value, mixed("training", *numbers, place + 1))
        return made

    @contextmanager
    def aside(self, *numbers: int) -> Iterator[None]:
        """Bind all names inside to copies that are thrown away: nothing that is done there counts.

        Args:
            numbers: Seeds.
        """
        whole = Held(self.functions, everything=True)
        with whole.bound(whole.copies(*numbers)):
            yield

    @contextmanager
    def bound(self, copies: list[Any]) -> Iterator[None]:
        """Bind the names to copies inside, which go on from there the next time.

        Args:
            copies: As `copies` returned them.
        """
        originals = [read() for read, _ in self._slots]
        for (_, bind), value in zip(self._slots, copies, strict=True):
            bind(value)
        try:
            yield
        finally:
            copies[:] = [read() for read, _ in self._slots]
            for (_, bind), value in zip(self._slots, originals, strict=True):
                bind(value)


NOTHING = Held(())


def rebindable(function: Any) -> Any:
    """Return a function; an object of an installed class as a partial, which can hold a copy.

    Args:
        function: Of the user's.
    """
    bound = (FunctionType, BuiltinFunctionType, MethodType, type, functools.partial)
    if not callable(function) or isinstance(function, bound) or _is_own(function):
        return function
    return functools.partial(function)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy; the value itself if it cannot be copied and tells no state."""
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:  # whatever a class of the user's own raises
        if not has_state(value):
            return value
        raise ModelError(
            f"the functions given use an object of type {type(value).__name__}, which cannot be "
            f"copied ({type(error).__name__}: {error}), and every trial needs one of its own: "
            "detach() the tensors that it keeps, or make it inside the model factory."
        ) from error


def _slots(holder: Any, seen: set[int], depth: int, everything: bool) -> Iterator[Slot]:
    """Yield the names through which something reaches what has a state."""
    if id(holder) in seen or depth == 0:
        return
    seen.add(id(holder))
    for slot in _names(holder):
        try:
            value = slot[0]()
        except ValueError:  # a name that is not bound yet
            continue
        inside = isinstance(value, dict | list | tuple) or _is_written(value)
        if has_state(value):
            yield slot
        elif inside and not (everything and isinstance(value, dict | list)):
            yield from _slots(value, seen, depth - 1, everything)
        elif (
            everything and not isinstance(value, NO_STATE) and getattr(value, "nbytes", 0) < LARGEST
        ):
            yield slot


def _names(holder: Any) -> list[Slot]:
    """Return the names that a function, an object or a container holds."""
    if isinstance(holder, functools.partial):

        def bind(parts: tuple[Any, ...]) -> None:  # the only way to change it in place
            holder.__setstate__((parts[0], parts[1:], holder.keywords, vars(holder)))  # type: ignore[attr-defined]

        parts = _of_tuple(lambda: (holder.func, *holder.args), bind)
        return [*parts, *_of_items(holder.keywords, holder.keywords)]
    if isinstance(holder, MethodType):
        return [*_names(holder.__func__), *_names(holder.__self__)]
    if isinstance(holder, FunctionType):
        rebind = functools.partial(setattr, holder, "__defaults__")
        return [
            *(_of_attribute(cell, "cell_contents") for cell in holder.__closure__ or ()),
            *_of_globals(holder),
            *_of_tuple(lambda: holder.__defaults__ or (), rebind),
            *_of_items(holder.__kwdefaults__ or {}, holder.__kwdefaults__ or ()),
            *_of_items(vars(holder), vars(holder)),
        ]
    if isinstance(holder, dict):
        return _of_items(holder, holder)
    if isinstance(holder, list | tuple):
        return _of_items(holder, range(len(holder)))
    if isinstance(holder, type):
        return [slot for kind in holder.__mro__ if _is_class(kind) for slot in _of_class(kind)]
    return [*_names(getattr(holder, "__dict__", {})), *_names(type(holder))]


def _of_class(kind: type) -> Iterator[Slot]:
    """Yield what a class holds: its attributes, and its functions, which stay as they are."""
    for name, value in vars(kind).items():
        code = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(code, FunctionType):
            yield from _of_items((code,), (0,))
        elif not (name.startswith("__") or hasattr(value, "__get__")):
            yield _of_attribute(kind, name, type.__setattr__)


def _of_globals(function: FunctionType) -> Iterator[Slot]:
    """Yield what a function looks up in its module, and in other modules of the user's."""
    names = dict.fromkeys(global_names(function.__code__))
    spaces = [function.__globals__]
    for space in spaces:  # which grow
        used = [name for name in names if name in space]
        yield from _of_items(space, used)
        found = [space[n] if n in space else sys.modules.get(n) for n in names]
        spaces += [
            vars(m)
            for m in found
            if isinstance(m, ModuleType) and is_users(m) and all(vars(m) is not s for s in spaces)
        ]


def _of_tuple(
    read: Callable[[], tuple[Any, ...]], bind: Callable[[tuple[Any, ...]], None]
) -> list[Slot]:
    """Return the places of a tuple that is bound anew as a whole."""

    def bind_one(place: int, value: Any) -> None:
        held = read()
        bind((*held[:place], value, *held[place + 1 :]))

    places = range(len(read()))
    return [(lambda i=i: read()[i], functools.partial(bind_one, i)) for i in places]  # type: ignore[misc]


def _of_attribute(owner: Any, name: str, bind: Callable[[Any, str, Any], None] = setattr) -> Slot:
    return functools.partial(getattr, owner, name), functools.partial(bind, owner, name)


def _of_items(owner: Any, keys: Iterable[Any]) -> list[Slot]:
    """Return the places in a dictionary, a list, or a tuple, which stays as it is."""
    if isinstance(keys, Sized) and len(keys) > MOST:
        return []
    frozen = isinstance(owner, tuple)
    return [
        (
            functools.partial(operator.getitem, owner, key),
            (lambda value: None) if frozen else functools.partial(operator.setitem, owner, key),
        )
        for key in keys
    ]


def global_names(code: CodeType) -> tuple[str, ...]:
    """Return the names that a function and those written inside it look up in their module.

    Args:
        code: Of the function.
    """
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return (*code.co_names, *(name for c in inner for name in global_names(c)))


def has_state(value: Any) -> bool:
    """Tell whether something carries a state from step to step: a scaler, a module, a generator."""
    if isinstance(value, type):
        return False
    return isinstance(value, tuple(KINDS)) or (
        hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    )


def _is_written(value: Any) -> bool:
    """Tell whether the user has written a function or a class, or the class of an object."""
    if isinstance(value, MethodType):  # of an installed class it may keep a state of the user's
        return not value.__func__.__module__.startswith("etastar.")
    if isinstance(value, FunctionType):
        return is_users(value)
    return isinstance(value, functools.partial) or _is_class(value) or _is_own(value)


def _is_class(value: Any) -> bool:
    """Tell whether a value is a class that the user has written, which may hold attributes."""
    return isinstance(value, type) and not isinstance(value, EnumMeta) and is_users(value)


def _is_own(value: Any) -> bool:
    """Tell whether a value is an object of a class of the user's own, which may hold others."""
    if isinstance(value, (*NO_STATE, FunctionType, MethodType, nn.Module)):
        return False
    return type(value) is SimpleNamespace or is_users(type(value))
