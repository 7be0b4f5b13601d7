"""Filling the machine by ways that a look at sizes does not show: nameless files, memory files, inodes, descriptors."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kwdbml import processes
from kwdbml.engines import procs
from kwdbml.engines.base import Resources, RunState
from kwdbml.engines.local import LocalEngine
from kwdbml.engines.trees import MOST_ENTRIES
from tests.engines.conftest import MEMORY_MODES, MakeLocal, finish, launch, lines, reach, results, resume

MIB = 1 << 20
ROOT = os.geteuid() == 0


@pytest.fixture(params=MEMORY_MODES)
async def engine(request: pytest.FixtureRequest, make_local: MakeLocal) -> LocalEngine:
    return await make_local(cgroups=request.param == "cgroup", disk=64 * MIB)


@pytest.fixture
def canary(scratch: Path) -> Path:
    """A file beside the runs."""
    path = scratch.parent / "canary"
    path.write_text("untouched")
    return path


@pytest.mark.parametrize("how", ["unnamed", "mapped", "closed"])
async def test_disk_that_no_directory_shows(make_local: MakeLocal, how: str) -> None:
    if how == "mapped" and not ROOT:
        pytest.skip("what is only mapped can be seen by root alone")
    engine = await make_local(disk=32 * MIB)
    if how != "closed":
        assert await results(engine, [["fill_unseen", how, 8 * MIB]], "kwdbml-twin-1") == [None]
    handle = await launch(engine, [["fill_unseen", how, 31 * MIB], ["fill", 31 * MIB], ["pause"]])
    status = await finish(engine, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Evicted")
    assert "KWDBML_SCRATCH_LIMIT" in status.message or "closed to their owner" in status.message


async def test_the_message_names_limit_and_cure(make_local: MakeLocal) -> None:
    engine = await make_local(disk=16 * MIB)
    handle = await launch(engine, [["fill", 8 * MIB, 4], ["pause"]])
    assert (await finish(engine, handle)).message == (
        "The job's files take more than the 16 MiB that a run may write; "
        "write less, or let the worker's operator raise KWDBML_SCRATCH_LIMIT."
    )


async def test_hundreds_of_thousands_of_empty_files(make_local: MakeLocal) -> None:
    engine = await make_local(concurrency=2)
    assert await results(engine, [["empty_files", 1000]], "kwdbml-twin-1") == [None]
    handle = await launch(engine, [["empty_files", MOST_ENTRIES + 1000], ["pause"]])
    status = await finish(engine, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Evicted")
    assert "200,000 files" in status.message
    path = engine.workspace(handle).path
    await engine.cleanup(handle)
    assert not path.exists()


async def test_a_sparse_file_takes_no_disk(make_local: MakeLocal) -> None:
    engine = await make_local(disk=32 * MIB)
    twin = await launch(engine, [["sparse", "big", 30 * MIB], ["sparse", "too", 30 * MIB]], "kwdbml-twin-1")
    assert (await finish(engine, twin)).state is RunState.SUCCEEDED
    handle = await launch(engine, [["sparse", "big", 1 << 40]])
    assert (await finish(engine, handle)).state is RunState.FAILED
    assert "File too large" in (await lines(engine, handle))[-1].line


@pytest.mark.parametrize("how", ["memory", "shared"])
async def test_files_in_memory_count_as_memory(engine: LocalEngine, how: str) -> None:
    small = Resources(memory=192 * MIB)
    twin, _ = await results(engine, [["fill_unseen", how, 32 * MIB], ["say", "x"]], "kwdbml-twin-1", resources=small)
    assert twin is None
    # more than one file may have: each takes as much as its limit allows
    handle = await launch(
        engine, [["fill_unseen", how, 63 * MIB]] * 4 + [["keep", 160 * MIB], ["pause"]], resources=small
    )
    status = await finish(engine, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "OOMKilled"), await lines(engine, handle)
    assert "192 MiB" in status.message


async def test_files_in_memory_that_are_mapped_count_once(engine: LocalEngine) -> None:
    handle = await launch(
        engine,
        [["share", 60 * MIB], ["keep", 60 * MIB], ["pause"]],
        resources=Resources(memory=200 * MIB),
    )
    await reach(engine, handle)
    for _ in range(3):
        assert (await engine.wait(handle, 0.25)).state is RunState.RUNNING
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED


async def test_shared_memory_ends_with_the_job(local: LocalEngine) -> None:
    assert await results(local, [["fill_unseen", "shared", MIB]], "kwdbml-a-1") == [None]
    assert not os.path.exists("/dev/shm/x")  # noqa: ASYNC240
    [seen] = await results(local, [["attempt", "list", "/dev/shm"]], "kwdbml-b-1")
    assert seen == "done []"


async def test_descriptors_and_priorities_are_bounded(local: LocalEngine) -> None:
    count, twin, real_time, priority = await results(
        local,
        [["open_all"], ["attempt", "priority", 19], ["attempt", "real time"], ["attempt", "priority", -5]],
    )
    assert 100 < count < 4096
    assert (twin, real_time, priority) == ("done None", "PermissionError", "PermissionError")


async def test_a_fork_bomb_fails_clearly_and_the_machine_goes_on(make_local: MakeLocal, canary: Path) -> None:
    engine = await make_local(concurrency=2)
    neighbour = await launch(engine, [["progress", "train"], ["pause"]], "kwdbml-neighbour-1")
    await reach(engine, neighbour)
    handle = await launch(engine, [["bomb"], ["fork_once"]])
    status = await finish(engine, handle)
    assert (status.state, status.exit_code) == (RunState.FAILED, 1)
    assert "Resource temporarily unavailable" in (await lines(engine, handle))[-1].line
    assert await results(engine, [["kill_own_child"]], "kwdbml-twin-1") == [-15], "others can start processes"
    resume(engine, neighbour)
    assert (await finish(engine, neighbour)).state is RunState.SUCCEEDED
    assert canary.read_text() == "untouched"  # noqa: ASYNC240


async def test_a_call_that_no_signal_ends_meets_its_deadline(local: LocalEngine) -> None:
    assert await results(local, [["say", "x"]], "kwdbml-twin-1", ttl=60) == [None]
    began = time.monotonic()
    handle = await launch(local, [["stay_locked"]], ttl=1)
    group = processes.descendants(handle["pid"])[1:]
    status = await finish(local, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "DeadlineExceeded")
    assert time.monotonic() - began < 30
    assert group
    assert not [pid for pid in group if procs.start_time(pid) is not None]
