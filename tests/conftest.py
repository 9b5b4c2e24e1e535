"""What all tests share: those marked `data` need the folder that ETASTAR_DATA_DIR names."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("ETASTAR_DATA_DIR"):
        return
    needy = [item for item in items if item.get_closest_marker("data")]
    if needy:
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]
