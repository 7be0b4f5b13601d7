"""uv, in a sandbox of its own: the network, its own directory, an empty environment, and nothing else of the worker's.

Two calls. The first resolves what the bundles ask for against what the runtime has, which stays as it is; the second
installs what the first one found missing, and no dependencies beyond it. Wheels only: none of a package's code runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kwdbml.engines import sandbox, seccomp
from kwdbml.engines.trees import disk_usage
from kwdbml.errors import EngineError, KwdbmlError
from kwdbml.steps.failure import MissingRequirement, StepError
from kwdbml.steps.requirements import Line
from kwdbml.worker.indexes import Client

Say = Callable[[str], None]

_MOST_OUTPUT = 256 << 10  # bytes of uv's that are kept
_MOST_MESSAGE = 4000  # characters of uv's explanation in an error
_MOST_ENTRIES = 2_000_000
_PIN = re.compile(r"^ \+ ([A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!_-]+)$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PASSWORD = re.compile(r"(://)[^/@\s]+@")
#: uv's words for what an index does not have. Whatever else has no solution is a conflict.
_NOT_THERE = re.compile(
    r"(was|were) not found in|there (is|are) no versions? of|ha(s|ve) no (usable )?wheels"
    r"|(is|are) available and you require"
)
#: … and for an index that cannot be reached.
_OFFLINE = re.compile(
    r"network was disabled|error sending request|Failed to fetch|dns error|timed out|Connection refused", re.IGNORECASE
)


class RequirementConflict(StepError):
    """What the bundles ask for cannot all be had at once, or not beside the runtime's own libraries."""


class Offline(KwdbmlError):
    """No index can be reached."""


class InstallFailed(KwdbmlError):
    """uv failed for another reason than what was asked for."""

    sqlstate = "58000"


@dataclass(frozen=True, slots=True)
class Limits:
    """For one installation."""

    seconds: float = 600.0
    disk: int = 20 << 30  # bytes, downloads included


def uv_program() -> str:
    """uv's path."""
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise EngineError("uv is not installed", hint="pip install uv, or start with --no-install-requirements")
    return found


def runtime_versions() -> list[str]:
    """``name==version`` of everything the runtime has, sorted."""
    found = {(d.metadata["Name"] or "", d.version or "") for d in importlib.metadata.distributions()}
    return sorted(
        f"{name}=={version}" for name, version in found if re.fullmatch(r"[\w.-]+=[\w.+!-]+", f"{name}={version}")
    )


