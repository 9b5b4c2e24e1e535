"""The tables of the page, as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from etastar.report.evidence import LEVEL, Evidence, Family, Group
from etastar.report.plots.base import sentence
from etastar.report.plots.spent import cost_rows
from etastar.report.style import count, fixed, for_html, interval, number, percent
from etastar.scaling import FORMS, ComparedForm, HeldOut

FORM_TITLES = {
    "product": "a·(nL)^{b}",
    "separate": "a·n^{b}L^{c}",
    "gradient-norm": "a·E‖∂f‖^{2b}",
    "inverse-width": "a/n (rule)",
    "depth^-3/2": "a·L^{−3/2} (rule)",
}
_LETTERS = {"separate": ["b = ", "c = "]}


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """An HTML table that scrolls sideways where it must.

    Args:
        head: Column titles.
        body: Cells, already safe HTML.
        words: So many columns from the left hold words; the others hold numbers.
    """
    titles = "".join(
        f'<th scope="col"{_align(i, words)}>{title}</th>' for i, title in enumerate(head)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{_align(i, words)}>{cell}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in body
    )
    return (
        f'<div class="wide"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _align(column: int, words: int) -> str:
    return ' class="word"' if column < words else ""


def text(value: object) -> str:
    """Safe HTML, exponents raised, no line break before a per cent sign."""
    return for_html(html.escape(str(value))).replace(" %", "\u202f%")


def fits_table(family: Family) -> str:
    """Every law of every group: exponents, R², information criteria."""
    head = ["conditions", "law for η*", "exponents", "R²", "τ", "ΔAIC", "ΔBIC", "networks"]
    body, notes = [], []
    for group in family.groups:
        comparison = group.comparison
        if comparison.value is None:
            notes.append(f"<p>{text(group.name)}: {text(sentence(comparison.reason))}</p>")
            continue
        rows = comparison.value.rows
        least = min(row.fit.aic for row in rows), min(row.fit.bic for row in rows)
        for row in rows:
            body.append([_once(group, row, rows), *_fit_cells(group, row, least)])
        notes += [
            f"<p>{text(group.name)}, {text(FORMS[form].title)}: {text(sentence(reason))}</p>"
            for form, reason in comparison.value.skipped.items()
        ]
    return (table(head, body, words=3) if body else "") + "".join(notes)


def predictions_table(family: Family) -> str:
    """How well every law, and the rules in use, predict networks that they have not seen."""
    head = ["conditions", "law for η*", "left out: error", "held out: error"]
    head += [f"inside {percent(LEVEL)}", "interval ×", "fitted", "predicted"]
    body = []
    for group in family.groups:
        rows = group.comparison.value.rows if group.comparison.value else ()
        for row in rows:
            held = row.extrapolated
            body.append(
                [
                    _once(group, row, rows),
                    _title(row),
                    _error(row.cross_validated),
                    _error(held),
                    percent(held.coverage) if held else "–",
                    number(held.median_width) if held else "–",
                    str(held.train) if held else "–",
                    str(held.test) if held else "–",
                ]
            )
    return table(head, body, words=2) if body else "<p>No law could be fitted.</p>"


def _once(group: Group, row: ComparedForm, rows: Sequence[ComparedForm]) -> str:
    """The group's name in its first row."""
    return text(group.name) if row is rows[0] else ""


def _title(row: ComparedForm) -> str:
    return text(FORM_TITLES.get(row.form, FORMS[row.form].title))


def _fit_cells(group: Group, row: ComparedForm, least: tuple[float, float]) -> list[str]:
    fit = row.fit
    letters = _LETTERS.get(row.form, [""])
    exponents = "<br>".join(
        f"{letter}{fixed(c.value)} {interval(c.low, c.high)}{_bootstrap(group, row.form, c.name)}"
        for letter, c in zip(letters, fit.coefficients[1:], strict=False)
    )
    return [
        _title(row),
        exponents or "fixed",
        fixed(fit.r2),
        fixed(math.sqrt(fit.tau2)),
        fixed(fit.aic - least[0], 1),
        fixed(fit.bic - least[1], 1),
        str(fit.usage.used),
    ]


def _bootstrap(group: Group, form: str, name: str) -> str:
    """The bootstrap interval over seeds and brackets, where one was drawn."""
    fit = group.law(form).value if form in ("product", "separate") else None
    ends = fit[name].bootstrap if fit else None
    return f' <span class="quiet">{interval(*ends)}</span>' if ends else ""


def _error(held: HeldOut | None) -> str:
    return percent(held.median_error) if held and held.test else "–"


