"""How far a measurement is, and the line on a terminal that shows it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from etastar.result import counted


@dataclass(frozen=True)
class Progress:
    """How far a measurement is: searches that have ended, of how many; trials; steps.

    Under `curve` also the most trials, and the interval of η* so far; of an executor, its workers.
    """

    seeds_done: int
    seeds: int
    trials: int = 0
    steps: int = 0
    most: int | None = None
    interval: tuple[float, float] | None = None
    workers: int | None = None


class ProgressLine:
    """How far something is, in a line on a terminal; nothing elsewhere, but it is remembered.

    Args:
        what: What is done, or counted.
        total: How many there are; None if that is not known yet.
        text: What is remembered before anything is told.
        doing: What is done first.
        wanted: Whether to show anything.

    Attributes:
        text: How far it was.
    """

    def __init__(
        self,
        what: str = "measuring η*",
        total: int | None = None,
        text: str = "no trial had ended",
        doing: str = "first steps",
        wanted: bool = True,
    ) -> None:
        self.text, self._total = text, total
        self._bar: Any = None
        if wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = TextColumn(what), BarColumn(), TextColumn("{task.description}")
            console = Console(stderr=True)
            self._bar = Bar(*columns, TimeElapsedColumn(), console=console, transient=True)
            self._bar.add_task(doing, total=total)

    def __enter__(self) -> ProgressLine:
        if self._bar:
            self._bar.start()
        return self

    def show(self, description: str, done: int, total: int | None = None) -> None:
        """Show what is done, and how much of it.

        Args:
            description: In words.
            done: So many.
            total: Of so many, where that has become known.
        """
        if self._bar:
            task, total = self._bar.task_ids[0], total or self._total
            self._bar.update(task, completed=done, total=total, description=description)

    def update(self, now: Progress) -> None:
        """Show where a measurement is.

        Args:
            now: How far.
        """
        self.text = f"{counted(now.trials, 'trial')} ended, {counted(now.steps, 'step')}"
        if now.seeds > 1:
            self.text += f", {now.seeds_done} of {now.seeds} seeds finished"
        parts = [f"{now.trials} trials"]
        done, total = now.trials, now.most
        if not now.most:
            done, total = now.seeds_done, now.seeds
            parts.insert(0, f"{done} of {total} searches done")
        if now.workers:
            parts.append(f"{now.workers} workers")
        if now.interval:
            parts.append("η* in {:.3g} – {:.3g}".format(*now.interval))
        self.show(", ".join(parts), done, total)

    def stage(self, description: str, done: int) -> None:
        """Show what is being computed, and how many seeds are done with it.

        Args:
            description: In words.
            done: So many.
        """
        self.text = f"{description}, {done} of {self._total} seeds finished"
        self.show(description, done)

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one.

        Args:
            text: The line.
        """
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def __bool__(self) -> bool:
        """Tell whether there is a bar."""
        return self._bar is not None

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.stop()
