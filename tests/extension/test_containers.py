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
from kwdbml.engines.kfp.settings import KFP_PREFIX, S3_PREFIX, KubeflowSettings, S3Settings

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
            assert volume.startswith("${KWDBML_KUBECONFIG:-/dev/null}:") or volume.split(":")[0] in compose["volumes"]
        for port in service.get("ports", []):
            assert re.match(r"(\$\{\w+:-)?127\.0\.0\.1\}?:", port), f"{name} listens to the whole network"


def test_the_worker_gets_no_volume_of_another_user(compose: dict[str, Any]) -> None:
    """The one of 0.2.0 belonged to another number than the image has now, and is closed to it."""
    assert "scratch" not in compose["volumes"]


def test_no_password_is_written_down(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|TOKEN", key):
                assert value is None or re.search(r"\$\{\w+", value), f"{name}: {key}"
    dsn = compose["services"]["worker"]["environment"]["KWDBML_DSN"]
    assert dsn == "postgresql://kwdbml_container_worker:${KWDBML_WORKER_PASSWORD}@db:5432/kwdbml"
    assert "CREATE ROLE kwdbml_container_worker LOGIN" in (ROOT / "extension" / "initdb.sh").read_text(encoding="utf-8")


def test_settings_of_kubeflow_reach_the_worker(compose: dict[str, Any]) -> None:
    wanted = {f"{KFP_PREFIX}{name.upper()}" for name in KubeflowSettings.model_fields if name != "s3"}
    wanted |= {f"{S3_PREFIX}{name.upper()}" for name in S3Settings.model_fields}
    # these name files, which a service has to be given as well, or are of no use in a container
    wanted -= {f"{prefix}{name}" for prefix in (KFP_PREFIX, S3_PREFIX) for name in ("TOKEN_FILE", "CA_FILE")}
    wanted -= {"KWDBML_KFP_IN_CLUSTER"}
    passed = compose["services"]["worker"]["environment"]
    assert wanted == {name for name in passed if name != "KWDBML_DSN"}
    assert {passed[name] for name in wanted - {"KWDBML_KFP_KUBECONFIG"}} == {None}


def test_the_object_store_does_not_look_at_its_directories_without_end(compose: dict[str, Any]) -> None:
    """With 0s rclone loops when a listing meets an upload; by default it does not see for minutes what was uploaded."""
    words = compose["services"]["objectstore"]["command"]
    assert words[words.index("--dir-cache-time") + 1] == "10ms"


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values() if "image" in service]
    for file in DOCKERFILES:
        images += [words[1] for words in instructions(file) if words[0] == "FROM" and words[1] not in stages(file)]
    assert len(images) >= 4
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[\w${}.-]*[\d}][\w.-]*", image), image
        assert not image.endswith("latest")


DOCKERFILES = ["Dockerfile", "extension/Dockerfile"]


def instructions(file: str) -> list[list[str]]:
    """The words of every instruction, comments and line ends taken out."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = [line.split() for line in lines.replace("\\\n", " ").splitlines() if line.strip()]
    known = {"FROM", "ARG", "COPY", "RUN", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    assert {words[0] for words in found} <= known
    return found


def stages(file: str) -> list[str]:
    return [words[3] for words in instructions(file) if words[0] == "FROM" and len(words) == 4]


def test_the_stages_of_worker_and_runtime(compose: dict[str, Any]) -> None:
    assert {"worker", "runtime"} <= set(stages("Dockerfile"))
    assert compose["services"]["worker"]["build"]["target"] == "worker"
    known: set[str] = set()
    for words in instructions("Dockerfile"):
        if words[0] == "FROM":
            known.add(words[3])
        for source in (word.removeprefix("--from=") for word in words if word.startswith("--from=")):
            assert source in known
    bases = [words for words in instructions("Dockerfile") if words[0] == "FROM" and words[3] in ("worker", "runtime")]
    assert {words[1] for words in bases} == {"base"}  # the same packages in both: the worker resolves for the runtime


def test_the_extras_of_the_image_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    named = [extra for found in re.findall(r"EXTRAS=([\w,]+)", text) for extra in found.split(",")]
    assert {"frameworks", "kubeflow"} <= set(named) <= set(project["optional-dependencies"])


def test_no_secret_is_in_an_image() -> None:
    for file in DOCKERFILES:
        given = [word for words in instructions(file) if words[0] in ("ENV", "ARG") for word in words[1:]]
        assert not [word for word in given if re.search("PASSWORD|TOKEN|SECRET|_KEY", word)]


@pytest.mark.parametrize("file", DOCKERFILES)
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
