"""The page in a headless Chromium, cut off from every network."""

from __future__ import annotations

import re
import subprocess

import pytest
from planted_studies import plant, power_law

from etastar.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    options = {"kappas": (0.1,), "depths": (1, 2), "sharpness": False}
    study, store = plant(folder, power_law(-0.5, -0.7), seed_sd=0.1, **options)
    with store:
        return write_report(study, store, folder / "page.html")[0]


def chromium(browser, page, width, *options):
    command = [
        browser,
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={page.parent / 'profile'}",
        f"--window-size={width},9000",
        "--virtual-time-budget=20000",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_every_chart_is_drawn_without_a_complaint(browser, page) -> None:
    run = chromium(browser, page, 1280, "--dump-dom")
    assert run.stdout.count('class="chart') == run.stdout.count('data-drawn="yes"') == 6
    assert run.stdout.count('class="main-svg"') >= 5
    said = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert not said


def test_nothing_is_wider_than_a_phone(browser, page) -> None:
    """The page's own width, measured by a script that the test adds, at 500 pixels."""
    probe = page.with_name("probe.html")
    measure = (
        "<script>setTimeout(() => { document.title = 'width ' + "
        "document.documentElement.scrollWidth; }, 5000);</script></body>"
    )
    content = page.read_text(encoding="utf-8").replace("</body>", measure)
    probe.write_text(content, encoding="utf-8")
    run = chromium(browser, probe, 500, "--dump-dom")
    found = re.search(r"<title>width (\d+)</title>", run.stdout)
    assert found is not None
    assert int(found[1]) <= 500
