"""The page of a study: one file that needs nothing else, and the figures beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etastar.errors import ConfigError
from etastar.report import page_tables
from etastar.report.chart import Chart
from etastar.report.collect import collect
from etastar.report.criterion import criterion_text
from etastar.report.draw_matplotlib import save_charts
from etastar.report.draw_plotly import interactive, require_plotly
from etastar.report.evidence import Evidence, Family
from etastar.report.page_tables import text
from etastar.report.plots import FIGURES, Drawing
from etastar.report.rows import link
from etastar.report.style import for_plain_text
from etastar.report.summary import findings, opening
from etastar.study.filesystem import as_a_whole
from etastar.study.specification import Study
from etastar.study.store import Store

_HERE = Path(__file__).parent
_TABLES = {
    "fits": ("The laws compared", page_tables.fits_table),
    "predictions": ("Predictions compared", page_tables.predictions_table),
    "region": ("Where the law holds", page_tables.region_table),
    "seeds": ("What became of the seeds", page_tables.seeds_table),
    "cost-table": ("Cost", page_tables.cost_table),
}
_TABLE_NOTES = {
    "fits": (
        "Exponents with 95 % intervals over networks (Student t, robust to the lack of fit); "
        "in grey, over seeds and brackets of these very networks (bootstrap). τ: spread of "
        "ln η* around the law beyond seed noise. ΔAIC, ΔBIC: above the best law of the group, "
        "less is better. a·E‖∂f‖^{2b}: one exponent on the expected squared gradient norm of an "
        "output, which keeps the input layer's share."
    ),
    "predictions": (
        "Left out: median error when every network is predicted from all others. Held out: median "
        "error on the networks beyond a quarter of the largest n·L, predicted from the smaller "
        "ones; with the share inside 90 % intervals, and the median interval's upper over lower "
        "end. Rules: exponents in use elsewhere, of which only a is fitted."
    ),
    "region": (
        "The law with separate exponents, fitted to networks with n/L at least a cutoff: the "
        "loosest cutoff from which no stricter one moves the exponents (p ≥ 0.05) bounds the "
        "region."
    ),
    "seeds": (
        "All trained: the highest rate tried still trains, so η* is above the range. None "
        "trained: no rate of the range trains. By budget: the rate just above η* failed "
        "because the budget was spent, so a longer budget may give a larger η*. Re-entries: seeds "
        "with a failed rate below a trained one. λ₁ open: its iteration did not converge."
    ),
    "cost-table": "Hours of wall-clock time of the tasks, λ₁ included where it was measured.",
}


def write_report(
    study: Study, store: Store, output: Path, *, figures: Path | None = None
) -> list[Path]:
    """Write the page of a study, and its figures for papers.

    Args:
        study: The study.
        store: Its store; whatever it holds so far is shown, and what is missing is said.
        output: The page, e.g. `STUDY.html`; replaced if it exists.
        figures: Folder of the figures as PNG, PDF and SVG; `STUDY-figures` beside the page if
            None. Files of other names in it are left alone.

    Returns:
        All files written, the page first.

    Raises:
        ConfigError: Plotly is not installed, or a file cannot be written.
        StoreError: The store cannot be read.
    """
    require_plotly()
    evidence = collect(study, store)
    folder = figures or output.with_name(f"{output.stem}-figures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        chapters = [_Chapter.of(family, evidence, folder) for family in evidence.families]
        with as_a_whole(output) as partial:
            partial.write_text(_page(evidence, chapters), encoding="utf-8")
    except OSError as error:
        place = error.filename or output
        raise ConfigError(
            f"{place} cannot be written: {error.strerror or error}. Choose another --output."
        ) from None
    return [output, *(path for chapter in chapters for path in chapter.files)]


@dataclass(frozen=True)
class _Chapter:
    """A family on the page.

    Attributes:
        title: Its heading.
        html: Its sections.
        contents: Anchor and title of every section.
        files: The figures that were written.
    """

    title: str
    html: str
    contents: Sequence[tuple[str, str]]
    files: Sequence[Path]

    @classmethod
    def of(cls, family: Family, evidence: Evidence, folder: Path) -> _Chapter:
        """Draw and write all figures of a family."""
        alone = len(evidence.families) == 1
        # what its anchors and files begin with
        key = "" if alone else _slug(family.name, evidence.families.index(family)) + "-"
        criterion = criterion_text(family)
        parts, contents, files = [], [], []
        for name, figure in FIGURES.items():
            drawing = figure.make(family)
            stem = folder / f"{key}{name}"
            if drawing.charts:
                caption = for_plain_text(f"{figure.title}. {drawing.caption} {criterion}")
                files += save_charts(drawing.charts, stem, caption=caption)
            parts.append(_figure(f"{key}{name}", figure.title, drawing, criterion, stem))
            contents.append((f"{key}{name}", figure.title))
        for name, (title, make) in _TABLES.items():
            note = f'<p class="quiet">{text(_TABLE_NOTES[name])}</p>'
            parts.append(f'<h3 id="{key}{name}">{text(title)}</h3>{make(family)}{note}')
            contents.append((f"{key}{name}", title))
        return cls(family.name, "\n".join(parts), contents, files)


def _slug(name: str, place: int) -> str:
    """A name for files and anchors; numbered, so that two families never share one."""
    return f"{place + 1}-{re.sub('[^a-z0-9.]+', '-', name.lower()).strip('-')}"[:60]


def _figure(anchor: str, title: str, drawing: Drawing, criterion: str, stem: Path) -> str:
    """A figure with its interactive panels, its picture for print, caption and rows."""
    missing = f'<p class="missing">{text(drawing.missing)}</p>' if drawing.missing else ""
    if not drawing.charts:
        return f'<h3 id="{anchor}">{text(title)}</h3>{missing}'
    charts = "".join(map(_panel, drawing.charts))
    alternative = html.escape(for_plain_text(f"{title}. {drawing.caption}"), quote=True)
    picture = f'<img class="print" alt="{alternative}" src="{_svg(stem)}">'
    rows = link(drawing.rows, anchor)
    return (
        f'<h3 id="{anchor}">{text(title)}</h3><figure><div class="panels">{charts}</div>{picture}'
        f"<noscript><style>.print{{display:block}}</style></noscript>"
        f"<figcaption><p>{text(drawing.caption)}</p>{missing}<p>{text(criterion)}</p>"
        f"<p>Drawn from: {rows}, each network named by its <code>cell</code>; the seeds behind "
        f'them: <a href="#rows">all rows of the study</a>. For papers: '
        f"<code>{html.escape(stem.name)}</code> as PNG, PDF and SVG in "
        f"<code>{html.escape(stem.parent.name)}</code>.</p></figcaption></figure>"
    )


def _panel(chart: Chart) -> str:
    """One interactive panel; its place is kept until it is drawn, so that nothing jumps."""
    shown = interactive(chart)
    return (
        f'<div class="panel"><h4>{text(chart.title)}</h4>'
        f'<div class="chart" style="min-height:{shown.layout.height:.0f}px">'
        f'<script type="application/json">{_json(shown.to_json())}</script></div></div>'
    )


def _json(content: str) -> str:
    """JSON that cannot end the script element which holds it."""
    return content.replace("<", "\\u003c")


def _svg(stem: Path) -> str:
    import base64

    data = stem.with_name(f"{stem.name}.svg").read_bytes()
    return "data:image/svg+xml;base64," + base64.b64encode(data).decode("ascii")


def _page(evidence: Evidence, chapters: Sequence[_Chapter]) -> str:
    """The whole document."""
    from plotly.offline import get_plotlyjs

    study = evidence.study
    title = study.file.title or study.name
    description = f'<p class="lead">{text(study.file.description)}</p>'
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    body = "\n".join(
        f'<h2 id="chapter-{i}">{text(_heading(chapter, chapters))}</h2>{chapter.html}'
        for i, chapter in enumerate(chapters)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<main>
<h1>{text(title)}</h1>
{description if study.file.description else ""}
<h2 id="summary">Summary</h2>
<p>{text(opening(evidence))}</p>
{_summary(evidence)}
{_contents(chapters)}
{body}
<h2 id="failures">Networks that were given up</h2>
{page_tables.failures_table(evidence)}
<h2 id="rows">Rows and how to repeat them</h2>
{_repeat(evidence)}
<footer>Measured and written by etastar {_version()}. This page needs no network.</footer>
</main>
<script>{_script_safe(get_plotlyjs())}</script>
<script>{script}</script>
</body>
</html>
"""


