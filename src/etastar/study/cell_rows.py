"""From a store to laws: which cells of a study belong to one law."""

from __future__ import annotations

from etastar.scaling import CellTable
from etastar.study.export import seed_columns
from etastar.study.plan import State, require_results
from etastar.study.specification import Study
from etastar.study.store import Store

ALWAYS = ("dataset", "loss", "input_lr_ratio", "inputs", "output_variance")
"""Labels of every law: what a reader must know, and what a form may need."""
OF_THE_SEARCH = {"start_lr", "end_lr", "resolution", "width", "depth"}
"""Fields that say how finely η* was looked for, or that the law is in. The strategy is none of
them: a median of brackets is not the η* of a curve."""


def labels_of(study: Study) -> list[str]:
    """Fields that tell the laws of a study apart: those in `ALWAYS`, and all others it varies."""
    varied = [name for name in study.varied if name not in OF_THE_SEARCH | study.sizes]
    return list(dict.fromkeys([*ALWAYS, *varied]))


def gaps(study: Study, store: Store, cells: CellTable) -> str:
    """Say what of a study is missing or not known, and what to do; empty if nothing is."""
    capped = (
        f"{cells.capped} success curve{'s' * (cells.capped > 1)} left out: a cap ended the search "
        "before anything of η* was known. Raise `trials` or `budgets`, and run the study again."
    )
    return " ".join(filter(None, [State.of(store).gaps(study), capped * bool(cells.capped)]))


def cell_table(study: Study, store: Store) -> CellTable:
    """All measured cells of a study, ready to be fitted.

    Raises:
        ConfigError: Nothing has been measured yet.
    """
    require_results(study, store)
    columns = dict(seed_columns(study, store))
    columns["lambda1"] = columns.pop("lambda1_preconditioned")
    labels = [n for n in labels_of(study) if any(value is not None for value in columns[n])]
    for name in labels:
        # an unset budget has no number: as a label it is a word
        if any(value is None or isinstance(value, bool) for value in columns[name]):
            columns[name] = [str(value) for value in columns[name]]
    return CellTable.from_columns(columns, group_by=labels)
