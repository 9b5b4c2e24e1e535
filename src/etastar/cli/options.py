"""Command-line options from a pydantic model, so that each is defined once, in `etastar.settings`.

Values stay strings until pydantic reads them: a bad value on the command line, in a study file and
in a Python call gives the same one line.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from etastar.errors import ConfigError, nearest
from etastar.settings import Settings
from etastar.validation import OneOf, Options, validated

Model = TypeVar("Model", bound=BaseModel)

JsonFile: TypeAlias = Annotated[
    str | None,
    Field(alias="json", description="Write the result as JSON here; - is standard output."),
]
Picture: TypeAlias = Annotated[
    str | None, Field(description="Write the picture here: .png, .svg or .pdf.")
]
"""Options that several commands have."""

METAVARS = {int: "N", float: "X", str: "NAME"}
PLACES = {"--data-dir": "FOLDER", "--from": "FILE"} | dict.fromkeys(
    ("--plot", "--json", "--store", "--output"), "FILE"
)
"""What options that name a place take; others by their type."""


_read: type[BaseModel] = Options
"""What the command line that is obeyed was read as: it says which options there are."""


def in_shell(text: str) -> str:
    """Write the options that a message names as the command line that was read has them.

    Args:
        text: E.g. "Raise `end_lr`."; the first word of a message needs no backticks.

    Returns:
        E.g. "Raise --end-lr." What the command has not, or takes as a function only, is said to be
        of Python.
    """
    return _written(text)


def in_study_file(text: str) -> str:
    """Write the options that a message names as a study has them.

    Args:
        text: E.g. "`device='gpu'` cannot be used." or "`workers` needs `executor='dask'`."

    Returns:
        Keys as the file has them, `device = "gpu"`; options of the command as the shell has them.
    """
    return _written(text, {*Settings.model_fields, "model", "data", "sharpness", "law"})


def _written(text: str, keys: Collection[str] = ()) -> str:
    """Write what stands in backticks as an option, as a key of TOML, or as of Python."""
    options = {field.alias or name for name, field in _read.model_fields.items()}

    def word(found: re.Match[str]) -> str:
        name, value = found[1], found[2] or ""
        if name in options and not value.startswith("lambda"):
            return _flag(name, value.strip("'\""))
        if name in keys:
            return f"{name} = {value}".replace("'", '"') if value else name
        return f"{found[0].strip('`')} (in Python)"

    text = re.sub(r"`(\w+)(?:=([^`]*))?`", word, text)
    first = "|".join(options)
    return re.sub(rf"^({first})(?= must | is missing)", lambda m: _flag(m[1]), text)


def _flag(name: str, value: str = "") -> str:
    return f"--{name.replace('_', '-')}{' ' * bool(value)}{value}"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option as a `ConfigError` of one line, and a help that cannot be written."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See {self.prog} --help.")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse's own ignores what a full device says


def parse(
    model: type[Model],
    arguments: list[str],
    *,
    prog: str,
    description: str,
    groups: dict[str, str] | None = None,
    positional: tuple[str, ...] = (),
) -> Model:
    """Read a command line.

    Args:
        model: Its fields are the options, underscores written as dashes.
        arguments: What follows the command.
        prog: The command, for messages.
        description: Shown by `--help`.
        groups: First field of each group of options → the group's heading.
        positional: Fields that are given by their place, not as options.

    Returns:
        The validated settings.

    Raises:
        ConfigError: An option is unknown, lacks its value, or has a wrong one.
        SystemExit: With 0, after `--help`.
    """
    global _read
    _read = model
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    group: Any = parser
    flags = []
    for name in positional:
        parser.add_argument(name, metavar=name.upper(), help=_help(model.model_fields[name]))
    for name, field in model.model_fields.items():
        if name in positional:
            continue
        if groups and name in groups:
            group = parser.add_argument_group(groups[name])
        flag = "--" + (field.alias or name).replace("_", "-")
        flags.append(flag)
        settings: dict[str, Any] = {"dest": field.alias or name, "default": argparse.SUPPRESS}
        if field.annotation is bool:
            flags.append(flag.replace("--", "--no-", 1))
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["metavar"] = PLACES.get(flag) or _metavar(field)
        required = " [required]" if field.is_required() else ""
        group.add_argument(flag, help=_help(field) + required, **settings)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        near = nearest(unknown[0].split("=")[0], flags)
        hint = "." if near is None else f"; did you mean {near}?"
        raise ConfigError(f"unknown option {unknown[0]}{hint} See {prog} --help.")
    for name, field in model.model_fields.items():
        if field.is_required() and (field.alias or name) not in given:
            flag = "--" + (field.alias or name).replace("_", "-")
            raise ConfigError(f"{flag} is missing; it has no default. See {prog} --help.")
    return validated(model, {k: str(v) for k, v in vars(given).items()}, strings=True)


def _metavar(field: FieldInfo) -> str:
    """`N`, `X`, `NAME`, or the choices, e.g. `N|full`."""
    for mark in field.metadata:
        if isinstance(mark, OneOf):
            return "{" + ",".join(mark.names) + "}"
    kinds = [field.annotation, *get_args(field.annotation)]
    words = [METAVARS[kind] for kind in kinds if kind in METAVARS]
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += [str(choice) for choice in get_args(kind)]
    if len(words) > 1 and not any(word in METAVARS.values() for word in words):
        return "{" + ",".join(words) + "}"
    return "|".join(words)


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("%", "%%")
    if field.is_required() or field.default is None or "[default" in text:
        return text
    shown = f"{field.default:g}" if isinstance(field.default, float) else field.default
    if isinstance(field.default, bool):
        shown = "yes" if field.default else "no"
    return f"{text} [default: {shown}]"
