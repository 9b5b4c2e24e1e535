"""Study files: what is swept, and over what. Everything is checked before anything runs."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from etastar.errors import ConfigError, nearest, unknown_name
from etastar.settings import Settings
from etastar.study.cell import Cell, SharpnessSettings
from etastar.study.conditions import Condition

MOST_CELLS = 100_000
"""Cells beyond which a study is taken for a mistake."""
MOST_SEEDS = 10_000
"""Seeds per cell, likewise."""

LONGEST_SHOWN = 80
"""Characters of a value that a message quotes."""

Assignment = dict[str, Any]


class Budget(BaseModel):
    """When a run of a study stops starting new work; what was computed is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hours: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Wall-clock time of one `study run`."""


class StudyFile(BaseModel):
    """The keys of a study file. Those of `base`, `grid` and `cells` are fields of `Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

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
        except OSError as error:
            raise ConfigError(f"study file {path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"study file {path} is not UTF-8 text: {error}.") from None
        return cls.from_text(text, path)

    @classmethod
    def from_text(cls, text: str, path: str | Path = "study.toml") -> Study:
        """The same for the text of a study file.

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
            return cls(path, file, tuple(_Expansion(file).cells()))
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
        """Fields that differ between cells, seeds aside."""
        return tuple(
            name
            for name in Settings.model_fields
            if name not in ("seeds", "first_seed")
            and len({repr(cell.fields[name]) for cell in self.cells}) > 1
        )


def _check_integers(value: Any, place: tuple[str | int, ...]) -> None:
    """Refuse integers beyond the 64 bits of TOML, which nothing here could use."""
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


_TABLES = {
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "list_type": "must be a list",
}
"""TOML's words for pydantic's types of error."""


def _complaint(error: ValidationError) -> ConfigError:
    """The first complaint of pydantic about the top level, as one line with its dotted path."""
    first = error.errors()[0]
    *parents, last = first["loc"]
    place = _dotted([*parents, last])
    if first["type"] == "extra_forbidden":
        models: dict[tuple[Any, ...], type[BaseModel]] = {
            (): StudyFile,
            ("sharpness",): SharpnessSettings,
            ("budget",): Budget,
        }
        return _unknown_key(place, str(last), models[tuple(parents)].model_fields)
    return _wrong_value(place, _TABLES.get(first["type"], first["msg"]), first["input"])


def _unknown_key(place: str, key: str, known: Iterable[str]) -> ConfigError:
    options = list(known)
    near = nearest(key, options)
    hint = f"Known: {', '.join(options)}." if near is None else f"did you mean {near!r}?"
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


class _Expansion:
    """From the tables of a study file to its cells."""

    def __init__(self, file: StudyFile) -> None:
        self.file = file
        self.base = {k: _checked("base", k, v) for k, v in file.base.items()}
        self.filters = self._conditions(file.filter, "filter")

    def cells(self) -> list[Cell]:
        """All cells, each specification once.

        Raises:
            ConfigError: There are none, or too many.
        """
        if not self.file.grid and not self.file.cells:
            raise ConfigError("neither [grid] nor [[cells]]: expected at least one of them.")
        found: dict[str, Cell] = {}
        for number, grid in enumerate(self.file.grid):
            place = "grid" if len(self.file.grid) == 1 else f"grid[{number}]"
            for cell in self._grid_cells(grid, place):
                _merge(found, cell, place)
        for number, values in enumerate(self.file.cells):
            place = f"cells[{number}]"
            given = {k: _checked(place, k, v) for k, v in values.items()}
            for cell in self._kept([self._cell(given, place)], self.filters):
                _merge(found, cell, place)
        if not found:
            raise ConfigError("filter leaves none of the [[cells]].")
        return list(found.values())

    def _grid_cells(self, grid: Mapping[str, Any], place: str) -> list[Cell]:
        axes = [
            list(_axis(f"{place}.{key}", key, values))
            for key, values in grid.items()
            if key != "filter"
        ]
        if not axes:
            raise ConfigError(
                f"{place} is empty; expected at least one list of values, e.g. width = [32, 64]."
            )
        if (count := math.prod(map(len, axes))) > MOST_CELLS:
            raise ConfigError(f"{place} has {count} cells; expected at most {MOST_CELLS}.")
        own = grid.get("filter", [])
        filters = self.filters + self._conditions(
            [own] if isinstance(own, str) else own, f"{place}.filter"
        )
        candidates = []
        for parts in itertools.product(*axes):
            given: Assignment = {}
            for part in parts:
                if twice := given.keys() & part.keys():
                    raise ConfigError(f"{place} names {min(twice)} twice.")
                given |= part
            candidates.append(self._cell(given, place))
        kept = list(self._kept(candidates, filters))
        if not kept:
            raise ConfigError(_contradiction(place, candidates, filters))
        return kept

    def _cell(self, given: Assignment, place: str) -> Cell:
        """One cell from its own values and the base."""
        try:
            settings = Settings.model_validate({**self.base, **given})
        except ValidationError as error:
            first = error.errors()[0]
            # single values were checked on their own: only combinations can be wrong here
            reason = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
            shown = ", ".join(f"{k} = {v!r}" for k, v in given.items()) or "base alone"
            raise ConfigError(f"{place}, at {shown}: {reason}.") from None
        return Cell(settings, self.file.sharpness)

    def _conditions(self, texts: Any, place: str) -> list[Condition]:
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _wrong_value(place, "must be a condition or a list of conditions", texts)
        return [
            Condition.parse(text, f"{place}[{number}]", Settings.model_fields)
            for number, text in enumerate(texts)
        ]

    def _kept(self, cells: Iterable[Cell], filters: Sequence[Condition]) -> Iterator[Cell]:
        for cell in cells:
            if all(condition.holds(cell.fields) for condition in filters):
                yield cell


def _axis(place: str, key: str, values: Any) -> Iterator[Assignment]:
    """The assignments of one key of a grid: `width = [...]`, or `"width,depth" = [[..], [..]]`."""
    names = [name.strip() for name in key.split(",")]
    for name in names:
        if name not in Settings.model_fields:
            raise _unknown_key(place, name, Settings.model_fields)
    if len(set(names)) < len(names):
        raise ConfigError(f"{place} names a field twice.")
    if not isinstance(values, list):
        values = [values]
    if not values:
        raise ConfigError(f"{place} is an empty list; expected at least one value.")
    for number, value in enumerate(values):
        if len(names) == 1:
            yield {key.strip(): _checked_value(f"{place}[{number}]", names[0], value)}
            continue
        if not isinstance(value, list) or len(value) != len(names):
            raise _wrong_value(f"{place}[{number}]", f"must be a list of {len(names)}", value)
        yield {
            name: _checked_value(f"{place}[{number}]", name, part)
            for name, part in zip(names, value, strict=True)
        }


def _checked(place: str, key: str, value: Any) -> Any:
    """A value of `base` or `cells`, its key checked too."""
    if key not in Settings.model_fields:
        raise _unknown_key(f"{place}.{key}", key, Settings.model_fields)
    if isinstance(value, list):
        raise _wrong_value(f"{place}.{key}", "must be one value; lists belong in [grid]", value)
    return _checked_value(f"{place}.{key}", key, value)


def _checked_value(place: str, key: str, value: Any) -> Any:
    """A value that this field of `Settings` may have, whatever the others are."""
    from etastar.data import DATASETS

    try:
        Settings.model_validate({key: value})
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"]:
            raise _wrong_value(place, first["msg"], value) from None
        if first["type"] != "value_error" or "start_lr must be below" not in first["msg"]:
            raise ConfigError(f"{place}: {first['ctx']['error']}.") from None
    if key == "dataset" and value not in DATASETS:
        raise ConfigError(f"{place}: {unknown_name('dataset', value, DATASETS)}")
    if key == "threshold" and not 0 < value <= 1:
        raise _wrong_value(place, "must be above 1/classes and at most 1", value)
    if key == "seeds" and value > MOST_SEEDS:
        raise _wrong_value(place, f"must be at most {MOST_SEEDS}", value)
    return value


def _merge(found: dict[str, Cell], cell: Cell, place: str) -> None:
    """Add a cell; one that is there already gets the seeds of both, if they are one range."""
    other = found.setdefault(cell.id, cell)
    if other.seeds != cell.seeds:
        first = min(other.seeds.start, cell.seeds.start)
        last = max(other.seeds.stop, cell.seeds.stop)
        if last - first > len(other.seeds) + len(cell.seeds):
            raise ConfigError(
                f"{place}: the cell {cell.title} is there already with seeds {other.seeds.start} "
                f"to {other.seeds.stop - 1}; {cell.seeds.start} to {cell.seeds.stop - 1} leave a "
                "gap."
            )
        update = {"first_seed": first, "seeds": last - first}
        found[cell.id] = Cell(other.settings.model_copy(update=update), other.sharpness)


def _contradiction(place: str, cells: Sequence[Cell], filters: Sequence[Condition]) -> str:
    """Which conditions leave nothing of a grid."""
    alone = [
        f"{c.place} {c.text!r} alone leaves {sum(c.holds(cell.fields) for cell in cells)}"
        for c in filters
    ]
    return f"{place}: the filters leave none of its {len(cells)} cells: {'; '.join(alone)}."
