"""Study files: what is swept, and over what. Everything is checked before anything runs."""

from __future__ import annotations

import itertools
import math
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from etastar.data import DATASETS
from etastar.errors import ConfigError, nearest, unknown_name
from etastar.settings import NETWORK_OPTIONS, NO_FROM_STEP, Settings
from etastar.study.cell import NOT_IDENTITY, Cell, SharpnessSettings
from etastar.study.conditions import Holds, parse_condition
from etastar.study.factory import SIZES, FactorySettings, arranged
from etastar.validation import Options

MOST_CELLS = 100_000
"""Cells beyond which a study is taken for a mistake."""
MOST_SEEDS = 10_000
"""Seeds per cell, likewise."""

LONGEST_SHOWN = 80
"""Characters of a value that a message quotes."""

Assignment: TypeAlias = dict[str, tuple[str, Any]]
"""By field, where in the file its value stands, and the value."""


class Budget(Options):
    """When a run of a study stops starting new work; what was computed is kept."""

    hours: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Wall-clock time of one `study run`."""


class StudyFile(Options):
    """The keys of a study file. Those of `base`, `grid` and `cells` are fields of `Settings`."""

    title: str = ""
    description: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    """Values that all cells share unless a grid or a cell says otherwise."""
    grid: list[dict[str, Any]] = Field(default_factory=list)
    """Each a Cartesian product: a field's list of values, `"width,depth"` for a list of pairs,
    and optionally a `filter` of its own. One `[grid]` or several `[[grid]]`."""
    cells: list[dict[str, Any]] = Field(default_factory=list)
    """Cells given one by one."""
    filter: list[str] = Field(default_factory=list)
    """Conditions that every cell must meet."""
    sharpness: SharpnessSettings | None = None
    """Whether and how λ1 at initialisation is measured beside η*: true, false, or a table."""
    budget: Budget = Field(default_factory=lambda: Budget(hours=None))
    law: dict[str, str] = Field(default_factory=dict)
    """Beside a `model` of one's own: which of its keys stand for `width` and `depth` in laws."""


@dataclass(frozen=True)
class Study:
    """A study: its cells in the order of the file, without repetitions.

    Attributes:
        path: The study file.
        file: Its content.
        cells: At least one, each specification once.
    """

    path: Path
    file: StudyFile
    cells: tuple[Cell, ...]

    @classmethod
    def from_file(cls, path: str | Path) -> Study:
        """Read and check a study file.

        Args:
            path: The file, TOML.

        Raises:
            ConfigError: It cannot be read, a key is unknown, a value is out of range, or no cell
                is left; the message names the place in the file.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")  # some editors begin files with a mark
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or f"it is not UTF-8 text: {error}"
            raise ConfigError(f"study file {path} cannot be read: {reason}.") from None
        return cls.from_text(text, path)

    @classmethod
    def from_text(cls, text: str, path: str | Path = "study.toml") -> Study:
        """Read and check the text of a study file.

        Args:
            text: TOML.
            path: For messages, and for the store's place beside it.

        Raises:
            ConfigError: As `from_file`.
        """
        path = Path(path)
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # plain ValueError: 4301 digits and more
            raise ConfigError(f"study file {path} is not valid TOML: {error}.") from None
        try:
            _check_integers(content, ())
            file = _study_file(content)
            return cls(path, file, tuple(_cells(file, (str(path.parent.resolve()), os.getcwd()))))
        except ConfigError as error:
            raise ConfigError(f"study file {path}: {error}") from None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def default_store(self) -> Path:
        """`STUDY.sqlite`, beside the study file."""
        return self.path.with_suffix(".sqlite")

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """Fields that differ between cells, those aside that change no result."""
        names = dict.fromkeys(name for cell in self.cells for name in cell.fields)
        return tuple(
            name
            for name in names
            if name not in NOT_IDENTITY
            and len({repr(cell.fields.get(name)) for cell in self.cells}) > 1
        )

    @property
    def sizes(self) -> set[str]:
        """Keys that a law is in: `width` and `depth`, and what stands for them."""
        return {*SIZES, *self.file.law.values()}


def _check_integers(value: Any, place: tuple[str | int, ...]) -> None:
    """Raise if an integer has more than the 64 bits of TOML: nothing here could use it."""
    if isinstance(value, dict):
        for key, part in value.items():
            _check_integers(part, (*place, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            _check_integers(part, (*place, number))
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{_dotted(place)} must be an integer of at most 64 bits.")


def _study_file(content: Mapping[str, Any]) -> StudyFile:
    """The checked top level of a file."""
    content = dict(content)
    if isinstance(content.get("grid"), dict):
        content["grid"] = [content["grid"]]
    if isinstance(content.get("filter"), str):
        content["filter"] = [content["filter"]]
    if isinstance(content.get("sharpness"), bool):
        content["sharpness"] = {} if content["sharpness"] else None
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        raise _complaint(error) from None


def _complaint(error: ValidationError) -> ConfigError:
    """Write the first complaint of pydantic about the top level as one line with its place."""
    first = error.errors()[0]
    *parents, last = first["loc"]
    place = _dotted(first["loc"])
    if first["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"sharpness": SharpnessSettings, "budget": Budget}
        return _unknown_key(place, str(last), tables[str(parents[0])] if parents else StudyFile)
    # TOML's words for two of pydantic's
    kinds = {"dict_type": "table", "model_type": "table", "list_type": "list"}
    kind = kinds.get(first["type"])
    return _wrong_value(place, f"must be a {kind}" if kind else first["msg"], first["input"])


def _unknown_key(place: str, key: str, model: type[BaseModel] = Settings) -> ConfigError:
    near = nearest(key, model.model_fields)
    hint = f"did you mean {near!r}?" if near else f"Known: {', '.join(model.model_fields)}."
    return ConfigError(f"unknown key {place}; {hint}")


def _wrong_value(place: str, message: str, value: Any) -> ConfigError:
    message = message.replace("Input should be", "must be")
    shown = repr(value)
    shown = shown if len(shown) < LONGEST_SHOWN else shown[: LONGEST_SHOWN - 3] + "..."
    return ConfigError(f"{place} {message[0].lower()}{message[1:]}, got {shown}.")


def _dotted(parts: Sequence[str | int]) -> str:
    """`grid[1].width` for ("grid", 1, "width")."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _keys_of(file: StudyFile) -> Collection[str] | None:
    """Return all keys of a file with a `model`, where any key may be the factory's; else None."""
    tables = [file.base, *file.grid, *file.cells]
    names = {name.strip() for table in tables for key in table for name in key.split(",")}
    if "model" not in names:
        return None
    if file.sharpness:
        raise ConfigError("sharpness: λ1 of a `model` of your own is not measured by studies.")
    for size, name in file.law.items():
        if size not in SIZES:
            raise ConfigError(f"unknown key law.{size}; expected width or depth.")
        if name not in names - Settings.model_fields.keys() | NETWORK_OPTIONS:
            raise ConfigError(f"law.{size}: no grid, base or cell has a key {name!r}.")
    return names | Settings.model_fields.keys()


