"""Servers that are away, full, or say no, in every phase: what passes is outlived, what is definite is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from kwdbml import travel
from kwdbml.engines.base import Run, RunState
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.errors import EngineError
from tests.engines.conftest import MakeEngine, fill, finish, lines, reach, resume
from tests.engines.kubeflow.conftest import NAME, counted, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.s3 import S3Server

PASSING: list[dict[str, Any]] = [
    {"status": 429, "retry_after": 1},
    {"status": 500},
    {"status": 503},
    {"kind": "cut"},
    {"kind": "drop"},
    {"status": 401},
    {"status": 403},
]


async def away(engine: RemoteSteps) -> None:
    """Wait until the engine waits for somebody."""
    async with asyncio.timeout(30):
        while not engine.trouble(NAME):  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: str(fault.get("status") or fault["kind"]))
@pytest.mark.parametrize("server", ["kfp", "cluster"])
async def test_a_run_outlives_servers_that_fail(
    remote: RemoteSteps, kubeflow: Stub, server: str, fault: dict[str, Any]
) -> None:
    handle = await start(remote, [["pause"], ["say", "hello"]])
    await reach(remote, handle)
    met = getattr(kubeflow, server).faults.add("GET", times=8, **fault)
    await asyncio.to_thread(kubeflow.wait, lambda: met.met >= 3)
    resume(remote, handle)
    status = await finish(remote, handle)
    assert status.state is RunState.SUCCEEDED, status
    assert [line.line for line in await lines(remote, handle)] == ["hello"]


@pytest.mark.parametrize("server", ["kfp", "cluster"])
async def test_a_run_outlives_a_server_that_hangs(make_remote: MakeEngine, kubeflow: Stub, server: str) -> None:
    engine: RemoteSteps = await make_remote(Hurry(), timeout=0.3)
    handle = await start(engine, [["pause"]])
    await reach(engine, handle)
    met = getattr(kubeflow, server).faults.add("GET", kind="hang", times=6)
    await asyncio.to_thread(kubeflow.wait, lambda: met.met >= 4)
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    met.release()


async def test_a_launch_waits_for_servers_that_are_down(remote: RemoteSteps, kubeflow: Stub) -> None:
    for server in (kubeflow.kfp, kubeflow.cluster):
        server.down()
    launching = asyncio.ensure_future(start(remote))
    await away(remote)
    assert "Kubeflow Pipelines" in remote.trouble(NAME)
    kubeflow.kfp.up()
    async with asyncio.timeout(30):
        while "Kubernetes" not in remote.trouble(NAME):  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
    kubeflow.cluster.up()
    handle = await launching
    assert remote.trouble(NAME) == ""
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert counted(kubeflow) == (1, 1)


async def test_every_phase_outlives_a_kubeflow_that_is_down(
    remote: RemoteSteps, make_remote: MakeEngine, kubeflow: Stub
) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    kubeflow.kfp.down()
    assert (await remote.poll(handle)).state is RunState.UNKNOWN
    other: RemoteSteps = await make_remote(Hurry())
    assert (await other.wait(handle, 0.1)).state is RunState.UNKNOWN
    assert (await other.logs(handle)).lines == ()
    finding = asyncio.ensure_future(other.find(NAME))
    canceling = asyncio.ensure_future(other.cancel(handle))
    await away(other)
    with pytest.raises(EngineError) as caught:
        await other.cleanup(handle)
    assert caught.value.retryable
    kubeflow.kfp.up()
    assert await finding == handle
    await canceling
    assert (await finish(other, handle)).state is RunState.CANCELED
    assert not kubeflow.living()


@pytest.mark.parametrize(
    ("status", "times", "words"),
    [(400, 1, "400"), (500, 9, "500")],
)
async def test_a_creation_that_is_refused_leaves_nothing(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, status: int, times: int, words: str
) -> None:
    kubeflow.kfp.faults.add("POST", r"/runs$", status=status, times=times)
    with pytest.raises(ApiError, match=words) as caught:
        await start(remote)
    assert not caught.value.retryable
    assert counted(kubeflow) == (0, 0)
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")
    assert await remote.find(NAME) is None
    kubeflow.kfp.faults.clear()
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED, "and its name is free"


async def test_a_secret_that_is_refused_leaves_nothing(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server
) -> None:
    kubeflow.cluster.faults.add("POST", "/secrets", status=422)
    with pytest.raises(ApiError, match="422"):
        await start(remote)
    assert not s3_bucket.keys("kwdbml/")
    assert counted(kubeflow) == (0, 0)


async def test_a_claim_that_is_refused_takes_the_run_back(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> str:
        raise ApiError("no", status=422)

    with monkeypatch.context() as patch:
        patch.setattr(remote._cluster, "claim", refuse)
        with pytest.raises(ApiError):
            await start(remote, [["pause"]])
    assert counted(kubeflow) == (1, 0)
    await asyncio.to_thread(kubeflow.wait, lambda: not kubeflow.living())
    assert not kubeflow.secrets
    assert not s3_bucket.keys(f"kwdbml/{NAME}/in")


async def test_a_token_that_is_renewed(make_remote: MakeEngine, kubeflow: Stub, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    kubeflow.kfp.tokens = {"old"}
    engine: RemoteSteps = await make_remote(Hurry(), token_file=token)
    handle = await start(engine, [["pause"]])
    await reach(engine, handle)
    token.write_text("new")
    kubeflow.kfp.tokens = {"new"}
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    await engine.cleanup(handle)
    kubeflow.kfp.tokens = None


async def test_an_output_that_was_damaged_does_not_land(remote: RemoteSteps, s3_bucket: S3Server) -> None:
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    path = s3_bucket.path / "kwdbml" / NAME / "out" / "result.json"
    path.write_bytes(path.read_bytes()[:-1] + b"]")
    with pytest.raises(EngineError, match="is damaged"):
        await remote.collect(handle)
    assert not (remote.workspace(handle).outputs / "result.json").exists()


async def test_an_input_that_was_damaged_ends_the_run(remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server) -> None:
    kubeflow.hold("PENDING")
    handle = await start(remote)
    (path,) = (s3_bucket.path / "kwdbml" / NAME / "in").glob("*/job.json")
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    kubeflow.release("PENDING")
    status = await finish(remote, handle)
    assert status.state is RunState.FAILED
    assert "in/job.json" in status.message


async def test_a_manifest_that_is_none_of_ours_ends_the_run(remote: RemoteSteps, kubeflow: Stub) -> None:
    kubeflow.simulate()
    handle = await start(remote)
    remote._store.put(remote._store.key(NAME, "manifest.json"), b"{}")
    kubeflow.finish(handle["run_id"])
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Error")
    assert "manifest" in status.message


@pytest.mark.parametrize("taken_over", [False, True])
async def test_addresses_are_renewed_at_half_time(
    make_remote: MakeEngine, kubeflow: Stub, clock: Hurry, taken_over: bool
) -> None:
    engine: RemoteSteps = await make_remote(clock, presign=600)
    handle = await start(engine, [["pause"], ["say", "late"]])
    await reach(engine, handle)
    if taken_over:
        await engine.close()
        engine = await make_remote(clock, presign=600)
        assert not (await engine.poll(handle)).ended
    for _ in range(2):
        before = renewals(kubeflow)
        clock.advance(290)
        assert not (await engine.poll(handle)).ended
        assert renewals(kubeflow) == before, "not yet"
        clock.advance(20)
        assert not (await engine.poll(handle)).ended
        assert renewals(kubeflow) == before + 1
    resume(engine, handle)
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    assert ((await engine.collect(handle)).outputs / "result.json").exists()


def renewals(kubeflow: Stub) -> int:
    return sum(count for call, count in kubeflow.cluster.calls.items() if call.startswith("PATCH"))


@pytest.mark.parametrize("python", ["", "CPython cpython-39-x86_64-linux-gnu"])
async def test_packages_of_another_python_are_refused(
    remote: RemoteSteps, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    if python:
        monkeypatch.setattr(travel, "python_tag", lambda: python)  # the worker's: the pod has its own
    run = Run(NAME)
    workspace = await remote.open(run)
    fill(
        workspace, [["attempt", "read", "../../in/packages/six.py"], ["attempt", "read", "../../in/active-packages/y"]]
    )
    for name in ("packages/six.py", "active-packages/y"):
        (workspace.inputs / name).parent.mkdir()
        (workspace.inputs / name).write_text("x")
    handle = await remote.launch(run, workspace)
    status = await finish(remote, handle)
    if python:
        assert status.state is RunState.FAILED
        assert f"requirements were installed for {python}" in status.message
        return
    assert status.state is RunState.SUCCEEDED
    found = json.loads(((await remote.collect(handle)).outputs / "result.json").read_text())
    assert (found["0"], found["1"]) == ("done x", "done x")


async def test_letting_go_in_the_middle_of_a_launch(
    make_remote: MakeEngine, kubeflow: Stub, kubeflow_settings: KubeflowSettings
) -> None:
    first: RemoteSteps = await make_remote(Hurry())
    hang = kubeflow.kfp.faults.add("POST", r"/runs$", kind="hang", after=True)
    launching = asyncio.ensure_future(start(first, [["say", "once"]]))
    await asyncio.to_thread(kubeflow.wait, lambda: hang.met)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    closing = asyncio.ensure_future(first.close())
    hang.release()
    await closing
    second: RemoteSteps = await make_remote(Hurry())
    handle = await second.find(NAME)
    assert handle is not None
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
    assert counted(kubeflow) == (1, 1)
    assert kubeflow_settings.namespace == kubeflow.namespace
