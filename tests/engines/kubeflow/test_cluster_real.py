"""The conformance suite and the end-to-end jobs on a real Kubeflow: ``pytest -m cluster`` (docs/kubeflow.md).

``make_engine``'s parameter "cluster" (tests/engines/conftest.py) runs the whole suite there. Here are the jobs, and
what the suite does not ask: that what the stub shows of a run is what a real one shows.
"""

from __future__ import annotations

import re

import pytest

from kwdbml.engines.base import RunState
from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.conftest import NAME, MakeEngine, finish, launch, lines
from tests.engines.kubeflow.jobs import SAYS, Workers, compare_flights, on
from tests.engines.kubeflow.real import CLUSTER, PATIENCE, real_cluster
from tests.worker.site import Site

pytestmark = CLUSTER

#: Until somebody ends it.
WORKS = """
import time

def model_train(x_train, y_train, x_test, y_test):
    print("at work", flush=True)
    while True:
        time.sleep(1)
"""


@pytest.fixture
def kubeflow_settings() -> KubeflowSettings:
    return real_cluster()


@pytest.fixture
async def site(kubeflow_settings: KubeflowSettings, site: Site) -> Site:
    site.patience = PATIENCE
    return site


async def test_flights(site: Site, workers: Workers) -> None:
    """Learned, measured and predicted as by the local engine."""
    await compare_flights(site, workers, elsewhere=True)


async def test_another_host_lands_what_a_killed_worker_has_launched(site: Site, workers: Workers) -> None:
    await site.pipeline("says", train=SAYS)
    first = await workers()
    job = await site.train(pipeline="says", **on("kubeflow"))
    await site.in_phase(job, "running")
    await first.end()
    await workers()
    await site.one_landed(job)
    assert await site.lines(job) == ["in the pod"]


async def test_canceling_a_job_ends_its_run(
    site: Site, workers: Workers, make_remote: MakeEngine, installation: str
) -> None:
    await site.pipeline("works", train=WORKS)
    await workers()
    job = await site.train(pipeline="works", **on("kubeflow"))
    await site.until("SELECT true FROM kwdbml.job_logs(%s) WHERE line = 'at work'", job)
    onlooker = await make_remote()
    assert onlooker.standing(installation)
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
    assert (await site.ended(job))[0] == "CANCELED"
    assert not onlooker.standing(installation)


async def test_a_run_from_its_launch_to_nothing(make_remote: MakeEngine) -> None:
    engine = await make_remote()
    handle = await launch(engine, [["say", "hello"]])
    assert (await finish(engine, handle)).state is RunState.SUCCEEDED
    assert ((await engine.collect(handle)).outputs / "result.json").exists()
    assert [line.line for line in await lines(engine, handle)] == ["hello"]
    [installation] = engine.launched
    assert engine.standing(installation) == {NAME}
    await engine.cleanup(handle)
    assert not engine.standing(installation)


async def test_an_image_that_is_not_there(make_remote: MakeEngine, kubeflow_settings: KubeflowSettings) -> None:
    untagged = re.sub("(:[^/:@]+)?(@sha256:.*)?$", "", kubeflow_settings.image)  # the registry may have a port
    engine = await make_remote(image=f"{untagged}:there-is-no-such-tag", patience=1.0)
    status = await finish(engine, await launch(engine, []))
    assert status.state is RunState.FAILED
    assert status.reason in ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull")  # the last where none is pulled
