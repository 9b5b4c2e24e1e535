"""Files that a command writes, and numbers that it prints."""

from __future__ import annotations

import os
from pathlib import Path

from etastar.errors import ConfigError

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


def write_whole(path: Path, text: str) -> None:
    """Write a file in one move, so that no partial one is ever left."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"
