"""Kubeflow engines on the stub, for what the conformance suite does not ask: faults, and what only KFP does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kwdbml.engines.base import Handle, Run
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.conftest import MakeEngine, fill, remote_engines
from tests.engines.kubeflow.jobs import Workers, environment
from tests.engines.kubeflow.pod_process import MakePod, Pod
from tests.engines.kubeflow.remote import Hurry, RemoteSteps, clear
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.database import MakeRole
from tests.fixtures.engines import sweep_out
from tests.fixtures.objectstore import MakeSettings
from tests.worker.site import Site

NAME = "kwdbml-test-1"


@pytest.fixture
async def make_remote(kubeflow_settings: KubeflowSettings, tmp_path: Path) -> AsyncIterator[MakeEngine]:
    """``await make_remote(clock, setting=…, root=…)``; afterwards nothing is left behind."""
    async with remote_engines(kubeflow_settings, tmp_path / "kubeflow") as make:
        yield make


@pytest.fixture
def clock() -> Hurry:
    return Hurry()


@pytest.fixture
async def remote(make_remote: MakeEngine, clock: Hurry) -> RemoteSteps:
    """An engine in a hurry."""
    engine: RemoteSteps = await make_remote(clock)
    return engine


async def start(engine: RemoteSteps, do: list[Any] | None = None, name: str = NAME, **options: Any) -> Handle:
    """Launch a run whose step does ``do``."""
    run = Run(name, **options)
    workspace = await engine.open(run)
    fill(workspace, do or [])
    return await engine.launch(run, workspace)


def counted(kubeflow: Stub, name: str = NAME) -> tuple[int, int]:
    """How many runs of that name there ever were, and how many of them are not archived."""
    with kubeflow.lock:
        runs = [run for run in kubeflow.runs.values() if run.document["display_name"] == name]
    return len(runs), sum(not run.archived for run in runs)


@pytest.fixture
async def site(dsn: str, role: MakeRole) -> AsyncIterator[Site]:
    ann = role("ann", create_on=["public"])
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db,
        await psycopg.AsyncConnection.connect(ann.dsn, autocommit=True) as as_ann,
    ):
        one = Site(db, ann, as_ann)
        await one.prepare()
        yield one


@pytest.fixture
def installation(db: psycopg.Connection[Any]) -> str:
    """As the names of the runs of this test's database have it."""
    row = db.execute("SELECT left(replace(kwdbml._installation()::text, '-', ''), 12)").fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
async def workers(
    worker_dsn: str, scratch: Path, tmp_path: Path, kubeflow_settings: KubeflowSettings, installation: str
) -> AsyncIterator[Workers]:
    """Afterwards they are killed, and their jobs' runs are gone, however the test has ended."""
    one = Workers(worker_dsn, scratch, tmp_path / "worker.log", environment(kubeflow_settings))
    yield one
    for process in one.made:
        if process.process.poll() is None:
            await process.end()
    await clear(kubeflow_settings, tmp_path / "broom", [installation])
    for root in one.roots:
        if (root / "runs").is_dir():
            await sweep_out(root)


@pytest.fixture
def make_pod(s3_settings: MakeSettings) -> Iterator[MakePod]:
    """``make_pod(pod_endpoint=…)``: one whose store has these settings."""
    roots = []

    def make(**settings: Any) -> Pod:
        roots.append(Path(tempfile.mkdtemp(prefix="kwdbml-pod-")))  # other users can come to it: pytest's are closed
        return Pod(ObjectStore(s3_settings(**settings)), roots[-1])

    yield make
    for root in roots:
        shutil.rmtree(root)


@pytest.fixture
def pod(make_pod: MakePod) -> Pod:
    return make_pod()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Nothing here is skipped but what needs a real cluster."""
    report = yield
    if report.skipped and item.get_closest_marker("cluster") is None:
        report.outcome, report.longrepr = "failed", f"a test of the Kubeflow engine was skipped: {report.longrepr}"
    return report
