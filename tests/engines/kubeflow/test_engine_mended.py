"""Trouble that is not the run's: a store or a server that says no for a while loses nothing."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kwdbml.engines.base import RunState
from kwdbml.engines.kfp import access, names, upload
from kwdbml.engines.kfp import calls as calls_module
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.calls import Calls
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.storeerrors import StoreError
from kwdbml.errors import EngineError
from kwdbml.model import JobType
from kwdbml.steps.bundle import ACTIVE, BUNDLES
from tests.engines.conftest import MakeEngine, finish, reach, resume
from tests.engines.kubeflow.conftest import NAME, counted, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky
from tests.fixtures.s3 import S3Server

DENIED = Fault(403, code="AccessDenied")
AWAY = Fault(503, code="SlowDown")


async def waits(engine: RemoteSteps, word: str = "") -> None:
    """Until the engine waits for somebody."""
    async with asyncio.timeout(30):
        while not (told := engine.trouble(NAME)) or word not in told:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)


@pytest.fixture
async def behind(make_remote: MakeEngine, kubeflow_settings: KubeflowSettings, flaky: Flaky) -> RemoteSteps:
    """An engine whose way to the store can be told to fail; pods have their own."""
    s3 = kubeflow_settings.s3
    told = s3.model_copy(update={"endpoint": flaky.endpoint, "pod_endpoint": s3.endpoint})
    engine: RemoteSteps = await make_remote(Hurry(), s3=told)
    return engine


# -- the store ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [DENIED, AWAY], ids=["refuses", "away"])
@pytest.mark.parametrize("path", ["/job.json", "/access/"])
async def test_a_launch_outlives_a_store_that_fails(behind: RemoteSteps, flaky: Flaky, path: str, fault: Fault) -> None:
    flaky.fail(path, *[fault] * 4)
    handle = await start(behind)
    assert (await finish(behind, handle)).state is RunState.SUCCEEDED


@pytest.mark.parametrize("fault", [DENIED, AWAY], ids=["refuses", "away"])
async def test_an_end_outlives_a_store_that_fails(behind: RemoteSteps, flaky: Flaky, fault: Fault) -> None:
    flaky.fail("/manifest.json", *[fault] * 4)
    handle = await start(behind)
    assert (await finish(behind, handle)).state is RunState.SUCCEEDED
    flaky.fail("/manifest.json", *[fault] * 4)
    flaky.fail("/out/result.json", *[fault] * 4)
    assert ((await behind.collect(handle)).outputs / "result.json").exists()


async def test_a_collection_waits_for_the_right_to_read(behind: RemoteSteps, flaky: Flaky) -> None:
    handle = await start(behind)
    assert (await finish(behind, handle)).state is RunState.SUCCEEDED
    flaky.fail("/out/result.json", *[DENIED] * 4)
    collecting = asyncio.ensure_future(behind.collect(handle))
    await waits(behind, "does not allow it")
    assert ((await collecting).outputs / "result.json").exists()
    assert behind.trouble(NAME) == ""


async def test_a_renewal_that_is_refused_is_made_later(behind: RemoteSteps, flaky: Flaky, kubeflow: Stub) -> None:
    handle = await start(behind, [["pause"]])
    await reach(behind, handle)
    before = dict(kubeflow.secrets[names.secret_name(NAME)]["data"])
    flaky.fail("/access/", *[DENIED] * 2)
    assert isinstance(behind._clock, Hurry)
    behind._watch.followed[handle["run_id"]].renew_at = 0.0
    async with asyncio.timeout(30):
        while dict(kubeflow.secrets[names.secret_name(NAME)]["data"]) == before:
            assert not (await behind.wait(handle, 0.05)).ended
            behind._clock.advance(61)  # it is not tried at every look
    resume(behind, handle)
    assert (await finish(behind, handle)).state is RunState.SUCCEEDED


@pytest.mark.parametrize("gone", [False, True], ids=["", "gone from kubeflow"])
async def test_a_cleanup_that_is_refused_is_made_later(
    behind: RemoteSteps, flaky: Flaky, kubeflow: Stub, s3_bucket: S3Server, gone: bool
) -> None:
    handle = await start(behind)
    await finish(behind, handle)
    if gone:
        kubeflow.forget(handle["run_id"])
    flaky.fail("/kwdbml", *[DENIED] * 40)
    flaky.fail(f"/{s3_bucket.bucket}", *[DENIED] * 40)
    with pytest.raises(EngineError, match="does not allow it"):
        await behind.cleanup(handle)
    flaky._faults.clear()
    assert s3_bucket.keys("kwdbml/")
    await behind.cleanup(handle)
    assert not s3_bucket.keys("kwdbml/")


# -- a launch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 401, 403])
@pytest.mark.parametrize("server", ["kfp", "cluster"])
async def test_a_launch_waits_for_the_right_to_do_it(
    remote: RemoteSteps, kubeflow: Stub, server: str, status: int
) -> None:
    fault = getattr(kubeflow, server).faults.add("POST", status=status, times=8)
    launching = asyncio.ensure_future(start(remote))
    await waits(remote)
    handle = await launching
    assert fault.met == 8
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert counted(kubeflow) == (1, 1)


@pytest.mark.parametrize("way", ["find", "cancel", "follow"])
async def test_whoever_comes_next_waits_for_the_login_page_to_go(
    remote: RemoteSteps, make_remote: MakeEngine, kubeflow: Stub, way: str
) -> None:
    """What a proxy answers to a token that has expired is no 401."""
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    other: RemoteSteps = await make_remote(Hurry())
    fault = getattr(kubeflow, "cluster" if way == "follow" else "kfp").faults.add(status=302, times=8)
    if way == "find":
        assert await other.find(NAME) == handle
    elif way == "cancel":
        await other.cancel(handle)
        assert (await finish(other, handle)).state is RunState.CANCELED
    else:
        resume(remote, handle)
        assert (await finish(other, handle)).state is RunState.SUCCEEDED
    assert fault.met == 8


async def test_a_run_that_may_have_been_made_keeps_its_files(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, and when it is looked up it is not there yet."""
    find = remote._api.find
    with monkeypatch.context() as patch:
        patch.setattr(remote._api, "find", lambda name: [])
        kubeflow.kfp.faults.add("POST", r"/runs$", kind="drop", after=True)
        kubeflow.kfp.faults.add("POST", r"/runs$", status=400)
        with pytest.raises(ApiError, match="400"):
            await start(remote)
    assert find(NAME)
    assert s3_bucket.keys(f"kwdbml/{NAME}/in")
    assert names.secret_name(NAME) in kubeflow.secrets
    handle = await remote.find(NAME)
    assert handle is not None
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED


