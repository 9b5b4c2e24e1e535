"""What all tests share: the order, and that `data` tests need the folder ETASTAR_DATA_DIR names."""

from __future__ import annotations

import os
import signal

import pytest

# A shell that runs tests in its background lets them ignore Ctrl-C, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Slow ones first, so that no worker is left alone with one at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if os.environ.get("ETASTAR_DATA_DIR"):
        return
    needy = [item for item in items if item.get_closest_marker("data")]
    if needy:
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]
