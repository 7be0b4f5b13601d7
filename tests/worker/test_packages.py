"""requirements.txt installed for a job: what is asked for comes along, and whoever asks gets nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kwdbml.engines.base import Workspace
from kwdbml.steps.failure import BadBundle, MissingRequirement
from kwdbml.worker.installer import InstallFailed, Limits, RequirementConflict
from kwdbml.worker.packages import Packages
from tests.fixtures.bundles import zipped
from tests.worker.site import DEADLINE

Files = Mapping[str, str | bytes]


def wheel(name: str, version: str = "1.0", requires: str = "", code: str = "VALUE = 42\n") -> tuple[str, bytes]:
    """File name and bytes of a small wheel."""
    info = f"{name}-{version}.dist-info"
    asks = f"Requires-Dist: {requires}\n" if requires else ""
    return f"{name}-{version}-py3-none-any.whl", zipped(
        {
            f"{name}/__init__.py": code,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asks}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
    )


@pytest.fixture
def wheels(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of wheels that is all the machine's configuration knows: nothing is downloaded."""
    path = scratch.parent / "wheels"
    path.mkdir()
    for file, content in (wheel("kwtiny"), wheel("kwtiny", "2.0"), wheel("kwold", requires="numpy<1")):
        (path / file).write_bytes(content)
    configure(monkeypatch, scratch, f"[global]\nno-index = true\nfind-links = {path}\n")
    return path


def configure(monkeypatch: pytest.MonkeyPatch, scratch: Path, text: str) -> None:
    """pip's configuration of the machine is this, and uv has none."""
    for name in [n for n in os.environ if n.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    file = scratch.parent / "pip.conf"
    file.write_text(text)
    monkeypatch.setenv("HOME", str(scratch.parent / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))


def workspace(scratch: Path, number: int = 1, **bundles: Files) -> Workspace:
    """A workspace with these bundles in it."""
    path = scratch / "ws" / f"w{number}"
    (path / "in").mkdir(parents=True)
    for kind, files in bundles.items():
        (path / "in" / f"{kind}.zip").write_bytes(zipped(files))
    return Workspace(path, sealed=True)


async def place(scratch: Path, number: int = 1, **bundles: Files) -> tuple[Path, list[str]]:
    """in/packages after a worker has filled it, and what it said."""
    said: list[str] = []
    one = workspace(scratch, number, **bundles)
    await Packages(scratch).place(one, said.append)
    return one.inputs / "packages", said


def asks(text: str, **more: str | bytes) -> dict[str, str | bytes]:
    return {"requirements.txt": text, **more}


def made(scratch: Path) -> list[Path]:
    """The environments that are there."""
    return [path for path in (scratch / "packages").glob("[!.]*") if path.is_dir()]


def leftovers(scratch: Path) -> list[Path]:
    return list((scratch / "packages").glob(".new-*"))


async def test_what_is_satisfied_installs_nothing(scratch: Path) -> None:
    file, content = wheel("kwtiny")
    model = asks("numpy>=1\nnever; python_version < '3'\nkwtiny==1.0\n", **{"modules.zip": zipped({file: content})})
    packages, said = await place(scratch, model=model, transformer={"training/requirements.txt": "xgboost\n# none\n"})
    assert not packages.exists()
    assert said == []
    assert not (scratch / "packages").exists()


async def test_what_is_no_bundle_is_left_to_the_step(scratch: Path) -> None:
    one = workspace(scratch, pipeline=asks("kwtiny", **{"modules.zip": b"PK but not really"}))
    (one.inputs / "model.zip").write_bytes(b"a model")
    (one.inputs / "transformer.zip").write_bytes(zipped(asks("kwtiny"))[:-30])
    await Packages(scratch).place(one, pytest.fail)
    assert not (one.inputs / "packages").exists()


async def test_a_requirements_file_has_a_size(scratch: Path) -> None:
    with pytest.raises(BadBundle, match="more than 256 KiB"):
        await place(scratch, model=asks("#" * (300 << 10)))


async def test_a_package_from_the_machines_index(scratch: Path) -> None:
    try:
        packages, said = await place(scratch, pipeline=asks("inflection>=0.5  # small, pure\n"))
    except MissingRequirement as error:
        pytest.fail(
            f"the package index that this machine is configured for cannot be reached or lacks it: {error.message}"
        )
    assert (packages / "inflection" / "__init__.py").is_file()
    assert any(line.startswith(" + inflection==") for line in said)
    code = "import inflection; print(inflection.underscore('DepDelay'))"
    run = [sys.executable, "-I", "-c", f"import sys; sys.path.append({str(packages)!r}); {code}"]
    done = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, check=True)
    assert done.stdout == "dep_delay\n"


