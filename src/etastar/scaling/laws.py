"""One law per group of a study, and predictions that name their group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from etastar.checking import check_choice
from etastar.errors import ConfigError, unknown_name
from etastar.scaling.cells import CellTable
from etastar.scaling.forms import FORMS
from etastar.scaling.power_law import PowerLawFit, fit_power_law
from etastar.scaling.prediction import Prediction
from etastar.scaling.process import Process, fit_process

T = TypeVar("T")
Skipped: TypeAlias = tuple[Mapping[str, str | float], str]
"""The labels of a group that could not be fitted, and why."""


@dataclass(frozen=True, eq=False)
class Laws:
    """The laws of a study.

    Attributes:
        fits: One per group of labels (loss, κ, dataset, ...).
        skipped: Labels of the groups without a law, with the reason.
    """

    fits: tuple[PowerLawFit | Process, ...]
    skipped: tuple[Skipped, ...]

    def find(self, **labels: str | float) -> PowerLawFit | Process:
        """The law of these conditions; a label may be left out where that leaves one law.

        Raises:
            ConfigError: The conditions were never measured, their group has no law, or several
                groups have them.
        """
        groups: list[tuple[Mapping[str, str | float], PowerLawFit | Process | str]]
        groups = [*((fit.labels, fit) for fit in self.fits), *self.skipped]
        for name, value in labels.items():
            known = groups[0][0]
            if name not in known:
                raise unknown_name("label", name, known)
            groups_before = groups
            groups = [g for g in groups if g[0][name] == value]
            if not groups:
                measured = ", ".join(sorted({str(g[0][name]) for g in groups_before}))
                raise ConfigError(
                    f"{name} = {value!r} was never measured under these conditions, and a law "
                    f"does not carry over between values of {name}; measured: {measured}."
                )
        if len(groups) > 1:
            differing = [n for n in groups[0][0] if len({str(g[0][n]) for g in groups}) > 1]
            choices = "; ".join(
                f"{n}: {', '.join(sorted({str(g[0][n]) for g in groups}))}" for n in differing
            )
            raise ConfigError(f"{len(groups)} groups have these conditions; choose of {choices}.")
        found = groups[0][1]
        if isinstance(found, str):
            raise ConfigError(f"these conditions were measured but have no law: {found}")
        return found

    def predict(
        self,
        width: float,
        depth: float,
        *,
        level: float = 0.9,
        seeds: float | None = None,
        strict: bool = False,
        **labels: str | float,
    ) -> Prediction:
        """Predict an unseen network under measured conditions: see `PowerLawFit.predict`.

        Raises:
            ConfigError: The conditions were never measured; or as `PowerLawFit.predict`.
        """
        return self.find(**labels).predict(width, depth, level=level, seeds=seeds, strict=strict)


def fit_laws(cells: CellTable, *, form: str = "separate", **options: Any) -> Laws:
    """Fit every group of a study.

    Args:
        cells: The cells of any number of groups.
        form: Name in `FORMS`, or `"process"`, which predicts best: see `fit_process`.
        **options: The others of `fit_power_law`, or of `fit_process`.

    Returns:
        The laws, and the groups that have none with the reason.

    Raises:
        ConfigError: No group can be fitted.
    """
    check_choice("form", form, (Process.form, *FORMS))
    fits: tuple[PowerLawFit | Process, ...]
    if form == Process.form:
        fits, skipped = fit_each(cells, fit_process, options)
    else:
        fits, skipped = fit_each(cells, fit_power_law, {"form": form, **options})
    if not fits:
        raise ConfigError("no group can be fitted. " + " ".join(reason for _, reason in skipped))
    return Laws(fits, skipped)


def fit_each(
    cells: CellTable, fit: Callable[..., T], options: Mapping[str, Any]
) -> tuple[tuple[T, ...], tuple[Skipped, ...]]:
    """Fit every group; return what could be fitted, and the other groups' labels and reasons."""
    fits, skipped = [], []
    for labels, group in cells.groups():
        try:
            fits.append(fit(group, **options))
        except ConfigError as error:
            skipped.append((labels, str(error)))
    return tuple(fits), tuple(skipped)
