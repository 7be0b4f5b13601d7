"""What a job's bundles ask for in requirements.txt, installed before its run is launched, as ``in/packages/``.

    <scratch>/packages/<key>/         installed, read-only; the key is what was asked for, Python and the runtime
    <scratch>/packages/.lock-<k>      held while one is made or copied, by its key's beginning: two workers make it once
    <scratch>/packages/.new-<random>/ being made (``installer.py``); whoever is killed leaves it, and it is swept

Every engine gets it as files of the workspace, so a step finds it wherever it runs. Nothing is installed when the
runtime and the wheels in modules.zip satisfy what is asked for (``wanted.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from kwdbml.engines import sandbox
from kwdbml.engines.base import Workspace
from kwdbml.engines.trees import remove_tree
from kwdbml.steps.bundle import ACTIVE_PACKAGES
from kwdbml.steps.failure import StepError
from kwdbml.worker import indexes, wanted
from kwdbml.worker.installer import Installer, InstallFailed, Limits, Offline, Say, runtime_versions
from kwdbml.worker.wanted import Wanted

_UNUSED = 30 * 86400.0  # seconds after which an environment that no job has asked for is deleted
_ABANDONED = 2 * 3600.0  # … and what was begun and never finished; more than any time limit
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Packages:
    """The environments below ``scratch``. ``unsafe_no_sandbox``: uv runs without one as well."""

    def __init__(self, scratch: Path, *, unsafe_no_sandbox: bool = False, limits: Limits | None = None) -> None:
        self._scratch = scratch.absolute()
        self._root = self._scratch / "packages"
        self._unsafe = unsafe_no_sandbox
        self._limits = limits or Limits()
        self._box: sandbox.Sandbox | None = None

    async def place(self, workspace: Workspace, say: Say) -> None:
        """Fill in/packages/ when something is missing, before the workspace is launched.

        MissingRequirement, RequirementConflict, InstallFailed and BadBundle are the job's errors.
        """
        await self._place(await _finished(wanted.read, workspace.inputs), workspace, "packages", say)

    async def place_active(self, workspace: Workspace, say: Say) -> None:
        """The same for the version that a training is compared with, in a directory of its own. What it lacks is no
        error of the job: the step finds it missing, and it becomes the reason of the decision."""
        try:
            asked = await _finished(wanted.read, workspace.inputs, wanted.OF_ACTIVE)
            await self._place(asked, workspace, ACTIVE_PACKAGES, say)
        except (StepError, InstallFailed) as error:
            say(f"the active version cannot be measured: {error.message}")

    async def _place(self, asked: Wanted, workspace: Workspace, name: str, say: Say) -> None:
        if not asked.unmet:
            return
        if asked.fixed:
            raise asked.missing()
        key = _key(asked)
        await _finished(self._prepare)
        async with self._locked(key):
            ready = self._root / key
            if not ready.is_dir():
                await self._make(asked, ready, say)
            os.utime(ready)
            await _finished(_copy, ready, workspace.inputs / name, workspace.sealed)

    async def _make(self, asked: Wanted, ready: Path, say: Say) -> None:
        """Install, and give it its name when all of it is there."""
        fresh = self._root / f".new-{secrets.token_hex(8)}"
        box = await _finished(self._sandbox)
        client = indexes.client(os.environ, closed=self._scratch)
        try:
            made = await Installer(box, client, fresh, self._limits, say).install(asked.lines)
            await _finished(_seal, made)
            await _finished(made.rename, ready)
        except Offline as error:
            raise asked.missing() from error
        finally:
            with contextlib.suppress(OSError):
                await _finished(remove_tree, str(fresh))

    def _sandbox(self) -> sandbox.Sandbox:
        """The one that works here; EngineError with the cure when none does."""
        if self._box is None:
            self._box = sandbox.without() if self._unsafe else sandbox.detect()
        return self._box

    def _prepare(self) -> None:
        """Make the directory, and forget what nobody needs any more."""
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._root.mkdir(exist_ok=True, mode=0o711)
        self._root.chmod(0o711)  # the user that uv runs as passes through, and sees nothing
        now = time.time()
        for path in self._root.iterdir():
            with contextlib.suppress(OSError):
                age = now - path.stat().st_mtime
                if path.name.startswith(".new-") and age > _ABANDONED:
                    remove_tree(str(path))
                elif path.is_dir() and not path.name.startswith(".") and age > _UNUSED:
                    self._forget(path)

    def _forget(self, ready: Path) -> None:
        """Jobs have links or copies of their own; only who is just making those must not be disturbed."""
        lock = _lock_file(ready)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(str(ready.rename(ready.with_name(f".new-{secrets.token_hex(8)}"))))
        finally:
            os.close(lock)

    @contextlib.asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """One at a time makes or copies an environment, of all workers on this scratch root."""
        lock = _lock_file(self._root / key)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.1)
            yield
        finally:
            os.close(lock)


def _lock_file(ready: Path) -> int:
    return os.open(ready.with_name(f".lock-{ready.name[:2]}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _key(asked: Wanted) -> str:
    """The same for everything that is installed alike: what is asked for, the interpreter, what the runtime has."""
    lines = sorted({f"{line.name} {line.text} {' '.join(sorted(line.hashes))}" for line in asked.lines})
    python = [platform.python_implementation(), platform.python_version(), sysconfig.get_config_var("SOABI")]
    content = json.dumps([lines, python, sysconfig.get_platform(), platform.libc_ver(), runtime_versions()])
    return hashlib.sha256(content.encode()).hexdigest()


def _seal(made: Path) -> None:
    """Ours, and nobody's to change; links and what else is no file are taken away."""
    owner = os.geteuid(), os.getegid()
    for folder, folders, files in os.walk(made, topdown=False):
        for path in (Path(folder) / name for name in (*files, *folders)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()) or path.name == ".lock":
                path.unlink()
            elif path.is_file():
                os.chown(path, *owner)
                path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
            else:
                os.chown(path, *owner)
                path.chmod(0o755)
    os.chown(made, *owner)
    made.chmod(0o700)


def _copy(ready: Path, packages: Path, linked: bool) -> None:
    """The environment into a workspace: by hard links where the run cannot change what they lead to."""
    for folder, _, files in os.walk(ready):
        inside = packages / Path(folder).relative_to(ready)
        inside.mkdir()
        inside.chmod(0o755)
        for name in files:
            source, target = Path(folder) / name, inside / name
            if not (linked and _link(source, target)):
                shutil.copy2(source, target)


def _link(source: Path, target: Path) -> bool:
    """False where it cannot be: another file system, too many links."""
    try:
        target.hardlink_to(source)
    except OSError:
        return False
    return True


async def _finished(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """In a thread; also who is canceled waits for its end, because what it works on is removed next."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
