"""Engines for tests: local ones that run ``step.py`` instead of the real step, and one driver per engine.

Nothing here waits for a time to pass: tests await the engine itself, a pidfd, or a step that announces ``pause``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from kwdbml.engines.base import Engine, Handle, LogLine, Run, RunState, RunStatus, Workspace
from kwdbml.engines.cgroups import find_base
from kwdbml.engines.fake import FakeEngine, FakeJob, FakeWorld
from kwdbml.engines.kfp.calls import Clock
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.local import LocalEngine
from tests.engines.kubeflow.real import CLUSTER, PATIENCE, real_cluster
from tests.engines.kubeflow.remote import RemoteSteps, clear
from tests.fixtures.engines import sweep_out

STEP = Path(__file__).with_name("step.py")
#: Both ways to limit memory, where this machine and user have both.
MEMORY_MODES = ["watch", "cgroup"] if find_base() else ["watch"]

#: Of an installation of this process alone: others may test with the same cluster.
NAME = f"kwdbml-test{secrets.token_hex(4)}-1"

Action = list[Any]


class MakeLocal(Protocol):
    async def __call__(self, **options: Any) -> LocalEngine: ...


@pytest.fixture
async def make_local(scratch: Path) -> AsyncIterator[MakeLocal]:
    """Starts local engines on one scratch root; afterwards every run is cleaned up and nothing is left."""
    engines: list[LocalEngine] = []

    async def make(**options: Any) -> LocalEngine:
        defaults: dict[str, Any] = {"command": [sys.executable, str(STEP)], "extra_paths": [STEP], "warm": 1}
        engine = LocalEngine(scratch, **(defaults | options))
        engines.append(engine)
        await engine.start()
        return engine

    yield make
    for engine in engines:
        await engine.close()
    if not engines:
        return
    await sweep_out(scratch, command=[sys.executable, str(STEP)])
    assert not list((scratch / "ws").iterdir()), "workspaces were left behind"


@pytest.fixture
async def local(make_local: MakeLocal) -> LocalEngine:
    """A local engine with all defaults."""
    return await make_local()


async def launch(engine: Engine, do: list[Action], name: str = NAME, **options: Any) -> Handle:
    """Launch a run whose step does ``do``."""
    run = Run(name, **options)
    workspace = await engine.open(run)
    fill(workspace, do)
    async with asyncio.timeout(PATIENCE):
        return await engine.launch(run, workspace)


def fill(workspace: Workspace, do: list[Action]) -> None:
    (workspace.inputs / "job.json").write_text(json.dumps({"do": do}))


async def finish(engine: Engine, handle: Handle) -> RunStatus:
    """Wait for the end."""
    async with asyncio.timeout(PATIENCE):
        while not (status := await engine.wait(handle, 60)).ended:
            pass
    return status


async def reach(engine: Engine, handle: Handle, step: str = "paused") -> RunStatus:
    """Wait until the step announces ``step``."""
    async with asyncio.timeout(PATIENCE):
        while (status := await engine.wait(handle, 60)).step != step:
            assert not status.ended, status
    return status


def resume(engine: Engine, handle: Handle) -> None:
    """Let a paused step go on."""
    if isinstance(engine, RemoteSteps):
        engine.resume(handle)
    else:
        (engine.workspace(handle).inputs / "go").write_text("")


async def results(engine: Engine, do: list[Action], name: str = NAME, **options: Any) -> list[Any]:
    """Run ``do`` to its successful end: what each action answered."""
    handle = await launch(engine, do, name, **options)
    status = await finish(engine, handle)
    assert status.state is RunState.SUCCEEDED, (status, await lines(engine, handle))
    answers = result(engine, handle)
    return [answers[str(number)] for number in range(len(do))]


def result(engine: Engine, handle: Handle) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads((engine.workspace(handle).outputs / "result.json").read_text())
    return answers


async def lines(engine: Engine, handle: Handle) -> list[LogLine]:
    """The whole log, as far as it was kept."""
    found: list[LogLine] = []
    cursor = 0
    while (chunk := await engine.logs(handle, cursor)).lines:
        found += chunk.lines
        cursor = chunk.cursor
    return found


async def printed(engine: Engine, handle: Handle, count: int) -> list[LogLine]:
    """The log as soon as it has so many lines: a paused step may be ahead of who writes them down."""
    async with asyncio.timeout(PATIENCE):
        while len(found := await lines(engine, handle)) < count:
            assert not (await engine.wait(handle, 0.1)).ended
    return found


def pidfd_of(handle: Handle) -> int:
    """A pidfd of the run's supervisor."""
    return os.pidfd_open(handle["pid"])


async def ended(pidfd: int) -> None:
    """Wait until that process has ended; closes the descriptor."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, over.set)
    try:
        async with asyncio.timeout(60):
            await over.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


# -- the conformance suite's drivers -------------------------------------------------------------------------------


async def fake_script(job: FakeJob) -> int:
    """The actions of ``step.py`` that the conformance suite uses, for the fake engine."""
    for action, *arguments in json.loads((job.inputs / "job.json").read_text())["do"]:
        match action:
            case "say":
                job.print(*arguments)
            case "progress":
                job.progress(*arguments)
            case "pause":
                job.progress("paused")
                while not (job.inputs / "go").exists():  # noqa: ASYNC110 - a file, as for the real step
                    await asyncio.sleep(0.005)
            case "leave":
                return int(arguments[0])
            case "raise_error":
                raise RuntimeError(*arguments)
            case _:
                raise AssertionError(action)
    (job.outputs / "result.json").write_text("{}")
    return 0


MakeEngine = Callable[..., Any]


@contextlib.asynccontextmanager
async def remote_engines(settings: KubeflowSettings, root: Path) -> AsyncIterator[MakeEngine]:
    """Starts Kubeflow engines that share a machine's directory; afterwards nothing is left in cluster or store."""
    engines: list[RemoteSteps] = []

    async def make(clock: Clock | None = None, **changes: Any) -> RemoteSteps:
        place = changes.pop("root", root)
        engines.append(RemoteSteps(settings.model_copy(update=changes), place, clock))
        await engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()
    await clear(settings, root, {installation for engine in engines for installation in engine.launched})


ENGINES = ["fake", "local", "local without sandbox", "kubeflow", pytest.param("cluster", marks=CLUSTER)]


@pytest.fixture(params=ENGINES)
async def make_engine(
    request: pytest.FixtureRequest, make_local: MakeLocal, tmp_path: Path
) -> AsyncIterator[MakeEngine]:
    """Starts an engine; each call makes another worker's engine at the same place."""
    if request.param in ("kubeflow", "cluster"):
        stub = request.param == "kubeflow"
        settings = request.getfixturevalue("kubeflow_settings") if stub else real_cluster()
        async with remote_engines(settings, tmp_path / "kubeflow") as remote:
            yield remote
        return
    world = FakeWorld(tmp_path / "fake", fake_script)

    async def make() -> Engine:
        if request.param == "fake":
            engine = FakeEngine(world)
            await engine.start()
            return engine
        return await make_local(unsafe_no_sandbox=request.param != "local")

    yield make


@pytest.fixture
async def engine(make_engine: MakeEngine) -> Engine:
    started: Engine = await make_engine()
    return started
