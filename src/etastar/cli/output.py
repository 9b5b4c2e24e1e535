"""Files that a command writes, and numbers that it prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from etastar.errors import ConfigError
from etastar.study.filesystem import as_a_whole

FIGURE_FORMATS = (".png", ".svg", ".pdf")


def check_figure(file: str | None) -> None:
    """Refuse a picture that cannot be written: see `check_output`.

    Raises:
        ConfigError: It cannot, or its ending names no format.
    """
    if file and file.strip() and Path(file).suffix.lower() not in FIGURE_FORMATS:
        raise ConfigError(f"--plot {file}: the name must end in {', '.join(FIGURE_FORMATS)}.")
    check_output(file)


def check_output(file: str | None) -> None:
    """Refuse what cannot be written before hours are spent on it; None and "-" name no file.

    Raises:
        ConfigError: It is empty, or a folder, or its folder does not exist or cannot be written.
    """
    if file is None or file == "-":
        return
    if not file.strip():
        raise ConfigError(f"the name of the file to write is empty ({file!r}); give one.")
    path = Path(file)
    if path.is_dir() or os.path.basename(file) in ("", ".", ".."):
        raise ConfigError(f"{file} is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written: permission denied.")


def write_text(text: str, file: str) -> None:
    """Write to standard output, if the file is `-`; else a file as a whole or not at all."""
    if file == "-":
        sys.stdout.write(text)
        return
    with as_a_whole(Path(file)) as partial:
        partial.write_text(text, encoding="utf-8")


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"
