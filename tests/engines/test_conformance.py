"""What every engine promises the worker (kwdbml/engines/base.py), on all of them."""

from __future__ import annotations

import json

import pytest

from kwdbml.engines.base import Engine, Run, RunState, Workspace
from kwdbml.errors import EngineError
from tests.engines.conftest import NAME, MakeEngine, fill, finish, launch, lines, printed, reach, resume


async def test_open_gives_an_empty_workspace(engine: Engine) -> None:
    workspace = await engine.open(Run(NAME))
    assert list(workspace.inputs.iterdir()) == []
    assert [path.name for path in workspace.outputs.iterdir()] == ["tmp"]
    assert await engine.find(NAME) is None
    await engine.abandon(workspace)


async def test_two_workspaces_are_not_one(engine: Engine) -> None:
    first, second = await engine.open(Run(NAME)), await engine.open(Run(NAME + "0"))
    assert first.path != second.path
    await engine.abandon(first)
    await engine.abandon(second)


async def test_abandon_leaves_nothing_and_may_come_twice(engine: Engine) -> None:
    workspace = await engine.open(Run(NAME))
    (workspace.inputs / "data.arrow").write_text("x")
    await engine.abandon(workspace)
    await engine.abandon(workspace)
    assert not workspace.path.exists()
    assert await engine.find(NAME) is None


async def test_a_success(engine: Engine) -> None:
    handle = await launch(engine, [["say", "hello"], ["progress", "train", 0.5]])
    status = await finish(engine, handle)
    assert (status.state, status.exit_code, status.reason, status.step) == (RunState.SUCCEEDED, 0, "", "train")
    assert await engine.poll(handle) == status
    assert ((await engine.collect(handle)).outputs / "result.json").exists()
    assert [(line.seq, line.stream, line.line) for line in await lines(engine, handle)] == [(1, "stdout", "hello")]


async def test_a_step_that_raises(engine: Engine) -> None:
    handle = await launch(engine, [["raise_error", "no such column"]])
    status = await finish(engine, handle)
    assert (status.state, status.exit_code, status.reason) == (RunState.FAILED, 1, "Error")
    last = (await lines(engine, handle))[-1]
    assert (last.stream, last.line) == ("stderr", "RuntimeError: no such column")


@pytest.mark.parametrize("code", [0, 3])
async def test_leaving_without_a_result_is_a_failure(engine: Engine, code: int) -> None:
    handle = await launch(engine, [["leave", code]])
    status = await finish(engine, handle)
    assert (status.state, status.exit_code, status.reason) == (RunState.FAILED, code, "Error")
    assert str(code) in status.message


async def test_a_handle_is_plain_json(engine: Engine) -> None:
    handle = await launch(engine, [])
    await finish(engine, handle)
    stored = json.loads(json.dumps(handle))
    assert stored == handle
    assert (await engine.poll(stored)).state is RunState.SUCCEEDED


async def test_progress_and_log_wake_a_waiting_worker(engine: Engine) -> None:
    handle = await launch(engine, [["progress", "prepare"], ["say", "one"], ["say", "two", "stderr"], ["pause"]])
    status = await reach(engine, handle)
    assert (status.state, status.fraction) == (RunState.RUNNING, None)
    seen = await printed(engine, handle, 2)
    assert sorted(line.line for line in seen) == ["one", "two"]
    assert [line.seq for line in seen] == [1, 2]
    assert all(line.at > 0 for line in seen)
    resume(engine, handle)
    await finish(engine, handle)


async def test_the_log_is_read_on_from_a_cursor(engine: Engine) -> None:
    handle = await launch(engine, [["say", "a\nb"], ["pause"], ["say", "c"]])
    await reach(engine, handle)
    await printed(engine, handle, 2)
    first = await engine.logs(handle)
    assert [line.line for line in first.lines] == ["a", "b"]
    assert (await engine.logs(handle, first.cursor)).lines == ()
    resume(engine, handle)
    await finish(engine, handle)
    assert [line.line for line in (await engine.logs(handle, first.cursor)).lines] == ["c"]
    assert [line.line for line in (await engine.logs(handle, 1)).lines] == ["b", "c"]


async def test_wait_returns_when_time_is_up(engine: Engine) -> None:
    handle = await launch(engine, [["pause"]])
    await reach(engine, handle)
    assert (await engine.wait(handle, 0)).state is RunState.RUNNING
    assert (await engine.wait(handle, 0.01)).state is RunState.RUNNING
    resume(engine, handle)
    await finish(engine, handle)


async def test_a_run_is_started_once(engine: Engine) -> None:
    handle = await launch(engine, [["pause"]])
    second = await engine.open(Run(NAME))
    fill(second, [["raise_error", "started twice"]])
    assert await engine.launch(Run(NAME), second) == handle
    assert not second.path.exists()
    await reach(engine, handle)
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    third = await engine.open(Run(NAME))
    assert await engine.launch(Run(NAME), third) == handle, "nor once it has ended"


