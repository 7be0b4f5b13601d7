"""What the program that installs requirements can reach: its own directory, the network, the indexes; nothing else."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from kwdbml.engines import sandbox
from kwdbml.worker import indexes
from kwdbml.worker.indexes import Client
from kwdbml.worker.installer import Installer, Limits
from tests.fixtures.local import open_to_others

LOOK = """
import json, os, sys
def attempt(path):
    try:
        if os.path.isdir(path):
            return os.listdir(path)
        with open(path, "rb") as file:
            return file.read(64).decode("latin-1")
    except OSError as error:
        return type(error).__name__
def write(path):
    try:
        with open(path, "w") as file:
            file.write("x")
        return "written"
    except OSError as error:
        return type(error).__name__
reads, writes = json.loads(sys.argv[1])
environments = [attempt(f"/proc/{name}/environ") for name in os.listdir("/proc") if name.isdigit()]
print(json.dumps({
    "uid": os.getuid(), "env": dict(os.environ), "processes": environments,
    "reads": {path: attempt(path) for path in reads}, "writes": {path: write(path) for path in writes},
    "resolves": os.path.exists("/etc/resolv.conf"),
    "capabilities": [line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1],
}))
"""


async def look(
    directory: Path, reads: list[Path | str], writes: list[Path | str], paths: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a program in the sandbox of an installation finds there."""
    known = indexes.client({}, closed=directory)
    client = Client({"UV_DEFAULT_INDEX": "https://index.invalid/simple"}, (), (*known.paths, *paths))
    installer = Installer(sandbox.detect(), client, directory, Limits(), pytest.fail)
    installer._prepare([])
    questions = json.dumps([list(map(str, reads)), list(map(str, writes))])
    code, output = await installer.run([sys.executable, "-I", "-c", LOOK, questions])
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


def canary(path: Path) -> Path:
    """A file that everybody outside could read."""
    path.write_text("canary")
    path.chmod(0o644)
    return path


