"""Thousands of damaged inputs: counts of right answers and one-line refusals, and nothing else.

    python tests/fuzz/run.py --inputs 2000 --seed 1

An input that ends otherwise is printed with the seed that makes it again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzzing import CASES, Broken, command, warm_up

STUDY = """
[base]
dataset = "digits"
train_size = 200
val_size = 50
max_steps = 20
threshold = 0.3
resolution = 0.5
threads = 1
[grid]
width = [4, 8]
depth = [1, 2]
seeds = 2
"""


def good_store(folder: Path) -> bytes:
    """A store that a real, small study has written."""
    path = folder / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    import etastar.cli

    assert etastar.cli.main(["study", "run", str(path)]) == 0
    return (folder / "study.sqlite").read_bytes()


def fuzz(kind: str, inputs: int, seed: int, store: bytes) -> tuple[Counter[str], list[str]]:
    """Outcomes of so many inputs of one kind, and those that broke a promise."""
    counts: Counter[str] = Counter()
    broken = []
    for i in range(inputs):
        rng = random.Random(f"{kind} {seed} {i}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "case"
            folder.mkdir()
            more = (STUDY, store, i % 20 == 0) if kind == "stores" else ()
            try:
                counts[CASES[kind](rng, folder, *more)] += 1
            except Broken as error:
                broken.append(f"{kind}, seed {seed}, input {i}: {error}")
    return counts, broken


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = good_store(Path(name))
    warm_up()
    worst = 0
    for kind in args.kinds:
        start = time.perf_counter()
        counts, broken = fuzz(kind, args.inputs, args.seed, store)
        print(
            f"{kind}: {args.inputs} inputs, {counts['right']} right, {counts['refused']} refused "
            f"in one line, {len(broken)} otherwise; {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        for text in broken[:5]:
            print(text)
        worst = max(worst, len(broken))
    return int(worst > 0)


__all__ = ["command", "fuzz", "good_store"]

if __name__ == "__main__":
    sys.exit(main())
