"""Studies whose results are planted: stores as a run would leave them, from a known law."""

from __future__ import annotations

import math

import numpy as np

from etastar.problem.trial import Outcome, Trial
from etastar.search import Lattice
from etastar.search.base import bracket
from etastar.study.measuring import _facts, load_data
from etastar.study.results import Results, SharpnessRow
from etastar.study.specification import Study
from etastar.study.store import Store, StoreWriter

STUDY = """
title = "Planted"
description = "A law that is <known>."
{top}
[base]
dataset = "digits"
seeds = {seeds}
resolution = 0.05
max_steps = 100
{base}
[grid]
width = {widths}
depth = {depths}
input_lr_ratio = {kappas}
loss = {losses}
{grid}
"""


def study_text(
    *,
    seeds=3,
    widths=(8, 16, 32, 64),
    depths=(1, 2, 4),
    kappas=(0.1, 1.0),
    losses=("cross-entropy",),
    sharpness=True,
    base="",
    grid="",
):
    top = f"sharpness = {'true' if sharpness else 'false'}"
    lists = {"widths": widths, "depths": depths, "kappas": kappas}
    values = {name: str(list(value)) for name, value in lists.items()}
    losses = str(list(losses)).replace("'", '"')
    return STUDY.format(seeds=seeds, top=top, base=base, grid=grid, losses=losses, **values)


def power_law(width_exponent=-0.5, depth_exponent=-0.5, prefactor=2.0):
    """η* of a cell: a n^b L^c, smaller by κ."""

    def law(cell):
        s = cell.settings
        return prefactor * s.width**width_exponent * s.depth**depth_exponent

    return law


def plant(folder, law=None, *, seed_sd=0.0, lambda1=lambda eta: 2 / eta, only=None, **options):
    """A study file and its store, all of it or the cells that `only` picks.

    η* of every seed is the law's times noise; a rate below it trains, one above diverges, or is
    short if there is `short` in the outcome of `law`. `law` may return None: nothing trains; or
    inf: everything does.
    """
    law = law or power_law()
    rng = np.random.default_rng(7)
    path = folder / "planted.toml"
    path.write_text(study_text(**options), encoding="utf-8")
    study = Study.from_file(path)
    with StoreWriter(study.default_store) as store:
        for cell in study.cells:
            if only is None or only(cell):
                _plant_cell(store, cell, law(cell), seed_sd, lambda1, rng)
    return study, Store(study.default_store)


def _plant_cell(store, cell, eta, seed_sd, lambda1, rng):
    settings = cell.settings
    data = load_data(settings)
    recipe = settings.recipe(data)
    lattice = Lattice(settings.start_lr, settings.end_lr, settings.resolution)
    rates = np.array([lattice.rate(i) for i in range(lattice.cells + 1)])
    resolved = {"recipe": recipe.model_dump(), **_facts(data)}
    seeds, trials, sharp = {}, {}, {}
    for seed in cell.seeds:
        if eta is None or math.isinf(eta):
            own = eta or 0.0
        else:
            own = eta * math.exp(seed_sd * rng.normal())
        edge = int(np.searchsorted(rates, own))
        tried = {
            float(rates[i]): _outcome(rates[i] < own, recipe.criterion.max_steps)
            for i in {edge - 3, edge - 1, edge, edge + 2, len(rates) - 1}
            if 0 <= i < len(rates)
        }
        seeds[seed] = bracket(tried)
        trials |= {Trial.of(seed, lr): outcome for lr, outcome in tried.items()}
        if lambda1 is not None:
            value = lambda1(own if 0 < own < math.inf else 1.0)
            sharp[seed] = SharpnessRow(value, 0.9 * value, 1.1 * value, 1e-4, True)
    machine = {"etastar": "planted", "device": "cpu"}
    key = store.specify(cell.id, "maximal-lr", cell.specification)
    store.add_results(key, Results(seeds, resolved, 1.5, machine, trials))
    if cell.sharpness_id and lambda1 is not None:
        facts = {"samples": 10, **_facts(data)}
        key = store.specify(cell.sharpness_id, "sharpness", cell.sharpness_specification)
        store.add_results(key, Results(sharp, facts, 0.5, machine))


def _outcome(trained, budget):
    return Outcome("trained", 10, 0.95) if trained else Outcome("diverged", 3, None)
