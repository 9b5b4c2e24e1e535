"""Write the calibration table of docs/reliability.md from what `replay.py` wrote.

    python benchmarks/calibration.py benchmarks/results/replay.json docs/reliability.md

Replaces what stands between the two marks in the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- calibration -->", "<!-- /calibration -->"
NULLS = {"p_at": "eta_null", "safe": "safe_null", "reco": "recommended_null"}
"""Share of replays that a column leaves out, by how its name begins."""
LEGEND = (
    "*Bold: misses its goal. ±: Monte Carlo error. In brackets: of how many replays a share is,\n"
    "where not of all. Error of log η_50: that of the table's own, from its few seeds.*"
)
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
    """A number as it is printed, by which it is judged, too."""
    if row[name] is None:
        return "–"
    text = f"{row[name]:.2f}" if name == "p_at_eta" else f"{row[name]:.3f}"
    number = among(row, name)
    after = f" ±{row['covers_error']:.3f}" if name == "covers" else ""
    after += "" if number == row["measurements"] else f" ({number})"
    return (text if good(float(text)) else f"**{text}**") + after


def among(row: dict[str, Any], name: str) -> int:
    """How many replays a share is of."""
    if name.startswith("moved"):
        return int(row["not_said" if "not" in name else "said"])
    null = NULLS.get(name[:4])
    left = 0.0 if null is None or name == null else row[null]
    return round((1 - left) * row["measurements"])


def write(results: Path, page: Path) -> None:
    """Write the table of a file of results into a page."""
    titles = [title for title, _, _ in COLUMNS]
    names = ["task", "seeds", "error of log η_50", "replays", *titles, "budgets"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in sorted(json.loads(results.read_text())["tasks"], key=lambda row: row["task"]):
        error = row["reference_error"]
        cells = [row["task"], str(row["seeds"]), "–" if error is None else f"{error:.3f}"]
        cells += [str(row["measurements"]), *(cell(row, name, good) for _, name, good in COLUMNS)]
        lines.append("| " + " | ".join([*cells, f"{row['search']:.0f}"]) + " |")
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join(lines)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{LEGEND}\n\n{END}{after}")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
