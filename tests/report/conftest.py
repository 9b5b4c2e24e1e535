"""The browser that pages are opened in, where there is one; its tests are left out elsewhere."""

from __future__ import annotations

import os
import shutil

import matplotlib
import pytest

matplotlib.use("Agg")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """`$ETASTAR_CHROMIUM`, or a Chromium on the PATH."""
    given = os.environ.get("ETASTAR_CHROMIUM")
    return given or next((found for name in BROWSERS if (found := shutil.which(name))), None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: opens pages in a headless Chromium")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_browser() is None:
        gone = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture
def browser() -> str:
    found = find_browser()
    assert found is not None
    return found


@pytest.fixture
def one_format(monkeypatch):
    """Figures in the format that a page embeds alone: three take three times as long."""
    monkeypatch.setattr("etastar.report.draw_matplotlib.FORMATS", ("svg",))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
