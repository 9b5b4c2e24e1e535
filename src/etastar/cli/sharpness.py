"""`etastar sharpness`: λ1 at initialisation, with bounds, beside η* where asked for."""

from __future__ import annotations

import sys
from typing import Literal, TypeAlias

from pydantic import Field
from rich.console import Console
from rich.table import Table

from etastar.cli import INTERRUPTED
from etastar.cli.measure import GROUPS
from etastar.cli.options import JsonFile, in_shell, parse
from etastar.cli.output import check_output, write_json
from etastar.cli.printing import bracket_table, console_beside, tabulated
from etastar.lambda1 import MOST_SAMPLES, Sharpness, measure_sharpness
from etastar.progress import ProgressLine
from etastar.result import number
from etastar.search.estimate import level_of
from etastar.search.search import SEEDS
from etastar.settings import Settings

Summary: TypeAlias = dict[str, float | None]

LETTERS = {"hessian": "H", "gauss-newton": "G"}
"""The matrices, as docs/theory.md writes them."""


class SharpnessOptions(Settings):
    """The options of `etastar sharpness`: those of `measure`, and how λ1 is found."""

    kind: Literal["hessian", "gauss-newton"] = "hessian"
    """Matrix: the loss's Hessian, which does not see the kinks of ReLU, or its positive part."""
    samples: int | None = Field(
        None,
        ge=1,
        description="λ1 is of the loss over the first so many training samples. [default: all "
        f"that --train-size leaves; without it, at most {MOST_SAMPLES}]",
    )
    tol: float = Field(1e-4, gt=0.0, lt=1.0)
    """Relative residual at which the iteration stops."""
    max_iter: int = Field(200, ge=1)
    """Products before a seed is given up."""
    with_eta_star: bool = False
    """Measure η* of the same networks too: minutes instead of seconds."""
    json_file: JsonFile = None


def run(arguments: list[str]) -> int:
    """Measure λ1, print it beside its bounds; returns the exit code."""
    options = parse(
        SharpnessOptions,
        arguments,
        prog="etastar sharpness",
        description="Measure the sharpness λ1 at initialisation, beside its bounds.",
        groups={**{k: v for k, v in GROUPS.items() if k != "plot"}, "kind": "sharpness"},
    )
    check_output(options.json_file)
    console = console_beside(options.json_file)
    given = options.model_dump(exclude_unset=True, exclude={"json_file"})
    seeds = options.seeds or SEEDS
    with ProgressLine("seeds", seeds, f"0 of {seeds} seeds finished", "starting") as progress:
        try:
            found = measure_sharpness(on_progress=progress.stage, **given)
        except KeyboardInterrupt:
            progress.__exit__()
            print(f"etastar: interrupted: {progress.text}. Nothing was written.", file=sys.stderr)
            return INTERRUPTED
    _print(found, console)
    if options.json_file:
        write_json(found.to_dict(), options.json_file)
        if options.json_file != "-":
            console.print(f"JSON: {options.json_file}")
    return 0


def _print(found: Sharpness, console: Console) -> None:
    console.print(found.heading)
    console.print()
    console.print(_table(found))
    console.print()
    letter = LETTERS[found.conventions["kind"]]
    _print_medians(letter, found.lambda1_plain, found.lambda1_preconditioned, console)
    if letter != "G":
        of_g = found.gauss_newton
        _print_medians("G", of_g["lambda1_plain"], of_g["lambda1_preconditioned"], console)
        console.print("  (H does not see the kinks of ReLU; G, Gauss-Newton, has none)")
    _print_bounds(found, console)
    rates = ", ".join(f"{name} = {number(rate)}" for name, rate in found.reference_rates.items())
    console.print(f"reference rates, λ1 preconditioned: {rates}")
    if found.eta_star and found.eta_star_seeds:
        star = found.eta_star
        console.print()
        console.print(bracket_table(found.eta_star_seeds))
        console.print()
        level = f"{100 * level_of(len(found.eta_star_seeds)):.3g} %"
        console.print(
            f"[bold]η* = {number(star['median'])}[/bold]  ({level} {number(star['ci_low'])} – "
            f"{number(star['ci_high'])}); η*·λ1 = {number(found.eta_star_times_lambda1)}"
        )
    for note in found.warnings:
        console.print(f"[yellow]note:[/yellow] {in_shell(note)}")