@pytest.mark.parametrize("content", [None, ""], ids=["gone", "empty"])
async def test_a_token_file_that_is_away_for_a_while(
    make_remote: MakeEngine, kubeflow: Stub, tmp_path: Path, content: str | None
) -> None:
    token = tmp_path / "token"
    token.write_text("good")
    engine: RemoteSteps = await make_remote(Hurry(), token_file=token)
    token.unlink()
    if content is not None:
        token.write_text(content)
    launching = asyncio.ensure_future(start(engine))
    await waits(engine, "the token file")
    token.write_text("good")
    assert (await finish(engine, await launching)).state is RunState.SUCCEEDED


# -- no pod was ever seen ----------------------------------------------------------------------------------------------


async def test_a_cancel_of_a_run_that_never_had_a_pod(remote: RemoteSteps, kubeflow: Stub, clock: Hurry) -> None:
    kubeflow.hold("PENDING")
    kubeflow.agent(False)
    handle = await start(remote)
    await remote.cancel(handle)
    assert not (await remote.poll(handle)).ended
    clock.advance(61)
    assert (await finish(remote, handle)).state is RunState.CANCELED
    assert not kubeflow.living()
    await remote.cleanup(handle)


async def test_a_pod_that_came_and_went_before_the_first_look(
    make_remote: MakeEngine, remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server
) -> None:
    kubeflow.agent(False)
    handle = await start(remote)

    def over() -> bool:
        pods = kubeflow.pods_of(handle["run_id"])
        return bool(pods) and all(pod.ended for pod in pods)

    await asyncio.to_thread(kubeflow.wait, over)
    assert s3_bucket.keys(f"kwdbml/{NAME}/manifest.json")
    for pod in kubeflow.pods_of(handle["run_id"], executors=False):
        kubeflow.delete_pod(pod.name)
    clock = Hurry()
    second: RemoteSteps = await make_remote(clock)
    assert not (await second.poll(handle)).ended
    clock.advance(61)
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
    await second.cleanup(handle)


# -- waiting, time, files ----------------------------------------------------------------------------------------------


async def test_a_server_that_asks_for_a_day_is_asked_after_a_minute() -> None:
    waited: list[float] = []

    class Noted(Hurry):
        async def pause(self, seconds: float, ends: asyncio.Event) -> None:
            waited.append(seconds)

    calls, answers = Calls(Noted()), [86400.0, 20.0]

    def ask() -> str:
        if answers:
            raise ApiError("busy", retryable=True, retry_after=answers.pop(0))
        return "done"

    assert await calls.outlast(ask) == "done"
    assert waited == [60.0, 20.0]
    await calls.close()


async def test_looks_do_not_wait_for_transfers() -> None:
    calls, go = Calls(Hurry()), threading.Event()
    transfers = [asyncio.ensure_future(calls.call(go.wait, 30, bulk=True)) for _ in range(40)]
    async with asyncio.timeout(10):
        assert await calls.call(lambda: "seen") == "seen"
    assert not any(one.done() for one in transfers)
    go.set()
    assert all(await asyncio.gather(*transfers))
    await calls.close()


