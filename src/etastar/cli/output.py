"""Files that a command writes, and the bar that shows how far it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from etastar.errors import ConfigError
from etastar.study.filesystem import as_a_whole

if TYPE_CHECKING:
    from rich.progress import Progress

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


def progress_bar(unit: str, total: int, doing: str) -> Progress | None:
    """A bar on standard error with one task, started; None if that is no terminal.

    Args:
        unit: What is counted, e.g. `seeds`.
        total: How many there are.
        doing: What is done first.
    """
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn(unit),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(doing, total=total)
    bar.start()
    return bar
