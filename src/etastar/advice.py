"""What to know before trusting η*, each point with what to do; written once, for every entry.

Options stand in backticks, in Python's words; the command line writes its own names in their place
(`etastar.cli.options.in_shell`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from etastar.problem.problem import Problem
from etastar.problem.trial import Outcome, Start, Trial
from etastar.result import counted
from etastar.search.base import SeedResult
from etastar.search.curve_blocks import CurveResult

MOST_NAMED = 5
"""Seeds that a note names."""


def advice(
    problem: Problem,
    seeds: Mapping[int, SeedResult],
    trials: Mapping[Trial, Outcome],
    start_lr: float,
    end_lr: float,
) -> list[str]:
    """Return the notes, the most important first.

    Args:
        problem: What was trained.
        seeds: The bracket of each seed.
        trials: Every outcome that a search used.
        start_lr: Lower end of the range searched.
        end_lr: Upper end.
    """
    nans = _nan_note(problem, seeds, trials)
    notes = [_none_note(problem, seeds, trials, start_lr, end_lr, nans), _all_note(seeds, end_lr)]
    if nans and not any(note and nans in note for note in notes):
        notes.append(nans)
    notes.append(_budget_note(seeds))
    if entries := sum(bool(r.re_entries) for r in seeds.values()):
        notes.append(
            f"{entries} of {counted(len(seeds), 'seed')} train above a rate that fails "
            "(re-entry): the boundary is not sharp. To train, take half of η*."
        )
    return [note for note in notes if note]


_OPTION = re.compile(r"(?<= )(start_lr|end_lr|round_size)|(?<=cap of )trials|(?<=cap on )budgets")
"""Options in the remarks of the search, which knows of no entry."""


def curve_advice(found: CurveResult) -> list[str]:
    """Return the notes to a success curve: what is unusual, what ended η*, what is missing.

    Args:
        found: The curve.
    """
    notes = [
        _OPTION.sub(r"`\g<0>`", remark.text)
        .replace("raise the budget", "lengthen the budget (`epochs`)")
        .replace("Raise the budget", "Lengthen the budget (`epochs`)")
        for remark in found.remarks
    ]
    return notes + _end_note(found)


_FAILED = {
    "diverged": "diverged",
    "dead": "died",
    "collapsed": "collapsed",
    "slow": "were too slow",
}


def _end_note(found: CurveResult) -> list[str]:
    """Say what ended the runs above η*, and what a longer budget would change."""
    star = found.eta_star
    if star.median is None or star.set_by is None:
        return []
    above = [point for point in found.curve.points if point.lr > star.median]
    counts = {words: sum(getattr(p, cause) for p in above) for cause, words in _FAILED.items()}
    most = sorted(counts, key=lambda words: -counts[words])
    ends = [f"{words} ({counts[words]})" for words in most if counts[words]]
    ended = f"above η* runs {' or '.join(ends)}: " if ends else ""
    if star.set_by == "budget":
        return [
            f"{ended}η* is set by the budget: by their steps, twice of it is likely to move η* "
            "above its interval. Compare a longer one (`epochs`)."
        ]
    return [
        f"{ended}η* is set by stability: twice the budget is not likely to move it above its "
        "interval."
    ]


def order_note(problem: Problem, starts: Sequence[Start]) -> list[str]:
    """Say so if the seeds can only repeat each other.

    Args:
        problem: What was trained.
        starts: Of the seeds.
    """
    varies = problem.origin.varies or len(starts) < 2
    if varies or problem.train.varies(starts[0].order, starts[1].order):
        return []
    return [
        "the data come in the same order for every seed: seeds differ only where training draws "
        "random numbers. Shuffle the loader, pass tensors or a Dataset, or pass a model factory."
    ]


def _of_status(seeds: Mapping[int, SeedResult], status: str) -> str | None:
    """Return `2 of 3 seeds (0, 2)`; None if there are none."""
    which = [seed for seed, result in seeds.items() if result.status == status]
    if not which:
        return None
    named = ", ".join(map(str, which[:MOST_NAMED])) + ", ..." * (len(which) > MOST_NAMED)
    return f"{len(which)} of {counted(len(seeds), 'seed')} ({named})"


def _all_note(seeds: Mapping[int, SeedResult], end_lr: float) -> str | None:
    who = _of_status(seeds, "all-trained")
    return who and (
        f"{who} trained even at the highest rate, {end_lr:g}: η* lies above the range. Raise "
        "`end_lr`."
    )


def _budget_note(seeds: Mapping[int, SeedResult]) -> str | None:
    bracketed = sum(result.status == "bracketed" for result in seeds.values())
    short = sum(result.hi_outcome == "short" for result in seeds.values())
    if 2 * short <= bracketed:
        return None
    return (
        f"in {short} of {counted(len(seeds), 'seed')} the rate above η* was not unstable, "
        "only short of the threshold when the budget ended: η* is set by the budget. Compare a "
        "longer one (`epochs`)."
    )


def _none_note(
    problem: Problem,
    seeds: Mapping[int, SeedResult],
    trials: Mapping[Trial, Outcome],
    start_lr: float,
    end_lr: float,
    nans: str | None,
) -> str | None:
    """Say which seeds trained nowhere, how near they came, and what would have helped."""
    who = _of_status(seeds, "none-trained")
    if not who or not trials:
        return None
    objective = problem.objective
    lowest = min(trial.lr for trial in trials)
    slow = ", from where on rates were too slow," * (lowest > start_lr)
    told = (
        f"{who} trained at no rate from {end_lr:g} down to {lowest:.4g}{slow} within "
        f"{problem.max_steps} step{'s' * (problem.max_steps > 1)}"
    )
    met = [o.metric for o in trials.values() if o.metric is not None]
    better = max if objective.higher_is_better else min
    best = f"the best run reached {better(met):.4g}" if met else None
    if not met and nans:
        return f"{told}; {nans}"
    bottom = [o for trial, o in trials.items() if trial.lr == lowest]
    if all(o.kind in ("diverged", "dead") for o in bottom):
        return (
            f"{told}; {best or 'every run diverged'}, and even the lowest rate tried, "
            f"{lowest:.4g}, {'died' if bottom[0].kind == 'dead' else 'diverged'}: lower "
            "`start_lr`, or look for NaN in the data."
        )
    closest = best or "no run ended with a metric that is finite"
    return (
        f"{told}; {closest}, the threshold is {objective.threshold:g}. Lengthen the budget "
        "(`epochs`), make the `threshold` easier, or widen the range (`start_lr`, `end_lr`)."
    )


def _nan_note(
    problem: Problem, seeds: Mapping[int, SeedResult], trials: Mapping[Trial, Outcome]
) -> str | None:
    """Say so if a metric of the user's own was not a number near η*; far above it may well be."""
    if not callable(problem.objective.metric):
        return None
    tops = [r.hi for r in seeds.values() if r.hi]
    near = {t: o for t, o in trials.items() if t.lr <= max(tops, default=t.lr)}
    rates = [trial.lr for trial, outcome in near.items() if outcome.nans]
    if not rates:
        return None
    count = sum(outcome.nans for outcome in near.values())
    return (
        f"the metric {problem.objective.name} was not a number at {count} evaluations of "
        f"{len(rates)} runs whose loss was finite, at rates from {min(rates):.4g} to "
        f"{max(rates):.4g}, and NaN never meets the threshold: mend the metric, e.g. a division by "
        "the number of a class never predicted."
    )
