"""The rows of `finders.py` as tables in docs/finders.md and README.md, and as a figure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from finders_tasks import SUITE, Problem
from finders_ways import OF_A_TASK, steps
from matplotlib import pyplot as plt

from etastar.report.style import INK, MUTED, SERIES, STYLE, fixed, number, percent

FIELDS = tuple(field.name for field in fields(Problem))
ROOT = Path(__file__).parent.parent
TRAIN, SLOWER = 0.95, 1.15
"""The goals: the share of fresh seeds that train, and steps ÷ the best rate's, at most."""
LABELS = {
    "etastar": "**etastar**, recommended rate",
    "half of 0.1.0's η*": "half of 0.1.0's η\\*",
    "best": "fastest rate of a grid",
    "pytorch-lr-finder": "pytorch-lr-finder",
    "Lightning": "Lightning's finder",
    "Prodigy": "Prodigy",
    "schedule-free": "schedule-free AdamW",
    "AdamW 1e-3": "AdamW at 1e-3",
    "SGD 0.1": "SGD at 0.1",
}
ORDER = tuple(LABELS)
IN_README = ("etastar", "best", "Prodigy", "pytorch-lr-finder", "AdamW 1e-3")
BY_TASK = ("etastar", "half of 0.1.0's η*", "pytorch-lr-finder", "Prodigy", "AdamW 1e-3", "SGD 0.1")


@dataclass(frozen=True)
class Score:
    """A way on a task.

    Attributes:
        problem: What is trained.
        optimizer: Of the task.
        trained: Share of the fresh seeds that meet the threshold within the budget.
        slower: Mean steps to the threshold ÷ those at the best rate; a seed that does not meet it
            counts as the whole budget in both.
        behind: Mean score at the end minus that of the rate that ends best; None without a rate.
        error: The standard error of `behind`, from differences seed by seed.
        cost: Steps of finding ÷ the budget.
    """

    problem: Problem
    optimizer: str
    trained: float
    slower: float
    behind: float | None
    error: float
    cost: float

    @property
    def close(self) -> bool:
        """Whether the end is within one standard error of the best."""
        return self.behind is not None and self.behind >= -self.error


def scores(rows: list[dict[str, Any]]) -> dict[str, list[Score]]:
    """Every way on every task whose best rate and way are there."""
    found = {(row["way"], row["optimizer"], *map(row.get, FIELDS)): row for row in rows}
    table: dict[str, list[Score]] = {way: [] for way in ORDER}
    for problem, optimizers in SUITE.items():
        settings = tuple(asdict(problem).values())
        for optimizer in optimizers:
            best = found.get(("best", optimizer, *settings))
            for way in ORDER:
                row = found.get((way, optimizer if way in OF_A_TASK else None, *settings))
                if row and best:
                    table[way].append(score(problem, optimizer, row, best))
    return table


def score(problem: Problem, optimizer: str, row: dict[str, Any], best: dict[str, Any]) -> Score:
    """Compare the runs of a way with those at the best rates, on the same fresh seeds."""
    runs = row["runs"]
    apart = [
        run["end"] - other["end"]
        for run, other in zip(runs, best["runs_end"], strict=True)
        if run["end"] is not None
    ]
    return Score(
        problem,
        optimizer,
        sum(run["step"] is not None for run in runs) / len(runs),
        steps(problem, runs) / steps(problem, best["runs"]),
        statistics.fmean(apart) if apart else None,
        statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0,
        row["cost"] / problem.budget,
    )


def summary(table: dict[str, list[Score]], ways: Sequence[str]) -> str:
    """One line per way, over all tasks."""
    lines = [
        "| | fresh seeds that train | steps ÷ best rate's | final score − best's, points "
        "| cost, budgets | tasks that meet the goals: train, steps, final |",
        "|---|---|---|---|---|---|",
    ]
    for way in ways:
        if not (of := table[way]):
            continue
        behind = [100 * s.behind for s in of if s.behind is not None]
        final = fixed(statistics.fmean(behind), 1)
        if len(behind) > 1:
            final += f" ± {fixed(statistics.stdev(behind) / math.sqrt(len(behind)), 1)}"
        met = (
            sum(s.trained >= TRAIN for s in of),
            sum(s.slower <= SLOWER for s in of),
            sum(s.close for s in of),
        )
        cost = [s.cost for s in of]
        dear = f"{number(statistics.median(cost), 2)} ({number(max(cost), 2)})" if any(cost) else 0
        lines.append(
            f"| {LABELS[way]} | {share(of)} | {fixed(geometric(of))} "
            f"| {final} | {dear} "
            f"| {met[0]}, {met[1]}, {met[2]} of {len(of)} |"
        )
    return "\n".join(lines)


def share(of: list[Score]) -> str:
    """Over all seeds of all tasks; less than all is never told as 100 %."""
    mean = 100 * statistics.fmean(s.trained for s in of)
    return f"{fixed(mean, 1 if 99.5 <= mean < 100 else 0)} %"


def geometric(of: list[Score]) -> float:
    """Mean of the ratios of steps."""
    return statistics.geometric_mean(s.slower for s in of)


