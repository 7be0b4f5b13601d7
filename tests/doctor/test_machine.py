"""kwdbml doctor on this machine: what is missing is taken away by itself, and said with its cure."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from kwdbml.doctor import machine
from kwdbml.doctor.checks import Examination, Finding, Outcome
from kwdbml.doctor.machine import Machine
from kwdbml.engines import cgroups, sandbox
from kwdbml.settings import WorkerSettings

Usage = namedtuple("Usage", "total used free")


def look(scratch: Path, **settings: Any) -> dict[str, Finding]:
    given = WorkerSettings.model_validate({"dsn": "dbname=x", "scratch": scratch, "scratch_limit": "1GiB", **settings})
    return {finding.check: finding for finding in Examination().run(Machine(given).checks())}


def bad(found: dict[str, Finding]) -> dict[str, Outcome]:
    return {name: finding.outcome for name, finding in found.items() if finding.outcome is not Outcome.OK}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks differ from machine to machine."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 40))


@pytest.fixture
def _no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "detect", lambda: sandbox.Sandbox("user"))


def test_a_machine_that_runs_these_tests_has_nothing_to_cure(tmp_path: Path) -> None:
    found = look(tmp_path / "not made yet")
    assert bad(found) == {}
    assert set(found) >= {"machine.scratch", "local.sandbox", "local.memory", "local.python", "requirements.uv"}
    assert list((tmp_path / "not made yet").iterdir()) == []


@pytest.mark.usefixtures("_no_sandbox")
def test_a_scratch_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = look(tmp_path / "file" / "scratch")
    assert bad(found) == {"machine.scratch": Outcome.FAIL, "machine.space": Outcome.SKIPPED}
    assert "KWDBML_SCRATCH" in found["machine.scratch"].cure


@pytest.mark.usefixtures("_no_sandbox")
@pytest.mark.parametrize(("free", "outcome"), [(1 << 20, Outcome.FAIL), (1 << 30, Outcome.WARN)])
def test_too_little_space(tmp_path: Path, free: int, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    found = look(tmp_path, concurrency=2)
    assert bad(found) == {"machine.space": outcome}
    assert "KWDBML_SCRATCH_LIMIT" in found["machine.space"].cure


def test_without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = look(tmp_path)
    assert bad(found)["local.bubblewrap"] is Outcome.FAIL
    assert bad(found)["local.sandbox"] is Outcome.SKIPPED
    assert "apt install bubblewrap" in found["local.bubblewrap"].cure
    allowed = look(tmp_path, unsafe_no_sandbox=True)
    assert allowed["local.bubblewrap"].outcome is Outcome.WARN
    assert "trust everyone" in allowed["local.sandbox"].cure


def test_a_sandbox_that_fails_says_how_to_allow_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = --help ] && echo '--size --disable-userns' && exit\n"
        "echo 'setting up uid map: Permission denied' >&2\nexit 1\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = look(tmp_path)
    assert bad(found) == {"local.sandbox": Outcome.FAIL}
    assert "Permission denied" in found["local.sandbox"].detail
    assert "unprivileged user namespaces" in found["local.sandbox"].cure
    uv_alone = look(tmp_path, engines=["kubeflow"])
    assert bad(uv_alone) == {"requirements.sandbox": Outcome.WARN}
    assert "runtime image" in uv_alone["requirements.sandbox"].cure
    assert bad(look(tmp_path, engines=["kubeflow"], install_requirements=False)) == {}


@pytest.mark.usefixtures("_no_sandbox")
def test_memory_is_watched_where_there_is_no_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "find_base", lambda: None)
    found = look(tmp_path)
    assert "by watching it" in found["local.memory"].message


@pytest.mark.usefixtures("_no_sandbox")
def test_frameworks_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_FRAMEWORKS", {"xgboost": ("no-such-package",)})
    found = look(tmp_path)
    assert bad(found) == {"local.python": Outcome.WARN}
    assert found["local.python"].cure == "For jobs that use it: pip install 'kwdbml[xgboost]'."


@pytest.mark.usefixtures("_no_sandbox")
def test_uv_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "uv_program", lambda: "/bin/false")
    found = look(tmp_path)
    assert bad(found) == {"requirements.uv": Outcome.FAIL}
    assert "uv" in found["requirements.uv"].cure
    assert bad(look(tmp_path, install_requirements=False)) == {}


@pytest.mark.usefixtures("_no_sandbox")
def test_other_pythons(tmp_path: Path) -> None:
    found = look(tmp_path, pythons={"own": sys.executable, "none": "/no/such/python"})
    assert bad(found) == {"local.python.none": Outcome.FAIL}
    assert found["local.python.none"].cure == "Give the path of its interpreter."