async def test_the_time_that_a_run_has_is_known_without_its_parameters(
    remote: RemoteSteps, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished, get = remote._api.unfinished, remote._api.get
    monkeypatch.setattr(remote._api, "unfinished", lambda name: [replace(one, ttl=None) for one in unfinished(name)])
    monkeypatch.setattr(remote._api, "get", lambda run_id: (one := get(run_id)) and replace(one, ttl=None))
    handle = await start(remote, [["pause"]], ttl=1.0)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "DeadlineExceeded")
    assert not kubeflow.living()


async def test_a_run_whose_files_somebody_deletes_is_ended(remote: RemoteSteps, kubeflow: Stub, clock: Hurry) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    remote._store.delete_run(NAME)
    for seconds in (50_000, 61):
        clock.advance(seconds)
        await remote.poll(handle)
    status = await finish(remote, handle)
    assert (status.state, status.reason) == (RunState.FAILED, "Error")
    assert "are gone from the object store" in status.message
    assert not kubeflow.living()


def test_unfinished_uploads_are_ended_by_their_ids(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """MinIO lists none by a prefix."""
    unfinished = store.unfinished
    outputs = access.begin_outputs(store, NAME, JobType.TRAIN)
    document = {"version": 1, "inputs": [], "outputs": outputs}
    access.publish(store, NAME, document, 60)
    begun = {place["upload_id"] for place in outputs.values() if "upload_id" in place}
    assert len(begun) == 2
    with monkeypatch.context() as patch:
        patch.setattr(store, "unfinished", lambda prefix: iter(()))
        access.delete_run(store, NAME)
    assert not list(unfinished(store.key(NAME, "")))
    for name in ("model.zip", "transformer.zip"):
        with pytest.raises(StoreError):
            store.complete(store.key(NAME, "out", name), str(outputs[name]["upload_id"]), [])
    assert not store.names(store.key(NAME, ""))


def test_uploads_of_a_launch_that_was_cut_off_are_ended(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose ids nobody has written down. MinIO tells them by their whole key."""
    unfinished = store.unfinished
    for turn in ("1", "2"):
        access.begin_outputs(store, NAME, None)
        store.put(access.input_key(store, NAME, turn, "job.json"), b"{}")
        for name in access.LONG_INPUTS:
            store.begin(access.input_key(store, NAME, turn, name))
    assert {f"{name}.zip" for name in (*BUNDLES, *ACTIVE.values())} < set(access.LONG_INPUTS)
    assert len(list(unfinished(store.key(NAME, "")))) == 2 * (len(access.LONG_INPUTS) + len(access.LARGE))
    monkeypatch.setattr(store, "unfinished", lambda key: (one for one in unfinished(key) if one["Key"] == key))
    access.delete_run(store, NAME)
    assert not list(unfinished(store.key(NAME, "")))


def test_a_bundle_that_was_cut_off_is_found(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before job.json by its name."""
    (tmp_path / "job.json").write_text("{}")
    (tmp_path / "active-model.zip").write_bytes(bytes(6 << 20))

    def die(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(store, "abort", die)
        patch.setattr(store, "part", die)
        with pytest.raises(RuntimeError):
            upload.upload_inputs(store, NAME, "1", tmp_path)
    unfinished = store.unfinished
    assert list(unfinished(store.key(NAME, "")))
    monkeypatch.setattr(store, "unfinished", lambda key: (one for one in unfinished(key) if one["Key"] == key))
    access.delete_run(store, NAME)
    assert not list(unfinished(store.key(NAME, "")))


async def test_an_engine_closes_though_a_launch_hangs(
    make_remote: MakeEngine, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: RemoteSteps = await make_remote(Hurry())
    hang = kubeflow.kfp.faults.add("POST", r"/runs$", kind="hang")
    launching = asyncio.ensure_future(start(engine))
    await asyncio.to_thread(kubeflow.wait, lambda: hang.met)
    monkeypatch.setattr(calls_module, "CLOSE_WITHIN", 0.2)
    async with asyncio.timeout(10):
        await engine.close()
    assert not launching.done()
    hang.release()
    with pytest.raises(EngineError):
        await launching


async def test_a_run_that_nobody_asks_about_keeps_no_place(
    make_remote: MakeEngine, remote: RemoteSteps, clock: Hurry
) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    place, later = remote.workspace(handle).path, Hurry()
    other: RemoteSteps = await make_remote(later)
    assert not (await other.poll(handle)).ended
    later.advance(1000)
    await _forgotten(other, str(handle["run_id"]))
    async with asyncio.timeout(30):
        while len(list(place.glob("ctl-*"))) > 1:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
    assert place.exists(), "the other's is the other's"
    clock.advance(1000)
    await _forgotten(remote, str(handle["run_id"]))
    async with asyncio.timeout(30):
        while place.exists():  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
    resume(remote, handle)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED, "it can be taken up again"


async def _forgotten(engine: RemoteSteps, run_id: str) -> None:
    engine._watch._some.set()
    async with asyncio.timeout(30):
        while run_id in engine._watch.followed:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
