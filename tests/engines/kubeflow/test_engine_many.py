"""What a look costs when there are many runs, and what is swept when there are none any more."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from kwdbml.engines.base import Run
from kwdbml.engines.kfp import names, pipeline
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.sweep import sweep
from kwdbml.engines.kfp.watch import LOGS
from kwdbml.engines.kubeflow import _handle
from tests.engines.conftest import MakeEngine, finish
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.s3 import S3Server

MANY = 450
NEVER, YOUNG, BUSY, FOREIGN = "kwdbml-test-never-1", "kwdbml-test-young-1", "kwdbml-test-busy-1", "kwdbml-foreign-1"
LIST_RUNS, GET_RUN = "GET /apis/v2beta1/runs", "GET /apis/v2beta1/runs/{run_id}"


@pytest.mark.slow
async def test_a_look_at_many_runs(
    make_remote: MakeEngine, kubeflow: Stub, kubeflow_settings: KubeflowSettings
) -> None:
    kubeflow.simulate()
    engine: RemoteSteps = await make_remote(Hurry(), poll=600.0)
    secret = {"access.json": "{}"}

    def create(number: int) -> object:
        name = f"kwdbml-many-{number}"
        engine._cluster.put_secret(names.secret_name(name), names.labels_of(name), {names.RUN: name}, secret)
        return engine._api.create(pipeline.fill(Run(name), kubeflow_settings, engine._store.uri(name, "pipeline")))

    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(create, range(MANY)))
    for run in runs:
        one = await engine._follow(_handle(run), engine._calls.call)  # type: ignore[arg-type]
        one.renew_at = engine._clock.now() + 3600.0  # as of one that it has launched
    await engine._watch.look_at_all()  # each is seen for the first time
    calls, pods = kubeflow.kfp.calls, kubeflow.cluster.calls
    calls.clear()
    pods.clear()
    tracemalloc.start()
    await engine._watch.look_at_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert calls[LIST_RUNS] == math.ceil(MANY / 200)
    assert calls[GET_RUN] == 0
    assert sum(count for call, count in pods.items() if call.endswith("/pods")) == math.ceil(MANY / 250)
    assert sum(count for call, count in pods.items() if call.endswith("/log")) <= LOGS
    assert peak < 150 << 20
    assert sum(thread.name.startswith("kubeflow") for thread in threading.enumerate()) <= 16
    kubeflow.reset()


def _age(kubeflow: Stub, s3_bucket: S3Server, name: str, seconds: float) -> None:
    """Everything of that run is older by so much."""
    then = time.time() - seconds
    for path in (s3_bucket.path / "kwdbml" / name).rglob("*"):
        os.utime(path, (then, then))
    for secret in kubeflow.secrets.values():
        if secret["metadata"]["annotations"][names.RUN] == name:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then))
            secret["metadata"]["creationTimestamp"] = stamp


async def test_what_was_never_created_or_is_gone_is_swept(
    remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server, kubeflow_settings: KubeflowSettings
) -> None:
    def left() -> tuple[set[str], set[str]]:
        kept = {secret["metadata"]["annotations"][names.RUN] for secret in kubeflow.secrets.values()}
        return set(remote._store.runs()), kept

    def swept(*busy: str, ahead: float = 0.0) -> list[str]:
        work = kubeflow_settings, remote._api, remote._cluster, remote._store
        return sweep(*work, lambda: busy, "test", now=lambda: time.time() + ahead)

    await finish(remote, await start(remote))
    for name in (NEVER, YOUNG, BUSY, FOREIGN):
        remote._store.put(remote._store.key(name, "in", "job.json"), b"{}")
        labels, annotations = names.labels_of(name), {names.RUN: name}
        remote._cluster.put_secret(names.secret_name(name), labels, annotations, {"access.json": "{}"})
        remote._cluster.claim(name, "gone")
    remote._store.put("kwdbml/other/file", b"not ours")
    for name in (NEVER, BUSY, FOREIGN, "other"):
        _age(kubeflow, s3_bucket, name, 90_000)
    assert await asyncio.to_thread(swept, BUSY) == [NEVER]
    assert left() == ({NAME, YOUNG, BUSY, FOREIGN, "other"}, {NAME, YOUNG, BUSY, FOREIGN})
    remote._api.put_away(kubeflow.run(NAME).run_id)
    busy = BUSY, YOUNG
    assert await asyncio.to_thread(swept, *busy, ahead=90_000) == [NAME]
    assert left() == ({YOUNG, BUSY, FOREIGN, "other"}, {YOUNG, BUSY, FOREIGN})
    for name in (YOUNG, BUSY, FOREIGN):
        await remote._delete_files(name)


async def test_an_engine_sweeps_when_it_starts(
    make_remote: MakeEngine, remote: RemoteSteps, kubeflow: Stub, s3_bucket: S3Server
) -> None:
    for name in (NEVER, FOREIGN):
        remote._store.put(remote._store.key(name, "in", "job.json"), b"{}")
        _age(kubeflow, s3_bucket, name, 90_000)
    second: RemoteSteps = await make_remote(Hurry())
    assert await second.find(NAME) is None  # and knows by that whose runs it has to do with
    await asyncio.to_thread(kubeflow.wait, lambda: not s3_bucket.keys(f"kwdbml/{NEVER}"))
    assert s3_bucket.keys(f"kwdbml/{FOREIGN}")


async def test_a_run_without_a_secret_that_nobody_follows_is_ended(
    remote: RemoteSteps, kubeflow: Stub, kubeflow_settings: KubeflowSettings
) -> None:
    run = remote._api.create(pipeline.fill(Run(NAME), kubeflow_settings, remote._store.uri(NAME, "pipeline")))
    work = kubeflow_settings, remote._api, remote._cluster, remote._store
    assert await asyncio.to_thread(sweep, *work, set, "test") == []
    later = time.time() + 90_000
    assert await asyncio.to_thread(sweep, *work, set, "foreign", now=lambda: later) == []
    assert await asyncio.to_thread(sweep, *work, set, "test", now=lambda: later) == [NAME]
    assert kubeflow.runs[run.run_id].archived


async def test_copies_of_engines_that_are_gone_are_deleted(make_remote: MakeEngine, remote: RemoteSteps) -> None:
    handle = await start(remote)
    await finish(remote, handle)
    place = remote.workspace(handle).path
    await make_remote(Hurry())
    assert place.exists(), "its engine lives"
    remote._places.close()
    await make_remote(Hurry())
    assert not place.exists()
    assert ((await remote.collect(handle)).outputs / "result.json").exists(), "made again"
