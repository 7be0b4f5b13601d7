"""Warm sandboxes: each a supervisor with a step inside that has imported what is heavy and waits for its run.

Importing pandas and scikit-learn takes two seconds, a sandbox ten milliseconds; both are over when a run arrives. A
slot is used once. A slot whose worker dies removes itself (``supervisor.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwdbml.engines import procs, sandbox, supervisor
from kwdbml.engines.trees import remove_tree
from kwdbml.errors import EngineError


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts supervisors, all alike: ``command`` in ``box``, workspaces below ``directory``."""

    box: sandbox.Sandbox
    directory: Path
    command: tuple[str, ...]
    threads: int
    disk: int
    cgroup: tuple[int, str] | None
    tick: float

    def start(self) -> Started:
        """A new supervisor and its workspace. Blocks for some milliseconds."""
        uid = self.box.choose_uid()
        workspace = self.directory / secrets.token_hex(8)
        sandbox.make_workspace(workspace, uid)
        try:
            sandbox.write_accounts(workspace, uid)
            setup = self.box.setup(
                workspace,
                self.command,
                uid=uid,
                threads=self.threads,
                disk=self.disk,
                cgroup=self.cgroup,
                tick=self.tick,
            )
            return _spawn(workspace, json.dumps(setup).encode() + b"\n")
        except BaseException:
            remove_tree(str(workspace))
            raise


@dataclass(frozen=True, slots=True)
class Started:
    """A supervisor: its process, and our ends of its standard input and output."""

    workspace: Path
    pid: int
    start: int
    pidfd: int
    stdin: int
    stdout: int


def _spawn(workspace: Path, setup: bytes) -> Started:
    (their_stdin, stdin), (stdout, their_stdout) = os.pipe(), os.pipe()
    errors = str(workspace / "ctl" / "supervisor.err")
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(supervisor.__file__)],
            # None of our environment: a job without sandbox could read it there.
            {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, their_stdin, 0),
                (os.POSIX_SPAWN_DUP2, their_stdout, 1),
                (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
        )
    except BaseException:
        os.close(stdin)
        os.close(stdout)
        raise
    finally:
        os.close(their_stdin)
        os.close(their_stdout)
    start = procs.start_time(pid)
    os.write(stdin, setup)
    os.set_blocking(stdout, False)
    return Started(workspace, pid, start or 0, os.pidfd_open(pid), stdin, stdout)


class Slot:
    """A started supervisor, followed on the event loop until its run starts or it ends."""

    def __init__(self, process: Started, failed: Callable[[Slot], None]) -> None:
        self.process = process
        self.name = process.workspace.name
        self.ready = asyncio.Event()  # the step waits for its run
        self.failed = asyncio.Event()  # the sandbox will never run anything
        self.gone = asyncio.Event()  # the supervisor has ended
        self._started = asyncio.Event()  # the run has started, or never will
        self._failure = ""
        self._received = b""
        self._released = False
        self._when_gone: list[Callable[[], None]] = []
        self._when_failed = failed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process.stdout, self._read)
        self._loop.add_reader(process.pidfd, self._exited)

    def _read(self) -> None:
        try:
            data = os.read(self.process.stdout, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self.process.stdout)
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._told(json.loads(line))

    def _told(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "ready":
                self.ready.set()
            case "started":
                self._started.set()
            case "failed":
                self._fail(str(message["message"]))

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self.failed.set()
        self._started.set()
        self._when_failed(self)

    def _exited(self) -> None:
        if not self._released:  # or its number is another file's by now, perhaps of another slot
            self._read_rest()
        self._loop.remove_reader(self.process.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process.pid, os.WNOHANG)
        self.gone.set()
        if not self._started.is_set():
            self._fail("its supervisor was killed")
        for call in self._when_gone:
            call()

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call it when the supervisor has ended, at once if it has."""
        if self.gone.is_set():
            call()
        else:
            self._when_gone.append(call)

    def _read_rest(self) -> None:
        with contextlib.suppress(OSError):
            self._read()

    async def go(self, order: dict[str, Any]) -> None:
        """Start the run. EngineError, retryable, when the sandbox did not come up."""
        data = json.dumps(order).encode() + b"\n"
        os.set_blocking(self.process.stdin, False)
        try:
            while data:
                try:
                    data = data[os.write(self.process.stdin, data) :]
                except BlockingIOError:  # more environment than a pipe holds, and the supervisor is still starting
                    await self._writable()
        except BrokenPipeError:
            await self.gone.wait()
        await self._started.wait()
        if self.failed.is_set() and not (self.process.workspace / "ctl" / "started").exists():
            raise EngineError(f"the sandbox ended before the run started: {self._failure}", retryable=True)

    async def _writable(self) -> None:
        writable = asyncio.Event()
        self._loop.add_writer(self.process.stdin, writable.set)
        try:
            await writable.wait()
        finally:
            self._loop.remove_writer(self.process.stdin)

    def release(self) -> None:
        """Let go of our pipe ends: a supervisor without a run ends itself, one with a run goes on."""
        if self._released:
            return
        self._released = True
        self._loop.remove_reader(self.process.stdout)
        for fd in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                os.close(fd)

    def forget(self) -> None:
        """Stop following; ``release`` was called before."""
        self._loop.remove_reader(self.process.pidfd)
        os.close(self.process.pidfd)


class Pool:
    """Idle warm slots. ``target`` says how many there should be now."""

    def __init__(self, starter: Starter, target: Callable[[], int]) -> None:
        self._starter = starter
        self._target = target
        self._idle: list[Slot] = []
        self._broken = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0

    async def take(self) -> Slot:
        """A slot for one run: a warm one, else the one that is nearest to it."""
        for slot in sorted(self._idle, key=lambda slot: not slot.ready.is_set()):
            self._idle.remove(slot)
            return slot
        return await self._start()

    async def _start(self) -> Slot:
        process = await asyncio.to_thread(self._starter.start)
        return Slot(process, self._slot_failed)

    def _slot_failed(self, slot: Slot) -> None:
        if slot in self._idle:
            # It could not even warm up: no point in trying again and again before somebody wants a run.
            self._idle.remove(slot)
            self._broken = True
            task = asyncio.create_task(discard(slot))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def refill(self) -> None:
        """Start as many as are missing, in the background."""
        if self._closed or self._broken:
            return
        for _ in range(self._target() - len(self._idle) - self._starting):
            self._starting += 1
            task = asyncio.create_task(self._add())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _add(self) -> None:
        try:
            slot = await self._start()
        except OSError:  # no processes or disk left: a run that needs a slot will say so
            self._broken = True
            return
        finally:
            self._starting -= 1
        if self._closed:
            await discard(slot)
        else:
            self._idle.append(slot)

    def mended(self) -> None:
        """A slot has come up: filling the pool makes sense again."""
        self._broken = False

    async def warm(self) -> None:
        """Wait until every idle slot waits for its run."""
        while self._tasks:
            await asyncio.gather(*self._tasks)
        for slot in list(self._idle):
            waits = {asyncio.create_task(event.wait()) for event in (slot.ready, slot.failed)}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()

    async def close(self) -> None:
        self._closed = True
        while self._tasks:
            await asyncio.gather(*self._tasks)
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(discard, idle))


async def discard(slot: Slot) -> None:
    """End a slot whose run was not launched; it deletes its workspace."""
    slot.release()
    await slot.gone.wait()
    slot.forget()


def step_command(python: str) -> tuple[str, ...]:
    """The step that ships with kwdbml, in this Python."""
    return python, "-m", "kwdbml.steps", "--warm"
