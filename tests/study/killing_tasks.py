"""Tasks that workers do not survive; in a module of its own, which workers can import."""

from __future__ import annotations

import os
import signal

from etastar.study.measuring import Task, run_task
from etastar.study.results import Results


def deadly(task: Task) -> Results:
    """Kills its process where η* of the network 24×2 is asked for."""
    if task.kind == "maximal-lr" and (task.settings.width, task.settings.depth) == (24, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task(task)
