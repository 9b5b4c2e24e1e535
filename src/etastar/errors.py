"""What can go wrong before training starts. Messages say what, expected, got, and what to do.

Divergence and spent budgets are not errors here; they are outcomes (`etastar.training`).
"""

from __future__ import annotations

import difflib
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


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one; None if none is like it at all."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=LIKENESS)
    return near[0] if near else None


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
