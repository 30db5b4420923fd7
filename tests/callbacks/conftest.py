"""Lightning's hints about workers and loggers are no concern of these tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(
            pytest.mark.filterwarnings("ignore:.*(num_workers|logging interval|litlogger|sync_dist).*")
        )
