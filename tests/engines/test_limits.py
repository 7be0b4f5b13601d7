"""Memory, time, cores, processes, disk and log: what one run cannot take from the others."""

from __future__ import annotations

import os

import pytest

from kwdbml import processes
from kwdbml.engines import procs
from kwdbml.engines.base import Handle, LogLine, Resources, RunState
from kwdbml.engines.local import LocalEngine
from kwdbml.loglines import HEAD, LINE, TAIL
from tests.engines.conftest import MEMORY_MODES, MakeLocal, finish, launch, lines, reach, results, resume

MIB = 1 << 20


@pytest.fixture(params=MEMORY_MODES)
async def engine(request: pytest.FixtureRequest, make_local: MakeLocal) -> LocalEngine:
    """Both ways to limit memory, where there are two."""
    return await make_local(cgroups=request.param == "cgroup")


@pytest.fixture(params=["sandbox", "plain"])
async def either(request: pytest.FixtureRequest, make_local: MakeLocal) -> LocalEngine:
    return await make_local(unsafe_no_sandbox=request.param == "plain", cgroups=False)


def members(handle: Handle) -> list[tuple[int, int]]:
    """Pid and start time of everything below the run's supervisor."""
    found = [(pid, procs.start_time(pid)) for pid in processes.descendants(handle["pid"])[1:]]
    return [(pid, start) for pid, start in found if start is not None]


def survivors(group: list[tuple[int, int]]) -> list[int]:
    return [pid for pid, start in group if procs.alive(pid, start)]


async def test_memory(engine: LocalEngine) -> None:
    small = Resources(memory=256 * MIB)
    assert await results(engine, [["allocate", 64 * MIB]], "kwdbml-twin-1", resources=small) == [None]
    handle = await launch(engine, [["allocate", 4096 * MIB]], resources=small)
    status = await finish(engine, handle)
    assert status.state is RunState.FAILED
    if status.reason == "Error":  # where no control group is: its own limit was met before the next look at it
        assert "MemoryError" in (await lines(engine, handle))[-1].line
    else:
        assert status.reason == "OOMKilled"
        assert "256 MiB" in status.message


async def test_memory_of_all_processes_counts_together(engine: LocalEngine) -> None:
    small = Resources(memory=256 * MIB)
    assert len((await results(engine, [["children", 4, False, 16 * MIB]], "kwdbml-twin-1", resources=small))[0]) == 4
    handle = await launch(engine, [["children", 8, False, 64 * MIB], ["pause"]], resources=small)
    status = await finish(engine, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "OOMKilled")


async def test_memory_that_forked_children_share_counts_once(engine: LocalEngine) -> None:
    handle = await launch(
        engine, [["keep", 100 * MIB], ["children", 6], ["pause"]], resources=Resources(memory=400 * MIB)
    )
    await reach(engine, handle)
    for _ in range(3):  # at least as long as some looks at memory take
        assert (await engine.wait(handle, 0.25)).state is RunState.RUNNING
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED


async def test_one_giant_allocation_is_a_memory_error(make_local: MakeLocal) -> None:
    engine = await make_local(cgroups=False)
    await engine.warmed()  # the step is its own user by now
    handle = await launch(engine, [["allocate", 2048 * MIB, 2048 * MIB]], resources=Resources(memory=128 * MIB))
    status = await finish(engine, handle)
    assert (status.state, status.exit_code) == (RunState.FAILED, 1)
    assert "MemoryError" in (await lines(engine, handle))[-1].line


async def test_time(either: LocalEngine) -> None:
    assert await results(either, [["say", "x"]], "kwdbml-twin-1", ttl=60) == [None]
    handle = await launch(either, [["hang"]], ttl=1)
    group = members(handle)
    status = await finish(either, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "DeadlineExceeded")
    assert group
    assert not survivors(group)


async def test_cancel_kills_an_endless_loop(either: LocalEngine) -> None:
    handle = await launch(either, [["progress", "train"], ["hang"]])
    await reach(either, handle, "train")
    group = members(handle)
    await either.cancel(handle)
    assert (await finish(either, handle)).state is RunState.CANCELED
    assert group
    assert not survivors(group)


async def test_children_end_with_the_step(either: LocalEngine) -> None:
    handle = await launch(either, [["children", 3, True], ["children", 3, False], ["pause"]])
    await reach(either, handle)
    group = members(handle)
    assert len(survivors(group)) >= 7
    resume(either, handle)
    assert (await finish(either, handle)).state is RunState.SUCCEEDED
    assert not survivors(group)


async def test_children_end_when_the_step_is_cancelled(either: LocalEngine) -> None:
    handle = await launch(either, [["children", 3, True], ["pause"]])
    await reach(either, handle)
    group = members(handle)
    await either.cancel(handle)
    assert (await finish(either, handle)).state is RunState.CANCELED
    assert group
    assert not survivors(group)


async def test_a_fork_bomb_is_bounded_and_leaves_nothing(make_local: MakeLocal) -> None:
    engine = await make_local()
    handle = await launch(engine, [["bomb"], ["pause"]])
    await reach(engine, handle)
    group = members(handle)
    assert 100 < len(group) < 1100
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    assert not survivors(group)


