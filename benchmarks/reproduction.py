"""The tables behind docs/reproduction.md, and the runs behind the tables.

    python benchmarks/reproduction.py            # tables from the committed rows, without training
    python benchmarks/reproduction.py --check    # exit code 1 if reproduction-tables.md differs
    python benchmarks/reproduction.py --run e    # the studies of a claim, their rows, the tables
    python benchmarks/reproduction.py --run all --dry-run    # the commands and their hours

`--run` goes on from the stores beside the studies, so it may be interrupted and repeated. What it
measures anew overwrites studies/results and the tables.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

from reproduction_studies import CLAIMS, ROOT, SECONDS, commands_of, hours_of, studies_of
from reproduction_tables import SECTIONS
from reproduction_widths import measure_widths

OUT = ROOT / "docs" / "reproduction-tables.md"


def run(claim: str, *, dry: bool) -> int:
    """Run what is behind a claim; returns the exit code of the first command that fails, or 0."""
    studies = studies_of(claim)
    for study in studies:
        print(
            f"# {study}: {SECONDS[study] / 3600:.2f} h for us, less what its store holds",
            flush=True,
        )
        for arguments in commands_of(study):
            print("etastar " + shlex.join(arguments), flush=True)
            if dry:
                continue
            try:
                done = subprocess.run([sys.executable, "-m", "etastar", *arguments])
            except KeyboardInterrupt:
                print("Interrupted; the same command goes on from there.", file=sys.stderr)
                return 130
            if done.returncode:
                print(f"{study} stopped; the same command goes on from there.", file=sys.stderr)
                return done.returncode
    if claim in ("widths", "all"):
        print("# λ1 against width on CIFAR-10, without training: minutes", flush=True)
        if not dry:
            measure_widths()
    if studies:
        print(f"# together {hours_of(claim):.1f} h", flush=True)
    return 0


def main() -> int:
    """Write or check the file, after running what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="Write nothing; compare.")
    what.add_argument(
        "--run",
        choices=[*CLAIMS, "widths", "all"],
        help="Run the studies behind a claim (hours; resumable), export their rows, make the "
        "tables; widths: λ1 against width on CIFAR-10 (minutes).",
    )
    parser.add_argument("--dry-run", action="store_true", help="With --run: print the commands.")
    options = parser.parse_args()
    if options.dry_run and not options.run:
        parser.error("--dry-run needs --run.")
    if options.run:
        code = run(options.run, dry=options.dry_run)
        if code or options.dry_run:
            return code
    out = ["# Reproduction: tables", "", "Made by `python benchmarks/reproduction.py` from the "
           "rows in `studies/results`; read with [the ledger](reproduction.md)."]  # fmt: skip
    for title, make, note in SECTIONS:
        out += ["", f"## {title}", "", note, "", *make()]
    text = "\n".join(out) + "\n"
    if options.check:
        if OUT.read_text(encoding="utf-8") == text:
            return 0
        print(f"{OUT.name} differs from what the rows give: run without --check.", file=sys.stderr)
        return 1
    OUT.write_text(text, encoding="utf-8")
    print(f"Wrote {OUT.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
