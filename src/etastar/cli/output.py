"""Files that a command writes."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etastar.errors import ConfigError, EtaStarError
from etastar.study.filesystem import as_a_whole, is_stream, try_writing

FIGURE_FORMATS = (".png", ".svg", ".pdf")


def check_figure(file: str | None) -> None:
    """Raise if a picture cannot be written: see `check_output`.

    Raises:
        ConfigError: It cannot, or its ending names no format.
    """
    if file and file.strip() and Path(file).suffix.lower() not in FIGURE_FORMATS:
        raise ConfigError(f"--plot {file}: the name must end in {', '.join(FIGURE_FORMATS)}.")
    check_output(file)


def check_results(plot: str | None, json_file: str | None, store: str | None = None) -> None:
    """Raise if a picture or a JSON file cannot be written, or two outputs are one file.

    Raises:
        ConfigError: See `check_figure` and `check_output`.
    """
    check_figure(plot)
    check_output(json_file)
    named: dict[str, str] = {}
    for option, file in (("--json", json_file), ("--plot", plot), ("--store", store)):
        if file is None or file == "-" or is_stream(Path(file)):
            continue
        first = named.setdefault(os.path.realpath(file), option)
        if first != option:
            raise ConfigError(f"{first} and {option} name one file, {file}. Name another one.")


def check_output(file: str | None) -> None:
    """Raise if a file cannot be written, before hours are spent on it.

    A few blocks are written beside it and removed. None and "-" name no file.

    Raises:
        ConfigError: The name is empty or a folder's, the folder does not exist, or nothing can be
            written there.
    """
    if file is None or file == "-":
        return
    if not file.strip():
        raise ConfigError(f"the name of the file to write is empty ({file!r}); give one.")
    path = Path(file)
    if os.path.isdir(file) or os.path.basename(file) in ("", ".", ".."):
        raise ConfigError(f"{file} is a folder; give the name of a file.")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    try:
        try_writing(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {_reason(error)}.") from None


def write_results(outputs: Iterable[tuple[str | None, Callable[[Path], object]]]) -> None:
    """Write several results, each whatever becomes of the others.

    Args:
        outputs: In the order of writing: the name of a file ("-" is standard output, None is
            left out), and a function that writes its content to the file that it is given. That
            file is another one with the same ending, and takes the place of the one named when
            all of it has been written: see `etastar.study.filesystem.as_a_whole`.

    Raises:
        EtaStarError: Some could not be written; one line that names each and says why.
    """
    failures = []
    for file, write in outputs:
        if file is None:
            continue
        try:
            with _to_stdout() if file == "-" else as_a_whole(Path(file)) as partial:
                write(partial)
        except EtaStarError as error:
            failures.append(f"{file}: {str(error).rstrip('.')}")
        except BrokenPipeError:  # not a failure: see `cli.main`
            raise
        # what draws a picture may fail in any way; the result beside it must not be lost
        except Exception as error:
            name = "standard output" if file == "-" else file
            failures.append(f"{name} cannot be written: {_reason(error)}")
    if failures:
        raise EtaStarError("; ".join(failures) + ".")


def write_json(record: dict[str, Any], file: str) -> None:
    """Write a record to one file, or to standard output if that is "-": see `write_results`."""
    write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", file)


def write_text(text: str, file: str) -> None:
    """Write a text to one file, or to standard output if that is "-": see `write_results`."""
    write_results([(file, lambda to: to.write_text(text, encoding="utf-8", errors="replace"))])


@contextmanager
def _to_stdout() -> Iterator[Path]:
    """Give a file to write to, whose content goes to standard output when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "output"
        yield partial
        sys.stdout.flush()
        try:
            sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        except OSError:  # standard output has been replaced by an object without a file
            sys.stdout.write(partial.read_text(encoding="utf-8"))
            return
        # not by way of sys.stdout: what a full device refuses would be tried again at exit
        with sink:
            sink.write(partial.read_bytes())


def _reason(error: Exception) -> str:
    """The reason of a failure: the system's words, or the error's kind and text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"