class Installer:
    """One installation below ``directory``, which it makes and which is the caller's to remove."""

    def __init__(self, box: sandbox.Sandbox, client: Client, directory: Path, limits: Limits, say: Say) -> None:
        self._box, self._client, self._directory, self._limits, self._say = box, client, directory, limits, say
        self._uid = box.choose_uid()
        self._inside = box.inside or str(directory)
        self._uv = uv_program()

    async def install(self, lines: Sequence[Line]) -> Path:
        """Where lies what was missing. RequirementConflict, MissingRequirement, Offline or InstallFailed."""
        await asyncio.to_thread(self._prepare, lines)
        try:
            async with asyncio.timeout(self._limits.seconds):
                pins = await self._resolve()
                await asyncio.to_thread(self._write, "pins.txt", _pinned(pins, lines))
                target = f"{self._inside}/out/target"
                await self._call("--target", target, "--no-deps", "--compile-bytecode", "-r", "in/pins.txt")
        except TimeoutError:
            raise InstallFailed(f"installing requirements took longer than {self._limits.seconds:g} seconds") from None
        found = self._directory / "out" / "target"
        found.mkdir(exist_ok=True)  # nothing may have been missing: a package that another one brings
        return found

    def _prepare(self, lines: Sequence[Line]) -> None:
        sandbox.make_workspace(self._directory, self._uid)
        sandbox.write_accounts(self._directory, self._uid)
        self._write("requirements.txt", [_written(line) for line in lines])
        self._write("constraints.txt", runtime_versions())
        if self._client.uv_toml is not None:
            self._write("uv.toml", [self._client.uv_toml])

    def _write(self, name: str, lines: Sequence[str]) -> None:
        path = self._directory / "in" / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        path.chmod(0o444)

    async def _resolve(self) -> list[str]:
        """``name==version`` of what must be installed."""
        given = ("-r", "in/requirements.txt", "-c", "in/constraints.txt")
        output = await self._call("--dry-run", "--break-system-packages", *given)
        return _PIN.findall(output)

    async def _call(self, *arguments: str) -> str:
        """``uv pip install`` to its end; what it said, line by line for the job's log."""
        given = [f"{self._inside}/{a}" if a.startswith("in/") else a for a in arguments]
        common = ["--python", sys.executable, "--only-binary", ":all:", "--no-progress", "--color", "never"]
        code, output = await self.run([self._uv, "pip", "install", *common, *self._client.arguments, *given])
        for line in output.splitlines():
            self._say(line)
        if code != 0:
            raise _error(code, output)
        return output

    async def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of ``command`` in the sandbox; nothing of it lives when this returns or raises."""
        readable = self._box_paths()
        argv = self._box.online(self._directory, command, uid=self._uid, disk=self._limits.disk, readable=readable)
        with _filter(self._box) as number:
            if number is not None:
                argv[1:1] = ["--seccomp", str(number)]
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, env=self._env(), cwd="/", start_new_session=True,
                pass_fds=() if number is None else (number,),
            )  # fmt: skip
        watching = asyncio.create_task(self._watch(process))
        reading = asyncio.create_task(_read(process))
        try:
            output = await asyncio.shield(reading)
            code = await process.wait()
        finally:
            watching.cancel()
            _kill(process)
            await asyncio.wait({reading, watching})  # its pipe has ended: nobody has it open any more
            await process.wait()
        if not watching.cancelled():
            watching.result()
        return code, _clean(output)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """End it when it has filled its share of the disk."""
        out = str(self._directory / "out")
        while True:
            used = await asyncio.to_thread(disk_usage, out, self._limits.disk, _MOST_ENTRIES)
            if used is None:
                break
            await asyncio.sleep(0.5)
        _kill(process)
        raise InstallFailed(f"the requirements take more than the {self._limits.disk >> 20:,} MiB allowed")

    def _box_paths(self) -> list[str]:
        """What is seen beside the runtime."""
        own = () if self._uv.startswith(("/usr/", *(f"{path}/" for path in self._box.runtime))) else (self._uv,)
        seen: list[str] = []
        for path in sorted({*self._client.paths, *own}):
            if not path.startswith(tuple(f"{root}/" for root in ("/usr", *self._box.runtime, *seen))):
                seen.append(path)
        return seen

    def _env(self) -> Mapping[str, str]:
        tmp = f"{self._inside}/out/tmp"
        env = {
            **self._client.env, "PATH": "/usr/bin:/bin", "HOME": tmp, "TMPDIR": tmp, "LANG": "C.UTF-8",
            "UV_CACHE_DIR": f"{self._inside}/out/cache", "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "hardlink",
            "UV_NO_BUILD": "1", "UV_WORKING_DIR": tmp,
        }  # fmt: skip
        return env if self._client.uv_toml is None else env | {"UV_CONFIG_FILE": f"{self._inside}/in/uv.toml"}


def _written(line: Line) -> str:
    return " ".join([line.text, *(f"--hash={digest}" for digest in line.hashes)])


def _pinned(pins: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """The pins with the hashes that the bundles' authors gave for them."""
    hashes: dict[str, dict[str, None]] = {}
    for line in lines:
        hashes.setdefault(line.name, {}).update(dict.fromkeys(line.hashes))
    return [" ".join([pin, *(f"--hash={digest}" for digest in hashes.get(pin.partition("==")[0], ()))]) for pin in pins]


def _error(code: int, output: str) -> KwdbmlError:
    """What uv's last words mean."""
    _, _, told = output.partition("error: ")
    told = told or output
    told = told.strip()
    short = told if len(told) <= _MOST_MESSAGE else told[:_MOST_MESSAGE] + " …"
    if _OFFLINE.search(told):
        return Offline(short)
    if not told.startswith("No solution found"):
        return InstallFailed(f"uv ended with exit code {code}: {short}")
    if _NOT_THERE.search(" ".join(told.split())):  # its lines are broken anywhere
        hint = "only wheels are installed: put the packages' .whl files into the bundle's modules.zip"
        return MissingRequirement(f"requirements.txt asks for what no index has for this Python: {short}", hint=hint)
    return RequirementConflict(f"what requirements.txt asks for does not go together: {short}")


def _clean(output: bytes) -> str:
    text = _COLOUR.sub("", output.decode("utf-8", "replace").replace("\0", ""))
    return _PASSWORD.sub(r"\1", text)


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """Until everybody has closed the pipe; the beginning is kept."""
    kept = b""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    while chunk := await process.stdout.read(1 << 16):
        kept = (kept + chunk)[:_MOST_OUTPUT]
    return kept


def _kill(process: asyncio.subprocess.Process) -> None:
    """The whole session: bubblewrap's inner processes die with it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _filter(box: sandbox.Sandbox) -> Iterator[int | None]:
    """A descriptor with the system calls that are refused, for bubblewrap to read."""
    program = seccomp.program() if box.kind != "plain" else None
    if program is None:
        yield None
        return
    number = os.memfd_create("kwdbml")
    try:
        os.write(number, program)
        os.lseek(number, 0, os.SEEK_SET)
        yield number
    finally:
        os.close(number)
