"""Checks of numbers and names that a caller gives; every message is `NAME must be ..., got ...`.

NumPy's numbers count as Python's do. Booleans are no numbers, and neither are strings. Each check
returns the value as Python's own number, so that it can be written to JSON.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from etastar.errors import ConfigError, unknown_name

Given = ParamSpec("Given")
Made = TypeVar("Made")
MOST = 2**63 - 1
"""The largest whole number that PyTorch and NumPy hold."""


def is_whole(value: Any) -> bool:
    """Check that the value is a whole number by its type; 2.0 is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Check that the value is a real number, finite or not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Return a number of any kind as Python's own, whatever else as it is."""
    if is_whole(value):
        return int(value)
    return float(value) if is_number(value) else value


def is_ratio(value: Any) -> bool:
    """Check that the value is a finite number that is not negative."""
    return bool(is_number(value) and 0 <= value < math.inf)


def check_accuracy(name: str, threshold: float, above: float, said: str = "0") -> None:
    """Raise if a threshold of an accuracy lies outside its range.

    Args:
        name: What the message calls it.
        threshold: A number.
        above: What it must exceed; at most 1.
        said: What that is, in words.

    Raises:
        ConfigError: It does; per cent are told from a fraction where that would be in range.
    """
    if above < threshold <= 1:
        return
    per_cent = threshold > 1 and above < threshold / 100 <= 1
    advice = f" For {threshold:g} % write {threshold / 100:g}." if per_cent else ""
    raise ConfigError(f"{name} must be above {said} and at most 1, got {threshold:g}.{advice}")


def check_whole(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """Return the value as an int; raise if it is no whole number from `least` to `most`.

    Raises:
        ConfigError: It is not.
    """
    if not is_whole(value):
        expected = "a whole number"
    elif value < least:
        expected = f"at least {least}"
    elif value > most:
        expected = "below 2**63" if most == MOST else f"at most {most}"
    else:
        return int(value)
    raise ConfigError(f"{name} must be {expected}, got {value!r}.")


def check_number(
    name: str, value: Any, *, above: float | None = None, below: float | None = None
) -> float:
    """Return the value as a float; raise if it is no finite number between the bounds, exclusive.

    Raises:
        ConfigError: It is not.
    """
    low = -math.inf if above is None else above
    high = math.inf if below is None else below
    if is_number(value) and low < value < high:
        return float(value)
    expected = [] if low > -math.inf and high < math.inf else ["finite"]
    expected += [] if above is None else [f"above {above:g}"]
    expected += [] if below is None else [f"below {below:g}"]
    raise ConfigError(f"{name} must be {' and '.join(expected)}, got {value!r}.")


def check_choice(kind: str, value: Any, known: Collection[str]) -> None:
    """Raise if the value is not one of the known names; the message has the nearest one.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, str) or value not in known:
        raise unknown_name(kind, str(value), known)


def check_solver(tol: Any, max_iter: Any, seed: Any = 0) -> tuple[float, int, int]:
    """Return the three; raise if not 0 < tol < 1, the budget is below 1, or the seed below 0.

    Raises:
        ConfigError: One of them is.
    """
    return (
        check_number("tol", tol, above=0, below=1),
        check_whole("max_iter", max_iter),
        check_whole("seed", seed, least=0),
    )


def known_names(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Make a function raise `ConfigError`, with the nearest name, for a keyword it does not know.

    Args:
        function: Any, without `**keywords`.
    """
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: Given.args, **keywords: Given.kwargs) -> Made:
        for name in keywords:
            if name not in known:
                raise unknown_name("option", name, known)
        return function(*args, **keywords)

    return checked
