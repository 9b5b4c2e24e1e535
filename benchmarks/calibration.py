"""Write the calibration table of docs/reliability.md from what `replay.py` wrote.

    python benchmarks/calibration.py benchmarks/results/replay.json docs/reliability.md

Replaces what stands between the two marks in the page. A number that misses its goal is bold.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- calibration -->", "<!-- /calibration -->"
COLUMNS: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    ("covers", "covers", lambda x: 0.92 <= x <= 0.98),
    ("p at η\\*", "p_at_eta", lambda x: abs(x - 0.5) <= 0.07),
    ("safe ≥ .95", "safe_95", lambda x: x >= 0.85),
    ("< .90", "safe_below_90", lambda x: x <= 0.02),
    ("null", "safe_null", lambda x: x <= 0.05),
    ("rec. ≥ .95", "recommended_95", lambda x: x >= 0.85),
    ("< .90", "recommended_below_90", lambda x: x <= 0.02),
    ("null", "recommended_null", lambda x: x <= 0.02),
    ("moved, if said", "moved_where_said", lambda x: x >= 0.9),
    ("if not", "moved_where_not_said", lambda x: x <= 0.1),
)


def cell(row: dict[str, Any], name: str, good: Callable[[float], bool]) -> str:
    value = row[name]
    if value is None:
        return "–"
    text = f"{value:.2f}" if name == "p_at_eta" else f"{value:.3f}"
    return text if good(value) else f"**{text}**"


def main() -> None:
    results, page = Path(sys.argv[1]), Path(sys.argv[2])
    names = ["task", "seeds", "replays", *(title for title, _, _ in COLUMNS), "budgets"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in sorted(json.loads(results.read_text())["tasks"], key=lambda row: row["task"]):
        cells = [row["task"], str(row["seeds"]), str(row["measurements"])]
        cells += [cell(row, name, good) for _, name, good in COLUMNS]
        lines.append("| " + " | ".join([*cells, f"{row['search']:.0f}"]) + " |")
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}")


if __name__ == "__main__":
    main()
