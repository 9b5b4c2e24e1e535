"""From the brackets of several seeds to η* of the network: median, interval, p(η)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from etastar.problem.trial import Outcome
from etastar.search.base import SeedResult, Status

LEVEL = 0.95
"""Confidence level of every interval."""
DRAWS = 10_000
"""Bootstrap replicates: the interval's ends then wander by about 1 % of its width."""


@dataclass(frozen=True)
class EtaStar:
    """η*: learning rates, None where the range or the runs do not determine them, and what ends it.

    Attributes:
        median: Median over seeds of the geometric mean of the bracket. Under `curve` η_50: where p
            falls through one half, the median of its posterior.
        ci_low: Lower end of its 95 % interval. That of brackets is a bootstrap interval over seeds
            and within brackets. It lies in the range of the seeds, whose level is `1 − 2^(1−m)`:
            75 % for three, 93.8 % for five.
        ci_high: Upper end.
        safe: The one-sided 90 % lower bound of the rate where p(η) falls through 0.95; None where
            it is not known, as brackets of single seeds do not tell it, and where runs may be too
            slow there.
        set_by: What ends η*, by the rule of docs/concepts.md; None where η* is not known or
            nothing failed above it. Under `curve` it is `budget` where η_50 would lie above its
            interval with twice the budget, judged by the steps of the runs that trained. Of
            brackets it is `budget` where more than half end at a run that was short of the
            threshold. Otherwise it is `stability`.
    """

    median: float | None
    ci_low: float | None
    ci_high: float | None
    safe: float | None = None
    set_by: Literal["budget", "stability"] | None = None


@dataclass(frozen=True)
class SuccessAt:
    """How the seeds fared at one learning rate.

    Attributes:
        lr: η.
        trained, diverged, dead, short: Seeds that were trained at this rate, by outcome.
        inferred_trained: Seeds not tried here whose bracket lies above.
        inferred_failed: Seeds not tried here whose bracket lies below.
        p: Fraction of all these seeds that train.
        ci_low: Lower end of the exact (Clopper–Pearson) 95 % binomial interval.
        ci_high: Upper end.
    """

    lr: float
    trained: int
    diverged: int
    dead: int
    short: int
    inferred_trained: int
    inferred_failed: int
    p: float
    ci_low: float
    ci_high: float


def eta_star(results: Sequence[SeedResult], *, seed: int = 0) -> EtaStar:
    """Median η* over seeds with its bootstrap interval.

    A seed whose whole range trains counts as +∞ and one where nothing trains as −∞: they hold
    their place in the order of seeds, and where the median or an end of its interval falls on one,
    that number is None. The bootstrap resamples seeds, and for each draws log η* uniformly from its
    bracket, so that both sources of uncertainty are in the interval.

    Args:
        results: One per seed, at least one.
        seed: Of the bootstrap.

    Returns:
        The estimates. The interval is None for a single seed.
    """
    lows, highs = _log_brackets(results)
    median = float(np.exp(_median((lows + highs) / 2)))
    ci = (math.inf, math.inf)
    if len(results) > 1:
        rng = np.random.default_rng(seed)
        chosen = rng.integers(len(results), size=(DRAWS, len(results)))
        part = rng.random(chosen.shape)
        widths = np.zeros_like(lows)
        np.subtract(highs, lows, out=widths, where=np.isfinite(lows))
        medians = _median(lows[chosen] + part * widths[chosen])
        tail = (1 - LEVEL) / 2
        ends = np.quantile(medians, [tail, 1 - tail], method="inverted_cdf")
        ci = (float(np.exp(ends[0])), float(np.exp(ends[1])))
    middle, low, high = (value if 0 < value < math.inf else None for value in (median, *ci))
    reasons = [result.hi_outcome for result in results if result.hi_outcome]
    if not reasons:
        return EtaStar(middle, low, high)
    short = 2 * reasons.count("short") > len(reasons)
    return EtaStar(middle, low, high, set_by="budget" if short else "stability")


def level_of(seeds: int) -> float:
    """Return the level of an interval of the median of so many seeds that lies in their range.

    The median of all seeds is outside the range of m of them with probability `2^(1−m)`.
    """
    return min(LEVEL, 1 - 2.0 ** (1 - seeds))