async def test_a_directory_of_wheels_serves_and_is_asked_once(scratch: Path, wheels: Path) -> None:
    packages, said = await place(scratch, model=asks("kwtiny<2\n"))
    assert (packages / "kwtiny" / "__init__.py").read_text() == "VALUE = 42\n"
    assert said
    shutil.rmtree(wheels)
    again, said = await place(scratch, 2, transformer={"prediction/requirements.txt": "# other words\nkwtiny < 2\n"})
    assert said == []
    assert (again / "kwtiny" / "__init__.py").samefile(packages / "kwtiny" / "__init__.py")
    assert len(made(scratch)) == 1


async def test_without_a_sandbox_a_job_gets_files_of_its_own(scratch: Path, wheels: Path) -> None:
    one = workspace(scratch, model=asks("kwtiny"))
    await Packages(scratch).place(replace(one, sealed=False), lambda _: None)
    mine = one.inputs / "packages" / "kwtiny" / "__init__.py"
    theirs = made(scratch)[0] / "kwtiny" / "__init__.py"
    assert not mine.samefile(theirs)
    for path in (mine, theirs):
        assert path.stat().st_mode & 0o222 == 0
        assert path.stat().st_uid == os.geteuid()


async def test_without_a_sandbox_uv_installs_as_well(scratch: Path, wheels: Path) -> None:
    one = workspace(scratch, model=asks("kwtiny"))
    await Packages(scratch, unsafe_no_sandbox=True).place(one, lambda _: None)
    assert (one.inputs / "packages" / "kwtiny" / "__init__.py").read_text() == "VALUE = 42\n"


@pytest.mark.parametrize(
    "line",
    [
        "--index-url http://127.0.0.1:9/simple", "--extra-index-url=http://127.0.0.1:9/simple", "--find-links /etc",
        "-e .", "-r /etc/passwd", "-c in/constraints.txt", "git+https://127.0.0.1/evil.git", "./evil",
        "evil @ git+https://127.0.0.1/evil.git", "evil @ file:///etc/passwd", "file:///evil.whl", "kwtiny --no-deps",
        "kwtiny --hash=sha256:../../etc", "kwtiny --config-settings=x=y", "kwtiny===1\\0", "kwtiny==${HOME}",
        "kwtiny===$(id)", "kwtiny; nonsense == 'x'", "kwtiny; os_name ~= 'x'", "kwtiny\x85--index-url=http://127.0.0.1:9",
    ],
)  # fmt: skip
async def test_a_line_that_is_no_package_is_refused(scratch: Path, wheels: Path, line: str) -> None:
    with pytest.raises(BadBundle, match=r"the model bundle's pipeline/requirements\.txt: .* only|is not a package"):
        await place(scratch, model={"pipeline/requirements.txt": f"kwtiny\n{line}\n"})
    assert not (scratch / "packages").exists()


async def test_a_package_without_a_wheel_is_not_built(scratch: Path, wheels: Path) -> None:
    setup = f"open({str(scratch.parent / 'canary')!r}, 'w')"
    files = {
        "kwsource-1.0/setup.py": setup,
        "kwsource-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: kwsource\nVersion: 1.0\n",
    }
    (wheels / "kwsource-1.0.zip").write_bytes(zipped(files))
    with pytest.raises(MissingRequirement, match="no usable wheels") as caught:
        await place(scratch, model=asks("kwsource\n"))
    assert "modules.zip" in caught.value.hint
    assert not (scratch.parent / "canary").exists()
    assert leftovers(scratch) == made(scratch) == []


async def test_bundles_that_contradict_each_other(scratch: Path, wheels: Path) -> None:
    with pytest.raises(RequirementConflict, match="you require kwtiny"):
        await place(scratch, model=asks("kwtiny==1.0\n"), transformer=asks("kwtiny>1.5\n"))
    packages, _ = await place(scratch, 2, model=asks("kwtiny>=1.0\n"), transformer=asks("kwtiny<2\n"))
    assert (packages / "kwtiny-1.0.dist-info").is_dir()


async def test_the_runtimes_own_libraries_stay(scratch: Path, wheels: Path) -> None:
    with pytest.raises(MissingRequirement, match=r"the model bundle's requirements\.txt .* numpy<1 \(installed: "):
        await place(scratch, model=asks("kwtiny\nnumpy<1\n"))
    with pytest.raises(RequirementConflict, match="numpy"):
        await place(scratch, 2, model=asks("kwold\n"))


