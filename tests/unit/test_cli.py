"""The command line: what goes wrong is told with its cure, not as a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg_pool import PoolTimeout
from typer.testing import CliRunner

from kwdbml import cli
from kwdbml.embedded.place import Place
from kwdbml.embedded.worker import Worker as EmbeddedWorker
from kwdbml.worker.loop import Worker


def test_a_database_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def run(self: Worker) -> None:
        raise PoolTimeout("pool initialization incomplete after 30 sec")

    monkeypatch.setattr(Worker, "run", run)
    result = CliRunner().invoke(cli.app, ["worker", "--dsn", "dbname=x", "--scratch", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "error: the worker has no connection to its database"
    assert "hint: kwdbml doctor" in result.stderr


def test_help_shows_what_is_in_brackets() -> None:
    """Square brackets are markup to the library that prints it."""
    for command in ("worker", "doctor"):
        shown = " ".join(CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "300"}).output.split())
        assert "A setting of the file's sections kubeflow and s3, such as kubeflow.namespace=team-a" in shown


def test_the_embedded_worker_finds_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KWDBML_CONFIG", "kwdbml.toml")
    assert EmbeddedWorker(Place(tmp_path), 1).environment()["KWDBML_CONFIG"] == str(tmp_path / "kwdbml.toml")
