"""What mkdocs does to the pages beside rendering them (`hooks:` in mkdocs.yml).

1. Pages link to files outside docs/ (examples, studies, CONTRIBUTING.md), as they must on a code
   host. Each such file becomes a page of the site, and the link is bent to it.
2. Formulas between dollar signs become MathML, which browsers draw by themselves: the site needs no
   script for them and no network.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = "docs"
OUTSIDE = "repository"
"""Folder of the site for files that lie outside docs/."""
SHOWN = {
    ".py": "python",
    ".toml": "toml",
    ".cff": "yaml",
    ".txt": "text",
    ".csv": "text",
    ".json": "json",
    "": "text",
}
MOST_LINES = 400

_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$|(`+)(?!`).+?(?<!`)\3(?!`)", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_MATH = re.compile(
    r"(?<!\\)\$\$(?P<display>.+?)\$\$|(?<![\\$\w])\$(?=\S)(?P<inline>[^$]+?)(?<=\S)\$(?![\w$])",
    re.DOTALL,
)
_PLACE = "formula{}here"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file outside docs/ that a page links to, directly or through others."""
    waiting = [
        target
        for file in files.documentation_pages()
        for target in _targets(file.content_string, f"{DOCS}/{file.src_uri}")
    ]
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in done or path.startswith(f"{DOCS}/") or not (ROOT / path).exists():
            continue  # what does not exist is reported by mkdocs, where the link stands
        done.add(path)
        text = _as_page(path)
        files.append(File.generated(config, _page_of(path), content=text))
        waiting += _targets(text, path)
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Bend links to the repository, and put formulas out of reach of Markdown."""
    source = _source(page.file.src_uri)
    formulas: list[str] = []

    def bend(match: re.Match[str]) -> str:
        target = _resolved(match[2], source)
        if target is None or not (ROOT / target).exists():
            return match[0]
        uri = target[len(DOCS) + 1 :] if target.startswith(f"{DOCS}/") else _page_of(target)
        here = posixpath.dirname(page.file.src_uri)
        return f"{match[1]}{posixpath.relpath(uri, here or '.')}{match[3] or ''}{match[4]}"

    def hide(match: re.Match[str]) -> str:
        display = match["display"] is not None
        formulas.append(_mathml(match["display"] or match["inline"], display, page))
        return _PLACE.format(len(formulas) - 1)

    text = _outside(_FENCE, lambda part: _LINK.sub(bend, part), text)
    text = _outside(_CODE, lambda part: _MATH.sub(hide, part), text)
    page.meta["formulas"] = formulas
    return text


def on_page_content(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the formulas in their places."""
    formulas = page.meta.get("formulas", [])
    return re.sub(r"formula(\d+)here", lambda match: formulas[int(match[1])], text)


def _mathml(latex: str, display: bool, page: Page) -> str:
    """A formula as MathML, in letters that browsers draw as they are."""
    place = "block" if display else "inline"
    try:
        drawn = convert(_plain_letters(" ".join(latex.split())), display=place)
    except Exception as error:
        raise PluginError(f"{page.file.src_uri}: no MathML for {latex!r}: {error!r}") from error
    if "<mtext>\\" in drawn or re.search(r">\\[a-zA-Z]", drawn):
        raise PluginError(f"{page.file.src_uri}: a command is not known in {latex!r}")
    # a slash within a formula is no binary operator to be spaced
    return drawn.replace("<mo>&#x0002F;</mo>", '<mo lspace="0" rspace="0">/</mo>')


def _plain_letters(latex: str) -> str:
    """Styled letters as the characters that Unicode has for them, which MathML Core asks for."""

    def letter(match: re.Match[str]) -> str:
        style = {"bb": "DOUBLE-STRUCK", "bf": "BOLD", "cal": "SCRIPT"}[match[1]]
        name = match[2] or match[3]
        for family in (f"MATHEMATICAL {style} CAPITAL {name}", f"{style} CAPITAL {name}"):
            try:
                return unicodedata.lookup(family)
            except KeyError:
                continue
        raise ValueError(f"no {style} {name}")

    latex = re.sub(r"\\math(bb|bf|cal)\s*(?:\{([A-Z])\}|([A-Z]))", letter, latex)
    latex = re.sub(r"\\([Bb]igg?[lr]?)\s*\\\|", r"\\\1‖", latex)
    return latex.replace(r"\arccos", r"\arccos\,")


def _outside(code: re.Pattern[str], change: Callable[[str], str], text: str) -> str:
    """`change` applied to what lies between the matches of `code`."""
    parts, end = [], 0
    for match in code.finditer(text):
        parts += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(text[end:])])


def _targets(text: str, source: str) -> list[str]:
    """Paths in the repository that a page links to."""
    found: list[str] = []

    def note(part: str) -> str:
        targets = (_resolved(match[2], source) for match in _LINK.finditer(part))
        found.extend(target for target in targets if target)
        return part

    _outside(_FENCE, note, text)
    return found


def _resolved(link: str, source: str) -> str | None:
    """The path in the repository that a link of the file `source` leads to; None for the web."""
    if re.match(r"[a-z]+:|/", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _page_of(path: str) -> str:
    name = path if path.endswith(".md") else f"{path}.md"
    return f"{OUTSIDE}/{name}"


def _source(uri: str) -> str:
    """The file of the repository behind a page."""
    if not uri.startswith(f"{OUTSIDE}/"):
        return f"{DOCS}/{uri}"
    path = uri.removeprefix(f"{OUTSIDE}/")
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def _as_page(path: str) -> str:
    """Markdown of a file or folder of the repository."""
    where = ROOT / path
    if where.is_dir():
        names = sorted(
            p.name for p in where.iterdir() if p.suffix in (".py", ".toml", ".ipynb", ".csv")
        )
        # relative to the page, which stands beside the folder
        lines = [f"- [{name}]({Path(path).name}/{name})" for name in names]
        return "\n".join([f"# {path}/", "", *lines])
    if where.suffix == ".md":
        return where.read_text(encoding="utf-8")
    if where.suffix == ".ipynb":
        return _notebook(json.loads(where.read_text(encoding="utf-8")))
    if where.suffix not in SHOWN:
        raise PluginError(f"{path}: a link leads to a file that no page can show.")
    lines = where.read_text(encoding="utf-8").splitlines()
    more = f"\n\nThe first {MOST_LINES} of {len(lines)} lines." if len(lines) > MOST_LINES else ""
    shown = "\n".join(lines[:MOST_LINES])
    return f"# {path}\n\n````{SHOWN[where.suffix]}\n{shown}\n````{more}\n"


def _notebook(notebook: dict[str, Any]) -> str:
    """A notebook's cells with the outputs that it was saved with."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"````python\n{source}\n````")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                parts.append(
                    f'<img alt="output of the cell above" src="data:image/png;base64,{picture}">'
                )
            else:
                shown = html.escape("".join(data.get("text/plain", "")).rstrip())
                parts.append(f'<pre class="output">{shown}</pre>')
    return "\n\n".join(parts)