async def test_nothing_of_the_worker_is_in_reach(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_DSN", "postgresql://worker:canary@127.0.0.1/kwdbml")
    monkeypatch.setenv("PGPASSFILE", "/canary")
    packages, other = scratch / "packages", scratch / "ws" / "other" / "in"
    for path in (packages, other):
        path.mkdir(parents=True)
    for path in (scratch, packages):
        path.chmod(0o711)
    secrets = [canary(path) for path in (other / "data.arrow", scratch.parent / "passfile", packages / "ready")]
    reads = [
        "/etc/shadow",
        "/etc/passwd",
        "/root",
        "/home",
        "/run",
        "/var",
        "/proc/1/root/etc/shadow",
        scratch,
        *secrets,
    ]
    writes = [*secrets, "/etc/x", "/usr/x", f"{sys.prefix}/x", "/job/in/x", "/x", "/dev/x"]
    found = await look(packages / ".new-x", [*map(str, reads)], [*map(str, writes)])
    assert "canary" not in json.dumps(found)
    assert found["env"].keys() <= {
        "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "UV_CACHE_DIR", "UV_PYTHON_DOWNLOADS", "UV_LINK_MODE",
        "UV_NO_BUILD", "UV_WORKING_DIR", "UV_DEFAULT_INDEX",
    }  # fmt: skip
    assert found["reads"].pop("/etc/passwd").startswith("job:x:")
    beside = {
        path: answer
        for path, answer in found["reads"].items()
        if answer not in ("FileNotFoundError", "PermissionError")
    }
    # of the directories above the runtime, which is needed inside, nothing but the way to it is there
    prefix = Path(sys.prefix)
    ways = {p: [prefix.relative_to(p).parts[0]] for p in ("/root", "/home", "/run", "/var") if prefix.is_relative_to(p)}
    assert beside == ways
    assert "written" not in found["writes"].values()
    assert all(path.read_text() == "canary" for path in secrets)
    assert int(found["capabilities"], 16) == 0
    if os.geteuid() == 0:
        assert found["uid"] not in (0, os.getuid())


async def test_its_own_directory_and_what_is_configured_are(scratch: Path) -> None:
    """The harmless twin."""
    wheels = scratch.parent / "wheels"
    wheels.mkdir()
    (wheels / "some.whl").write_text("x")
    (scratch / "packages").mkdir(parents=True)
    for path in (scratch, scratch / "packages"):
        path.chmod(0o711)
    reads: list[Path | str] = [wheels, "/job/in/constraints.txt"]
    found = await look(scratch / "packages" / ".new-x", reads, ["/job/out/target"], (str(wheels),))
    assert found["reads"][str(wheels)] == ["some.whl"]
    assert "==" in found["reads"]["/job/in/constraints.txt"]
    assert found["writes"] == {"/job/out/target": "written"}
    assert found["resolves"] or "/etc/resolv.conf" not in indexes.client({}, closed=scratch).paths


def configured(tmp_path: Path, **environ: str) -> Client:
    return indexes.client({"HOME": str(tmp_path), **environ}, closed=tmp_path / "scratch")


def test_pips_configuration_is_translated(tmp_path: Path) -> None:
    for name in ("wheels", "mirror/simple", "mirror/files"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = https://me:secret@one.invalid/simple\nfind-links = {tmp_path}/wheels /nowhere\n"
        f"[install]\nextra-index-url =\n    https://two.invalid/simple\n    file://{tmp_path}/mirror/simple\n"
        "trusted-host = two.invalid\n"
    )
    found = configured(
        tmp_path, PIP_CONFIG_FILE=str(tmp_path / "pip.conf"), PIP_PROXY="http://proxy.invalid", PGPASSWORD="x"
    )
    assert found.env["UV_DEFAULT_INDEX"] == "https://me:secret@one.invalid/simple"
    assert found.env["UV_INDEX"] == f"https://two.invalid/simple file://{tmp_path}/mirror/simple"
    assert found.env["UV_FIND_LINKS"] == f"{tmp_path}/wheels,/nowhere"
    assert found.env["UV_INSECURE_HOST"] == "two.invalid"
    assert found.env["ALL_PROXY"] == "http://proxy.invalid"
    assert "PGPASSWORD" not in found.env
    assert found.arguments == ()
    assert {f"{tmp_path}/wheels", f"{tmp_path}/mirror"} <= set(found.paths), "an index points to the files beside it"
    assert "/nowhere" not in found.paths


def test_uvs_own_configuration_comes_before_pips(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    pip = {"PIP_INDEX_URL": "https://pip.invalid/simple", "PIP_NO_INDEX": "1"}
    assert configured(tmp_path, **pip).arguments == ("--no-index",)
    by_variable = configured(tmp_path, UV_INDEX=f"mine={tmp_path}/links", UV_INDEX_MINE_PASSWORD="p", **pip)
    assert by_variable.env["UV_INDEX_MINE_PASSWORD"] == "p"
    assert "UV_DEFAULT_INDEX" not in by_variable.env
    assert f"{tmp_path}/links" in by_variable.paths
    text = f'[[index]]\nname = "mine"\nurl = "file://{tmp_path}/links"\n'
    (tmp_path / "uv.toml").write_text(text)
    by_file = configured(tmp_path, UV_CONFIG_FILE=str(tmp_path / "uv.toml"), **pip)
    assert by_file.uv_toml == text
    assert "UV_DEFAULT_INDEX" not in by_file.env
    assert by_file.arguments == ()
    assert f"{tmp_path}/links" in by_file.paths


def test_an_index_never_opens_what_is_closed(tmp_path: Path) -> None:
    """``simple`` right beside the scratch root: the directory around both would show every job's data."""
    for name in ("simple", "scratch"):
        (tmp_path / name).mkdir()
    found = configured(tmp_path, UV_INDEX=f"file://{tmp_path}/simple")
    assert f"{tmp_path}/simple" in found.paths
    assert str(tmp_path) not in found.paths


async def test_without_a_sandbox_uv_still_has_an_empty_environment(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWDBML_DSN", "postgresql://worker:canary@127.0.0.1/kwdbml")
    (scratch / "packages").mkdir(parents=True)
    for path in (scratch, scratch / "packages"):
        path.chmod(0o711)
    installer = Installer(sandbox.without(), Client({}, (), ()), scratch / "packages" / ".new-x", Limits(), pytest.fail)
    installer._prepare([])
    code, output = await installer.run([sys.executable, "-I", "-c", LOOK, json.dumps([[], []])])
    assert code == 0, output
    assert "canary" not in json.dumps(json.loads(output)["env"])
    if os.geteuid() == 0 and open_to_others(Path(sys.prefix)):
        assert json.loads(output)["uid"] != 0