_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)
"""Nothing is fetched, whatever a library may try."""


def _script_safe(code: str) -> str:
    return code.replace("</script", "<\\/script")


def _version() -> str:
    from etastar import __version__

    return html.escape(__version__)


def _heading(chapter: _Chapter, chapters: Sequence[_Chapter]) -> str:
    return chapter.title if len(chapters) > 1 else f"Figures and tables: {chapter.title}"


def _summary(evidence: Evidence) -> str:
    parts = []
    for family in evidence.families:
        if len(evidence.families) > 1:
            parts.append(f"<h3>{text(family.name)}</h3>")
        parts += [
            f'<div class="finding"><b>{text(name)}</b> {text(found)}</div>'
            for name, found in findings(family)
        ]
        parts.append(f'<p class="quiet">{text(criterion_text(family))}</p>')
    return "\n".join(parts)


def _contents(chapters: Sequence[_Chapter]) -> str:
    several = len(chapters) > 1
    items = ['<li><a href="#summary">Summary</a></li>']
    for i, chapter in enumerate(chapters):
        inner = "".join(
            f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title in chapter.contents
        )
        if several:
            inner = f'<li><a href="#chapter-{i}">{text(chapter.title)}</a><ul>{inner}</ul></li>'
        items.append(inner)
    items.append('<li><a href="#failures">Networks that were given up</a></li>')
    items.append('<li><a href="#rows">Rows and how to repeat them</a></li>')
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def _repeat(evidence: Evidence) -> str:
    """All rows, the study file, and the machines."""
    study = evidence.study
    file = html.escape(study.path.name)
    parts = [
        f"<p>Every network and seed of the study: {link(evidence.rows, study.name, 'seed')}. "
        f"Every training run: <code>etastar study export {file} --table trials</code>.</p>",
        f"<p>To repeat all of it:</p><pre>etastar study run {file}\netastar study report {file}"
        "</pre>",
    ]
    if study.path.is_file():
        content = html.escape(study.path.read_text(encoding="utf-8"))
        parts.append(f"<details><summary>{file}</summary><pre>{content}</pre></details>")
    for environment, tasks in evidence.environments:
        shown = ", ".join(f"{k} {v}" for k, v in environment.items())
        parts.append(f'<p class="quiet">{tasks} tasks on {html.escape(shown)}.</p>')
    return "\n".join(parts)
