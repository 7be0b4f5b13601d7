"""Fixtures for all tests: a server per session, a database per test, faults on demand (see ``tests/fixtures``)."""

pytest_plugins = ["tests.fixtures.server", "tests.fixtures.database", "tests.fixtures.faults"]