def region_table(family: Family) -> str:
    """How exponents and R² move with a cutoff on n/L, and which cutoff the data support."""
    head = ["conditions", "n/L at least", "networks", "b [95 %]", "c [95 %]", "R²", "left out", "p"]
    body: list[list[str]] = []
    said = []
    for group in family.groups:
        region = group.region.value
        if region is None:
            said.append(f"{text(group.name)}: {text(sentence(group.region.reason))}")
            continue
        if region.tested:
            verdict = (
                f"the exponents no longer move from n/L ≥ {number(region.cutoff)} on "
                f"({count(region.fit.usage.used, 'network')}, R² {fixed(region.fit.r2)})"
            )
        else:
            verdict = (
                f"no region was found: the exponents move up to the strictest cutoff that the "
                f"networks allow, n/L ≥ {number(region.cutoff)}"
            )
        said.append(f"{text(group.name)}: {verdict}.")
        for row in region.rows:
            b, c = row.fit["width"], row.fit["depth"]
            mark = " ←" if row.cutoff == region.cutoff else ""
            body.append(
                [
                    text(group.name),
                    f"{number(row.cutoff)}{mark}",
                    str(row.fit.usage.used),
                    f"{fixed(b.value)} {interval(b.low, b.high)}",
                    f"{fixed(c.value)} {interval(c.low, c.high)}",
                    fixed(row.fit.r2),
                    _error(row.cross_validated),
                    fixed(row.p_value, 3),
                ]
            )
    items = "".join(f"<li>{line}</li>" for line in said)
    details = ""
    if body:
        details = (
            f"<details><summary>All cutoffs ({len(body)} fits)</summary>{table(head, body)}"
            "</details>"
        )
    return f"<ul>{items}</ul>{details}"


def seeds_table(family: Family) -> str:
    """What became of the seeds: brackets, why they end, and what is missing."""
    head = [
        "conditions",
        "networks",
        "seeds",
        "of",
        "bracketed",
        "all trained",
        "none trained",
        "by budget",
        "diverged",
        "dead",
        "re-entries",
        "λ₁ open",
    ]
    body = []
    for group in family.groups:
        ends, total = group.ends, sum(group.ends.values())
        short = f"{ends['short']} ({percent(ends['short'] / total)})" if total else "–"
        measured = [flag for flag in group.rows["lambda1_converged"] if flag is not None]
        body.append(
            [
                text(group.name),
                str(len(group.cells)),
                str(group.measured),
                str(group.wanted),
                str(group.statuses["bracketed"]),
                str(group.statuses["all-trained"]),
                str(group.statuses["none-trained"]),
                short,
                str(ends["diverged"]),
                str(ends["dead"]),
                str(sum(map(bool, group.rows["re_entries"]))),
                str(len(measured) - sum(measured)) if measured else "–",
            ]
        )
    return table(head, body) + unbracketed_table(family)


def unbracketed_table(family: Family) -> str:
    """The networks with seeds that have no bracket, one row each."""
    body = []
    for group in family.groups:
        counts: dict[str, dict[str, int]] = {}
        for identity, status in zip(group.rows["cell"], group.rows["status"], strict=True):
            if status != "bracketed":
                found = counts.setdefault(identity, {"all-trained": 0, "none-trained": 0})
                found[status] += 1
        for cell in group.cells:
            if cell.id in counts:
                found = counts[cell.id]
                body.append(
                    [
                        text(group.name),
                        f"{cell.settings.width} × {cell.settings.depth}",
                        str(found["all-trained"]),
                        str(found["none-trained"]),
                        f"<code>{cell.id}</code>",
                    ]
                )
    if not body:
        return "<p>Every seed has a bracket.</p>"
    head = ["conditions", "network", "all trained", "none trained", "cell"]
    return (
        f"<details><summary>{count(len(body), 'network')} with seeds that have no bracket"
        f"</summary>{table(head, body, words=2)}</details>"
    )


def failures_table(evidence: Evidence) -> str:
    """Cells that were given up, with the error."""
    if not evidence.failures:
        return "<p>No network was given up.</p>"
    body = [
        [text(cell.title), f"<code>{cell.id}</code>", text(error)]
        for cell, error in evidence.failures
    ]
    return table(["network", "cell", "last error"], body, words=3)


def cost_table(family: Family) -> str:
    """Trials, steps and time of every group, and their sum."""
    head = ["conditions", "networks", "seeds", "trials", "trials per seed", "steps", "hours"]
    body = []
    total: list[Any] = [0, 0, 0, 0, 0.0]
    for group in family.groups:
        records = cost_rows(group)
        sums: list[Any] = [
            len(records),
            *(sum(r[name] for r in records) for name in ("seeds", "trials", "steps")),
            _seconds(group),
        ]
        total = [a + b for a, b in zip(total, sums, strict=True)]
        body.append([text(group.name), *_cost_cells(sums)])
    if len(body) > 1:
        body.append(["<b>all</b>", *_cost_cells(total)])
    return table(head, body)


def _seconds(group: Group) -> float:
    """Of η* and λ1; λ1 that several groups share counts for each of them in full."""
    ids = {i for cell in group.cells for i in (cell.id, cell.sharpness_id or "")}
    return sum(group.seconds[i][0] for i in ids if i in group.seconds)


def _cost_cells(sums: Sequence[Any]) -> list[str]:
    networks, seeds, trials, steps, seconds = sums
    return [
        *(f"{value:,}".replace(",", "\u202f") for value in (networks, seeds, trials)),
        fixed(trials / seeds if seeds else None, 1),
        f"{steps:,}".replace(",", "\u202f"),
        fixed(seconds / 3600, 2),
    ]
