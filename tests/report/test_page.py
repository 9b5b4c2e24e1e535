"""The page: whole, alone in the world, and honest about what is missing."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import sys
from html.parser import HTMLParser

import pytest
from planted_studies import plant, power_law

from etastar.errors import ConfigError
from etastar.report import page, write_report
from etastar.report.plots import FIGURES
from etastar.study.export import SEED_COLUMNS
from etastar.study.store import StoreWriter


class Page(HTMLParser):
    """Elements, text outside of scripts and styles, and the contents of these."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styles = "", ""
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data) -> None:
        if not self._inside:
            self.text += data
        elif self._inside[-1][0] == "style":
            self.styles += data
        else:
            self.scripts.append((self._inside[-1][1], data))

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(name)) is not None]


def report(folder, *arguments, **options):
    study, store = plant(folder, *arguments, **options)
    with store:
        files = write_report(study, store, folder / "STUDY.html")
    return study, files, Page(files[0].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return report(folder, power_law(-0.5, -0.7), seed_sd=0.1, kappas=(0.1,), losses=("mse",))


def test_figures_lie_beside_the_page(written) -> None:
    study, files, _ = written
    folder = study.path.parent
    assert files[0] == folder / "STUDY.html"
    names = {f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf", "svg")}
    assert {path.name for path in (folder / "STUDY-figures").iterdir()} == names
    assert set(files[1:]) == {folder / "STUDY-figures" / name for name in names}
    assert not list(folder.rglob("*.partial*"))


def test_the_page_loads_nothing(written) -> None:
    """No element, style or rule of the page asks for anything outside of it."""
    _, _, page = written
    sources = [*page.attributes("src"), *page.attributes("href"), *page.attributes("srcset")]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|https?:", page.styles)
    tags = [tag for tag, _ in page.elements]
    assert not {"iframe", "object", "embed", "base", "form"} & set(tags)
    policies = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert "http" not in policies[0].replace("http-equiv", "")


def test_plotly_is_there_once_and_sends_nothing(written) -> None:
    _, _, page = written
    large = [code for attrs, code in page.scripts if len(code) > 1_000_000]
    assert len(large) == 1
    own = next(code for _, code in page.scripts if "Plotly.newPlot" in code and len(code) < 5000)
    assert "showSendToCloud: false" in own
    assert "displaylogo: false" in own


def test_every_figure_states_criterion_and_data_and_carries_its_rows(written) -> None:
    study, files, _ = written
    content = files[0].read_text(encoding="utf-8")
    known = {cell.id for cell in study.cells}
    for name, figure in FIGURES.items():
        start = content.index(f'id="{name}"')
        section = content[start : content.index("</figure>", start)]
        assert figure.title in section
        caption = section[section.index("<figcaption>") :]
        for part in ("touches 0.9", "within 100 steps", "Data: digits", "batch 128", "κ,", "Loss:"):
            assert part in caption
        link = re.search(r'download="([^"]+)" href="data:text/csv[^,]+;base64,([^"]+)"', section)
        assert link is not None
        assert link[1] == f"{name}.csv"
        found = list(csv.DictReader(io.StringIO(base64.b64decode(link[2]).decode())))
        assert {row["cell"] for row in found} <= known
        assert found


def test_all_rows_of_the_study_can_be_downloaded(written) -> None:
    study, files, _ = written
    content = files[0].read_text(encoding="utf-8")
    link = re.search(r'download="planted.csv" href="data:text/csv[^,]+;base64,([^"]+)"', content)
    assert link is not None
    found = list(csv.DictReader(io.StringIO(base64.b64decode(link[1]).decode())))
    assert list(found[0]) == SEED_COLUMNS
    assert len(found) == sum(len(cell.seeds) for cell in study.cells)


def test_charts_are_plotly_figures(written) -> None:
    _, _, page = written
    charts = [json.loads(code) for attrs, code in page.scripts if attrs.get("type")]
    assert len(charts) == 10  # of one loss and one κ: three predictions, one of all else
    for chart in charts:
        assert chart["data"]
        assert chart["layout"]["xaxis"]["title"]["text"]


def test_the_summary_has_the_numbers(written) -> None:
    _, _, page = written
    summary = re.sub(r"\s+", " ", page.text[: page.text.index("Figures and tables")])
    assert "12 networks under 1 set of conditions, 36 seeds of η* in all" in summary
    assert re.search(
        r"η\* ∝ \(n·L\)−0\.\d\d with a 95\u202f% interval of \[−0\.\d\d, −0\.\d\d\] and "
        r"R² = 0\.\d\d over 12 networks",
        page.text,
    )
    assert "Predicting the 3 networks beyond a quarter of the largest n·L" in summary
    assert "η* against λ₁: slope −" in summary
    assert "which does not exclude −1" in summary


def test_contents_lead_to_every_section(written) -> None:
    _, _, page = written
    ids = set(page.attributes("id"))
    links = {h[1:] for h in page.attributes("href") if h.startswith("#")}
    assert links <= ids
    assert {*FIGURES, "fits", "predictions", "region", "seeds", "failures", "rows"} <= links


def test_text_of_the_study_is_text(written) -> None:
    study, files, page = written
    assert "A law that is <known>." in page.text
    assert study.path.read_text() in page.text
    assert "<known>" not in files[0].read_text(encoding="utf-8")


@pytest.mark.usefixtures("one_format")
def test_the_same_results_give_the_same_page(written, tmp_path) -> None:
    study, files, _ = written
    from etastar.study.store import Store

    with Store(study.default_store) as store:
        again = write_report(study, store, tmp_path / "STUDY.html")
    assert again[0].read_bytes() == files[0].read_bytes()


@pytest.mark.usefixtures("one_format")
def test_settings_that_vary_make_chapters(tmp_path) -> None:
    options = {"kappas": (1.0,), "depths": (1,), "sharpness": False}
    _, files, page = report(tmp_path, grid="threshold = [0.8, 0.9]", **options)
    assert "digits, threshold = 0.8" in page.text
    assert "digits, threshold = 0.9" in page.text
    names = {path.name for path in files}
    assert {"1-digits-threshold-0.8-eta-law.svg", "2-digits-threshold-0.9-eta-law.svg"} <= names
    assert len(set(page.attributes("id"))) == len(page.attributes("id"))


@pytest.mark.usefixtures("one_format")
def test_what_is_missing_is_said(tmp_path) -> None:
    def law(cell):
        s = cell.settings
        return float("inf") if s.width == 8 else None if s.width == 16 else 0.4

    options = {"sharpness": False, "kappas": (1.0,)}
    study, store = plant(tmp_path, law, only=lambda cell: cell.settings.depth < 4, **options)
    store.close()
    given_up = study.cells[2]
    with StoreWriter(study.default_store) as writer:
        key = writer.specify(given_up.id, "maximal-lr", given_up.specification)
        writer.add_failure(key, 3, "MemoryError: <out> of memory")
        files = write_report(study, writer, tmp_path / "page.html", figures=tmp_path / "own")
    page = Page(files[0].read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", page.text)
    assert "The study is not complete: 12 seeds of 36 are still missing" in text
    assert "1 network could not be measured" in text
    assert "MemoryError: <out> of memory" in text
    assert "Of 24 seeds, 6 trained at every rate and 6 trained at none." in text
    assert "4 networks with seeds that have no bracket" in text
    assert "has not measured λ1" in text
    assert {path.parent.name for path in files[1:]} == {"own"}


@pytest.mark.usefixtures("one_format")
@pytest.mark.parametrize("law", [None, lambda cell: None, lambda cell: float("inf")])
def test_a_study_without_any_bracket_still_has_a_page(tmp_path, law) -> None:
    only = (lambda cell: False) if law is None else None
    _, files, page = report(tmp_path, law, only=only, sharpness=False)
    assert "No law." in page.text
    assert (
        "so there is nothing to draw" in page.text
        or "cannot be drawn" in page.text
        or ("at least this" in files[0].read_text(encoding="utf-8"))
    )


@pytest.mark.usefixtures("one_format")
def test_two_networks_give_figures_but_no_law(tmp_path) -> None:
    _, _, page = report(tmp_path, widths=(8, 16), depths=(1,), kappas=(1.0,), losses=("mse",))
    assert "needs at least 3 cells for an interval; got 2" in page.text


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_without_its_packages_the_message_says_what_to_install(
    tmp_path, monkeypatch, package
) -> None:
    study, store = plant(tmp_path, widths=(8,), depths=(1,), sharpness=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "plotly.offline", raising=False)
    message = rf"needs {package}, which is not installed: pip install 'etastar\[report\]'"
    with store, pytest.raises(ConfigError, match=message):
        write_report(study, store, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    assert not (tmp_path / "page-figures").exists()


@pytest.mark.usefixtures("one_format")
def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path) -> None:
    study, store = plant(tmp_path, widths=(8,), depths=(1,), sharpness=False)
    (tmp_path / "page.html").mkdir()
    with store, pytest.raises(ConfigError, match="cannot be written"):
        write_report(study, store, tmp_path / "page.html")
    assert not list(tmp_path.rglob("*.partial*"))


def test_large_tables_are_compressed_and_whole(monkeypatch) -> None:
    monkeypatch.setattr(page, "MOST_PLAIN", 10_000)
    many = 1000
    columns = {"cell": [f"{i:020d}" for i in range(many)], "eta": [i / 7 for i in range(many)]}
    link = page.link(columns, "big")
    assert 'download="big.csv.gz"' in link
    data = base64.b64decode(re.search(r'base64,([^"]+)"', link)[1])
    read = list(csv.reader(io.StringIO(gzip.decompress(data).decode())))
    assert len(read) == many + 1
    assert float(read[-1][1]) == columns["eta"][-1]