async def test_cores(make_local: MakeLocal) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core only: nothing to divide")
    engine = await make_local(concurrency=len(cores))
    assert len((await results(engine, [["cores"]], "kwdbml-a-1"))[0]) == 1
    asked, after = await results(engine, [["cores", cores], ["await_cores", 1]], "kwdbml-b-1")
    assert (asked, len(after)) == (cores, 1), "a job that takes more loses them again"
    assert (await results(engine, [["cores"]], "kwdbml-c-1", resources=Resources(cpu=len(cores))))[0] == cores


async def test_two_runs_get_different_cores(make_local: MakeLocal) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only: nothing to divide")
    engine = await make_local(concurrency=2)
    first, second = [
        await launch(engine, [["cores"], ["pause"]], f"kwdbml-{n}-1", resources=Resources(cpu=1)) for n in "ab"
    ]
    taken = [set(os.sched_getaffinity(members(handle)[-1][0])) for handle in (first, second)]
    assert not taken[0] & taken[1]
    for handle in (first, second):
        resume(engine, handle)
        await finish(engine, handle)


async def test_one_big_file(make_local: MakeLocal) -> None:
    engine = await make_local(disk=16 * MIB)
    assert await results(engine, [["fill", 8 * MIB]], "kwdbml-twin-1") == [None]
    handle = await launch(engine, [["fill", 64 * MIB]])
    assert (await finish(engine, handle)).state is RunState.FAILED
    assert "File too large" in (await lines(engine, handle))[-1].line
    assert (engine.workspace(handle).outputs / "big0").stat().st_size <= 16 * MIB


async def test_many_files(make_local: MakeLocal) -> None:
    engine = await make_local(disk=16 * MIB)
    handle = await launch(engine, [["fill", 4 * MIB, 10], ["pause"]])
    status = await finish(engine, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Evicted")


async def test_ends_of_all_kinds(local: LocalEngine) -> None:
    for number, (do, code, reason) in enumerate(
        [
            (["leave", 0], 0, "Error"),
            (["leave", 3], 3, "Error"),
            (["fall", 11], 139, "Signal"),
            (["fall", 9], 137, "Signal"),
        ]
    ):
        handle = await launch(local, [do], f"kwdbml-test-{number}")
        status = await finish(local, handle)
        assert (status.state, status.exit_code, status.reason) == (RunState.FAILED, code, reason)
        if reason == "Signal":
            assert ("SIGSEGV" if code == 139 else "SIGKILL") in status.message


# -- the log -------------------------------------------------------------------------------------------------------


async def test_a_hundred_megabytes_of_output(local: LocalEngine) -> None:
    count = 1_250_000
    handle = await launch(local, [["say", "first"], ["raw", "x" * 79 + "\n", count], ["say", "last"]])
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    control = local.workspace(handle).path / "ctl"
    assert sum(path.stat().st_size for path in control.glob("log.*")) < 2 * (HEAD + TAIL)
    found: list[LogLine] = []
    cuts: list[tuple[int, int]] = []
    cursor = 0
    while (chunk := await local.logs(handle, cursor)).lines:
        assert len(chunk.lines) <= 4000
        found += chunk.lines
        cuts += [chunk.cut] if chunk.cut else []
        cursor = chunk.cursor
    assert (found[0].line, found[-1].line) == ("first", "last")
    assert (found[0].seq, found[-1].seq) == (1, count + 2)
    [(first_cut, last_cut)] = cuts
    numbers = [line.seq for line in found]
    assert numbers == [*range(1, first_cut), *range(last_cut + 1, count + 3)]
    assert sum(len(line.line) + 33 for line in found if line.seq > last_cut) >= TAIL
    assert sum(len(line.line) + 33 for line in found if line.seq < first_cut) >= HEAD


async def test_one_line_of_fifty_megabytes(local: LocalEngine) -> None:
    handle = await launch(local, [["raw", "a", 50 * MIB]])
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    found = await lines(local, handle)
    assert {len(line.line) for line in found} == {LINE}
    assert found[-1].seq == 50 * MIB // LINE


async def test_bytes_that_are_no_text(local: LocalEngine) -> None:
    handle = await launch(
        local, [["raw", "nul \0 bad \xff\xfe cut \xe2\x82", 1, 2], ["raw", "\r\n", 1, 2], ["raw", "no end", 1, 2]]
    )
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    assert [(line.stream, line.line) for line in await lines(local, handle)] == [
        ("stderr", "nul \ufffd bad \ufffd\ufffd cut \ufffd"),
        ("stderr", "no end"),
    ]


async def test_lines_carry_their_step(local: LocalEngine) -> None:
    handle = await launch(local, [["progress", "prepare"], ["pause"], ["progress", "train"], ["say", "x"]])
    await reach(local, handle)
    resume(local, handle)
    await finish(local, handle)
    assert [(line.step, line.line) for line in await lines(local, handle)] == [("train", "x")]
