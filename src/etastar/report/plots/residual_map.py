"""What the law of one exponent misses, over width and depth."""

from __future__ import annotations

import numpy as np

from etastar.report.chart import Chart, Heat
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, rows_of, sentence, stacked
from etastar.report.style import fixed, percent
from etastar.scaling import PowerLawFit, residual_map
from etastar.study.export import Columns

_LEAST_LIMIT = 0.1
"""In log units: colours that end nearer to zero would make a pattern of rounding."""


def make(family: Family) -> Drawing:
    """Draw a family: see the module."""
    fits = [(group, group.law("product")) for group in family.groups]
    fitted = [(group, fit) for group, fit in fits if not isinstance(fit, str)]
    limit = max([_LEAST_LIMIT, *(float(np.abs(fit.residual).max()) for _, fit in fitted)])
    charts = [_chart(group, fit, limit) for group, fit in fitted]
    rows = stacked(_rows(group, fit) for group, fit in fitted)
    reasons = [f"{group.name}: {sentence(fit)}" for group, fit in fits if isinstance(fit, str)]
    return Drawing(charts, rows, _CAPTION, " ".join(reasons))


_CAPTION = (
    "How far the measured η* lies above (red) or below (blue) the law of one exponent, "
    "a·(n·L)^{b}, in % of the law; on one scale of colours for all panels, even in log(measured ÷ "
    "law). Empty: not in the study, or without a known η*. A law that holds leaves no pattern; a "
    "gradient along one axis says that width and depth need exponents of their own."
)


def _chart(group: Group, fit: PowerLawFit, limit: float) -> Chart:
    widths, depths, values, in_noise = residual_map(fit)
    text = [[_signed(value) if np.isfinite(value) else "" for value in row] for row in values]
    hover = [
        [
            f"<b>{n:g} × {d:g}</b><br>measured {text[i][j]} % off the law<br>"
            f"{fixed(in_noise[i, j], 1)} standard deviations of its own noise<br>"
            f"cell {group.cell_id(n, d)}"
            if text[i][j]
            else ""
            for j, d in enumerate(depths)
        ]
        for i, n in enumerate(widths)
    ]
    heat = Heat(
        columns=[f"{n:g}" for n in widths],
        rows=[f"{d:g}" for d in depths],
        values=values,
        limit=limit,
        text=text,
        hover=hover,
        label="measured ÷ law − 1, %",
        ticks={end: _signed(end) for end in np.linspace(-limit, limit, 5)},
    )
    return Chart("width n", "depth L", [heat], title=group.name)


def _signed(log_residual: float) -> str:
    text = percent(float(np.expm1(log_residual))).removesuffix("\u202f%")
    return text if text.startswith("−") or text == "0" else f"+{text}"


def _rows(group: Group, fit: PowerLawFit) -> Columns:
    return rows_of(
        group,
        fit.width,
        fit.depth,
        eta_star=np.exp(fit.log_value),
        law=np.exp(fit.log_value - fit.residual),
        log_residual=fit.residual,
        in_noise=fit.residual / np.sqrt(fit.variance),
    )
