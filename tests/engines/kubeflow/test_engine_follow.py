"""Following a run: what KFP may say of it, what its pods say, and which of the two is believed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from kwdbml.engines.base import Handle, LogLine, RunState, RunStatus
from kwdbml.engines.kubeflow import KubeflowEngine
from tests.engines.conftest import MakeEngine, finish, lines, printed, reach, resume
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub


async def until(engine: KubeflowEngine, handle: Handle, condition: Any) -> RunStatus:
    """Its status as soon as that holds."""
    async with asyncio.timeout(30):
        while not condition(status := await engine.wait(handle, 5)):
            assert not status.ended, status
    return status


async def stepped(engine: KubeflowEngine, handle: Handle, step: str) -> RunStatus:
    return await until(engine, handle, lambda status: status.step == step)


# -- KFP's own words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ("SKIPPED", RunState.FAILED, "Error"),
        ("FAILED", RunState.FAILED, "Error"),
        ("CANCELED", RunState.FAILED, "Terminated"),
        ("SUCCEEDED", RunState.LOST, "Lost"),  # without any output
    ],
)
async def test_an_end_of_which_nothing_is_left(
    remote: RemoteSteps, kubeflow: Stub, said: str, state: RunState, reason: str
) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    kubeflow.force(handle["run_id"], said)
    for pod in kubeflow.pods_of(handle["run_id"], executors=False):
        kubeflow.delete_pod(pod.name)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (state, reason), status


async def test_a_paused_run_waits(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    kubeflow.force(handle["run_id"], "PAUSED")
    status = await stepped(remote, handle, "waiting: paused in Kubeflow Pipelines")
    assert status.state is RunState.RUNNING
    kubeflow.forget(handle["run_id"])


async def test_a_run_of_which_kubeflow_says_nothing_yet(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    kubeflow.force(handle["run_id"], "RUNTIME_STATE_UNSPECIFIED")
    assert (await remote.poll(handle)).state is RunState.RUNNING
    kubeflow.forget(handle["run_id"])


async def test_a_word_of_a_future_kubeflow_is_no_end(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    kubeflow.check_answers = False
    handle = await start(remote)
    kubeflow.force(handle["run_id"], "HIBERNATING")
    status = await until(remote, handle, lambda status: status.state is RunState.UNKNOWN)
    assert "HIBERNATING" in status.message
    kubeflow.forget(handle["run_id"])


async def test_terminated_by_somebody_else(remote: RemoteSteps) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    remote._api.terminate(handle["run_id"])
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Terminated")
    assert "Somebody terminated the run" in status.message


@pytest.mark.parametrize("how", ["deleted", "archived"])
async def test_gone_from_kubeflow(remote: RemoteSteps, kubeflow: Stub, how: str) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    if how == "deleted":
        kubeflow.forget(handle["run_id"])
    else:
        remote._api.put_away(handle["run_id"])
    assert (await finish(remote, handle)).state is RunState.LOST
    await remote.cleanup(handle)
    assert NAME not in remote._store.runs()
    assert not kubeflow.secrets


async def test_a_run_whose_end_kubeflow_never_tells(remote: RemoteSteps, kubeflow: Stub, clock: Hurry) -> None:
    handle = await start(remote, [["say", "done"]])
    kubeflow.agent(False)
    await asyncio.to_thread(kubeflow.wait, lambda: all(pod.ended for pod in kubeflow.pods_of(handle["run_id"])))
    assert not (await remote.poll(handle)).ended
    clock.advance(61)
    status = await finish(remote, handle)
    assert status.state is RunState.SUCCEEDED
    assert kubeflow.run(NAME).state != "SUCCEEDED"
    assert [line.line for line in await lines(remote, handle)] == ["done"]


# -- its pods --------------------------------------------------------------------------------------------------------


async def test_hopeless_waiting_shows_and_ends(remote: RemoteSteps, kubeflow: Stub, clock: Hurry) -> None:
    kubeflow.script("ImagePullBackOff")
    handle = await start(remote)
    status = await stepped(remote, handle, "waiting: ImagePullBackOff")
    assert status.state is RunState.RUNNING
    clock.advance(599)
    assert not (await remote.poll(handle)).ended
    clock.advance(2)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "ImagePullBackOff")
    assert "cannot pull the image" in status.message


async def test_a_volume_that_cannot_be_mounted_shows_and_ends(
    remote: RemoteSteps, kubeflow: Stub, clock: Hurry
) -> None:
    """The pod says nothing but ContainerCreating."""
    kubeflow.simulate()
    kubeflow.hold("PENDING")
    handle = await start(remote)
    with kubeflow.lock:
        kubeflow.secrets.clear()
    kubeflow.release("PENDING")
    one = remote._watch.followed[handle["run_id"]]
    async with asyncio.timeout(30):
        while one.unstarted_since is None:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
    assert (await remote.poll(handle)).step is None
    clock.advance(61)
    assert (await stepped(remote, handle, "waiting: FailedMount")).state is RunState.RUNNING
    clock.advance(601)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "FailedMount")
    assert "not found Its Secret and its claims must be there" in status.message


async def test_what_was_hopeless_for_a_while_is_counted_anew(remote: RemoteSteps, kubeflow: Stub, clock: Hurry) -> None:
    kubeflow.script("ImagePullBackOff")
    handle = await start(remote)
    await stepped(remote, handle, "waiting: ImagePullBackOff")
    [pod] = kubeflow.pods_of(handle["run_id"])
    clock.advance(400)
    pulls, pod.main = pod.main, {"waiting": {"reason": "ContainerCreating"}}
    assert (await remote.poll(handle)).step is None
    pod.main = pulls
    await stepped(remote, handle, "waiting: ImagePullBackOff")
    clock.advance(400)
    assert not (await remote.poll(handle)).ended
    clock.advance(201)
    assert (await finish(remote, handle)).reason == "ImagePullBackOff"


async def test_waiting_for_room_is_not_hopeless(remote: RemoteSteps, kubeflow: Stub, clock: Hurry) -> None:
    kubeflow.script("Unschedulable")
    handle = await start(remote)
    await stepped(remote, handle, "waiting: Unschedulable")
    clock.advance(5000)
    assert (await remote.poll(handle)).step == "waiting: Unschedulable"
    await remote.cancel(handle)
    assert (await finish(remote, handle)).state is RunState.CANCELED


@pytest.mark.parametrize(
    ("failure", "reason", "code"), [("OOMKilled", "OOMKilled", 137), ("Evicted", "Evicted", None), ("Exit", "Error", 9)]
)
async def test_a_pod_that_dies(
    remote: RemoteSteps, kubeflow: Stub, failure: str, reason: str, code: int | None
) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    [pod] = kubeflow.pods_of(handle["run_id"])
    pod.log.add(b"1 train stderr: the last word")
    kubeflow.fail_pod(pod.name, failure, 9)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, reason)
    assert code is None or status.exit_code in (code, 9)
    if failure == "Exit":
        assert "the last word" in status.message


async def test_a_pod_that_somebody_deletes(remote: RemoteSteps, kubeflow: Stub) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    kubeflow.delete_pod(kubeflow.pods_of(handle["run_id"])[0].name)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Error")
    assert "pods are gone" in status.message


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["", "PENDING"])
async def test_the_time_that_a_run_has_counts_from_its_launch(remote: RemoteSteps, kubeflow: Stub, held: str) -> None:
    if held:
        kubeflow.hold(held)
    handle = await start(remote, [["pause"]], ttl=1.0)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "DeadlineExceeded")
    assert not kubeflow.living()


async def test_what_a_run_waited_for_when_its_time_was_up_is_told(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.script("Unschedulable")
    handle = await start(remote, ttl=1.0)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "DeadlineExceeded")
    assert "It still waited (Unschedulable): No node takes the pod: 0/1 nodes are available" in status.message


async def test_why_it_was_stopped_is_known_to_another_worker(make_remote: MakeEngine, kubeflow: Stub) -> None:
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["pause"]])
    await reach(first, handle)
    kubeflow.hold("CANCELING")
    await first.cancel(handle)
    assert not (await first.poll(handle)).ended
    await first.close()
    second: RemoteSteps = await make_remote(Hurry())
    await stepped(second, handle, "waiting: pods end")
    assert kubeflow.living()
    kubeflow.release("CANCELING")
    status = await finish(second, handle)
    assert (status.state, status.reason) == (RunState.CANCELED, "Canceled")
    assert not kubeflow.living()


async def test_canceled_means_that_no_pod_lives(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    kubeflow.hold("CANCELING")
    handle = await start(remote)
    await remote.cancel(handle)
    kubeflow.force(handle["run_id"], "FAILED")  # as Argo says at once
    assert not (await remote.poll(handle)).ended
    [pod] = kubeflow.pods_of(handle["run_id"])
    kubeflow.delete_pod(pod.name)
    assert (await finish(remote, handle)).state is RunState.CANCELED


async def test_kubeflows_own_pods_of_a_run_count(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    driver = next(pod for pod in kubeflow.pods_of(handle["run_id"], executors=False) if not pod.task)
    driver.phase = "Running"
    await remote.cancel(handle)
    await asyncio.to_thread(kubeflow.wait, lambda: all(pod.ended for pod in kubeflow.pods_of(handle["run_id"])))
    assert not (await remote.poll(handle)).ended
    driver.phase = "Succeeded"
    assert (await finish(remote, handle)).state is RunState.CANCELED


async def test_a_pod_on_a_node_that_does_not_answer_is_not_waited_for_for_ever(
    remote: RemoteSteps, kubeflow: Stub
) -> None:
    kubeflow.simulate()
    kubeflow.hold("CANCELING")
    handle = await start(remote)
    await remote.cancel(handle)
    kubeflow.force(handle["run_id"], "FAILED")
    [pod] = kubeflow.pods_of(handle["run_id"])
    pod.leaves = time.time() - 200
    assert not (await remote.poll(handle)).ended
    pod.leaves = time.time() - 400
    assert (await finish(remote, handle)).state is RunState.CANCELED


# -- its log ---------------------------------------------------------------------------------------------------------


async def test_a_log_is_one_however_often_it_is_read(make_remote: MakeEngine, kubeflow: Stub) -> None:
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["say", "a\nb"], ["pause"], ["say", "c", "stderr"]])
    await printed(first, handle, 2)
    await first.close()
    second: RemoteSteps = await make_remote(Hurry())
    assert [line.seq for line in await printed(second, handle, 2)] == [1, 2]
    resume(second, handle)
    await finish(second, handle)
    assert [(line.seq, line.stream, line.line) for line in await lines(second, handle)] == [
        (1, "stdout", "a"), (2, "stdout", "b"), (3, "stderr", "c"),
    ]  # fmt: skip
    for pod in kubeflow.pods_of(handle["run_id"]):
        kubeflow.delete_pod(pod.name)
    third: RemoteSteps = await make_remote(Hurry())
    await finish(third, handle)
    kept = [(line.seq, line.stream, line.line) for line in await lines(third, handle)]
    assert kept == [(1, "stdout", "a"), (2, "stdout", "b"), (3, "stderr", "c")], "beside the outputs"


async def test_what_the_node_has_thrown_away_is_told(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    [pod] = kubeflow.pods_of(handle["run_id"])
    pod.log.add(b"1 train stdout: first")
    await printed(remote, handle, 1)
    pod.log.add(b"7 train stdout: seventh")
    while not (chunk := await remote.logs(handle, 1)).lines:
        await remote.wait(handle, 5)
    assert chunk.cut == (2, 6)
    assert [(line.seq, line.line) for line in chunk.lines] == [(7, "seventh")]


async def test_a_huge_log_costs_bounded_room(remote: RemoteSteps) -> None:
    handle = await start(remote, [["raw", "x" * 99 + "\n", 300_000], ["say", "end"]])
    status = await finish(remote, handle)
    assert status.state is RunState.SUCCEEDED
    found: list[LogLine] = []
    cut, cursor = None, 0
    while (chunk := await remote.logs(handle, cursor)).lines or chunk.cut:
        found += chunk.lines
        cut, cursor = cut or chunk.cut, chunk.cursor
    assert (found[0].seq, found[-1].seq, found[-1].line) == (1, 300_001, "end")
    assert cut is not None
    place = remote.workspace(handle).path
    assert sum(path.stat().st_size for path in place.glob("ctl-*/log.*")) < 20 << 20
