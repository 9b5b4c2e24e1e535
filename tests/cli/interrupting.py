"""A command in a process of its own, interrupted as soon as it shows progress."""

from __future__ import annotations

import signal
import subprocess
import sys

CODE = """
import sys
from etastar.cli import main
from etastar.progress import ProgressLine

def telling(method):
    def told(self, *now):
        method(self, *now)
        print("progress", flush=True)
    return told

ProgressLine.update, ProgressLine.stage = map(telling, (ProgressLine.update, ProgressLine.stage))
sys.exit(main())
"""


def interrupted(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command that gets Ctrl-C; it must end within 20 s."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has Ctrl-C ignored, by its children too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "progress\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    return process.returncode, err
