"""The command: what it prints, as lines and as JSON, its exit code, and that no secret is in any of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner, Result

from kwdbml.cli import app
from kwdbml.doctor.checks import Check, Examination, Outcome
from kwdbml.engines import sandbox
from kwdbml.errors import WrongState
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.s3 import S3Server

Doctor = Callable[..., Result]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    for name in os.environ:
        if name.startswith("KWDBML_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KWDBML_SCRATCH", str(tmp_path))
    monkeypatch.setattr(sandbox, "detect", lambda: sandbox.Sandbox("user"))

    def doctor(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["doctor", *arguments])

    return doctor


def outcomes(result: Result) -> dict[str, str]:
    return {one["check"]: one["outcome"] for one in json.loads(result.stdout)["checks"]}


def write_nowhere(tmp_path: Path) -> Path:
    """Settings of a Kubeflow that is nowhere."""
    file = tmp_path / "kwdbml.toml"
    file.write_text(
        '[kubeflow]\nhost = "http://127.0.0.1:9"\nimage = "runtime:1"\ncluster_host = "http://127.0.0.1:9"\n'
        '[s3]\nendpoint = "http://127.0.0.1:9"\nbucket = "models"\naccess_key = "key"\nsecret_key = "hush-hush"\n',
        encoding="utf-8",
    )
    return file


def test_all_is_well(doctor: Doctor, worker_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_DSN", worker_dsn)
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[-1].startswith("all is well: ")
    assert lines[0].split() == ["ok", "settings", "engines:", "local"]
    assert [line.split()[1] for line in lines if line.startswith("ok")][1:3] == ["database.dsn", "database.connection"]
    assert str(conninfo_to_dict(worker_dsn)["password"]) not in result.output


def test_a_fault_is_told_with_its_cure_and_the_exit_code_is_1(doctor: Doctor, worker_dsn: str) -> None:
    result = doctor("--dsn", make_conninfo(worker_dsn, password="hush-hush"))
    assert result.exit_code == 1
    lines = result.output.splitlines()
    [number] = [n for n, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[number].split()[1] == "database.connection"
    assert lines[number + 1].strip().startswith("cure: Correct user and password")
    assert "skipped database.role" in " ".join(result.output.split())
    assert "hush" not in result.output
    assert lines[-1].startswith("it does not work: ")


def test_what_a_worker_is_told_a_doctor_can_be_told(doctor: Doctor, worker_dsn: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    of_worker, of_doctor = ({o for p in commands[name].params for o in p.opts} for name in ("worker", "doctor"))
    assert of_doctor == of_worker | {"--json"}
    told = ["--concurrency", "2", "--no-install-requirements", "--allow-superuser", "--queue", "night"]
    result = doctor("--dsn", worker_dsn, "--unsafe-no-sandbox", *told)
    assert result.exit_code == 0, result.output
    assert "not needed: install_requirements is off" in result.output
    assert result.output.splitlines()[-1].startswith("it works; heed the warnings: ")


@pytest.mark.parametrize("engine", ["local", "kubeflow"])
def test_a_worker_without_a_sandbox_is_warned_of(
    doctor: Doctor, worker_dsn: str, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWDBML_UNSAFE_NO_SANDBOX", "true")
    monkeypatch.setenv("KWDBML_INSTALL_REQUIREMENTS", "false")
    file = write_nowhere(tmp_path)
    found = outcomes(doctor("--dsn", worker_dsn, "--config", str(file), "--engine", engine, "--json"))
    assert found["local.sandbox" if engine == "local" else "requirements.sandbox"] == "warn"


def test_a_machine_without_a_sandbox(doctor: Doctor, worker_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if name == "bwrap" else which(name, **more))
    result = doctor("--dsn", worker_dsn)
    assert result.exit_code == 1
    assert "cure: Install it: apt install bubblewrap." in result.output


def test_a_slip_in_a_variable_s_name(doctor: Doctor, worker_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_CONCURENCY", "4")
    monkeypatch.setenv("KWDBML_BIRTHDAY", "another's")
    result = doctor("--dsn", worker_dsn)
    assert result.exit_code == 0, result.output
    first, second = result.output.splitlines()[:2]
    assert first.split()[0] == "warn"
    assert "no setting: KWDBML_CONCURENCY" in first
    assert second.strip() == "cure: Did you mean KWDBML_CONCURRENCY?"


def test_whose_settings_are_wrong(doctor: Doctor, worker_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_DSN", "")
    found = {one["check"]: one for one in json.loads(doctor("--json").stdout)["checks"]}
    assert found["settings"]["message"] == "setting dsn: is missing"
    monkeypatch.setenv("KWDBML_DSN", worker_dsn)
    wrong = outcomes(doctor("--engine", "spark", "--json"))
    assert [name for name, outcome in wrong.items() if outcome == "FAIL"] == ["settings"]
    monkeypatch.setenv("KWDBML_ENGINES", "kubeflow")
    result = doctor()
    assert result.exit_code == 1
    assert 'in a variable as JSON: ["a", "b"]' in result.output


def test_settings_that_are_wrong_do_not_hide_the_rest(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor("--json")
    assert result.exit_code == 1
    found = outcomes(result)
    assert (found["settings"], found["local.sandbox"]) == ("FAIL", "ok")
    assert not any(name.startswith("database") for name in found)
    monkeypatch.setenv("KWDBML_KFP_HOST", "kfp:8888")
    both = json.loads(doctor("--json").stdout)
    wrong = {one["check"]: one["cure"] for one in both["checks"] if one["outcome"] == "FAIL"}
    assert set(wrong) == {"settings", "kubeflow.settings"}
    assert "KWDBML_DSN" in wrong["settings"]
    assert "KWDBML_KFP_HOST" in wrong["kubeflow.settings"]


def test_settings_of_kubeflow_alone_that_are_wrong(
    doctor: Doctor, worker_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWDBML_DSN", worker_dsn)
    monkeypatch.setenv("KWDBML_KFP_HOST", "http://kfp:8888")
    result = doctor("--json")
    assert result.exit_code == 1
    found = outcomes(result)
    assert [name for name, outcome in found.items() if outcome != "ok"] == ["kubeflow.settings"]
    assert found["database.role"] == "ok"


def test_settings_that_cannot_be_read_at_all(doctor: Doctor, tmp_path: Path) -> None:
    result = doctor("--config", str(tmp_path / "none.toml"), "--json")
    assert result.exit_code == 1
    assert outcomes(result) == {"settings": "FAIL"}


def test_kubeflow_too_and_no_secret_is_told(
    doctor: Doctor, worker_dsn: str, kubeflow: Stub, s3_bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"KWDBML_KFP_TOKEN": "token-of-the-worker", "KWDBML_S3_SECRET_KEY": s3_bucket.secret_key}
    environment = {
        "KWDBML_DSN": worker_dsn, "KWDBML_KFP_HOST": kubeflow.kfp.url, "KWDBML_KFP_IMAGE": "kwdbml/runtime:1",
        "KWDBML_KFP_CLUSTER_HOST": kubeflow.cluster.url, "KWDBML_S3_ENDPOINT": s3_bucket.endpoint,
        "KWDBML_S3_BUCKET": s3_bucket.bucket, "KWDBML_S3_ACCESS_KEY": s3_bucket.access_key,
    }  # fmt: skip
    for name, value in (environment | secrets).items():
        monkeypatch.setenv(name, value)
    kubeflow.kfp.tokens = {secrets["KWDBML_KFP_TOKEN"]}
    result = doctor()
    assert result.exit_code == 0, result.output
    assert "warn" in result.output  # pods could not reach 127.0.0.1
    kubeflow.kfp.faults.add("GET", "experiments", status=403, message="not you, token-of-the-worker", times=9)
    refused = doctor("--json")
    assert refused.exit_code == 1
    assert outcomes(refused)["kubeflow.experiment"] == "FAIL"
    password = str(conninfo_to_dict(worker_dsn)["password"])
    for secret in (*secrets.values(), password):
        assert secret not in result.output + refused.output


def test_kubeflow_without_its_packages(
    doctor: Doctor, tmp_path: Path, worker_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWDBML_DSN", worker_dsn)
    file = write_nowhere(tmp_path)
    monkeypatch.delitem(sys.modules, "kwdbml.engines.kfp.checks", raising=False)
    monkeypatch.setitem(sys.modules, "kwdbml.engines.kfp.api", None)
    result = doctor("--config", str(file))
    assert result.exit_code == 1
    assert "cure: pip install 'kwdbml[kubeflow]'" in result.output
    assert "hush" not in result.output


# -- how checks are run ----------------------------------------------------------------------------------------------


def raising(error: Exception) -> Callable[[], str]:
    def look() -> str:
        raise error

    return look


def test_what_needs_a_failed_check_is_not_looked_at() -> None:
    looked: list[str] = []

    def note() -> str:
        looked.append("x")
        return "fine"

    checks = [
        Check("a", raising(WrongState("no", hint="do"))),
        Check("b", note, ("a",)),
        Check("c", note, ("b",)),
        Check("d", note),
    ]
    found = {one.check: one for one in Examination().run(checks)}
    assert [one.outcome for one in found.values()] == [Outcome.FAIL, Outcome.SKIPPED, Outcome.SKIPPED, Outcome.OK]
    assert found["c"].message == "not looked at, because of b"
    assert looked == ["x"]


def test_an_error_of_a_check_is_one_more_finding() -> None:
    checks: list[Any] = [Check("a", raising(KeyError("secret-word"))), Check("b", lambda: "fine")]
    first, second = Examination(["secret-word"]).run(checks)
    assert (first.outcome, second.outcome) == (Outcome.FAIL, Outcome.OK)
    assert "KeyError" in first.message
    assert "secret-word" not in str(first)
