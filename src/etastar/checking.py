"""Numbers given by a caller, refused in one line where they cannot be meant."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from etastar.errors import ConfigError


def check_solver(tol: Any, max_iter: Any, seed: Any = 0) -> None:
    """Refuse a tolerance, budget or seed that is none.

    Raises:
        ConfigError: One of them is out of range.
    """
    if not is_number(tol) or not 0 < tol < 1:
        raise ConfigError(f"tol must be above 0 and below 1; got {tol!r}.")
    check_whole("max_iter", max_iter)
    check_whole("seed", seed, least=0)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`, below 2**63.

    Raises:
        ConfigError: It is not.
    """
    if not is_whole(value):
        raise ConfigError(f"{name} must be a whole number; got {value!r}.")
    if value < least:
        raise ConfigError(f"{name} must be at least {least}; got {value!r}.")
    if value >= 2**63:
        raise ConfigError(f"{name} must be below 2**63; got {value!r}.")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number by its type; truth values are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a real number, finite or not; truth values are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_ratio(value: Any) -> bool:
    """Whether it is a finite number that is not negative."""
    return bool(is_number(value) and 0 <= value < math.inf)
