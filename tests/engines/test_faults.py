"""The worker dies, the supervisor dies, the machine was another one: what the next worker finds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kwdbml import processes
from kwdbml.engines import follow, procs
from kwdbml.engines.base import Run, RunState
from kwdbml.engines.cgroups import find_base
from kwdbml.engines.local import LocalEngine
from kwdbml.errors import EngineError
from tests.engines.conftest import (
    NAME,
    MakeLocal,
    ended,
    fill,
    finish,
    launch,
    lines,
    pidfd_of,
    reach,
    result,
    resume,
)

WORKER = Path(__file__).with_name("worker_process.py")


class Worker:
    """A real worker process that has reached its point."""

    def __init__(self, process: asyncio.subprocess.Process, message: dict[str, Any]) -> None:
        self.process = process
        self.message = message
        below = processes.descendants(process.pid)[1:]
        self.below = [(pid, start) for pid in below if (start := procs.start_time(pid)) is not None]

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def all_gone(self, *, but: int = 0) -> None:
        """Wait until everything below it has ended."""
        kept = set(processes.descendants(but)) if but else set()
        for pid, start in self.below:
            if pid not in kept and (fd := procs.open_pidfd(pid, start)) is not None:
                await ended(fd)


StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_worker(scratch: Path) -> AsyncIterator[StartWorker]:
    workers: list[Worker] = []

    async def start(point: str, *do: list[Any]) -> Worker:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(WORKER), str(scratch), point, NAME, json.dumps({"do": do}),
            stdout=asyncio.subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(WORKER.parents[2])),
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            message = json.loads(await process.stdout.readline())
        workers.append(Worker(process, message))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.returncode is None:
            await worker.kill()


def left(scratch: Path) -> list[str]:
    return [path.name for folder in ("ws", "runs") for path in (scratch / folder).iterdir() if path.name != ".lock"]


async def test_warm_sandboxes_of_a_dead_worker_vanish(start_worker: StartWorker, scratch: Path) -> None:
    worker = await start_worker("warm")
    assert len(left(scratch)) == 2
    assert len(worker.below) >= 6
    await worker.kill()
    await worker.all_gone()
    assert left(scratch) == []


async def test_killed_before_launch(start_worker: StartWorker, scratch: Path, make_local: MakeLocal) -> None:
    worker = await start_worker("opened")
    await worker.kill()
    await worker.all_gone()
    assert left(scratch) == []
    engine = await make_local(warm=0)
    assert await engine.find(NAME) is None


async def test_killed_between_record_and_go(start_worker: StartWorker, scratch: Path, make_local: MakeLocal) -> None:
    worker = await start_worker("recorded", ["say", "never"])
    assert f"{NAME}.json" in left(scratch)
    await worker.kill()
    engine = await make_local(warm=0)
    assert await engine.find(NAME) is None, "never launched: costs no retry"
    await worker.all_gone()
    assert left(scratch) == []
    handle = await launch(engine, [["say", "once"]])
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    assert [line.line for line in await lines(engine, handle)] == ["once"]


async def test_a_stuck_worker_cannot_start_what_another_has_taken(
    start_worker: StartWorker, scratch: Path, make_local: MakeLocal
) -> None:
    worker = await start_worker("recorded", ["say", "never"])
    engine = await make_local(warm=0)
    assert await engine.find(NAME) is None
    assert not procs.start_time(worker.message["pid"]), "its supervisor is dead before we say so"
    await worker.kill()
    await worker.all_gone()


async def test_killed_after_launch(start_worker: StartWorker, scratch: Path, make_local: MakeLocal) -> None:
    worker = await start_worker("launched", ["say", "hello"], ["pause"], ["say", "after"])
    handle = worker.message["handle"]
    await worker.kill()
    await worker.all_gone(but=handle["pid"])
    engine = await make_local(warm=0)
    assert await engine.find(NAME) == handle
    await reach(engine, handle)
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    assert [line.line for line in await lines(engine, handle)] == ["hello", "after"]
    assert result(engine, handle)["order"]["workspace"] == "/job"
    await engine.cleanup(handle)
    assert left(scratch) == []


async def test_a_run_that_ends_while_no_worker_lives(start_worker: StartWorker, make_local: MakeLocal) -> None:
    worker = await start_worker("launched", ["say", "hello"], ["leave", 4])
    handle = worker.message["handle"]
    await worker.kill()
    await worker.all_gone()
    engine = await make_local(warm=0)
    status = await finish(engine, handle)
    assert (status.state, status.exit_code) == (RunState.FAILED, 4)
    assert [line.line for line in await lines(engine, handle)] == ["hello"]


async def test_cancel_and_cleanup_by_the_next_worker(
    start_worker: StartWorker, scratch: Path, make_local: MakeLocal
) -> None:
    worker = await start_worker("launched", ["children", 2], ["pause"])
    handle = worker.message["handle"]
    await worker.kill()
    engine = await make_local(warm=0)
    await reach(engine, handle)
    await engine.cancel(handle)
    assert (await finish(engine, handle)).state is RunState.CANCELED
    await worker.all_gone()
    await engine.cleanup(handle)
    assert left(scratch) == []


@pytest.mark.parametrize("plain", [False, True])
async def test_a_killed_supervisor_is_a_lost_run(make_local: MakeLocal, plain: bool) -> None:
    engine = await make_local(unsafe_no_sandbox=plain, cgroups=False)
    handle = await launch(engine, [["pause"]])
    await reach(engine, handle)
    below = processes.descendants(handle["pid"])[1:]
    fds = [os.pidfd_open(pid) for pid in below]
    os.kill(handle["pid"], signal.SIGKILL)
    assert (await finish(engine, handle)).state is RunState.LOST
    for fd in fds:
        await ended(fd)
    assert await engine.find(NAME) == handle, "it was launched"
    await engine.cleanup(handle)
    assert await engine.find(NAME) is None


async def test_a_killed_supervisors_control_group_is_swept(make_local: MakeLocal) -> None:
    base = find_base()
    if base is None:
        pytest.skip("no control group can be made here; the watch over memory leaves nothing behind")
    engine = await make_local()
    handle = await launch(engine, [["pause"]])
    await reach(engine, handle)
    group = Path(base[1]) / f"kwdbml-{handle['pid']}-{handle['start']}"
    assert group.is_dir()
    fds = [os.pidfd_open(pid) for pid in processes.descendants(handle["pid"])]
    os.kill(handle["pid"], signal.SIGKILL)
    for fd in fds:
        await ended(fd)
    await make_local(warm=0)
    assert not group.exists()


async def test_a_supervisor_that_the_system_stops_is_a_lost_run(local: LocalEngine) -> None:
    handle = await launch(local, [["pause"]])
    await reach(local, handle)
    fds = [os.pidfd_open(pid) for pid in processes.descendants(handle["pid"])]
    os.kill(handle["pid"], signal.SIGTERM)
    for fd in fds:
        await ended(fd)
    assert (await finish(local, handle)).state is RunState.LOST


async def test_another_host_sees_nothing(make_local: MakeLocal) -> None:
    engine, other = await make_local(), await make_local(host="elsewhere", warm=0)
    handle = await launch(engine, [["pause"]])
    await reach(engine, handle)
    assert (await other.poll(handle)).state is RunState.LOST
    await other.cancel(handle)
    await other.cleanup(handle)
    assert (await engine.poll(handle)).state is RunState.RUNNING
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED


@pytest.mark.parametrize("change", [{"boot": "another"}, {"start": 1}], ids=["reboot", "pid reused"])
async def test_a_stale_record(local: LocalEngine, scratch: Path, change: dict[str, Any]) -> None:
    handle = await launch(local, [["pause"]])
    await reach(local, handle)
    path = scratch / "runs" / f"{NAME}.json"
    stale = {**handle, **change}
    path.write_text(json.dumps(stale))
    assert await local.find(NAME) == stale
    assert (await local.poll(stale)).state in (RunState.LOST, RunState.UNKNOWN)
    await local.cancel(stale)
    path.write_text(json.dumps(handle))
    status = await local.poll(handle)
    if "boot" in change:
        assert status.state is RunState.RUNNING, "cancel has not touched a process of another boot"
    await local.cancel(handle)
    await finish(local, handle)


async def test_a_record_from_before_a_reboot_counts_as_launched(local: LocalEngine, scratch: Path) -> None:
    record = {"engine": "local", "run": NAME, "slot": "0" * 16, "pid": 1, "start": 1, "boot": "x"}
    handle = record | {"host": os.uname().nodename}
    (scratch / "runs" / f"{NAME}.json").write_text(json.dumps(handle))
    assert await local.find(NAME) == handle, "nobody can tell how far it got"
    assert (await local.poll(handle)).state is RunState.LOST
    await local.cleanup(handle)
    assert await local.find(NAME) is None


async def test_start_sweeps_what_a_power_failure_left(make_local: MakeLocal, scratch: Path) -> None:
    engine = await make_local(warm=0)
    orphan = scratch / "ws" / ("f" * 16)
    (orphan / "ctl").mkdir(parents=True)
    (orphan / "ctl" / "supervisor.json").write_text(json.dumps({"pid": 1, "start": 1, "boot": "another"}))
    handle = await launch(engine, [["pause"]])
    await make_local(warm=0)
    assert not orphan.exists()
    assert engine.workspace(handle).path.exists()


#: A supervisor of a worker in a container of its own, which shares the scratch directory.
ELSEWHERE = """
import json, os, subprocess, sys
from kwdbml.engines import supervisor
os.makedirs(sys.argv[1] + "/ctl")
os.makedirs(sys.argv[1] + "/out/tmp")
setup = dict(workspace=sys.argv[1], tick=0.1, most_processes=100, cgroup=None, uid=None, bwrap=None, seccomp=None)
setup |= dict(command=["/bin/sh", "-c", "echo ready; cat"], env={})
process = subprocess.Popen([sys.executable, "-I", "-S", supervisor.__file__], stdin=subprocess.PIPE)
process.stdin.write(json.dumps(setup).encode() + b"\\n")
process.stdin.flush()
while not os.path.exists(sys.argv[1] + "/ctl/supervisor.json"):
    pass
