"""docker-compose.yml and the Dockerfiles, as far as they can be checked without an engine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kwdbml.embedded.binaries import SUPPORTED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compose() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def dockerfile(service: dict[str, Any]) -> Path:
    build = service["build"]
    return ROOT / str(build["context"]) / str(build.get("dockerfile", "Dockerfile"))


def test_the_services_are_built_from_this_repository(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"db", "worker"} <= set(services)
    assert dockerfile(services["db"]) == ROOT / "extension" / "Dockerfile"
    assert all(dockerfile(services[name]).exists() for name in ("db", "worker"))
    assert services["worker"]["depends_on"]["db"]["condition"] == "service_healthy"
    assert int(services["db"]["build"]["args"]["POSTGRES"]) in SUPPORTED


def test_db_and_worker_alone_start_by_default(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if not service.get("profiles")} == {"db", "worker"}


def test_volumes_and_ports(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} listens to the whole network"


def test_no_password_is_written_down(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key:
                assert re.match(r"\$\{\w+", value), f"{name}: {key}"
    dsn = compose["services"]["worker"]["environment"]["KWDBML_DSN"]
    assert dsn == "postgresql://kwdbml_container_worker:${KWDBML_WORKER_PASSWORD}@db:5432/kwdbml"
    assert "CREATE ROLE kwdbml_container_worker LOGIN" in (ROOT / "extension" / "initdb.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["Dockerfile", "extension/Dockerfile"])
def test_what_a_dockerfile_copies_exists_and_is_not_ignored(file: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY ") and "--from=" not in line:
            source = line.split()[1]
            assert (ROOT / source).exists()
            assert source.split("/")[0] not in ignored


def test_the_database_image_has_the_sqlglot_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = next(line for line in project["dependencies"] if line.startswith("sqlglot"))
    assert f"'{wanted}'" in (ROOT / "extension" / "Dockerfile").read_text(encoding="utf-8")


def test_the_script_of_the_database_image_is_a_script() -> None:
    subprocess.run(["/bin/sh", "-n", ROOT / "extension" / "initdb.sh"], check=True)