def _cells(file: StudyFile, folders: tuple[str, ...]) -> list[Cell]:
    """All cells of a file, each specification once.

    Raises:
        ConfigError: There are none, or too many, or something is wrong with one.
    """
    keys = _keys_of(file) or Settings.model_fields
    if file.law and keys is Settings.model_fields:
        raise ConfigError("law has no effect without a `model` of your own.")
    base = _assignment("base", file.base, keys)
    if not file.grid and not file.cells:
        raise ConfigError("neither [grid] nor [[cells]]: expected at least one of them.")
    filters = _conditions(file.filter, "filter", keys)
    found: dict[str, Cell] = {}

    def add(
        place: str, given: Iterable[Assignment], own: Mapping[str, Holds]
    ) -> tuple[list[Cell], list[Cell]]:
        """Add those cells that meet the conditions; return all, and those."""
        cells = [Cell(_settings(base, one, place, file, folders), file.sharpness) for one in given]
        kept = [cell for cell in cells if all(holds(cell.fields) for holds in own.values())]
        for cell in kept:
            _merge(found, cell, place)
        return cells, kept

    for number, grid in enumerate(file.grid):
        place = "grid" if len(file.grid) == 1 else f"grid[{number}]"
        own = filters | _conditions(grid.get("filter", []), f"{place}.filter", keys)
        cells, kept = add(place, _product(grid, place, keys), own)
        if not kept:
            left = {at: sum(holds(c.fields) for c in cells) for at, holds in own.items()}
            alone = "; ".join(f"{at} alone leaves {some}" for at, some in left.items())
            raise ConfigError(
                f"{place}: the filters leave none of its {len(cells)} cells: {alone}."
            )
    for number, values in enumerate(file.cells):
        place = f"cells[{number}]"
        add(place, [_assignment(place, values, keys)], filters)
    if not found:
        raise ConfigError("filter leaves none of the [[cells]].")
    fields = [cell.fields for cell in found.values()]  # a swept `from_step` may be 0 in some
    if any(one.get("from_lr") for one in fields) and not any(
        one.get("from_step") for one in fields
    ):
        raise ConfigError(NO_FROM_STEP)
    return list(found.values())


