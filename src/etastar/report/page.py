"""The page of a study: one file that needs nothing else, and the figures beside it."""

from __future__ import annotations

import base64
import gzip
import html
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

from etastar import __version__
from etastar.errors import ConfigError
from etastar.report.collect import collect
from etastar.report.criterion import criterion_text
from etastar.report.draw_matplotlib import save_charts
from etastar.report.draw_plotly import interactive, require_plotly
from etastar.report.evidence import LEVEL, PREDICTORS, Evidence, Family, Group
from etastar.report.plots import FIGURES
from etastar.report.plots.base import sentence
from etastar.report.style import (
    count,
    fixed,
    for_html,
    for_plain_text,
    interval,
    number,
    percent,
    thousands,
)
from etastar.scaling import FORMS
from etastar.study.cell import Cell
from etastar.study.export import Columns, write_rows
from etastar.study.filesystem import as_a_whole
from etastar.study.specification import Study
from etastar.study.store import Store

FORM_TITLES = {
    "product": "a·(nL)^{b}",
    "separate": "a·n^{b}L^{c}",
    "gradient-norm": "a·E‖∂f‖^{2b}",
    "inverse-width": "a/n (rule)",
    "depth^-3/2": "a·L^{−3/2} (rule)",
}
MOST_PLAIN = 4_000_000
"""Characters beyond which a file is compressed: pandas reads it as it is."""
_LETTERS = {"separate": ["b = ", "c = "]}
"""What the exponents of a law are called, where it has several."""
_HERE = Path(__file__).parent


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
        ConfigError: Plotly or Jinja is not installed, or a file cannot be written.
        StoreError: The store cannot be read.
    """
    require_plotly()
    evidence = collect(study, store)
    folder = figures or output.with_name(f"{output.stem}-figures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        chapters = [_chapter(family, evidence, folder) for family in evidence.families]
        with as_a_whole(output) as partial:
            partial.write_text(_page(evidence, chapters), "utf-8", errors="replace")
    except OSError as error:
        place = error.filename or output
        raise ConfigError(
            f"{place} cannot be written: {error.strerror or error}. Choose another `output`."
        ) from None
    return [output, *(path for chapter in chapters for path in chapter["files"])]


def _chapter(family: Family, evidence: Evidence, folder: Path) -> dict[str, Any]:
    """Draw and write all figures of a family; return what the page shows of it."""
    alone = len(evidence.families) == 1
    # what its anchors and files begin with
    slug = re.sub("[^a-z0-9.]+", "-", family.name.lower()).strip("-")
    # numbered, so that two families never share one
    key = "" if alone else f"{evidence.families.index(family) + 1}-{slug}"[:60] + "-"
    criterion = criterion_text(family)
    figures: list[dict[str, Any]] = []
    files: list[Path] = []
    for name, kind in FIGURES.items():
        drawing, stem = kind.make(family), folder / f"{key}{name}"
        about = for_plain_text(f"{kind.title}. {drawing.caption}")
        written = save_charts(drawing.charts, stem, caption=for_plain_text(f"{about} {criterion}"))
        twins = map(interactive, drawing.charts)
        figures.append(
            {
                "title": kind.title,
                "stem": stem,
                "drawing": drawing,
                "alternative": about,
                "svg": base64.b64encode(written[-1].read_bytes()).decode() if written else "",
                # JSON that cannot end the script element which holds it
                "panels": [
                    (chart, round(twin.layout.height), twin.to_json().replace("<", "\\u003c"))
                    for chart, twin in zip(drawing.charts, twins, strict=True)
                ],
            }
        )
        files += written
    chapter = {"family": family, "key": key, "criterion": criterion}
    return {**chapter, "figures": figures, "files": files}


def _page(evidence: Evidence, chapters: list[dict[str, Any]]) -> str:
    """The whole document."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    files = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    files.filters["t"] = lambda value: Markup(text(value))
    for function in (count, fixed, interval, number, percent, sentence, thousands):
        files.globals[function.__name__] = function
    study = evidence.study
    known = study.path.is_file()
    return files.get_template("page.html").render(
        study=study,
        evidence=evidence,
        chapters=chapters,
        study_file=study.path.read_text(encoding="utf-8") if known else "",
        version=__version__,
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
        link=lambda *arguments: Markup(link(*arguments)),
        least=lambda rows, name: min(getattr(row.fit, name) for row in rows),
        title=lambda form: FORM_TITLES.get(form, FORMS[form].title),
        letters=lambda fit: zip(_LETTERS.get(fit.form, [""]), fit.coefficients[1:], strict=False),
        **{"unbracketed": _unbracketed, "costs": _costs},
        **{"FORMS": FORMS, "LEVEL": LEVEL, "PREDICTORS": PREDICTORS},
    )


def link(columns: Columns, name: str, what: str = "row") -> str:
    """An HTML link that downloads these columns as `name.csv`.

    Args:
        columns: The table.
        name: Name of the file, without its ending.
        what: What a row is, for the link's text.
    """
    buffer = io.StringIO()
    write_rows(columns, buffer)
    text = buffer.getvalue()
    kind, ending, content = "text/csv;charset=utf-8", "csv", text.encode()
    if len(text) > MOST_PLAIN:
        # without a time stamp, so that the same results give the same page
        kind, ending, content = "application/gzip", "csv.gz", gzip.compress(content, 6, mtime=0)
    rows = len(next(iter(columns.values()), []))
    data = base64.b64encode(content).decode("ascii")
    shown = html.escape(f"{count(rows, what)} ({ending.upper()})")
    file = html.escape(f"{name}.{ending}", quote=True)
    return f'<a class="rows" download="{file}" href="data:{kind};base64,{data}">{shown}</a>'


def text(value: object) -> str:
    """Safe HTML, exponents raised, no line break before a per cent sign."""
    return for_html(html.escape(str(value))).replace(" %", "\u202f%")


def _unbracketed(family: Family) -> list[tuple[Group, Cell, Counter[str]]]:
    """The networks with seeds that have no bracket, and the statuses of their seeds."""
    found = []
    for group in family.groups:
        rows = group.by_cell("status")
        for cell in group.cells:
            seeds = Counter(status for (status,) in rows.get(cell.id, ()))
            if seeds.total() > seeds["bracketed"]:
                found.append((group, cell, seeds))
    return found


def _costs(family: Family) -> list[tuple[str, dict[str, float]]]:
    """What every group took, and their sum under no name if there are several."""
    costs = [(group.name, group.cost) for group in family.groups]
    if len(costs) > 1:
        total = {name: sum(cost[name] for _, cost in costs) for name in costs[0][1]}
        costs.append(("", total))
    return costs
