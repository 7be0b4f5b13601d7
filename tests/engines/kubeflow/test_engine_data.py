"""Where a run's data, its Secret and its files are, and for how long; and that none of it outlives the run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kwdbml.engines.base import About, Handle, Run, RunState, Wanted
from kwdbml.engines.kfp import upload
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.sweep import sweep
from kwdbml.errors import LimitExceeded
from kwdbml.model import JobType
from tests.engines.conftest import MakeEngine, fill, finish, lines, reach, resume
from tests.engines.kubeflow.conftest import NAME, counted, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky
from tests.fixtures.s3 import S3Server

#: Whose large outputs are uploads in parts, begun by the launch.
TRAINS = About(type=JobType.TRAIN)


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


# -- the worker's disk -------------------------------------------------------------------------------------------------


async def test_the_data_is_not_here_while_the_run_lasts(remote: RemoteSteps, tmp_path: Path) -> None:
    workspace = await remote.open(Run(NAME))
    fill(workspace, [["pause"]])
    (workspace.inputs / "carried.json").write_text("[]")
    handle = await remote.launch(Run(NAME), workspace)
    await reach(remote, handle)
    assert not workspace.path.exists()
    place = remote.workspace(handle).path
    assert not [name for name in files(place) if not name.startswith("ctl-")]
    assert [path.name for path in (tmp_path / "kubeflow").iterdir() if path.is_dir()] == [place.name]
    resume(remote, handle)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    found = await remote.collect(handle, Wanted(["carried.json"], {"result.json": None}))
    assert [name for name in files(found.path) if not name.startswith("ctl-")] == ["in/carried.json", "out/result.json"]


async def test_outputs_that_are_more_than_a_run_may_write_are_not_fetched(remote: RemoteSteps) -> None:
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    remote._disk = 1
    with pytest.raises(LimitExceeded, match="more than the 1 that a run may write"):
        await remote.collect(handle)
    assert not [name for name in files(remote.workspace(handle).path) if not name.startswith("ctl-")]


async def test_a_launch_that_failed_can_be_made_again(remote: RemoteSteps, kubeflow: Stub) -> None:
    workspace = await remote.open(Run(NAME))
    fill(workspace, [["say", "hello"]])
    kubeflow.kfp.faults.add("POST", r"/runs$", status=400)
    with pytest.raises(ApiError, match="400"):
        await remote.launch(Run(NAME), workspace)
    assert (workspace.inputs / "job.json").exists()
    handle = await remote.launch(Run(NAME), workspace)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert not workspace.path.exists()


async def test_addresses_that_grew_old_before_the_run_began_are_renewed(
    make_remote: MakeEngine, kubeflow: Stub, clock: Hurry, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, renew = threading.Event(), upload.renew

    def noticed(*given: Any) -> str:
        renewed.set()
        return renew(*given)

    monkeypatch.setattr(upload, "renew", noticed)
    engine: RemoteSteps = await make_remote(clock, presign=600)
    kubeflow.hold("PENDING")
    fault = kubeflow.kfp.faults.add("POST", r"/runs$", status=503, times=1_000_000)
    launching = asyncio.ensure_future(start(engine))
    await asyncio.to_thread(kubeflow.wait, lambda: fault.met)
    clock.advance(700)
    kubeflow.kfp.faults.clear()
    handle = await launching
    assert await asyncio.to_thread(renewed.wait, 30)
    kubeflow.release("PENDING")
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED


async def test_what_lands_is_what_the_pod_had(remote: RemoteSteps, tmp_path: Path) -> None:
    """A worker that has lost its lease goes on with its launch, and has read other rows: they are not put beside the
    predictions for these."""
    workspace = await remote.open(Run(NAME))
    fill(workspace, [["pause"]])
    (workspace.inputs / "carried.json").write_text('["the pod\'s"]')
    handle = await remote.launch(Run(NAME), workspace)
    await reach(remote, handle)
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "carried.json").write_text('["other"]')
    late = remote._store, Run(NAME), tmp_path / "late"
    await asyncio.to_thread(upload.upload_run, *late, threads=1, presign=600, turn="late")
    resume(remote, handle)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    found = await remote.collect(handle, Wanted(["carried.json"]))
    assert (found.inputs / "carried.json").read_text() == '["the pod\'s"]'


# -- the store is not believed -----------------------------------------------------------------------------------------


async def test_a_log_that_was_damaged_is_read_from_the_pod(
    make_remote: MakeEngine, kubeflow: Stub, kubeflow_settings: KubeflowSettings, flaky: Flaky
) -> None:
    s3 = kubeflow_settings.s3
    told = s3.model_copy(update={"endpoint": flaky.endpoint, "pod_endpoint": s3.endpoint})
    engine: RemoteSteps = await make_remote(Hurry(), s3=told, poll=600.0)  # nothing is read before the end
    flaky.fail("/out/log", Fault(flip=True, method="GET"))
    handle = await start(engine, [["say", "hello"]])
    await asyncio.to_thread(kubeflow.wait, lambda: kubeflow.runs[handle["run_id"]].state == "SUCCEEDED")
    async with asyncio.timeout(30):
        while not (await engine.poll(handle)).ended:
            pass
    assert not flaky._faults
    [line] = await lines(engine, handle)
    assert (line.line, line.seq) == ("hello", 1)
    assert abs(line.at - time.time()) < 3600, "its first byte is the year's"


# -- every end ---------------------------------------------------------------------------------------------------------

Engines = Callable[[], Awaitable[RemoteSteps]]


async def _running(engine: RemoteSteps) -> Handle:
    handle = await start(engine, [["pause"]], about=TRAINS)
    await reach(engine, handle)
    return handle


async def _ends(do: list[Any], make: Engines, _: Stub, state: RunState = RunState.SUCCEEDED) -> None:
    engine = await make()
    handle = await start(engine, do, about=TRAINS)
    assert (await finish(engine, handle)).state is state
    await engine.collect(handle)
    await engine.cleanup(handle)


async def _succeeds(make: Engines, kubeflow: Stub) -> None:
    await _ends([], make, kubeflow)


async def _fails(make: Engines, kubeflow: Stub) -> None:
    await _ends([["raise_error", "no"]], make, kubeflow, RunState.FAILED)


async def _dies(make: Engines, kubeflow: Stub) -> None:
    kubeflow.script("OOMKilled")
    await _ends([], make, kubeflow, RunState.FAILED)


async def _is_canceled(make: Engines, _: Stub) -> None:
    engine = await make()
    handle = await _running(engine)
    await engine.cancel(handle)
    assert (await finish(engine, handle)).state is RunState.CANCELED
    await engine.cleanup(handle)


async def _is_taken_over(make: Engines, kubeflow: Stub) -> None:
    first = await make()
    handle = await _running(first)
    await first.close()
    second = await make()
    resume(second, handle)
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
    await second.cleanup(handle)


async def _has_lost_its_worker(make: Engines, _: Stub) -> None:
    """Of which another worker knows the handle alone, from the database, and ends it."""
    first = await make()
    handle = await _running(first)
    await first.close()
    await (await make()).cleanup(handle)


async def _vanishes(make: Engines, kubeflow: Stub) -> None:
    engine = await make()
    handle = await _running(engine)
    kubeflow.forget(handle["run_id"])
    assert (await finish(engine, handle)).state is RunState.LOST
    await engine.cleanup(handle)


async def _is_archived(make: Engines, kubeflow: Stub) -> None:
    engine = await make()
    handle = await _running(engine)
    engine._api.terminate(handle["run_id"])
    engine._api.put_away(handle["run_id"])
    assert (await finish(engine, handle)).state is RunState.LOST
    await engine.cleanup(handle)


async def _is_withdrawn(make: Engines, kubeflow: Stub) -> None:
    engine = await make()
    fault = kubeflow.cluster.faults.add("POST", "/secrets", status=503, times=1_000_000)
    launching = asyncio.ensure_future(start(engine, [], about=TRAINS))
    await asyncio.to_thread(kubeflow.wait, lambda: fault.met)
    launching.cancel()
    await engine.withdraw(NAME, ours=True)


ENDS = [
    *(_succeeds, _fails, _dies, _is_canceled, _is_taken_over, _has_lost_its_worker),
    *(_vanishes, _is_archived, _is_withdrawn),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__.strip("_"))
async def test_nothing_outlives_a_run_that(
    make_remote: MakeEngine, kubeflow: Stub, s3_bucket: S3Server, end: Callable[..., Awaitable[None]]
) -> None:
    engines: list[RemoteSteps] = []

    async def make() -> RemoteSteps:
        engines.append(await make_remote(Hurry()))
        return engines[-1]

    await end(make, kubeflow)
    store = engines[-1]._store
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")
    assert not list(store.unfinished("kwdbml/")), "uploads that were begun and not ended"
    assert counted(kubeflow)[1] == 0
    await asyncio.to_thread(kubeflow.wait, lambda: not kubeflow.living())


class Death(Exception):
    """The worker does nothing any more."""


@pytest.mark.parametrize("where", ["in the upload", "after the Secret"])
async def test_what_a_worker_that_died_in_a_launch_has_left_is_swept(
    remote: RemoteSteps,
    kubeflow: Stub,
    s3_bucket: S3Server,
    kubeflow_settings: KubeflowSettings,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        if where == "in the upload":
            patch.setattr(upload, "publish", die)
        else:
            patch.setattr(remote._api, "create", die)
        with pytest.raises(Death):
            await start(remote, [], about=TRAINS)
    assert bool(kubeflow.secrets) == (where == "after the Secret")
    assert list(remote._store.unfinished("kwdbml/"))
    work = kubeflow_settings, remote._api, remote._cluster, remote._store
    later = time.time() + 90_000
    assert await asyncio.to_thread(sweep, *work, set, "test", now=lambda: later) == [NAME]
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")
    assert not list(remote._store.unfinished("kwdbml/"))
