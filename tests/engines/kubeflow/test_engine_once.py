"""A run is started once: whoever dies wherever, and whoever comes at the same time."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwdbml.engines.base import Run, RunState, Wanted
from kwdbml.engines.kfp import names, pipeline, upload
from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.conftest import MakeEngine, fill, finish, reach, resume
from tests.engines.kubeflow.conftest import NAME, counted, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.s3 import S3Server


class Death(Exception):
    """The worker dies here: it does nothing any more."""


def _dies(before: Callable[..., Any] | None) -> Callable[..., Any]:
    """Does that, and dies."""

    def call(*arguments: Any, **named: Any) -> None:
        if before is not None:
            before(*arguments, **named)
        raise Death

    return call


@pytest.mark.parametrize(
    ("where", "exists"),
    [
        ("before the upload", False),
        ("after the upload", False),
        ("after the Secret", False),
        ("after the creation", True),
        ("after the claim", True),
    ],
)
async def test_a_worker_that_dies_in_a_launch(
    make_remote: MakeEngine, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch, where: str, exists: bool
) -> None:
    first: RemoteSteps = await make_remote(Hurry())
    api, cluster = first._api, first._cluster
    with monkeypatch.context() as patch:
        match where:
            case "before the upload":
                patch.setattr(upload, "upload_run", _dies(None))
            case "after the upload":
                patch.setattr(cluster, "put_secret", _dies(None))
            case "after the Secret":
                patch.setattr(api, "create", _dies(None))
            case "after the creation":
                patch.setattr(api, "create", _dies(api.create))
            case "after the claim":
                patch.setattr(cluster, "claim", _dies(cluster.claim))
        with pytest.raises(Death):
            await start(first, [["say", "started"]])
    await first.close()
    second: RemoteSteps = await make_remote(Hurry())
    found = await second.find(NAME)
    assert (found is not None) == exists
    handle = found or await start(second, [["say", "started"]])
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
    assert await second.find(NAME) == handle
    assert counted(kubeflow) == (1, 1)
    assert len(kubeflow.pods_of(handle["run_id"])) == 1


@pytest.mark.parametrize("kind", ["drop", "cut", "status"])
async def test_an_answer_that_is_lost_starts_nothing_twice(remote: RemoteSteps, kubeflow: Stub, kind: Any) -> None:
    fault = kubeflow.kfp.faults.add("POST", r"/runs$", kind=kind, status=503, after=True)
    handle = await start(remote)
    assert fault.met == 1
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert counted(kubeflow) == (1, 1)


async def test_two_workers_that_create_it_at_once(
    make_remote: MakeEngine, kubeflow: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [await make_remote(Hurry(), root=tmp_path / name) for name in ("a", "b")]
    together = threading.Barrier(2)
    for engine in both:
        create = engine._api.create

        def wait(filled: pipeline.Filled, create: Callable[..., Any] = create) -> Any:
            together.wait(30)
            return create(filled)

        monkeypatch.setattr(engine._api, "create", wait)
    one, other = await asyncio.gather(*(start(engine, [["say", "hello"]]) for engine in both))
    assert one == other
    assert counted(kubeflow) == (2, 1)
    for engine in both:
        assert (await finish(engine, one)).state is RunState.SUCCEEDED
        assert await engine.find(NAME) == one
        assert ((await engine.collect(one)).outputs / "result.json").exists()


async def test_a_creation_that_arrives_late_is_ended(
    remote: RemoteSteps, kubeflow: Stub, kubeflow_settings: KubeflowSettings
) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    root = remote._store.uri(NAME, "pipeline")
    late = remote._api.create(pipeline.fill(Run(NAME), kubeflow_settings, root))
    assert late.run_id != handle["run_id"]
    await asyncio.to_thread(kubeflow.wait, lambda: kubeflow.runs[late.run_id].archived)
    assert not kubeflow.runs[handle["run_id"]].archived
    assert await remote.find(NAME) == handle
    resume(remote, handle)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED


async def test_a_claim_that_outlived_its_run_does_not_count(remote: RemoteSteps, kubeflow: Stub) -> None:
    assert remote._cluster.claim(NAME, "gone") == "gone"
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert remote._cluster.claim(NAME, "other") == handle["run_id"]
    assert counted(kubeflow) == (1, 1)


WORKER = """
import asyncio, json, sys
from pathlib import Path
from kwdbml.engines.base import Run
from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.conftest import fill
from tests.engines.kubeflow.remote import RemoteSteps
async def main(settings, root):
    engine = RemoteSteps(KubeflowSettings.model_validate_json(settings), Path(root))
    await engine.start()
    run = Run("kwdbml-test-1")
    workspace = await engine.open(run)
    fill(workspace, [["say", "started"]])
    await engine.launch(run, workspace)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_worker_that_is_killed_while_it_waits_for_the_answer(
    remote: RemoteSteps, kubeflow: Stub, kubeflow_settings: KubeflowSettings, tmp_path: Path
) -> None:
    hang = kubeflow.kfp.faults.add("POST", r"/runs$", kind="hang", after=True)
    settings = kubeflow_settings.model_dump(mode="json")
    settings["s3"]["secret_key"] = kubeflow_settings.s3.secret_key.get_secret_value()
    command = [sys.executable, "-c", WORKER, json.dumps(settings), str(tmp_path / "killed")]
    process = await asyncio.to_thread(subprocess.Popen, command)
    try:
        await asyncio.to_thread(kubeflow.wait, lambda: hang.met)
        await asyncio.to_thread(kubeflow.wait, lambda: counted(kubeflow) == (1, 1))
    finally:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        hang.release()
    run = Run(NAME)
    workspace = await remote.open(run)
    fill(workspace, [["raise_error", "started twice"]])
    handle = await remote.launch(run, workspace)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    assert ((await remote.collect(handle, Wanted(["job.json"]))).inputs / "job.json").exists()
    assert counted(kubeflow) == (1, 1)


async def test_cleaning_up_leaves_nothing(remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server) -> None:
    handle = await start(remote)
    await finish(remote, handle)
    assert set(kubeflow.secrets) == {names.secret_name(NAME), names.claim_name(NAME)}
    await remote.cleanup(handle)
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")
    assert counted(kubeflow) == (1, 0)
