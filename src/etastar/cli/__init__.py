"""The command line: parse, call the library, print; nothing else."""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import import_module

from etastar.errors import EtaStarError, unknown_name

NOTHING, BAD_INPUT, INTERRUPTED, READER_GONE = 1, 2, 130, 141
"""Exit codes: of a measurement in which no run trained; of a refused command, as argparse has it;
after Ctrl-C, and where nobody reads on, as shells have them."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What a device says that takes no more."""

COMMANDS = {
    "measure": "measure η* of a ReLU network on a data set",
    "model": "measure η* of a PyTorch model of your own",
    "sharpness": "measure λ1 at initialisation, with its bounds",
    "study": "sweep, store, fit and report: etastar study run|status|fit|report|export",
    "predict": "predict η* of a network that was not measured",
}
"""Subcommands: each a module of this package with a function `run(arguments) -> int`."""


def main(arguments: list[str] | None = None) -> int:
    """Run `etastar ARGUMENTS`; returns the exit code, 0 unless one of those above."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _use_utf8()
    try:
        try:
            return _run(arguments)
        finally:  # also where argparse leaves by SystemExit, after `--help`
            sys.stdout.flush()
    except BrokenPipeError:  # `… | head -1`: who read it has gone, and what is left is not for us
        _close_stdout()
        return READER_GONE
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        _close_stdout()
        print(f"etastar: standard output cannot be written: {error.strerror}.", file=sys.stderr)
        return BAD_INPUT
    except EtaStarError as error:
        from etastar.cli.options import in_shell, in_study_file

        text = str(error)
        of_a_study = arguments[0] == "study" or text.startswith("study file ")
        words = in_study_file if of_a_study else in_shell
        print(f"etastar: {words(text)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:  # before or after what the commands themselves guard
        print("etastar: interrupted. Nothing was written.", file=sys.stderr)
        return INTERRUPTED


def _close_stdout() -> None:
    """Let what is left go nowhere, for Python flushes once more at its end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        from etastar import __version__

        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        error = unknown_name("command", arguments[0], COMMANDS)
        if arguments[0] in import_module("etastar").__all__:
            error.args = (f"{error} In Python there is `etastar.{arguments[0]}`.",)
        raise error
    return int(import_module(f"etastar.cli.{arguments[0]}").run(arguments[1:]))


def _use_utf8() -> None:
    """Let neither η nor the bytes of a file's name end a finished measurement."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _usage() -> str:
    lines = [
        "usage: etastar COMMAND [OPTIONS]",
        "",
        "Measures the maximal initial learning rate η* of a neural network.",
        "",
        *(f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()),
        "",
        "etastar COMMAND --help lists a command's options; etastar --version prints the version.",
    ]
    return "\n".join(lines)
