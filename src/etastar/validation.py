"""Options as pydantic models: names of registries, and complaints of one line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import CoreSchema, core_schema

from etastar.checking import plain
from etastar.errors import ConfigError, nearest, unknown_name


@dataclass(frozen=True, eq=False)
class OneOf:
    """Marks a string option whose value is a name in a registry, or None.

    Attributes:
        kind: What is named, for messages.
        names: The registry.
    """

    kind: str
    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """What the annotation says, then `known`."""
        return core_schema.no_info_after_validator_function(self.known, handler(source))

    def known(self, name: str | None) -> str | None:
        """The name itself.

        Raises:
            ConfigError: It is not in the registry; with the nearest one that is.
        """
        if name is not None and name not in self.names:
            raise unknown_name(self.kind, name, self.names)
        return name


class Options(BaseModel):
    """Options with their types, limits and defaults; what each is for stands below it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], options: Mapping[str, Any], *, strings: bool = False) -> Model:
    """A pydantic model from options, its complaints as one-line `ConfigError`s.

    Args:
        model: The model.
        options: Its fields.
        strings: Whether the values are strings to be read, as from a command line.

    Raises:
        ConfigError: Names the first offending option, what was expected and what
            was got; an unknown option comes with the nearest known one.
    """
    try:
        if strings:
            return model.model_validate_strings(dict(options))
        return model.model_validate({name: plain(value) for name, value in options.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            near = nearest(where, model.model_fields)
            hint = "" if near is None else f"; did you mean {near!r}?"
            raise ConfigError(f"unknown option {where!r}{hint}") from None
        if first["type"] == "value_error":
            raise ConfigError(str(first["ctx"]["error"])) from None
        message = first["msg"].replace("Input should be", "must be")
        raise ConfigError(f"{where} {message}, got {first['input']!r}") from None
