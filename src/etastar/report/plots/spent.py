"""What the measurements took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etastar.report.chart import Points
from etastar.report.evidence import Family, Group
from etastar.report.plots.base import Drawing, columns_of, per_loss, series
from etastar.report.style import number


def make(family: Family) -> Drawing:
    """See the module."""
    charts = per_loss(
        family,
        lambda group: _layers(family, group),
        x_label="width × depth, n·L",
        y_label="seconds per seed",
    )
    missing = "" if charts else "No task has ended yet."
    rows = [row for group in family.groups for row in cost_rows(group)]
    return Drawing(charts, columns_of(rows), _CAPTION, missing)


_CAPTION = (
    "Wall-clock seconds per seed of every network: filled for η* (all trials of its search, the "
    "seeds of a network trained side by side), hollow for λ₁. Other work on the machine is in "
    "them; trials and optimizer steps, in the rows, are exact."
)


def cost_rows(group: Group) -> list[dict[str, Any]]:
    """One record per network that was measured: seeds, trials, steps, seconds."""
    totals: dict[str, list[int]] = {}
    for identity, trials, steps in zip(
        group.rows["cell"], group.rows["trials"], group.rows["steps"], strict=True
    ):
        total = totals.setdefault(identity, [0, 0, 0])
        for place, value in enumerate((1, trials, steps)):
            total[place] += value
    records = []
    for cell in group.cells:
        if cell.id not in totals:
            continue
        seeds, trials, steps = totals[cell.id]
        seconds, of = group.seconds.get(cell.id, (0.0, 0))
        sharp, of_sharp = group.seconds.get(cell.sharpness_id or "", (0.0, 0))
        records.append(
            {
                "width": cell.settings.width,
                "depth": cell.settings.depth,
                "input_lr_ratio": group.kappa,
                "loss": group.loss,
                "dataset": cell.settings.dataset,
                "seeds": seeds,
                "trials": trials,
                "steps": steps,
                "seconds_per_seed": seconds / of if of else None,
                "lambda1_seconds_per_seed": sharp / of_sharp if of_sharp else None,
                "cell": cell.id,
            }
        )
    return records


def _layers(family: Family, group: Group) -> Sequence[Points]:
    records = cost_rows(group)
    colour, shape = series(family, group)
    layers = []
    for name, hollow, label in (
        ("seconds_per_seed", False, "η*"),
        ("lambda1_seconds_per_seed", True, "λ₁"),
    ):
        known = [r for r in records if r[name]]
        if known:
            layers.append(
                Points(
                    np.array([r["width"] * r["depth"] for r in known], dtype=float),
                    np.array([r[name] for r in known]),
                    label=f"κ = {group.kappa:g}: {label}",
                    hollow=np.full(len(known), hollow),
                    hover=[
                        f"<b>{r['width']} × {r['depth']}</b>, κ = {group.kappa:g}<br>{label}: "
                        f"{number(r[name])} s per seed<br>{r['trials']} trials, {r['steps']} "
                        f"steps of {r['seeds']} seeds<br>cell {r['cell']}"
                        for r in known
                    ],
                    colour=colour,
                    shape=shape,
                )
            )
    return layers