def patience(rows: list[dict[str, Any]]) -> str:
    """What needs no finding, given one budget and four: how many fresh seeds train."""
    lines = ["| | in one budget | in four | steps, in budgets: median |", "|---|---|---|---|"]
    for way in ("Prodigy", "AdamW 1e-3"):
        one, four = ([r for r in rows if r["way"] == w] for w in (way, f"{way}, 4 budgets"))
        shares = [
            percent(statistics.fmean(run["step"] is not None for r in some for run in r["runs"]))
            for some in (one, four)
            if some
        ]
        needed = [run["step"] / r["budget"] for r in four for run in r["runs"] if run["step"]]
        if needed and len(shares) == 2:
            text = " | ".join(shares).replace("\u202f", " ")
            lines.append(f"| {LABELS[way]} | {text} | {fixed(statistics.median(needed))} |")
    return "\n".join(lines)


def by_task(table: dict[str, list[Score]]) -> str:
    """One line per task: share that trains, steps ÷ best's, and points at the end."""
    lines = [
        "| task | " + " | ".join(LABELS[way] for way in BY_TASK) + " |",
        "|---" * (1 + len(BY_TASK)) + "|",
    ]
    cells: dict[str, dict[str, str]] = {}
    for way in BY_TASK:
        for s in table[way]:
            task = f"{s.problem.name}, {s.optimizer}"
            behind = (
                "–" if s.behind is None else f"{fixed(100 * s.behind, 1)}{'' if s.close else '!'}"
            )
            cells.setdefault(task, {})[way] = (
                f"{percent(s.trained)}; {fixed(s.slower)}; {behind}".replace("\u202f", " ")
            )
    for task, found in cells.items():
        lines.append(f"| {task} | " + " | ".join(found.get(way, "") for way in BY_TASK) + " |")
    return "\n".join(lines)


def by_kind(table: dict[str, list[Score]]) -> str:
    """The same over the tasks with an optimizer of one kind."""
    kinds = {
        "SGD": ("SGD",),
        "momentum": ("momentum",),
        "Adam, AdamW, RMSprop": ("Adam", "AdamW", "RMSprop"),
    }
    lines = ["| | " + " | ".join(kinds) + " |", "|---" * (1 + len(kinds)) + "|"]
    for way in ORDER:
        cells = []
        for names in kinds.values():
            of = [s for s in table[way] if s.optimizer in names]
            behind = [100 * s.behind for s in of if s.behind is not None]
            final = fixed(statistics.fmean(behind), 1) if behind else "–"
            cells.append(f"{share(of)}; {fixed(geometric(of))}; {final}" if of else "–")
        lines.append(f"| {LABELS[way]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def blocks(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    """The tables, by the file and the name of the mark between which they stand."""
    table = scores(rows)
    return {
        ROOT / "docs" / "finders.md": {
            "summary": summary(table, ORDER),
            "patience": patience(rows),
            "kinds": by_kind(table),
            "tasks": by_task(table),
        },
        ROOT / "README.md": {"finders": summary(table, IN_README)},
    }


def marked(text: str, name: str, block: str) -> str:
    """Put a block between its two marks in a text."""
    begin, finish = f"<!-- {name}: benchmarks/finders.py --report -->\n", f"\n<!-- /{name} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(finish)
    if len(re.findall(pattern, text, re.DOTALL)) != 1:
        raise SystemExit(f"There must be one pair of marks {begin.strip()} … {finish.strip()}.")
    return re.sub(pattern, lambda _: begin + block + finish, text, flags=re.DOTALL)


def report(rows: list[dict[str, Any]]) -> None:
    """Print the summary, and write tables and figure."""
    for path, found in blocks(rows).items():
        text = path.read_text()
        for name, block in found.items():
            text = marked(text, name, block)
        path.write_text(text)
    print(summary(scores(rows), ORDER))
    draw(scores(rows), ROOT / "docs" / "images" / "finders.png")


PANELS: tuple[tuple[str, Callable[[Score], float | None], float], ...] = (
    ("fresh seeds that train, %", lambda s: 100 * s.trained, 100 * TRAIN),
    ("steps to the threshold ÷ best rate's", lambda s: s.slower, SLOWER),
    ("final score − best's, points", lambda s: None if s.behind is None else 100 * s.behind, 0),
)


def draw(table: dict[str, list[Score]], path: Path) -> None:
    """One dot per task and way, the mean as a bar, the goal as a line."""
    ways = [way for way in ORDER if table[way]]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.4), sharey=True, layout="constrained")
        for ax, (label, value, goal) in zip(axes, PANELS, strict=True):
            ax.axvline(goal, color=SERIES[2], lw=1.2, zorder=0)
            for row, way in enumerate(ways):
                values = [v for s in table[way] if (v := value(s)) is not None]
                spread = [row + 0.5 * ((i * 0.618) % 1 - 0.5) for i in range(len(values))]
                colour = SERIES[0] if way == "etastar" else MUTED
                ax.scatter(values, spread, s=9, color=colour, alpha=0.6, lw=0)
                ax.plot(
                    [statistics.median(values)] * 2, [row - 0.38, row + 0.38], color=INK, lw=1.6
                )
            ax.set_xlabel(label)
            ax.tick_params(axis="y", length=0)
        axes[1].set_xscale("log")
        axes[1].set_xticks((0.5, 1, 2, 5, 10), ("0.5", "1", "2", "5", "10"), minor=False)
        axes[1].minorticks_off()
        names = [LABELS[way].replace("**", "").replace("\\", "") for way in ways]
        axes[2].set_xscale("symlog", linthresh=1)
        axes[2].set_xticks((-100, -10, -1, 0, 1), ("−100", "−10", "−1", "0", "1"))
        axes[0].set_yticks(range(len(ways)), names)
        axes[0].set_ylim(len(ways) - 0.5, -0.5)
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)
