"""What commands print of a measurement: the table of brackets, η*."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from etastar.cli import NOTHING
from etastar.cli.options import in_shell
from etastar.cli.output import write_results
from etastar.result import Result, number, span
from etastar.search.base import SeedResult
from etastar.search.estimate import LEVEL, level_of


def console_beside(json_file: str | None) -> Console:
    """A console on standard output, or on standard error where JSON goes there."""

    class Here(Console):
        def on_broken_pipe(self) -> None:
            raise  # to `main`, instead of leaving with exit code 1

    return Here(stderr=json_file == "-", highlight=False)


def show(found: Result, plot: str | None, json_file: str | None) -> int:
    """Print a result and write what was asked for; return the exit code, 1 where no run trained.

    Raises:
        EtaStarError: A file could not be written; what could be is.
    """
    from etastar.report.figures import save_measurement

    console = console_beside(json_file)
    text = found.to_json() + "\n"
    try:
        write_results(
            [
                (json_file, lambda path: path.write_text(text, encoding="utf-8")),
                (plot, lambda path: save_measurement(found, path)),
            ]
        )
    finally:
        print_table(found, console)
    for what, file in (("JSON", json_file), ("picture", plot)):
        if file and file != "-":
            console.print(f"{what}: {file}")
    return 0 if any(trial.outcome == "trained" for trial in found.history) else NOTHING


def print_table(found: Result, console: Console) -> None:
    """Print the curve or the brackets, then η* with all that it depends on."""
    console.print(found.heading)
    console.print()
    if not found.found or found.success:
        console.print(curve_table(found) if found.found else bracket_table(found.seeds))
        console.print()
    star = found.eta_star
    level = 100 * (LEVEL if found.found else level_of(len(found.seeds)))
    interval = f"{level:.3g} % interval {span(star.ci_low, star.ci_high)}"
    if not level:
        interval = "one seed has no interval"
    what = f"half of {found.fresh} train" if found.found else "median over seeds"
    console.print(f"[bold]η* = {number(star.median)}[/bold]  ({what}; {interval})")
    if found.group_lrs and len(found.group_lrs) > 1:
        console.print("per parameter group: " + ", ".join(map(number, found.group_lrs)))
    for line in found.promise:
        console.print(line)
    console.print(f"engine {found.engine}: {found.engine_reason}; seeds vary the {found.varies}")
    console.print(f"cost: {found.spent}")
    for note in found.notes:
        console.print(f"[yellow]note:[/yellow] {in_shell(note)}")


def curve_table(found: Result) -> Table:
    """Return the whole runs by rate, neighbouring rates put together to at most `MOST_ROWS`."""
    assert found.curve is not None
    names = ("rates", "tried", "trained", "diverged", "dead", "collapsed", "slow", "p", "steps")
    rows = []
    points = found.curve.points
    size = -(-len(points) // MOST_ROWS) or 1
    for first in range(0, len(points), size):
        some = points[first : first + size]
        total = [sum(getattr(p, name) for p in some) for name in names[1:7]]
        ends = number(some[0].lr), number(some[-1].lr)
        rates = ends[0] if len(some) == 1 else " – ".join(ends)
        steps = [p.median_steps for p in some if p.median_steps is not None]
        median = f"{sorted(steps)[len(steps) // 2]:.0f}" if steps else "–"
        counts = [str(count or "–") for count in total]
        rows.append([rates, *counts, f"{total[1] / total[0]:.2f}", median])
    return tabulated(rows, names)


MOST_ROWS = 16


def bracket_table(seeds: Mapping[int, SeedResult]) -> Table:
    """The bracket of η* by seed."""
    names = ("seed", "lo (trains)", "hi (fails)", "why hi fails", "re-entries", "status")
    rows = []
    for seed, r in seeds.items():
        fails = r.hi_outcome or "–", str(len(r.re_entries) or "–")
        rows.append((str(seed), number(r.lo), number(r.hi), *fails, r.status))
    return tabulated(rows, names)


def tabulated(rows: Iterable[Iterable[str]], names: Sequence[str] = ()) -> Table:
    """Return a table without lines.

    Args:
        rows: Texts.
        names: Of the columns, which are flush right then, but for `status`; no head without them.
    """
    table = Table(box=None, pad_edge=False, show_header=bool(names))
    for name in names:
        table.add_column(name, justify="left" if name == "status" else "right")
    for row in rows:
        table.add_row(*row)
    return table
