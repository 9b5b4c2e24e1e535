"""Studies whose law is known: rows as a store gives them, made from a planted power law."""

from __future__ import annotations

import functools

import numpy as np

from etastar.scaling import CellTable

WIDTHS = (16, 32, 64, 128, 256, 512)
DEPTHS = (2, 3, 4, 6, 8, 12)


def planted_rows(
    rng,
    *,
    widths=WIDTHS,
    depths=DEPTHS,
    prefactor=1.0,
    width=-0.5,
    depth=-1.0,
    seed_sd=0.2,
    misfit_sd=0.0,
    bend=0.0,
    seeds=6,
    resolution=0.05,
    top=np.inf,
    **labels,
):
    """η* = prefactor · n^width · L^depth · exp(−bend·L/n) · misfit of the cell · seed noise.

    Brackets lie on a common lattice of ratio 1 + resolution; resolution 0 gives η* itself. λ1 is
    planted as 2/η* with its own noise. Seeds above `top` are all-trained.
    """
    step = np.log1p(resolution)
    rows = []
    for n in widths:
        for d in depths:
            cell = np.log(prefactor) + width * np.log(n) + depth * np.log(d) - bend * d / n
            cell += misfit_sd * rng.normal()
            for seed in range(seeds):
                log_eta = cell + seed_sd * rng.normal()
                lo = step * np.floor(log_eta / step) if step else log_eta
                row = {
                    "width": n,
                    "depth": d,
                    "input_lr_ratio": 0.1,
                    "loss": "mse",
                    "dataset": "digits",
                    "seed": seed,
                    "status": "bracketed",
                    "eta_lo": float(np.exp(lo)),
                    "eta_hi": float(np.exp(lo + step)),
                    "lambda1": float(2 * np.exp(-log_eta + 0.5 * seed_sd * rng.normal())),
                }
                if log_eta > np.log(top):
                    row.update(status="all-trained", eta_lo=float(top), eta_hi=None)
                rows.append({**row, **labels})
    return rows


@functools.cache
def table(seed=0, **settings):
    """The cells of `planted_rows` under that seed."""
    return CellTable.from_rows(planted_rows(np.random.default_rng(seed), **settings))
