"""Fixtures of the worker's tests: a site, workers inside the test on a fake engine, and real worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from pydantic import SecretStr

from kwdbml.engines.base import Engine
from kwdbml.engines.fake import FakeEngine, FakeWorld
from kwdbml.settings import WorkerSettings
from kwdbml.worker.loop import Worker
from tests.fixtures.database import MakeRole
from tests.fixtures.engines import sweep_out
from tests.worker import plays
from tests.worker.site import DEADLINE, Gate, Site


@pytest.fixture
async def site(dsn: str, role: MakeRole) -> AsyncIterator[Site]:
    """The test's database, prepared."""
    ann = role("ann", create_on=["public"])
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db,
        await psycopg.AsyncConnection.connect(ann.dsn, autocommit=True) as as_ann,
    ):
        one = Site(db, ann, as_ann)
        await one.prepare()
        yield one


@pytest.fixture
async def gate(dsn: str) -> AsyncIterator[Gate]:
    """A gate before a data set, closed."""
    one = Gate(dsn)
    await one.close()
    yield one
    await one.open()


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    """The machine that fake runs are on; its script is a step that does its job."""
    return FakeWorld(tmp_path / "fake", plays.step)


class Employ(Protocol):
    async def __call__(
        self, *, engine: Engine | None = None, kubeflow: Engine | None = None, dsn: str | None = None, **settings: Any
    ) -> Worker: ...


@pytest.fixture
async def employ(site: Site, world: FakeWorld, worker_dsn: str) -> AsyncIterator[Employ]:
    """``await employ()``: a worker at work inside this test. It looks up often; afterwards it drains."""
    made: list[tuple[Worker, asyncio.Task[None]]] = []

    async def employ(
        *, engine: Engine | None = None, kubeflow: Engine | None = None, dsn: str | None = None, **settings: Any
    ) -> Worker:
        given: dict[str, Any] = {"name": f"w{len(made) + 1}", "heartbeat": 0.2, "sweep": 0.5} | settings
        engines: dict[str, Engine] = {"local": engine or FakeEngine(world)}
        if kubeflow is not None:
            engines["kubeflow"] = kubeflow
        worker = Worker(WorkerSettings(dsn=SecretStr(dsn or worker_dsn), **given), engines)
        task = asyncio.create_task(worker.run())
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait({task, ready}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if task.done():
            task.result()
        made.append((worker, task))
        return worker

    yield employ
    for worker, _ in made:
        worker.stop()
        worker.stop()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(task for _, task in made))


class WorkerProcess:
    """``python -m kwdbml worker``."""

    def __init__(self, dsn: str, scratch: Path, log: Path, env: dict[str, str], *flags: str) -> None:
        self._log = log
        self._ready, writing = os.pipe()
        command = [sys.executable, "-m", "kwdbml", "worker", "--dsn", dsn, "--scratch", str(scratch), *flags]
        quick = {"KWDBML_LEASE": "1", "KWDBML_HEARTBEAT": "0.2", "KWDBML_SWEEP": "0.5", "KWDBML_READY_FD": str(writing)}
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, stderr=file, env=os.environ | quick | env, pass_fds=[writing])
        os.close(writing)

    async def ready(self) -> bool:
        """Whether it came so far that it serves."""
        said = await asyncio.wait_for(asyncio.to_thread(os.read, self._ready, 16), DEADLINE)
        os.close(self._ready)
        return said == b"ready\n"

    async def end(self, signum: int = signal.SIGKILL) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(signum)
        return await self.code()

    async def code(self) -> int:
        """The exit code, once it has ended."""
        return await asyncio.to_thread(self.process.wait, DEADLINE)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Launch(Protocol):
    async def __call__(self, *flags: str, dsn: str | None = None, **env: str) -> WorkerProcess: ...


@pytest.fixture
async def launch(worker_dsn: str, scratch: Path, tmp_path: Path) -> AsyncIterator[Launch]:
    """``await launch()``: a worker process that serves this test's database; afterwards it, and every run, is gone."""
    made: list[WorkerProcess] = []

    async def launch(*flags: str, dsn: str | None = None, **env: str) -> WorkerProcess:
        one = WorkerProcess(dsn or worker_dsn, scratch, tmp_path / "worker.log", env, *flags)
        made.append(one)
        assert await one.ready(), one.log
        return one

    yield launch
    for one in made:
        if one.process.poll() is None:
            await one.end()
    await sweep_out(scratch)


@pytest.fixture
def empty(scratch: Path) -> Callable[[], bool]:
    """Whether the scratch root holds no run."""
    return lambda: not list((scratch / "runs").glob("*.json"))