async def test_hashes_are_compared(scratch: Path, wheels: Path) -> None:
    digest = hashlib.sha256((wheels / "kwtiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    with pytest.raises(InstallFailed, match="Hash mismatch"):
        await place(scratch, model=asks(f"kwtiny==1.0 --hash=sha256:{'0' * 64}\n"))
    assert made(scratch) == []
    packages, _ = await place(scratch, 2, model=asks(f"kwtiny==1.0 \\\n    --hash=sha256:{digest}\n"))
    assert (packages / "kwtiny").is_dir()


async def test_offline_the_error_names_the_way(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, scratch, "")
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(MissingRequirement, match=r"asks for what is not here: kwtiny>1 \(not installed\)") as caught:
        await place(scratch, pipeline=asks("kwtiny>1\n"))
    assert "modules.zip" in caught.value.hint
    assert leftovers(scratch) == []


async def test_two_at_once_install_once(scratch: Path, wheels: Path) -> None:
    model = asks("kwtiny\n")
    both = await asyncio.gather(place(scratch, 1, model=model), place(scratch, 2, model=model))
    assert sorted(bool(said) for _, said in both) == [False, True]
    assert all((packages / "kwtiny" / "__init__.py").is_file() for packages, _ in both)
    assert len(made(scratch)) == 1
    assert leftovers(scratch) == []


class Silence:
    """An index that takes connections and never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        while await reader.read(1 << 16):
            pass
        self.left.set()
        writer.close()


@pytest.fixture
async def silence(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Silence]:
    """The machine's only index is silent."""
    one = Silence()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    configure(monkeypatch, scratch, "")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple")
    yield one
    server.close()


async def test_a_cancel_ends_uv_and_leaves_nothing(scratch: Path, silence: Silence) -> None:
    async with asyncio.timeout(DEADLINE):
        task = asyncio.create_task(place(scratch, model=asks("kwtiny\n")))
        await silence.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await silence.left.wait()
    assert leftovers(scratch) == made(scratch) == []


async def test_an_installation_has_a_time_limit(scratch: Path, silence: Silence) -> None:
    with pytest.raises(InstallFailed, match="longer than 1 seconds"):
        await Packages(scratch, limits=Limits(seconds=1)).place(
            workspace(scratch, model=asks("kwtiny")), lambda _: None
        )
    assert leftovers(scratch) == made(scratch) == []


async def test_an_installation_has_a_share_of_the_disk(scratch: Path, wheels: Path) -> None:
    file, content = wheel("kwbig", code="# " + "x" * (8 << 20))
    (wheels / file).write_bytes(content)
    with pytest.raises(InstallFailed):
        await Packages(scratch, limits=Limits(disk=4 << 20)).place(
            workspace(scratch, model=asks("kwbig")), lambda _: None
        )
    assert leftovers(scratch) == made(scratch) == []


KILLED = """
import asyncio, sys
from pathlib import Path
from kwdbml.engines.base import Workspace
from kwdbml.worker.packages import Packages
asyncio.run(Packages(Path(sys.argv[1])).place(Workspace(Path(sys.argv[2]), sealed=True), print))
"""


async def test_a_worker_killed_half_way_leaves_nothing_that_counts(
    scratch: Path, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = workspace(scratch, model=asks("kwtiny\n"))
    worker: Any = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(scratch), str(one.path))
    async with asyncio.timeout(DEADLINE):
        await silence.asked.wait()
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
        await silence.left.wait()  # uv has died with it
    [left] = leftovers(scratch)
    links = scratch.parent / "wheels"
    links.mkdir()
    (links / wheel("kwtiny")[0]).write_bytes(wheel("kwtiny")[1])
    configure(monkeypatch, scratch, f"[global]\nno-index = 1\nfind-links = {links}\n")
    await Packages(scratch).place(one, lambda _: None)
    assert (one.inputs / "packages" / "kwtiny" / "__init__.py").is_file()
    assert left.is_dir()
    long_ago = time.time() - 3 * 3600
    os.utime(left, (long_ago, long_ago))
    await place(scratch, 2, model=asks("kwtiny\n"))
    assert leftovers(scratch) == []


async def test_what_no_job_has_used_for_long_is_forgotten(scratch: Path, wheels: Path) -> None:
    packages, _ = await place(scratch, 1, model=asks("kwtiny<2\n"))
    [old] = made(scratch)
    long_ago = time.time() - 40 * 86400
    os.utime(old, (long_ago, long_ago))
    await place(scratch, 2, model=asks("kwtiny\n"))
    assert old not in made(scratch)
    assert leftovers(scratch) == []
    assert (packages / "kwtiny" / "__init__.py").read_text() == "VALUE = 42\n", "a job that runs keeps its own"
