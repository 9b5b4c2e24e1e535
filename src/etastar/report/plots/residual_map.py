"""What the law of one exponent misses, over width and depth."""

from __future__ import annotations

import numpy as np

from etastar.report.chart import Chart, Heat
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, columns_of, plain, sentence
from etastar.report.style import fixed, percent
from etastar.scaling import PowerLawFit, residual_map

_LEAST_LIMIT = 0.1
"""In log units: colours that end nearer to zero would make a pattern of rounding."""


def make(family: Family) -> Drawing:
    """See the module."""
    fits = [(group, group.law("product").value) for group in family.groups]
    fitted = [(group, fit) for group, fit in fits if fit is not None]
    limit = max([_LEAST_LIMIT, *(float(np.abs(fit.residual).max()) for _, fit in fitted)])
    charts = [_chart(group, fit, limit) for group, fit in fitted]
    reasons = [
        f"{group.name}: {sentence(group.law('product').reason)}"
        for group, fit in fits
        if fit is None
    ]
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
    found = residual_map(fit)
    values = found.log_residual
    shape = range(values.shape[0]), range(values.shape[1])

    def text(i: int, j: int) -> str:
        return _signed(values[i, j]) if np.isfinite(values[i, j]) else ""

    def hover(i: int, j: int) -> str:
        if not np.isfinite(values[i, j]):
            return ""
        n, d = found.widths[i], found.depths[j]
        return (
            f"<b>{n:g} × {d:g}</b><br>measured {_signed(values[i, j])} % off the law<br>"
            f"{fixed(found.in_noise[i, j], 1)} standard deviations of its seed noise<br>"
            f"cell {group.cell_id(n, d)}"
        )

    heat = Heat(
        columns=[f"{n:g}" for n in found.widths],
        rows=[f"{d:g}" for d in found.depths],
        values=values,
        limit=limit,
        text=[[text(i, j) for j in shape[1]] for i in shape[0]],
        hover=[[hover(i, j) for j in shape[1]] for i in shape[0]],
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
            "width": int(n),
            "depth": int(d),
            "input_lr_ratio": group.kappa,
            "loss": group.loss,
            "dataset": group.rows["dataset"][0],
            "eta_star": plain(np.exp(fit.log_value[i])),
            "law": plain(law[i]),
            "log_residual": plain(fit.residual[i]),
            "in_noise": plain(fit.residual[i] / np.sqrt(fit.variance[i])),
            "cell": group.cell_id(n, d),
        }
        for i, (n, d) in enumerate(zip(fit.width, fit.depth, strict=True))
    ]
