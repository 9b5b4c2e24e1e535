"""`etastar predict`: η* of a network that was not trained, from a study's law."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from etastar.cli.options import in_shell, parse
from etastar.cli.output import check_output, write_json
from etastar.errors import ConfigError, unknown_name
from etastar.scaling import find_region, fit_laws
from etastar.scaling.cells import CellTable, Response
from etastar.scaling.forms import get_form
from etastar.scaling.power_law import PowerLawFit
from etastar.scaling.process import Process
from etastar.study.cell_rows import cell_table, gaps
from etastar.study.factory import SIZES, FactorySettings
from etastar.study.specification import Study
from etastar.study.store import Store
from etastar.validation import Options

PROCESS = "process"
"""The form that predicts by default; the others are laws."""


class PredictOptions(Options):
    """Options of `etastar predict`."""

    source: str = Field(alias="from")
    """The study file whose law is used."""
    store: str | None = None
    """Its store. [default: STUDY.sqlite beside it]"""
    width: int = Field(ge=1)
    """n: units per hidden layer."""
    depth: int = Field(ge=1)
    """L: number of hidden layers."""
    input_lr_ratio: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    """κ, where the study has several."""
    loss: str | None = None
    """The loss, where the study has several."""
    dataset: str | None = None
    """The data set, where the study has several."""
    where: str | None = None
    """Other conditions, where the study has several: NAME=VALUE, comma-separated, e.g.
    norm=layer,momentum=0.9."""
    response: Response = "eta_star"
    """Predict η* (eta_star) or λ1 (lambda1)."""
    form: str = PROCESS
    """What predicts: a Gaussian process around a law (process), or a law alone: separate exponents
    of n and L (separate), or one of n·L (product)."""
    cutoff: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    """Fit only cells with n/L at least this."""
    level: float = Field(0.9, gt=0.0, lt=1.0)
    """Coverage of the prediction interval."""
    strict: bool = False
    """Refuse a network outside the sizes that were measured, or outside the region where the law
    was seen to hold."""
    json_file: str | None = Field(None, alias="json")
    """Write it as JSON; - is stdout."""


def run(arguments: list[str]) -> int:
    """Predict, print the interval and every warning; returns the exit code."""
    options = parse(
        PredictOptions,
        _of_the_study(arguments),
        prog="etastar predict",
        description="Predict η* of a network that was not measured, from the law of a study.",
    )
    check_output(options.json_file)
    study = Study.from_file(options.source)
    with Store(Path(options.store) if options.store else study.default_store) as store:
        cells = cell_table(study, store)
        missing = gaps(study, store, cells)
    wanted = options.model_dump(include={"input_lr_ratio", "loss", "dataset"}, exclude_none=True)
    wanted |= _conditions(options.where, cells)
    cells = cells.select(**wanted) if wanted else cells
    laws = fit_laws(cells, form=options.form, response=options.response, cutoff=options.cutoff)
    try:
        law = laws.find()
    except ConfigError as error:
        if len(laws.fits) + len(laws.skipped) == 1:
            raise
        raise ConfigError(
            f"{error} Say which with --loss, --input-lr-ratio, --dataset or --where NAME=VALUE."
        ) from None
    found = law.predict(options.width, options.depth, level=options.level, strict=options.strict)
    if options.cutoff is None and (doubts := _doubts(cells, law, options)):
        if options.strict:
            raise ConfigError(
                f"no prediction for width {options.width}, depth {options.depth}: {doubts[0]}. "
                "Leave out --strict, or choose a --cutoff."
            )
        found = replace(found, in_region=False, warnings=(*found.warnings, *doubts))
    if missing:
        found = replace(found, warnings=(missing, *found.warnings))
    if options.json_file:
        record = {
            **{name: getattr(found, name) for name in ("width", "depth", "value", "low", "high")},
            "level": found.level,
            "in_region": found.in_region,
            "warnings": list(found.warnings),
            "law": {"form": law.form, "response": law.response, "labels": dict(law.labels)},
        }
        write_json(record, options.json_file)
        return 0
    name = {"eta_star": "η*", "lambda1": "λ1"}.get(options.response, options.response)
    print(
        f"{name} = {found.value:.4g}  ({found.level:.0%} prediction interval {found.low:.4g} – "
        f"{found.high:.4g})  for width {options.width}, depth {options.depth}"
    )
    print("  ".join(f"{k}={v}" for k, v in law.labels.items()))
    for warning in found.warnings:
        print(f"WARNING: {in_shell(warning)}", file=sys.stderr)
    return 0


def _of_the_study(arguments: list[str]) -> list[str]:
    """Write options that are keys of the study as the options that there always are.

    A key that a law of the study is in becomes `--width` or `--depth`; another one that is not an
    option here becomes a condition of `--where`. A size that a model of the user's does not have
    is 1, as in its laws.
    """
    words = [part for word in arguments for part in word.split("=", 1 if word[:2] == "--" else 0)]
    if "--from" not in words[:-1] or {"--help", "-h"} & {*words}:
        return arguments
    study = Study.from_file(words[words.index("--from") + 1])
    sizes = {name: size for size, name in study.file.law.items()}
    keys = {
        name for cell in study.cells for name in cell.fields
    } - PredictOptions.model_fields.keys()
    given, conditions = [], []
    while words:
        word = words.pop(0)
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in sizes:
            given.append(f"--{sizes[name]}")
        elif word == "--where" and words:
            conditions.append(words.pop(0))
        elif word.startswith("--") and name in keys and words:
            conditions.append(f"{name}={words.pop(0)}")
        else:
            given.append(word)
    own = [cell.settings for cell in study.cells if isinstance(cell.settings, FactorySettings)]
    for size in SIZES:
        name = study.file.law.get(size, size)
        if own and not any(name in settings.keywords for settings in own):
            given += [f"--{size}", "1"]
    return [*given, "--where", ",".join(conditions)] if conditions else given


def _conditions(text: str | None, cells: CellTable) -> dict[str, str | float]:
    """The labels that `--where` names.

    Raises:
        ConfigError: It is not of the form NAME=VALUE, or a name is of no label.
    """
    found: dict[str, str | float] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise ConfigError(f"--where {part!r}: expected NAME=VALUE, e.g. norm=layer.")
        if name not in cells.labels:
            raise unknown_name("condition", name, cells.labels)
        text_like = cells.labels[name].dtype.kind in "UO"
        try:
            found[name] = value if text_like else float(value)
        except ValueError:
            raise ConfigError(f"--where {name}={value}: expected a number.") from None
    return found


def _doubts(
    cells: CellTable, law: PowerLawFit | Process, options: PredictOptions
) -> tuple[str, ...]:
    """Why the law was not seen to hold for this network, by the region found from the cells."""
    # the process leans on separate exponents, so it is doubted where they were not seen to hold
    form = "separate" if law.form == PROCESS else law.form
    if not get_form(form).exponents:
        return ()
    group = cells.select(**law.labels)
    try:
        region = find_region(group, form=form, response=law.response)
    except ConfigError as error:  # the process needs fewer networks than the law
        return (f"no region is known in which a power law holds: {error}",)
    return region.doubts(options.width, options.depth)
