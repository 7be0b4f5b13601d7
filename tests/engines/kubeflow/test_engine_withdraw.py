"""Launches that nobody waits for any more: they end, and what they still make is known of or taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ReadTimeoutError

from kwdbml.engines.base import Handle, RunState
from kwdbml.engines.kfp import calls as calls_module
from kwdbml.engines.kfp import names, upload
from tests.engines.conftest import MakeEngine, finish
from tests.engines.kubeflow.conftest import NAME, counted, start
from tests.engines.kubeflow.gate import Gate
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.s3 import S3Server


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled tasks do not wait long for their threads."""
    monkeypatch.setattr(calls_module, "CLOSE_WITHIN", 0.1)


async def withdrawn(engine: RemoteSteps, launching: asyncio.Task[Handle]) -> asyncio.Task[None]:
    """The job was canceled: as far as that comes while the other side hangs."""
    inner = engine._launches[NAME]
    launching.cancel()
    withdrawing = asyncio.create_task(engine.withdraw(NAME, ours=True))
    await asyncio.wait({inner})
    return withdrawing


async def nothing_is_left(engine: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server) -> None:
    assert await engine.find(NAME) is None
    assert counted(kubeflow) == (0, 0)
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")
    assert not list(engine._store.unfinished("kwdbml/"))


async def test_a_creation_that_comes_late(remote: RemoteSteps, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is canceled while Kubeflow is slow; the run that it makes all the same is found and ended."""
    gate = Gate(monkeypatch, remote._api._runs, "run_service_create_run")
    launching = asyncio.create_task(start(remote, [["pause"]]))
    await asyncio.to_thread(gate.reached.wait)
    withdrawing = await withdrawn(remote, launching)
    assert remote._api.is_unsure(NAME)
    assert not withdrawing.done()
    assert names.secret_name(NAME) in kubeflow.secrets
    gate.go.set()
    await withdrawing
    handle = await remote.find(NAME)
    assert handle is not None
    await remote.cancel(handle)
    assert (await finish(remote, handle)).state is RunState.CANCELED
    assert counted(kubeflow) == (1, 1)
    assert not kubeflow.living()


@pytest.mark.parametrize("comes", [True, False], ids=["comes", "never comes"])
async def test_a_creation_without_an_answer(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, clock: Hurry, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    sent: list[Any] = []
    create = remote._api._runs.run_service_create_run

    def unanswered(document: Any, **_: object) -> None:
        sent.append(document)
        raise ReadTimeoutError(None, "", "timed out")  # type: ignore[arg-type]

    monkeypatch.setattr(remote._api._runs, "run_service_create_run", unanswered)
    launching = asyncio.create_task(start(remote, [["say", "late"]]))
    await waits(remote, "did not answer in time")
    withdrawing = await withdrawn(remote, launching)
    await waits(remote, "did not say whether")
    assert not withdrawing.done()
    assert names.secret_name(NAME) in kubeflow.secrets
    if not comes:
        clock.advance(121)
        await withdrawing
        await nothing_is_left(remote, kubeflow, s3_bucket)
        return
    await asyncio.to_thread(create, sent[0])
    await withdrawing
    handle = await remote.find(NAME)
    assert handle is not None
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert counted(kubeflow) == (1, 1)


async def waits(engine: RemoteSteps, words: str) -> None:
    async with asyncio.timeout(30):
        while words not in engine.trouble(NAME):  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["upload_inputs", "begin_outputs", "publish"])
async def test_an_upload_that_goes_on_leaves_nothing(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    gate = Gate(monkeypatch, upload, name)
    launching = asyncio.create_task(start(remote))
    await asyncio.to_thread(gate.reached.wait)
    withdrawing = await withdrawn(remote, launching)
    assert not withdrawing.done()
    gate.go.set()
    await withdrawing
    await nothing_is_left(remote, kubeflow, s3_bucket)
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED, "it can be launched again"


async def test_what_is_on_its_way_is_deleted_too(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives when somebody waits for its end; or else when everything is deleted."""
    session = remote._store._client._endpoint.http_session
    gate = Gate(monkeypatch, session, "send", mine=lambda request: "/access/" in request.url)
    over, delete = remote._calls.over, remote._delete_files

    async def arrives_first(task: asyncio.Task[Any]) -> bool:
        gate.go.set()
        return await over(task)

    async def arrives_last(name: str) -> None:
        await delete(name)
        gate.go.set()

    monkeypatch.setattr(remote._calls, "over", arrives_first)
    monkeypatch.setattr(remote, "_delete_files", arrives_last)
    launching = asyncio.create_task(start(remote))
    await asyncio.to_thread(gate.reached.wait)
    task = remote._launches[NAME]
    await (await withdrawn(remote, launching))
    assert await over(task)
    await nothing_is_left(remote, kubeflow, s3_bucket)


async def test_a_worker_that_goes_on_after_its_lease(
    make_remote: MakeEngine, kubeflow: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped in the middle of its upload, and knows nothing of the one that has launched the run since."""
    first: RemoteSteps = await make_remote(Hurry())
    second: RemoteSteps = await make_remote(Hurry(), root=tmp_path / "second")

    def of_first(store: object, *_: object) -> bool:
        return store is first._store

    begin = Gate(monkeypatch, upload, "upload_inputs", mine=of_first)
    late = asyncio.create_task(start(first, [["say", "the first's"]]))
    await asyncio.to_thread(begin.reached.wait)
    kubeflow.hold("PENDING")
    handle = await start(second, [["say", "the second's"]])
    publish = Gate(monkeypatch, upload, "publish", mine=of_first)
    begin.go.set()
    await asyncio.to_thread(publish.reached.wait)
    kubeflow.release("PENDING")
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
    assert [line.line for line in (await second.logs(handle)).lines] == ["the second's"]
    publish.go.set()
    assert await late == handle
    assert counted(kubeflow)[1] == 1
