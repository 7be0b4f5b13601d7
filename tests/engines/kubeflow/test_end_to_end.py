"""Jobs asked for in SQL that really run on Kubeflow: database, worker, KFP, pods, object store. And what a worker that
is killed leaves to another one on another host.
"""

from __future__ import annotations

import asyncio

from psycopg.types.json import Json

from tests.engines.kubeflow.jobs import SAYS, Workers, compare_flights, on
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.s3 import S3Server
from tests.worker.site import Site


async def test_flights_are_learned_measured_and_predicted_as_by_the_local_engine(
    site: Site, workers: Workers, kubeflow: Stub, s3_bucket: S3Server
) -> None:
    await compare_flights(site, workers)
    assert len(kubeflow.runs) == 3
    assert all(run.archived for run in kubeflow.runs.values())
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")


async def test_another_host_lands_what_a_killed_worker_has_launched(
    site: Site, workers: Workers, kubeflow: Stub, s3_bucket: S3Server
) -> None:
    kubeflow.hold("PENDING")
    first = await workers()
    job = await site.submit("SELECT kwdbml.train_model('p', 'm', 'trips', true, true, %s::jsonb)", Json(on("kubeflow")))
    await site.until("SELECT phase = 'running' FROM kwdbml.jobs WHERE id = %s", job)
    await first.end()
    await workers()
    kubeflow.release("PENDING")
    await site.until("SELECT status <> 'RUNNING' FROM kwdbml.job WHERE id = %s", job)
    await site.settled()
    assert len(kubeflow.runs) == 1
    assert [n for n, _ in await site.attempts(job)] == [1]
    error = await site.value("SELECT error FROM kwdbml.job WHERE id = %s", job)
    assert "NotImplementedError" in str(error), "the step's own error, brought home by the second worker"
    await site.pipeline("says", train=SAYS)
    kubeflow.hold("PENDING")
    job = await site.train(pipeline="says", model="m", **on("kubeflow"))
    await site.until("SELECT phase = 'running' FROM kwdbml.jobs WHERE id = %s", job)
    await workers.made[-1].end()
    await workers()
    kubeflow.release("PENDING")
    await site.one_landed(job)
    assert await site.lines(job) == ["in the pod"]
    assert not s3_bucket.keys("kwdbml/")


async def test_canceling_a_job_ends_its_run(site: Site, workers: Workers, kubeflow: Stub) -> None:
    kubeflow.simulate()
    await workers()
    job = await site.train(**on("kubeflow"))
    await site.until("SELECT phase = 'running' FROM kwdbml.jobs WHERE id = %s", job)
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
    await site.settled()
    assert (await site.ended(job))[0] == "CANCELED"
    [run] = kubeflow.runs.values()
    assert run.archived
    assert not kubeflow.secrets


async def test_canceling_a_job_while_it_waits_to_be_launched(
    site: Site, workers: Workers, kubeflow: Stub, s3_bucket: S3Server
) -> None:
    kubeflow.cluster.faults.add("POST", r"/secrets$", status=503, times=1_000_000)
    await workers()
    job = await site.train(**on("kubeflow"))
    await site.until("SELECT step LIKE 'waiting: %%' FROM kwdbml.jobs WHERE id = %s", job)
    assert s3_bucket.keys("kwdbml/")
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
    await site.settled()
    assert (await site.ended(job))[0] == "CANCELED"
    assert not kubeflow.runs
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")


async def test_a_kubeflow_that_is_down_shows_and_is_outlived(site: Site, workers: Workers, kubeflow: Stub) -> None:
    await site.pipeline("says", train=SAYS)
    kubeflow.kfp.down()
    await workers()
    job = await site.train(pipeline="says", **on("kubeflow"))
    await site.until("SELECT step LIKE 'waiting: %%Kubeflow Pipelines%%' FROM kwdbml.jobs WHERE id = %s", job)
    assert await site.value("SELECT lease_until > now() FROM kwdbml.attempt WHERE job_id = %s", job)
    await asyncio.to_thread(kubeflow.kfp.up)
    await site.one_landed(job)
