"""The findings of a study as sentences with numbers."""

from __future__ import annotations

import math

from etastar.report.evidence import LEVEL, Evidence, Group
from etastar.report.plots.base import sentence
from etastar.report.style import count, fixed, interval, listed, number, percent

REJECTED = 0.05
"""p-value below which equal exponents are called excluded."""


def opening(evidence: Evidence) -> str:
    """What was measured, and how much of it is there."""
    wanted = sum(group.wanted for group in evidence.groups)
    done = len(evidence.rows["seed"])
    networks = len(set(evidence.rows["cell"]))
    steps = sum(evidence.rows["steps"])
    text = (
        f"{count(networks, 'network')} under {count(len(evidence.groups), 'set')} of conditions, "
        f"{count(done, 'seed')} of η* in all, from {count(evidence.trials, 'training run')} and "
        f"{count(steps, 'optimizer step')}."
    )
    if done < wanted:
        text += (
            f" The study is not complete: {count(wanted - done, 'seed')} of {wanted} are still "
            "missing, and what follows may change."
        )
    if evidence.failures:
        text += f" {count(len(evidence.failures), 'network')} could not be measured; see below."
    return text


def finding(group: Group) -> str:
    """Law, exponent, interval, R², held-out error and slope of one group."""
    parts = [_law(group), _separate(group), _held_out(group), _slope(group)]
    parts += [_budget(group), _unbracketed(group)]
    return " ".join(part for part in parts if part)


def _law(group: Group) -> str:
    fit = group.law("product")
    if isinstance(fit, str):
        return f"No law. {sentence(fit)}"
    b = fit["product"]
    return (
        f"η* ∝ (n·L)^{{{fixed(b.value)}}} with a 95 % interval of {interval(b.low, b.high)} and "
        f"R² = {fixed(fit.r2)} over {count(fit.usage.used, 'network')}."
    )


def _separate(group: Group) -> str:
    fit, comparison = group.law("separate"), group.comparison
    if isinstance(fit, str):
        return ""
    n, d = fit["width"], fit["depth"]
    text = (
        f"With exponents of their own, {fixed(n.value)} {interval(n.low, n.high)} for the width "
        f"and {fixed(d.value)} {interval(d.low, d.high)} for the depth, R² = {fixed(fit.r2)}"
    )
    p = math.nan if isinstance(comparison, str) else comparison.equal_exponents
    if math.isfinite(p):
        verdict = "excluded" if p < REJECTED else "not excluded"
        shown = "p < 0.001" if p < 0.001 else f"p = {number(p, 2)}"
        text += f"; equal exponents are {verdict} ({shown})"
    return text + "."


def _held_out(group: Group) -> str:
    parts = []
    for form, name in (("product", "one exponent"), ("separate", "separate exponents")):
        found = group.held_out(form)
        if not isinstance(found, str):
            parts.append(
                f"{name} {percent(found.median_error)} off in the median, "
                f"{percent(found.coverage)} inside the {percent(LEVEL)} intervals"
            )
            tested = found.test
    if not parts:
        return ""
    return (
        f"Predicting the {count(tested, 'network')} beyond a quarter of the largest n·L "
        f"from the smaller ones: {listed(parts)}."
    )


def _slope(group: Group) -> str:
    fit = group.slope
    if isinstance(fit, str):
        return ""
    low, high = fit.corrected.widest
    verdict = "excludes" if fit.excludes(-1.0) else "does not exclude"
    return (
        f"η* against λ₁: slope {fixed(fit.corrected.value)} {interval(low, high)}, which "
        f"{verdict} −1."
    )


def _unbracketed(group: Group) -> str:
    """How many seeds have no bracket: they enter a median by their place alone."""
    above, nowhere = group.statuses["all-trained"], group.statuses["none-trained"]
    said = [f"{above} trained at every rate"] if above else []
    said += [f"{nowhere} trained at none"] if nowhere else []
    return f"Of {count(group.measured, 'seed')}, {listed(said)}." if said else ""


def _budget(group: Group) -> str:
    total = sum(group.ends.values())
    if not total:
        return ""
    share = group.ends["short"] / total
    if share < 0.5:
        return ""
    return f"The budget, not stability, ends {percent(share)} of the brackets."
