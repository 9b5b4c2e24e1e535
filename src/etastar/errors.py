"""All that can go wrong. Messages say what is wrong, what was expected, and what to do.

Divergence and spent budgets are not errors; they are outcomes (`etastar.problem.trial`).
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a message; of a longer one the middle is left out."""


LIKENESS = 0.5
"""From 0 to 1, as `difflib` measures it: `widht` is taken for `width`, `kappa` for nothing."""


class EtaStarError(Exception):
    """Base of every error that etastar raises on purpose; its text is one printable line."""

    def __str__(self) -> str:
        """The message; what a file or a caller put into it cannot break the line or be endless."""
        text = super().__str__()
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConfigError(EtaStarError, ValueError):
    """A setting is outside what it may be, or contradicts another."""


class DataError(EtaStarError):
    """A data file is missing, damaged or not what its name says."""


class ModelError(ConfigError):
    """The model, data, loss, optimizer or metric that was given cannot be measured as it is."""


class CurvatureError(EtaStarError):
    """A curvature cannot be computed: the loss is not finite, not deterministic, or not smooth."""


class StoreError(EtaStarError):
    """A store cannot be opened, read or written; what it holds was not touched."""


class EmptyStoreError(StoreError):
    """Nothing has been computed yet: there is no store, or only an empty file."""


class ExecutorError(EtaStarError):
    """An executor takes no more tasks, or has dropped some; what had ended is stored."""


class NotBracketedWarning(UserWarning):
    """No largest rate was found in the range searched; the result says which end is to blame."""


def warn(text: str, kind: type[Warning]) -> None:
    """Warn at the line that called this package, however deep inside of it this is called."""
    package = os.path.join(os.path.dirname(__file__), "")
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, kind, stacklevel=level)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one; None if none is like it at all."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=LIKENESS)
    return by_lower[near[0]] if near else None


def quoted(options: Iterable[str]) -> str:
    """Return options as messages name them: each in backticks, in the order of the alphabet."""
    return ", ".join(f"`{name}`" for name in sorted(options))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a registry, with the nearest known one.

    Args:
        kind: What was being named, e.g. `"dataset"`.
        name: The name that was given.
        known: The names there are.

    Returns:
        A `ConfigError`, for the caller to raise.
    """
    options = list(known)
    near = nearest(name, options)
    hint = "." if near is None else f"; did you mean {near!r}?"
    return ConfigError(f"unknown {kind} {name!r}{hint} Known: {', '.join(options)}.")
