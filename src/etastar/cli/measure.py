"""`etastar measure`: the main job."""

from __future__ import annotations

import sys

from etastar.cli import INTERRUPTED
from etastar.cli.options import JsonFile, Picture, parse
from etastar.cli.output import check_results
from etastar.cli.printing import show
from etastar.progress import ProgressLine
from etastar.settings import Settings

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

    plot: Picture = None
    json_file: JsonFile = None


def run(arguments: list[str]) -> int:
    """Measure η*, print a table, write what was asked for; return the exit code."""
    if any(word == "--model" or word.startswith("--model=") for word in arguments):
        from etastar.cli.model import old_command  # it loads torch, which --help can do without

        return old_command(arguments)
    options = parse(
        MeasureOptions,
        arguments,
        prog="etastar measure",
        description="Measure the maximal initial learning rate η* of a ReLU network. For a model "
        "of your own: etastar model MODULE:NAME --data MODULE:NAME.",
        groups=GROUPS,
    )
    check_results(options.plot, options.json_file)
    from etastar.api import measure

    settings = options.model_dump(exclude={"plot", "json_file"})
    with ProgressLine() as progress:
        try:
            found = measure(on_progress=progress.update, **settings)
        except KeyboardInterrupt:
            progress.__exit__()
            print(f"etastar: interrupted: {progress.text}. Nothing was written.", file=sys.stderr)
            return INTERRUPTED
    return show(found, options.plot, options.json_file)