def _table(found: Sharpness) -> Table:
    """Tabulate λ1 by seed, ± its residual, for the matrix asked for and for G beside it."""
    shown = {LETTERS[found.conventions["kind"]]: found.seeds, "G": found.gauss_newton_seeds}
    names = [f"{of}λ1({letter}) ± residual" for letter in shown for of in ("", "preconditioned ")]
    table = []
    for seed in found.seeds:
        rows = [by_seed[seed] for by_seed in shown.values()]
        cells = [
            f"{number(value)} ± {'–' if residual is None else f'{residual:.0e}'}"
            for row in rows
            for value, residual in (
                (row.lambda1_plain, row.residual),
                (row.lambda1_preconditioned, row.preconditioned_residual),
            )
        ]
        table.append([str(seed), *cells, "yes" if all(row.converged for row in rows) else "no"])
    return tabulated(table, ["seed", *names, "converged"])


def _print_medians(letter: str, plain: Summary, preconditioned: Summary, console: Console) -> None:
    for symbol, values in (("λ1", plain), ("preconditioned λ1", preconditioned)):
        level = values["ci_level"]
        interval = f"; {100 * level:.3g} % " if level else "; interval "
        console.print(
            f"[bold]{symbol}({letter}) = {number(values['median'])}[/bold]  "
            f"(median{interval}{number(values['ci_low'])} – {number(values['ci_high'])})"
        )


def _print_bounds(found: Sharpness, console: Console) -> None:
    """Print bounds on λ1 of the Gauss-Newton matrix beside its measured mean and median."""
    if found.bounds_note:
        console.print(f"bounds: {found.bounds_note}")
        return
    bounds, measured = found.gauss_newton["bounds"], found.gauss_newton["lambda1_preconditioned"]
    error = measured["mean_standard_error"]
    mean = number(measured["mean"]) + ("" if error is None else f" ± {number(error)}")
    seeds = f"measured, {len(found.seeds)} seeds"
    rows = [
        ("mean, above", bounds["lower_proved"], "proved"),
        ("mean, above", bounds["lower"], bounds["lower_label"]),
        ("mean", mean, seeds),
        ("mean, below", bounds["upper"], bounds["upper_label"]),
        ("mean, below", bounds["upper_proved"], "proved"),
        ("mean, below", bounds["upper_trace"], "proved"),
        ("median", bounds["kernel_infinite_width"], "estimate: kernel at infinite width"),
        ("median", bounds["kernel_prediction"], "estimate: kernel, corrected for width"),
        ("median", number(measured["median"]), seeds),
    ]
    notes = {3: ", the tightest", 5: ", by the trace"}
    table = []
    for row, (name, value, label) in enumerate(rows):
        label = {"asymptotic": "estimate: asymptotic"}.get(label, label) + notes.get(row, "")
        shown = value if isinstance(value, str) else number(value)
        table.append([f"  {name}", shown, "nothing is proved" if value is None else label])
    console.print()
    console.print("preconditioned λ1(G), from the data alone and as measured:")
    console.print(tabulated(table))
    fields = found.conventions["network"]
    size = fields["width"] * fields["depth"]
    shown = "–" if measured["mean"] is None else number(measured["mean"] / size)
    console.print(f"theorem, as multiples of n·L = {size:,} (measured mean: {shown}):")
    sides = {"lower": "  mean, above", "upper": "  mean, below"}
    theorem = [
        (sides[e["side"]], number(e["per_nl"]), f"{e['name']}: {e['label']}")
        for e in bounds["theorem"]
    ]
    console.print(tabulated(theorem))
    used, samples = found.conventions["bounds_samples"], found.conventions["samples"]
    if used < samples:
        console.print(
            f"  bounds and kernel are of {used:,} of the {samples:,} samples "
            f"({found.conventions['bounds_samples_are']})"
        )
    if found.conventions["kind"] == "hessian":
        console.print("  nothing is proved of λ1(H), which has a rest term H − G")
    console.print()
