"""An engine inside the test's own process, for tests of the worker: outcomes are scripted, faults are ordered.

A ``FakeWorld`` is the machine that runs are on; it outlives workers. Each ``FakeEngine`` is one worker's engine on it.
The script is an (async) function that gets a ``FakeJob``, fills its ``outputs`` and returns an exit code::

    async def script(job):
        job.progress("train", 0.5)
        (job.outputs / "result.json").write_text("{}")
        return 0

    world = FakeWorld(tmp_path, script)
    engine = FakeEngine(world)

With ``world.manual`` a launched run does nothing until ``world.run(name)``. The faults: ``world.states`` makes poll
answer something else (LOST, UNKNOWN), ``world.hold_cancels`` makes a cancel take its time, ``world.crashes`` raises
``SimulatedCrash`` at a point of launch, and ``world.refuse`` raises an error from open.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from kwdbml.engines.base import EVERYTHING, Handle, LogChunk, LogLine, Run, RunState, RunStatus, Wanted, Workspace
from kwdbml.engines.outputs import has_output
from kwdbml.errors import EngineError
from kwdbml.loglines import LineSplitter

Script = Callable[["FakeJob"], int | Awaitable[int]]


class SimulatedCrash(BaseException):
    """The worker died here. A BaseException, so that no handler for errors mistakes it for one."""


@dataclass
class FakeJob:
    """One run: what the script sees of it, and what the test may look at."""

    run: Run
    workspace: Workspace
    lines: list[LogLine] = field(default_factory=list)
    status: RunStatus = field(default_factory=lambda: RunStatus(RunState.RUNNING))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    canceled: bool = False

    @property
    def inputs(self) -> Path:
        return self.workspace.inputs

    @property
    def outputs(self) -> Path:
        return self.workspace.outputs

    def print(self, text: str, stream: str = "stdout") -> None:
        """Log ``text``, line by line."""
        for line in LineSplitter().feed(text.encode(), final=True):
            step = self.status.step or ""
            self.lines.append(LogLine(len(self.lines) + 1, time.time(), step, stream, line))
        self.changed.set()

    def progress(self, step: str, fraction: float | None = None) -> None:
        self.status = RunStatus(RunState.RUNNING, step=step, fraction=fraction)
        self.changed.set()

    def end(self, status: RunStatus) -> None:
        """The run is over; the first end counts."""
        if not self.status.ended:
            self.status = status
        self.changed.set()


class FakeWorld:
    """Runs, workspaces below ``root``, and the faults that a test has ordered."""

    def __init__(self, root: Path, script: Script | None = None, *, manual: bool = False) -> None:
        self.root = root
        self.script = script or _succeed
        self.manual = manual
        self.jobs: dict[str, FakeJob] = {}
        self.states: dict[str, RunStatus] = {}  # by run name: what poll says instead
        self.hold_cancels = False
        self.crashes: set[str] = set()  # "before launch", "after launch": once each
        self.refuse: EngineError | None = None
        self.launches: list[str] = []  # names, one entry per start: a run is started once

    def lose(self, name: str) -> None:
        """The run is gone without a trace."""
        self._stop(self.jobs[name], RunStatus(RunState.LOST, reason="Lost", message="the test has lost it"))

    def run(self, name: str) -> asyncio.Task[None]:
        """Start the script of a launched run; await the task for its end."""
        job = self.jobs[name]
        if job.task is None:
            job.task = asyncio.create_task(self._run(job))
        return job.task

    async def _run(self, job: FakeJob) -> None:
        try:
            answer = self.script(job)
            code = await answer if inspect.isawaitable(answer) else answer
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - a script that raises is a step that crashes
            job.print(f"{type(error).__name__}: {error}", "stderr")
            code = 1
        step = job.status.step
        if code == 0 and has_output(job.outputs, "result.json"):
            job.end(RunStatus(RunState.SUCCEEDED, 0, step=step, fraction=1.0))
        else:
            job.end(RunStatus(RunState.FAILED, code, "Error", f"The step left with exit code {code}.", step))

    def finish_cancels(self) -> None:
        """Let the cancels through that were held."""
        self.hold_cancels = False
        for job in self.jobs.values():
            if job.canceled:
                self.stop_canceled(job)

    def stop_canceled(self, job: FakeJob) -> None:
        message = "The job was cancelled."
        self._stop(job, RunStatus(RunState.CANCELED, 137, "Canceled", message, job.status.step))

    def _stop(self, job: FakeJob, status: RunStatus) -> None:
        if job.task is not None:
            job.task.cancel()
        job.end(status)

    def crash(self, point: str) -> None:
        if point in self.crashes:
            self.crashes.discard(point)
            raise SimulatedCrash(point)


async def _succeed(job: FakeJob) -> int:
    (job.outputs / "result.json").write_text('{"metrics": []}')
    return 0


class FakeEngine:
    """One worker's engine in a ``FakeWorld``."""

    name = "fake"
    host_bound = False

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    async def start(self) -> None:
        self.world.root.mkdir(parents=True, exist_ok=True)

    async def close(self) -> None:
        """Runs live on, as tasks of the test's event loop."""

    async def open(self, run: Run) -> Workspace:  # noqa: ARG002 - the protocol's
        if self.world.refuse is not None:
            raise self.world.refuse
        path = self.world.root / secrets.token_hex(8)
        for name in ("in", "out/tmp", "ctl"):
            (path / name).mkdir(parents=True)
        return Workspace(path, path.name)

    async def abandon(self, workspace: Workspace) -> None:
        if not any(job.workspace == workspace for job in self.world.jobs.values()):
            shutil.rmtree(workspace.path, ignore_errors=True)

    async def launch(self, run: Run, workspace: Workspace) -> Handle:
        known = await self.find(run.name)
        if known is not None:
            await self.abandon(workspace)
            return known
        if not workspace.inputs.is_dir():
            raise EngineError("this workspace was not opened by this worker, or its sandbox has ended", retryable=True)
        self.world.crash("before launch")
        self.world.jobs[run.name] = FakeJob(run, workspace)
        self.world.launches.append(run.name)
        if not self.world.manual:
            self.world.run(run.name)
        self.world.crash("after launch")
        return self._handle(run.name)

    async def withdraw(self, run_name: str, *, ours: bool) -> None:
        """A launch takes no time."""

    def _handle(self, name: str) -> Handle:
        return {"engine": self.name, "run": name, "slot": self.world.jobs[name].workspace.slot}

    async def find(self, run_name: str) -> Handle | None:
        return self._handle(run_name) if run_name in self.world.jobs else None

    def _job(self, handle: Handle) -> FakeJob | None:
        job = self.world.jobs.get(str(handle.get("run")))
        return job if job is not None and job.workspace.slot == handle.get("slot") else None

    def workspace(self, handle: Handle) -> Workspace:
        slot = str(handle["slot"])
        return Workspace(self.world.root / slot, slot)

    async def collect(self, handle: Handle, wanted: Wanted = EVERYTHING) -> Workspace:  # noqa: ARG002 it is all here
        return self.workspace(handle)

    async def poll(self, handle: Handle) -> RunStatus:
        job = self._job(handle)
        if job is None:
            return RunStatus(RunState.LOST, reason="Lost", message="nothing is known of this run")
        return self.world.states.get(job.run.name, job.status)

    async def wait(self, handle: Handle, timeout: float) -> RunStatus:
        job = self._job(handle)
        if job is not None and not (await self.poll(handle)).ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.changed.wait(), timeout)
            if not job.status.ended:
                job.changed.clear()
        return await self.poll(handle)

    async def logs(self, handle: Handle, cursor: int = 0) -> LogChunk:
        job = self._job(handle)
        lines = tuple(job.lines[cursor:]) if job is not None else ()
        return LogChunk(lines, cursor + len(lines))

    async def cancel(self, handle: Handle) -> None:
        job = self._job(handle)
        if job is None or job.status.ended:
            return
        job.canceled = True
        if not self.world.hold_cancels:
            self.world.stop_canceled(job)

    async def cleanup(self, handle: Handle) -> None:
        job = self._job(handle)
        if job is None:
            return
        await self.cancel(handle)
        while not job.status.ended:  # as long as the test holds the cancel
            await job.changed.wait()
            job.changed.clear()
        self.world.jobs.pop(job.run.name, None)
        self.world.states.pop(job.run.name, None)
        shutil.rmtree(job.workspace.path, ignore_errors=True)
