"""What the law of one exponent misses, over width and depth."""

from __future__ import annotations

import numpy as np

from etastar.report.chart import Chart, Heat
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, columns_of, identity, plain, sentence
from etastar.report.style import fixed, percent
from etastar.scaling import PowerLawFit, residual_map

_LEAST_LIMIT = 0.1
"""In log units: colours that end nearer to zero would make a pattern of rounding."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    fits = [(group, group.law("product")) for group in family.groups]
    fitted = [(group, fit) for group, fit in fits if not isinstance(fit, str)]
    limit = max([_LEAST_LIMIT, *(float(np.abs(fit.residual).max()) for _, fit in fitted)])
    charts = [_chart(group, fit, limit) for group, fit in fitted]
    reasons = [f"{group.name}: {sentence(fit)}" for group, fit in fits if isinstance(fit, str)]
    return Drawing(
        charts,
        columns_of([row for group, fit in fitted for row in _rows(group, fit)]),
        _CAPTION,
        " ".join(reasons),
    )


_CAPTION = (
    "How far the measured η* lies above (red) or below (blue) the law of one exponent, "
    "a·(n·L)^{b}; the colours are the natural logarithm of measured ÷ law, on one scale for all "
    "panels. A law that holds leaves no pattern; a gradient along one axis says that width and "
    "depth need exponents of their own."
)


def _chart(group: Group, fit: PowerLawFit, limit: float) -> Chart:
    widths, depths, values, in_noise = residual_map(fit)

    def text(i: int, j: int) -> str:
        return _signed(values[i, j]) if np.isfinite(values[i, j]) else ""

    def hover(i: int, j: int) -> str:
        if not np.isfinite(values[i, j]):
            return ""
        n, d = widths[i], depths[j]
        return (
            f"<b>{n:g} × {d:g}</b><br>measured {text(i, j)} % off the law<br>"
            f"{fixed(in_noise[i, j], 1)} standard deviations of its seed noise<br>"
            f"cell {group.cell_id(n, d)}"
        )

    heat = Heat(
        columns=[f"{n:g}" for n in widths],
        rows=[f"{d:g}" for d in depths],
        values=values,
        limit=limit,
        text=[[text(i, j) for j in range(len(depths))] for i in range(len(widths))],
        hover=[[hover(i, j) for j in range(len(depths))] for i in range(len(widths))],
        label="ln(measured ÷ law); fields: %",
    )
    return Chart("width n", "depth L", [heat], title=group.name)


def _signed(log_residual: float) -> str:
    text = percent(float(np.expm1(log_residual))).removesuffix("\u202f%")
    return text if text.startswith("−") or text == "0" else f"+{text}"


def _rows(group: Group, fit: PowerLawFit) -> list[dict[str, object]]:
    law = np.exp(fit.log_value - fit.residual)
    return [
        {
            **identity(group, n, d),
            "eta_star": plain(np.exp(fit.log_value[i])),
            "law": plain(law[i]),
            "log_residual": plain(fit.residual[i]),
            "in_noise": plain(fit.residual[i] / np.sqrt(fit.variance[i])),
            "cell": group.cell_id(n, d),
        }
        for i, (n, d) in enumerate(zip(fit.width, fit.depth, strict=True))
    ]