print("held", flush=True)
process.wait()
"""


async def test_start_leaves_what_a_worker_in_another_container_has(make_local: MakeLocal, scratch: Path) -> None:
    engine = await make_local(warm=0)
    theirs = scratch / "ws" / ("e" * 16)
    container = ["--bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "--die-with-parent"]
    process = await asyncio.create_subprocess_exec(
        "bwrap", *container, sys.executable, "-c", ELSEWHERE, str(theirs), stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.getcwd(), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"held\n"
        await make_local(warm=0)
        assert theirs.exists()
    finally:
        process.kill()
    await process.communicate()  # what is in the container ends after it
    while theirs.exists():
        engine._records.sweep()


async def test_a_step_that_cannot_start(make_local: MakeLocal) -> None:
    engine = await make_local(command=[sys.executable, "-c", "raise SystemExit('no pandas here')"])
    await engine.warmed()
    for _ in range(2):
        workspace = await engine.open(Run(NAME))
        slot = engine._opened[workspace.slot][0]
        await slot.failed.wait()
        fill(workspace, [])  # the worker is told when it launches, not by files that vanish while it stages
        with pytest.raises(EngineError) as caught:
            await engine.launch(Run(NAME), workspace)
        assert caught.value.retryable
        assert "no pandas here" in caught.value.message
        assert await engine.find(NAME) is None
        assert not workspace.path.exists()


async def test_the_end_is_noticed_at_once(local: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = await launch(local, [["pause"]])
    await reach(local, handle)
    monkeypatch.setattr(follow, "LOOK_EVERY", 300.0)  # by looking now and then nobody would see it in time
    fd = pidfd_of(handle)
    waiting = asyncio.create_task(local.wait(handle, 300))
    resume(local, handle)
    await ended(fd)
    async with asyncio.timeout(60):
        assert (await waiting).ended or (await local.poll(handle)).ended


async def test_names_that_are_paths_are_refused(local: LocalEngine) -> None:
    for name in ("../x", "a/b", "", ".hidden", "x" * 300):
        with pytest.raises(EngineError):
            await local.find(name)
    for slot in ("../runs", "", "/etc"):
        with pytest.raises(EngineError):
            local.workspace({"engine": "local", "run": NAME, "slot": slot})
