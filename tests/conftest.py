"""Fixtures for all tests: a server per session, a database per test, faults on demand (see ``tests/fixtures``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

pytest_plugins = [
    "tests.fixtures.server",
    "tests.fixtures.database",
    "tests.fixtures.engines",
    "tests.fixtures.exported",
    "tests.fixtures.faults",
    "tests.fixtures.s3",  # before those that import it
    "tests.fixtures.objectstore",
    "tests.fixtures.kubeflow",
]

#: Below these a test is ``quick``, unless it is slow or takes a server.
_QUICK = ("unit", "docs", "extension", "engines/test_parts.py")
_SERVERS = {"server", "local_installation"}


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """A command that a test calls in this process sends the log to the standard error of that test's time."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the quick part, which needs no server and no sandbox and kills no process: ``scripts/test -m quick``.

    One of several processes of pytest-xdist begins with what is slow: what comes last should be short, so that all
    end together.
    """
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here) if item.path.is_relative_to(here) else None
        if place is None or not any(place.is_relative_to(quick) for quick in _QUICK):
            continue
        if _SERVERS.isdisjoint(getattr(item, "fixturenames", ())) and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.quick)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
