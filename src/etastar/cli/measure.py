"""`etastar measure`: the main job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from etastar.cli import INTERRUPTED, own_model
from etastar.cli.options import parse
from etastar.cli.output import check_figure, check_output, progress_bar, write_text
from etastar.result import number
from etastar.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from etastar.api import Progress
    from etastar.result import Measurement
    from etastar.search.base import SeedResult

GROUPS = {
    "dataset": "data",
    "width": "network",
    "loss": "training",
    "threshold": "criterion and budget",
    "seeds": "search",
    "device": "machine",
    "plot": "output",
}


class MeasureOptions(Settings):
    """The options of `etastar measure`: the settings, and where the result goes."""

    plot: str | None = Field(None, description="Write the picture here: .png, .svg or .pdf.")
    json_file: str | None = Field(
        None, alias="json", description="Write the result as JSON here; - is standard output."
    )


def run(arguments: list[str]) -> int:
    """Measure η*, print a table, write what was asked for; returns the exit code."""
    if own_model.wanted(arguments):
        return own_model.run(arguments)
    options = parse(
        MeasureOptions,
        arguments,
        prog="etastar measure",
        description="Measure the maximal initial learning rate η* of a ReLU network. For a model "
        "of your own: etastar measure --model MODULE:NAME --data MODULE:NAME; its options: "
        "etastar measure --model MODULE:NAME --help.",
        groups=GROUPS,
    )
    check_figure(options.plot)
    check_output(options.json_file)
    from rich.console import Console

    from etastar.api import measure

    console = Console(stderr=options.json_file == "-", highlight=False)
    settings = options.model_dump(exclude={"plot", "json_file"})
    with ProgressLine(options.seeds) as progress:
        try:
            found = measure(on_progress=progress.update, **settings)
        except KeyboardInterrupt:
            progress.close()
            print(f"etastar: interrupted: {progress.text}. Nothing was written.", file=sys.stderr)
            return INTERRUPTED
    print_table(found, console)
    if options.plot:
        from etastar.report.figures import save_measurement

        save_measurement(found, options.plot)
        console.print(f"picture: {options.plot}")
    if options.json_file:
        write_text(found.to_json() + "\n", options.json_file)
        if options.json_file != "-":
            console.print(f"JSON: {options.json_file}")
    return 0


class ProgressLine:
    """A progress bar on a terminal, nothing elsewhere; remembers what was done either way."""

    def __init__(
        self, seeds: int, text: str = "no trial had ended, 0 of {} seeds bracketed"
    ) -> None:
        self.text = text.format(seeds)
        self._seeds = seeds
        self._bar: Any = None

    def __enter__(self) -> ProgressLine:
        self._bar = progress_bar("seeds", self._seeds, "starting")
        return self

    def update(self, now: Progress) -> None:
        """Show where the measurement is."""
        self.text = (
            f"{now.trials} trials ended, {now.steps:,} steps, "
            f"{now.seeds_done} of {now.seeds} seeds finished"
        )
        self._show(f"{now.trials} trials, {now.steps:,} steps", now.seeds_done)

    def stage(self, description: str, done: int) -> None:
        """Show what is being computed, and how many seeds are done with it."""
        self.text = f"{description}, {done} of {self._seeds} seeds finished"
        self._show(description, done)

    def _show(self, description: str, done: int) -> None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, description=description)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *exc: object) -> None:
        self.close()


def print_table(found: Measurement, console: Console) -> None:
    """The brackets per seed, then η* with all that it depends on."""
    console.print(found.heading)
    console.print()
    console.print(bracket_table(found.seeds))
    console.print()
    star = found.eta_star
    interval = f"95 % interval {number(star.ci_low)} – {number(star.ci_high)}"
    console.print(f"[bold]η* = {number(star.median)}[/bold]  (median over seeds; {interval})")
    few = f"p = 0.95, estimated from {len(found.seeds)} seeds"
    console.print(f"safe learning rate ({few}): {number(star.safe)}")
    cost = found.cost
    console.print(f"cost: {cost.trials} trials, {cost.steps:,} steps, {cost.seconds:.1f} s")
    for warning in found.warnings:
        console.print(f"[yellow]note:[/yellow] {warning}")


def bracket_table(seeds: Mapping[int, SeedResult]) -> Table:
    """The bracket of η* by seed."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("seed", "lo (trains)", "hi (fails)", "why hi fails", "re-entries", "status"):
        table.add_column(column, justify="right" if column != "status" else "left")
    for seed, result in seeds.items():
        table.add_row(
            str(seed),
            number(result.lo),
            number(result.hi),
            result.hi_outcome or "–",
            str(len(result.re_entries) or "–"),
            result.status,
        )
    return table