async def test_a_workspace_that_is_not_open_cannot_be_launched(engine: Engine) -> None:
    gone = await engine.open(Run(NAME))
    await engine.abandon(gone)
    with pytest.raises(EngineError) as caught:
        await engine.launch(Run(NAME), Workspace(gone.path, gone.slot))
    assert caught.value.retryable
    assert await engine.find(NAME) is None


async def test_cancel(engine: Engine) -> None:
    handle = await launch(engine, [["pause"]])
    await reach(engine, handle)
    await engine.cancel(handle)
    await engine.cancel(handle)
    status = await finish(engine, handle)
    assert (status.state, status.reason) == (RunState.CANCELED, "Canceled")
    await engine.cancel(handle)
    assert (await engine.poll(handle)).state is RunState.CANCELED


async def test_cancel_right_after_launch(engine: Engine) -> None:
    handle = await launch(engine, [["pause"]])
    await engine.cancel(handle)
    assert (await finish(engine, handle)).state is RunState.CANCELED


async def test_cancel_after_the_end_changes_nothing(engine: Engine) -> None:
    handle = await launch(engine, [])
    await finish(engine, handle)
    await engine.cancel(handle)
    assert (await engine.poll(handle)).state is RunState.SUCCEEDED


async def test_cleanup_of_an_ended_run(engine: Engine) -> None:
    handle = await launch(engine, [["say", "hello"]])
    await finish(engine, handle)
    path = engine.workspace(handle).path
    for _ in range(2):
        await engine.cleanup(handle)
        assert (await engine.poll(handle)).state is RunState.LOST
        assert await engine.find(NAME) is None
        assert (await engine.logs(handle)).lines == ()
        assert not path.exists()


async def test_cleanup_of_a_running_run_cancels_it(engine: Engine) -> None:
    handle = await launch(engine, [["pause"]])
    await reach(engine, handle)
    await engine.cleanup(handle)
    assert (await engine.poll(handle)).state is RunState.LOST
    assert not engine.workspace(handle).path.exists()


async def test_a_name_is_free_again_after_cleanup(engine: Engine) -> None:
    first = await launch(engine, [])
    await finish(engine, first)
    await engine.cleanup(first)
    second = await launch(engine, [])
    assert (await finish(engine, second)).state is RunState.SUCCEEDED
    assert (await engine.poll(first)).state is RunState.LOST, "the first run's handle is not the second's"
    await engine.cleanup(first)
    assert (await engine.poll(second)).state is RunState.SUCCEEDED


async def test_an_unknown_handle_is_lost_and_harmless(engine: Engine) -> None:
    known = await launch(engine, [])
    await finish(engine, known)
    for unknown in ({**known, "run": NAME + "9"}, {**known, "slot": "0" * 16}):
        assert (await engine.poll(unknown)).state is RunState.LOST
        assert (await engine.wait(unknown, 60)).state is RunState.LOST
        assert (await engine.logs(unknown)).lines == ()
        await engine.cancel(unknown)
        await engine.cleanup(unknown)
    assert (await engine.poll(known)).state is RunState.SUCCEEDED


async def test_another_worker_follows_a_run_it_has_never_seen(make_engine: MakeEngine) -> None:
    first: Engine = await make_engine()
    handle = await launch(first, [["say", "hello"], ["pause"]])
    await first.close()
    second: Engine = await make_engine()
    assert await second.find(NAME) == handle
    await reach(second, handle)
    assert [line.line for line in await printed(second, handle, 1)] == ["hello"]
    resume(second, handle)
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
    assert ((await second.collect(handle)).outputs / "result.json").exists()
    third: Engine = await make_engine()
    assert await third.find(NAME) == handle
    assert (await third.poll(handle)).state is RunState.SUCCEEDED
    await third.cleanup(handle)
    assert (await second.poll(handle)).state is RunState.LOST


async def test_another_worker_cancels_and_cleans_up(make_engine: MakeEngine) -> None:
    first: Engine = await make_engine()
    handle = await launch(first, [["pause"]])
    second: Engine = await make_engine()
    await second.cancel(handle)
    assert (await finish(second, handle)).state is RunState.CANCELED
    assert (await finish(first, handle)).state is RunState.CANCELED
    await second.cleanup(handle)
    assert not first.workspace(handle).path.exists()


async def test_two_runs_at_once(engine: Engine) -> None:
    handles = [await launch(engine, [["pause"]], f"{NAME}{number}") for number in range(2)]
    for handle in handles:
        await reach(engine, handle)
    await engine.cancel(handles[0])
    assert (await finish(engine, handles[0])).state is RunState.CANCELED
    resume(engine, handles[1])
    assert (await finish(engine, handles[1])).state is RunState.SUCCEEDED
