"""What is unusual about a measured curve, and what is missing from it, each in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.special import pdtrc

from etastar.search.choosing import enough
from etastar.search.curve_blocks import Remark
from etastar.search.curve_counts import cause_of
from etastar.search.curve_fit import FEWEST as FEWEST_TRIALS
from etastar.search.curve_fit import PEAK_FEWEST, PEAK_RADIUS, SAFE, Fit
from etastar.search.curve_placing import NEAR, best_point
from etastar.search.curve_state import CurveState

BIN, REACH, FEWEST = 0.08, 1.2, 4
"""Where p is compared: bins of this width in log η, groups of neighbouring bins of at most this
reach, and the fewest runs of a group."""
RISE = 1e-4
"""Fisher's exact p-value below which p is said to rise with η: hundreds of overlapping pairs of
clusters are compared."""
TRIALS = 2 * FEWEST_TRIALS + PEAK_FEWEST
"""Whole trials after which a search can end, or say that half train nowhere."""
FAR, SURPRISE = 0.02, 1e-3
"""An island lies where the fit has p below `FAR`; so improbable must its trained runs be there."""


def remarks(curve: CurveState, fit: Fit) -> Iterator[Remark]:
    """Say what is unusual or missing.

    Args:
        curve: The strategy.
        fit: To all its whole runs.
    """
    if not curve.whole:
        first = min(curve.options.round_size, curve.options.trials)
        budget = curve.options.max_steps
        needed = (curve.options.before + max(curve.spent(), budget)) / budget + first
        smaller = ", or a smaller round_size" * (first > 1)
        yield Remark(
            "cap",
            f"The cap on budgets left no room for the first round of {first} whole "
            f"trial{'s' * (first > 1)}: that needs about {math.ceil(needed)} budgets{smaller}.",
        )
        return
    yield from _range(curve, fit)
    yield from _cap(curve, fit)
    yield from _shape(curve, fit)
    yield from _choice(curve, fit)
    if curve.options.only_order:
        yield Remark(
            "only-order",
            "Only the order of the data varied: p is the probability over orders, for these "
            "initial weights.",
        )


def _range(curve: CurveState, fit: Fit) -> Iterator[Remark]:
    options, middle = curve.options, float(fit.eta_50()[1])
    first, last = fit.tried_range()
    lowest = curve.lattice.rate(first)
    ends = {cause_of(outcome) or "trained" for i, _, outcome in curve.whole if i == first}
    if curve.ended_by == "nowhere" or fit.without_half():
        text = "No rate was found at which half of the runs train"
        text += "." if fit.seen else f"; none of {len(curve.whole)} did at any rate tried."
        if curve.ended_by == "nowhere" or fit.nowhere_half() or fit.peak_below_half():
            text += f" {_remedy(curve, fit, lowest, ends)}"  # else the cap left that open
        yield Remark("nowhere-half", text)
    elif middle >= curve.lattice.cells and last == curve.lattice.cells:
        yield Remark(
            "above-range",
            f"More than half of the runs train even at the highest rate, {options.end_lr:g}: η* "
            "lies above the range. Raise end_lr.",
        )
    elif middle <= 0 and first == 0:
        remedy = "η* lies below the range, if anywhere. Lower start_lr."
        if "slow" in ends:
            remedy = (
                "the lowest rates are too slow. Raise the budget, or make the threshold easier."
            )
        yield Remark(
            "below-range",
            f"Less than half of the runs train even at the lowest rate, {lowest:.4g}: {remedy}",
        )
    elif curve.ended_by == "precision" and fit.eta_50()[2] > curve.lattice.cells:
        yield Remark(
            "above-range",
            f"The interval of η* is open above: it ends beyond the highest rate, "
            f"{options.end_lr:g}. Raise end_lr.",
        )
    elif curve.ended_by == "precision" and fit.eta_50()[0] < 0:
        yield Remark(
            "below-range",
            f"The interval of η* is open below: it ends beyond the lowest rate, "
            f"{options.start_lr:g}. Lower start_lr.",
        )


def _remedy(curve: CurveState, fit: Fit, lowest: float, ends: set[str]) -> str:
    """What may help where no half of the runs train: by where the best were, and what failed."""
    peak = fit.peak() if fit.seen else None
    best = best_point(curve.whole, 0.0) if peak is None else peak[0]
    at_bottom = best <= fit.tried_range()[0] + NEAR / curve.step
    unstable = {"diverged", "dead", "collapsed"}
    if not fit.seen and (not fit.counts.slow.any() or (ends <= unstable and at_bottom)):
        how = " or ".join(sorted(ends & unstable))  # a longer budget helps none of these
        return f"Even at the lowest rate tried, {lowest:.4g}, runs {how}: lower start_lr."
    if best >= curve.lattice.cells - PEAK_RADIUS / curve.step:
        return "The best lie at the top of the range: raise end_lr."
    if fit.seen and best <= PEAK_RADIUS / curve.step:
        return "The most train at the bottom of the range: lower start_lr."
    if not fit.counts.failures[:2].any():
        return "No run was unstable: raise end_lr, raise the budget, or make the threshold easier."
    return "Make the threshold easier, or raise the budget."


def _cap(curve: CurveState, fit: Fit) -> Iterator[Remark]:
    if curve.ended_by not in ("trials", "budgets"):
        return
    options, runs = curve.options, len(curve.whole)
    goal, reach, unknown = math.log1p(options.precision), fit.reach(), fit.without_half()
    name = "cap of trials" if curve.ended_by == "trials" else "cap on budgets"
    if reach <= goal and fit.enough() and not unknown:
        before = "it was clear where the most train"
        if fit.safe_is_open():
            before = "a safe rate was settled"
        elif options.slow_edge:
            before = "the slow edge was known"
        yield Remark("cap", f"The {name} ended the search before {before}.")
        return
    needed = max(runs + 1, TRIALS) if unknown else fit.needed(goal)
    low, _, high = fit.eta_50()
    far, (first, last) = "is open", fit.tried_range()
    if first - 0.5 <= low and high <= last + 0.5:
        far = f"reaches a factor {math.exp(reach):.2f} to a side"
    begins = f"The {name} ended the search after {runs} whole trial{'s' * (runs > 1)}: "
    if unknown:
        text = "to say whether any rate trains half of the runs needs"
    else:
        text = f"the interval of η* {far}. A factor {1 + options.precision:.2f} would need"
        if reach <= goal:
            text = f"the interval of η* {far}, but rests on too few of them. Enough would be"
    budgets = _budgets(curve, needed, confirmed=not unknown)
    told = f"{begins}{text} about {needed} whole trials, {math.ceil(budgets)} budgets."
    if options.budgets is not None and curve.ended_by == "budgets":
        left = options.budgets - (options.before + curve.spent()) / options.max_steps
        if 1 <= left < options.round_size:
            told += f" A smaller round_size would use the {left:.1f} that are left."
    yield Remark("cap", told)


def _budgets(curve: CurveState, trials: int, *, confirmed: bool) -> float:
    """Budgets of a search of so many whole trials, which cost what those so far did each."""
    whole = {trial for _, trial, _ in curve.whole}
    searched = curve.steps_of(run for run in curve.runs() if run[0] in whole)
    steps = curve.options.before + curve.steps_of(curve.located) + searched * trials / len(whole)
    return steps / curve.options.max_steps + curve.options.confirm * confirmed


def _shape(curve: CurveState, fit: Fit) -> Iterator[Remark]:
    rate, found, far = curve.lattice.rate, rise(fit), island(fit)
    if far is not None:
        yield Remark(
            "island",
            f"Runs train at {rate(far):.3g}, far above η*, more often than a falling curve allows: "
            "an island. It does not count.",
        )
    elif found is not None:
        low, high = found
        yield Remark(
            "two-windows",
            f"p rises with the rate: fewer runs train at {rate(low):.3g} than at {rate(high):.3g}. "
            "There are two windows; η* is that of the upper one, and the curve was fitted as one "
            "falling edge.",
        )
    if fit.counts.trained.any() and not fit.safe() >= 0:
        at, mass, nowhere = fit.posterior.distribution(SAFE)
        nowhere += float(mass[at < 0].sum())  # below the range
        text = f"The probability that there is none is {nowhere:.2f}."
        if found is not None and far is None:
            text = "There may be one: a single falling edge does not tell."
        seen = f"No rate is known to train 95 % of fresh runs{_most(curve, fit)}."
        yield Remark("no-safe-rate", f"{seen} {text}")
    elif fit.no_width() and not fit.without_half():
        has = "has no width" if fit.empty() else "may have no width"
        if any(attempt.passed for attempt in curve.attempts):
            has = "is narrow, and its ends are not known beside the recommended rate"
        why = f"slower ones are too slow for the budget, faster ones unstable{_most(curve, fit)}. "
        remedy = "Raise the budget."
        if not fit.counts.failures[:2].any():
            has, why = "is known on one side only", f"no run was unstable{_most(curve, fit)}. "
            remedy = "Raise end_lr, or make more trials."
        yield Remark("no-width", f"The window {has}: {why}{remedy}")


def _most(curve: CurveState, fit: Fit) -> str:
    """Where the most trained, and how many."""
    peak = fit.peak()
    rate = None if peak is None else curve.lattice.rate(peak[0])
    return f"; the most were {peak[1]} of {peak[2]} about {rate:.3g}" if peak else ""


def _choice(curve: CurveState, fit: Fit) -> Iterator[Remark]:
    options = curve.options
    point = curve.attempts[-1].point if curve.attempts else curve.untried()
    if point is None:
        if fit.safe() >= 0 and not (fit.no_width() or fit.without_half()):
            why = "no whole runs were made that train below the safe rate."
            if fit.safe() < fit.tried_range()[0]:
                why = "what so few runs show to be safe lies below the lowest rate tried."
            yield Remark("not-recommended", f"No rate is recommended: {why}")
        return
    if not options.counts_steps:
        yield Remark(
            "no-steps",
            "Nothing is known of steps to the threshold: the recommended rate is 0.8 of the lower "
            "bound of η_95.",
        )
    elif fit.slow.upper is None and not (options.slow_edge and fit.trains_at_bottom()):
        yield Remark(
            "floor-seen",
            f"The slow edge was not {'found' if options.slow_edge else 'looked for'}: rates below "
            "the lowest that was seen to train were not considered.",
        )
    if not options.confirm:
        return
    if not curve.attempts:
        yield Remark("not-confirmed", "The search ended before the recommended rate was confirmed.")
    elif not curve.attempts[-1].passed:
        tried = len(curve.attempts[-1].runs)
        yield Remark(
            "not-confirmed",
            f"No rate was confirmed: none of {len(curve.attempts)} attempts had "
            f"{enough(tried)} of {tried} runs train.",
        )


def rise(fit: Fit) -> tuple[int, int] | None:
    """The clearest pair of rates of which the higher trains more often, fast failures only.

    Args:
        fit: To all whole runs.

    Returns:
        Lattice points, the lower rate first; None where p is not known to rise.
    """
    points = np.flatnonzero(fit.counts.tried)
    points = points[points > fit.slow.last]
    bins = np.round(points * fit.step / BIN).astype(int)
    at, first = np.unique(bins, return_index=True)
    trained = np.add.reduceat(fit.counts.trained[points], first).astype(int) if len(at) else at
    tried = np.add.reduceat(fit.counts.tried[points], first).astype(int) if len(at) else at
    groups = [
        (i, j, int(trained[i:j].sum()), int(tried[i:j].sum()))
        for i in range(len(at))
        for j in range(i + 1, len(at) + 1)
        if (at[j - 1] - at[i]) * BIN <= REACH and tried[i:j].sum() >= FEWEST
    ]
    best, found = RISE, None
    for low, end, k, n in groups:
        for begin, high, more, of in groups:
            if begin != end or more * n <= 2 * k * of:
                continue
            chance = fisher(more, of, k, n)
            if chance < best:
                best, found = chance, ((at[low] + at[end - 1]) / 2, (at[begin] + at[high - 1]) / 2)
    if found is None:
        return None
    return round(found[0] * BIN / fit.step), round(found[1] * BIN / fit.step)


def fisher(more: int, of_more: int, fewer: int, of_fewer: int) -> float:
    """Fisher's exact one-sided p-value: so many more successes in the first of two groups.

    Args:
        more: Successes of the first group.
        of_more: Its size.
        fewer: Successes of the second.
        of_fewer: Its size.
    """
    total, size = more + fewer, of_more + of_fewer
    ways = (
        math.comb(of_more, k) * math.comb(of_fewer, total - k)
        for k in range(more, min(total, of_more) + 1)
    )
    return sum(ways) / math.comb(size, total)


def island(fit: Fit) -> int | None:
    """The lattice point, far above η*, around which runs train against all expectation.

    Args:
        fit: To all whole runs.
    """
    points = np.flatnonzero(fit.counts.tried)
    points = points[points > fit.eta_50()[2]]
    p = fit.posterior.mean(points)
    far = points[p < FAR]
    trained, expected = fit.counts.trained[far], (fit.counts.tried[far] * p[p < FAR]).sum()
    number = int(trained.sum())
    if number < 2 or pdtrc(number - 1, expected) > SURPRISE:
        return None
    return int(round(float((far * trained).sum() / trained.sum())))