def success_curve(
    results: Sequence[SeedResult], tried: Sequence[Mapping[float, Outcome]]
) -> list[SuccessAt]:
    """p(η) at every rate that some seed tried, ascending, split by the cause of failure.

    Searches try a rate on some seeds only. For the others the bracket decides, as if trainability
    were monotone there; those seeds are counted apart, so that what was seen and what was inferred
    can be told.

    Args:
        results: One per seed.
        tried: The outcomes that each seed's search used, by rate, in the order of `results`.

    Returns:
        A point per rate, with an exact binomial interval.
    """
    curve = []
    for lr in sorted({rate for outcomes in tried for rate in outcomes}):
        counts = dict.fromkeys(("trained", "diverged", "dead", "short"), 0)
        above = below = 0
        for result, outcomes in zip(results, tried, strict=True):
            if lr in outcomes:
                counts[outcomes[lr].kind] += 1
            elif result.lo is not None and lr < result.lo:
                above += 1
            elif result.hi is None or lr > result.hi:
                below += 1
        seeds = sum(counts.values()) + above + below
        good = counts["trained"] + above
        low, high = _interval(good, seeds)
        curve.append(
            SuccessAt(
                lr=lr,
                **counts,
                inferred_trained=above,
                inferred_failed=below,
                p=good / seeds,
                ci_low=low,
                ci_high=high,
            )
        )
    return curve


@lru_cache(maxsize=4096)
def _interval(good: int, seeds: int) -> tuple[float, float]:
    """The exact binomial interval; a study asks for the same few again and again."""
    from scipy.stats import binomtest

    interval = binomtest(good, seeds).proportion_ci(LEVEL)
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of log η*, about the relative spread; None where not measured.

    Attributes:
        total: Over seeds that change all that seeds change here.
        order: Over orders of the data (and random numbers of training) from one initialisation.
        initialisation: What is left of the total: `√(total² − order²)`, at least 0.
    """

    total: float | None
    order: float | None
    initialisation: float | None


def spread_of(
    results: Sequence[SeedResult], same_model: Sequence[SeedResult] | None, varies_model: bool
) -> Spread:
    """Return the sources of spread.

    Args:
        results: One per seed.
        same_model: Of the first initialisation under every order; None if not measured.
        varies_model: Whether seeds change the initialisation.
    """
    total = _log_spread(results)
    if not varies_model:
        return Spread(total, total, None)
    order = None if same_model is None else _log_spread(same_model)
    if total is None or order is None:
        return Spread(total, order, None)
    return Spread(total, order, math.sqrt(max(0.0, total**2 - order**2)))


def _log_spread(results: Sequence[SeedResult]) -> float | None:
    """Return the standard deviation of log η* over the seeds with a bracket, if there are two."""
    logs = [math.log(r.lo * r.hi) / 2 for r in results if r.lo and r.hi]
    return float(np.std(logs, ddof=1)) if len(logs) > 1 else None


def middle_bracket(
    results: Sequence[SeedResult],
) -> tuple[Status, float | None, float | None]:
    """Return status and bracket of the median seed.

    Seeds are ordered by the geometric mean of their brackets, those that train nowhere first and
    those that train everywhere last. For an even number the two middle brackets are averaged
    geometrically; if one of them is unbracketed, its status counts.

    Args:
        results: One per seed.
    """

    def place(result: SeedResult) -> float:
        if result.lo is None:
            return -math.inf
        return math.inf if result.hi is None else math.log(result.lo * result.hi)

    ordered = sorted(results, key=place)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    for status in ("none-trained", "all-trained"):
        if any(result.status == status for result in middle):
            return status, None, None
    if len(middle) == 1:
        return "bracketed", middle[0].lo, middle[0].hi
    lows, highs = ([math.log(end) for r in middle if (end := getattr(r, e))] for e in ("lo", "hi"))
    return "bracketed", math.exp(sum(lows) / 2), math.exp(sum(highs) / 2)


def _median(values: np.ndarray) -> np.ndarray:
    """Median over the last axis: see `middle`."""
    ordered = np.sort(values, axis=-1)
    size = ordered.shape[-1]
    return middle(ordered[..., (size - 1) // 2], ordered[..., size // 2])


def middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the mean of the two middle logarithms of each sample: the rule of every η* of seeds.

    A seed that trains nowhere is −∞, and the median with it; one that trains everywhere is ∞.

    Args:
        low: The lower one; the same as `high` where the sample is odd.
        high: The upper one.
    """
    nowhere = np.isneginf(low)
    return np.asarray(np.where(nowhere, low, (np.where(nowhere, 0.0, low) + high) / 2))


def _log_brackets(results: Sequence[SeedResult]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of log η* of each seed; (∞, ∞) where all of the range trains, (−∞, −∞) where none."""
    ends = []
    for result in results:
        if result.lo is None:
            ends.append((-math.inf, -math.inf))
        elif result.hi is None:
            ends.append((math.inf, math.inf))
        else:
            ends.append((math.log(result.lo), math.log(result.hi)))
    lows, highs = zip(*ends, strict=True)
    return np.array(lows), np.array(highs)
