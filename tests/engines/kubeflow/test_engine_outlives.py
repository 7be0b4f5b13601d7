"""What must not end the following of runs, or grow with their number."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from kwdbml.engines.base import RunState
from kwdbml.engines.kfp import download, names
from kwdbml.engines.kfp.calls import THREADS
from kwdbml.engines.kfp.look import Followed
from kwdbml.engines.kfp.podlog import PodLog
from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.conftest import MakeEngine, finish, reach
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky

DENIED = Fault(403, code="AccessDenied")


async def test_a_place_that_cannot_be_removed(
    remote: RemoteSteps, kubeflow: Stub, clock: Hurry, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.simulate()
    asked = asyncio.Event()

    def refuse(slot: str) -> None:
        remote_loop.call_soon_threadsafe(asked.set)
        raise OSError(30, "Read-only file system", slot)

    remote_loop = asyncio.get_running_loop()
    monkeypatch.setattr(remote._watch, "_let_go", refuse)
    await start(remote)
    clock.advance(2000)  # nobody has asked for it for long
    await asyncio.wait_for(asked.wait(), 30)
    other = await start(remote, name=f"{NAME}0")
    kubeflow.finish(other["run_id"], 1)
    assert (await finish(remote, other)).state is RunState.FAILED


def test_a_log_holds_no_descriptor(tmp_path: Path) -> None:
    logs = [PodLog(tmp_path / str(number)) for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    for seq in (1, 2):
        for log in logs:
            log.take(f"{seq} train stdout: line {seq}\n".encode())
    assert len(os.listdir("/proc/self/fd")) < before + len(logs)  # others come and go
    assert [[line.line for line in log.read(0).lines] for log in logs] == [["line 1", "line 2"]] * 20
    assert {len(list(log.glob("log.*"))) for log in tmp_path.iterdir()} == {1}, "the same file is written on"


async def test_logs_that_end_together_are_not_all_in_memory(
    remote: RemoteSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = most = 0
    counting = threading.Lock()

    def read(*_: object) -> bytes:
        nonlocal held, most
        with counting:
            held += 1
            most = max(most, held)
        return b"1 train stdout: one\n"

    class Log(PodLog):
        def take(self, data: bytes, *, cut: bool = False) -> bool:
            nonlocal held
            with counting:
                held -= 1
            return super().take(data, cut=cut)

    monkeypatch.setattr(download, "read_log", read)
    ones = [Followed({"run": f"{NAME}{n}", "run_id": str(n)}, tmp_path, Log(tmp_path / str(n))) for n in range(200)]
    await asyncio.gather(*(remote._look._last_lines(one, [], None) for one in ones))
    assert all(one.log.last_lines == ["one"] for one in ones)
    assert most <= THREADS


# -- renewals ----------------------------------------------------------------------------------------------------------


async def test_a_secret_that_may_not_be_written(make_remote: MakeEngine, kubeflow: Stub, clock: Hurry) -> None:
    """What is signed meanwhile does not pile up, and a Secret that somebody deleted is made again."""
    engine: RemoteSteps = await make_remote(clock, presign=600)
    handle = await start(engine, [["pause"]])
    await reach(engine, handle)
    documents = engine._store.key(NAME, "access", "")
    assert len(list(engine._store.names(documents))) == 1
    refusal = kubeflow.cluster.faults.add("POST", r"/secrets$", status=403, times=1000)
    kubeflow.secrets.clear()
    for seconds in (310, 1, 61, 1):
        clock.advance(seconds)
        await engine.poll(handle)
    assert refusal.met >= 2
    assert len(list(engine._store.names(documents))) <= 2, "one, where both were signed in the same second"
    kubeflow.cluster.faults.clear()
    clock.advance(61)
    await engine.poll(handle)
    assert names.secret_name(NAME) in kubeflow.secrets
    assert len(list(engine._store.names(documents))) <= 2, "one, where both were signed in the same second"
    engine.resume(handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED


# -- ends that are seen in part ----------------------------------------------------------------------------------------


async def test_a_failure_before_there_is_a_pod_of_ours(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    run_id = handle["run_id"]
    await asyncio.to_thread(kubeflow.wait, lambda: kubeflow.pods_of(run_id))
    with kubeflow.lock:
        kubeflow.force(run_id, "RUNNING")
        ours = {pod.name for pod in kubeflow.pods_of(run_id)}
        driver = next(pod for pod in kubeflow.pods_of(run_id, executors=False) if pod.name not in ours)
        driver.log = type(driver.log)()
        driver.log.add(b"F1121 main.go:79] KFP driver: no such claim: data\n")
        driver.terminated(1)
        for name in ours:
            kubeflow.delete_pod(name)
        kubeflow.force(run_id, "FAILED")
    status = await finish(remote, handle)
    assert (status.state, status.reason, status.exit_code) == (RunState.FAILED, "Error", 1)
    assert status.message.startswith("Kubeflow's own pod")
    assert "no such claim: data" in status.message


@pytest.mark.parametrize(
    ("left", "state"),
    [("a result", RunState.SUCCEEDED), ("nothing", RunState.LOST), ("its step", RunState.RUNNING)],
)
async def test_a_container_beside_the_step_that_never_ends(
    remote: RemoteSteps, kubeflow: Stub, clock: Hurry, left: str, state: RunState
) -> None:
    """What the step has left lands all the same; what counts is that the step itself has ended."""
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    assert remote._watch._task is not None
    remote._watch._task.cancel()  # only this test looks
    kubeflow.agent(False)
    remote.resume(handle)
    pods = kubeflow.pods_of(handle["run_id"])
    await asyncio.to_thread(kubeflow.wait, lambda: all(pod.ended for pod in pods))
    for pod in pods:
        pod.phase = "Running"
        if left == "its step":
            pod.main = {"running": {}}
    if left == "nothing":
        remote._store.delete_run(NAME)
    kubeflow.agent(True)
    for seconds in (0, 299):
        clock.advance(seconds)
        assert (await remote.poll(handle)).step == "waiting: pods end"
    clock.advance(61)
    assert (await remote.poll(handle)).state is state
    for pod in pods:
        pod.phase = "Succeeded"


async def test_a_canceled_run_does_not_run_on_for_want_of_a_store(
    make_remote: MakeEngine, kubeflow: Stub, kubeflow_settings: KubeflowSettings, flaky: Flaky
) -> None:
    s3 = kubeflow_settings.s3.model_copy(
        update={"endpoint": flaky.endpoint, "pod_endpoint": kubeflow_settings.s3.endpoint}
    )
    engine: RemoteSteps = await make_remote(Hurry(), s3=s3)
    handle = await start(engine, [["pause"]])
    await reach(engine, handle)
    flaky.fail("stop.json", *[DENIED] * 50)
    await asyncio.wait_for(engine.cancel(handle), 60)
    await asyncio.to_thread(kubeflow.wait, lambda: not kubeflow.living())
    assert (await finish(engine, handle)).state is RunState.CANCELED


async def test_why_a_run_was_ended_is_noted_when_the_store_is_back(
    make_remote: MakeEngine, kubeflow: Stub, kubeflow_settings: KubeflowSettings, flaky: Flaky, tmp_path: Path
) -> None:
    """For another worker, which sees the end."""
    there = kubeflow_settings.s3.endpoint
    s3 = kubeflow_settings.s3.model_copy(update={"endpoint": flaky.endpoint, "pod_endpoint": there})
    clock = Hurry()
    engine: RemoteSteps = await make_remote(clock, s3=s3)
    handle = await start(engine, [["pause"]], ttl=100)
    await reach(engine, handle)
    kubeflow.hold("CANCELING")
    flaky.fail("stop.json", *[DENIED] * 2)
    kubeflow.run(NAME).created -= 200
    stop = engine._store.key(NAME, "stop.json")
    async with asyncio.timeout(30):
        while not engine._store.exists(stop):
            await engine.poll(handle)
    await engine.close()
    kubeflow.release("CANCELING")
    other: RemoteSteps = await make_remote(Hurry(), root=tmp_path / "other")
    assert (await finish(other, handle)).reason == "DeadlineExceeded"


async def test_what_was_collected_and_forgotten_goes_after_a_day(
    remote: RemoteSteps, kubeflow: Stub, clock: Hurry
) -> None:
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    place = (await remote.collect(handle)).path
    clock.advance(80_000)
    await remote._watch._forget_unasked()
    assert place.exists(), "somebody may still read it"
    clock.advance(10_000)
    await remote._watch._forget_unasked()
    assert not place.exists()


async def test_each_run_has_its_own_trouble(make_remote: MakeEngine, kubeflow: Stub) -> None:
    engine: RemoteSteps = await make_remote(Hurry())
    kubeflow.cluster.faults.add("POST", r"/secrets$", status=403, times=1000)
    launching = asyncio.ensure_future(start(engine))
    async with asyncio.timeout(30):
        while not engine.trouble(NAME):  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
    assert engine.trouble(f"{NAME}0") == ""
    kubeflow.cluster.faults.clear()
    assert (await finish(engine, await launching)).state is RunState.SUCCEEDED