def _conditions(texts: Any, place: str, keys: Collection[str]) -> dict[str, Holds]:
    """Parse the condition or conditions of a `filter`; each by its place and text."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _wrong_value(place, "must be a condition or a list of conditions", texts)
    places = [f"{place}[{number}]" for number in range(len(texts))]
    return {
        f"{at} {text!r}": parse_condition(text, at, keys)
        for at, text in zip(places, texts, strict=True)
    }


def _assignment(place: str, values: Mapping[str, Any], keys: Collection[str]) -> Assignment:
    """Return the values of `base` or of one of the `cells`."""
    for key, value in values.items():
        if key not in keys:
            raise _unknown_key(f"{place}.{key}", key)
        if isinstance(value, list):
            message = "must be one value; lists belong in [grid]"
            raise _wrong_value(f"{place}.{key}", message, value)
    return {key: (f"{place}.{key}", value) for key, value in values.items()}


def _product(grid: Mapping[str, Any], place: str, keys: Collection[str]) -> Iterator[Assignment]:
    """The Cartesian product of a grid's axes."""
    axes = [_axis(f"{place}.{key}", key, grid[key], keys) for key in grid if key != "filter"]
    if not axes:
        raise ConfigError(
            f"{place} is empty; expected at least one list of values, e.g. width = [32, 64]."
        )
    if (count := math.prod(map(len, axes))) > MOST_CELLS:
        raise ConfigError(f"{place} has {count} cells; expected at most {MOST_CELLS}.")
    names = [name for axis in axes for name in axis[0]]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{place} names {min(twice)} twice.")
    for parts in itertools.product(*axes):
        yield {name: value for part in parts for name, value in part.items()}


def _axis(place: str, key: str, values: Any, keys: Collection[str]) -> list[Assignment]:
    """The assignments of one key of a grid: `width = [...]`, or `"width,depth" = [[..], [..]]`."""
    names = [name.strip() for name in key.split(",")]
    for name in names:
        if name not in keys:
            raise _unknown_key(place, name)
    if len(set(names)) < len(names):
        raise ConfigError(f"{place} names a field twice.")
    values = values if isinstance(values, list) else [values]
    if not values:
        raise ConfigError(f"{place} is an empty list; expected at least one value.")
    found = []
    for number, value in enumerate(values):
        parts = value if len(names) > 1 else [value]
        if not isinstance(parts, list) or len(parts) != len(names):
            raise _wrong_value(f"{place}[{number}]", f"must be a list of {len(names)}", value)
        found.append({n: (f"{place}[{number}]", v) for n, v in zip(names, parts, strict=True)})
    return found


def _settings(
    base: Assignment, given: Assignment, place: str, file: StudyFile, folders: tuple[str, ...]
) -> Settings:
    """The settings of one cell, from its own values and the base.

    Raises:
        ConfigError: Names the place of the value that is wrong, or of a grid whose values do not
            go together.
    """
    both = base | given
    kind: type[Settings] = Settings
    values = {name: value for name, (_, value) in both.items()}
    if "model" in both:
        kind, values = FactorySettings, arranged(both, file.law, folders)
    elif unknown := values.keys() - Settings.model_fields.keys():
        raise _unknown_key(both[min(unknown)][0], min(unknown))
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"]:
            at, value = both[str(first["loc"][0])]
            raise _wrong_value(at, first["msg"], value) from None
        reason = str(first["ctx"]["error"]).rstrip(".")
        named = Settings.model_fields.keys() & set(re.findall(r"\w+", reason))
        if len(named) == 1:
            raise ConfigError(f"{both[named.pop()][0]}: {reason}.") from None
        shown = ", ".join(f"{name} = {value!r}" for name, (_, value) in given.items())
        raise ConfigError(f"{place}, at {shown or 'base alone'}: {reason}.") from None
    try:
        # what is not asked for is a search per seed, as in 0.1.0
        settings = settings if settings.strategy == "curve" else settings.bracketing()
    except ConfigError as error:
        named = set(re.findall(r"\w+", str(error))) & both.keys()
        at = both["strategy" if "strategy" in both else min(named)][0]
        raise ConfigError(f"{at}: {error}") from None
    for name, (at, value) in both.items():
        if name == "dataset" and value not in DATASETS:
            raise ConfigError(f"{at}: {unknown_name('dataset', value, DATASETS)}")
        if name == "threshold" and not 0 < value <= 1:
            raise _wrong_value(at, "must be above 1/classes and at most 1", value)
        if name == "seeds" and value > MOST_SEEDS:
            raise _wrong_value(at, f"must be at most {MOST_SEEDS}", value)
    return settings


def _merge(found: dict[str, Cell], cell: Cell, place: str) -> None:
    """Add a cell; one that is there already gets the seeds of both, if they are one range."""
    other = found.setdefault(cell.id, cell)
    there = f"{place}: the cell {cell.settings.title} is there already with"
    if cell.curve and other.wanted != cell.wanted:
        raise ConfigError(
            f"{there} another `precision`, `first_seed` or cap. These do not tell cells apart: "
            "give one of each, or write two study files and run them on one `store`, which shares "
            "the trials."
        )
    if other.seeds != cell.seeds:
        first = min(other.seeds.start, cell.seeds.start)
        last = max(other.seeds.stop, cell.seeds.stop)
        if last - first > len(other.seeds) + len(cell.seeds):
            raise ConfigError(
                f"{there} seeds {other.seeds.start} to {other.seeds.stop - 1}; "
                f"{cell.seeds.start} to {cell.seeds.stop - 1} leave a gap."
            )
        update = {"first_seed": first, "seeds": last - first}
        found[cell.id] = replace(other, settings=other.settings.model_copy(update=update))
