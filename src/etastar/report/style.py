"""Colours, marks and numbers as text, the same in every figure, on paper and in the page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Okabe & Ito (2008): distinguishable with any colour vision, and in grey.
COLOURS = {
    "trained": "#0072B2",
    "diverged": "#D55E00",
    "dead": "#000000",
    "short": "#E69F00",
}
MARKERS = {"trained": "o", "diverged": "x", "dead": "+", "short": "v"}
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 200,
    "svg.hashsalt": "etastar",
}

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
"""Colours of series without an order of their own (κ), also Okabe & Ito's."""
MARKS = {
    "circle": ("o", "circle"),
    "square": ("s", "square"),
    "diamond": ("D", "diamond"),
    "triangle": ("^", "triangle-up"),
    "cross": ("P", "cross"),
    "star": ("*", "star"),
    "x": ("X", "x"),
    "up": ("^", "triangle-up"),
    "down": ("v", "triangle-down"),
    "dash": ("_", "line-ew"),
}
"""The marks of points, as matplotlib and as plotly call them."""
SHAPES = tuple(MARKS)[:7]
"""Marks beside the colours of series, so that a print without them can be read."""
INK = "#1b1f24"
MUTED = "#6b7280"
GRID = "#e6e8eb"

DIVERGING = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")
"""ColorBrewer's RdBu, reversed: blue where the law is too high, red where it is too low, evenly
spaced from far below to far above; the middle is almost white."""


def ordered_colours(count: int) -> list[str]:
    """So many colours from dark to light, for things that have an order; readable in grey.

    They are viridis (van der Walt & Smith 2015) without its palest end.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ends = (0.0, 0.85) if count > 1 else (0.4, 0.4)
    return [to_hex(colormaps["viridis"](at)) for at in np.linspace(*ends, count)]


def number(value: float | None, digits: int = 3) -> str:
    """A number as people write it, with a real minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}g}"
    if "e" in text and abs(value) < 1e6 and abs(value) >= 1:
        text = f"{value:.0f}"
    return text.replace("-", "−")


def fixed(value: float | None, decimals: int = 2) -> str:
    """A number with so many decimals, for exponents and shares that stand in a column."""
    if value is None or not math.isfinite(value):
        return number(value)
    text = f"{value:.{decimals}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", "−")


def interval(low: float, high: float, decimals: int = 2) -> str:
    """`[low, high]`."""
    return f"[{fixed(low, decimals)}, {fixed(high, decimals)}]"


def percent(share: float | None) -> str:
    """`12 %`, which no line break parts; a dash where there is no number."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{fixed(100 * share, 0)}\u202f%"


def count(number_of: int, noun: str) -> str:
    """`1 network`, `12 networks`; thousands apart."""
    return f"{thousands(number_of)} {noun}{'' if number_of == 1 else 's'}"


def thousands(value: int) -> str:
    """`12 345`, with a space that no line break parts."""
    return f"{value:,}".replace(",", "\u202f")


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


_POWER = re.compile(r"\^\{([^}]*)\}")


def for_html(text: str) -> str:
    """`x^{2}` with a raised 2, as plotly and a page understand it."""
    return _POWER.sub(r"<sup>\1</sup>", text)


def for_matplotlib(text: str) -> str:
    """The same as mathtext, everything else taken literally."""
    return _POWER.sub(r"$^{\\mathregular{\1}}$", text.replace("$", r"\$"))


def for_plain_text(text: str) -> str:
    """The same without any raising, for file names and alternative texts."""
    return _POWER.sub(r"^\1", text)
