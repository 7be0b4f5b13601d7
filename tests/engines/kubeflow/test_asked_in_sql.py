"""What a job asks for in SQL, by names, is what its pod has; and what becomes of the pod is what its row says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kubeflow import KubeflowEngine
from kwdbml.settings import WorkerSettings
from kwdbml.worker.loop import Worker
from tests.engines.kubeflow.stub.containers import runtime
from tests.engines.kubeflow.stub.stub import Stub
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE, Node
from tests.fixtures.database import MakeRole
from tests.worker.conftest import site
from tests.worker.site import DEADLINE, Site

__all__ = ["site"]  # a fixture

TRAIN = """
from pathlib import Path
from sklearn.linear_model import LogisticRegression

def model_train(x_train, y_train, x_test, y_test):
    print('reads', Path('/mnt/shared/note').read_text())
    Path('/data/note').write_text('from a pod')
    return LogisticRegression().fit(x_train, y_train), []
"""
IMAGE = "registry.example.org/ml/mine:1"


GPU = "example.com/gpu"
TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


@contextlib.asynccontextmanager
async def at_work(dsn: str, settings: KubeflowSettings, root: Path) -> AsyncIterator[None]:
    """A worker that serves nothing but Kubeflow."""
    told = WorkerSettings(dsn=SecretStr(dsn), name="w", heartbeat=0.2, sweep=0.5)
    worker = Worker(told, {"kubeflow": KubeflowEngine(settings, root)})
    working = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        async with asyncio.timeout(DEADLINE):
            await working


async def test_flavour_file_systems_runtime_and_image(
    site: Site, kubeflow: Stub, kubeflow_settings: KubeflowSettings, worker_dsn: str, role: MakeRole, tmp_path: Path
) -> None:
    kubeflow.images[IMAGE] = runtime(IMAGE)
    kubeflow.nodes = [Node("gpu-1", {"disk": "ssd"}, [TAINT], {"cpu": "4", "memory": "64Gi", GPU: "1"})]
    (kubeflow.claim("volume") / "team" / "sub").mkdir(parents=True)
    (kubeflow.claim("volume") / "team" / "note").write_text("a word")
    await site.run("""UPDATE kwdbml.runtime SET engines = '{"kubeflow": {"pull_policy": "Always"}}'""")
    with role("chief", member_of=["kwdbml_admin"]).connect() as chief:
        chief.execute("INSERT INTO kwdbml.settings VALUES ('images', '[\"registry.example.org/ml/*\"]')")
        chief.execute(
            "INSERT INTO kwdbml.flavour (name, cpu, mem, scalar_resources, node_selector, tolerations)"
            " VALUES ('small', '250m', '2Gi', %s, %s, %s)",
            [Jsonb({GPU: "1"}), Jsonb({"disk": "ssd"}), Jsonb([{"key": "gpu", "operator": "Exists"}])],
        )
        chief.execute(
            "INSERT INTO kwdbml.file_system (name, claim, sub_path, roles) VALUES ('shared', 'volume', 'team', %s)",
            [[site.ann.name]],
        )
    await site.pipeline("mounted", train=TRAIN)
    settings = {
        "engine": "kubeflow", "flavour": {"name": "small"}, "image": IMAGE, "labels": {"team": "delays"},
        "fs": {"name": "shared", "mountPath": "/mnt/shared"},
        "extraFS": [{"name": "shared", "mountPath": "/data", "subPath": "sub"}],
    }  # fmt: skip
    train = "SELECT kwdbml.train_model('mounted', 'm', 'trips', false, true, %s)"
    async with at_work(worker_dsn, kubeflow_settings, tmp_path):
        job = await site.submit(train, Jsonb(settings))
        await site.succeeded(job)
    assert "reads a word" in await site.lines(job)
    assert (kubeflow.claim("volume") / "team" / "sub" / "note").read_text() == "from a pod"
    (run,) = kubeflow.runs.values()
    (pod,) = kubeflow.pods_of(run.run_id)
    (container,) = [c for c in pod.document()["spec"]["containers"] if c["name"] == "main"]
    assert (container["image"], container["imagePullPolicy"]) == (IMAGE, "Always")
    assert container["resources"]["limits"] == {"cpu": "250m", "memory": str(2 << 30), GPU: "1"}
    assert container["resources"]["requests"] == {"cpu": "250m", "memory": str(2 << 30)}
    assert pod.spec["nodeSelector"] == {"disk": "ssd"}
    assert pod.spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    labels = pod.document()["metadata"]["labels"]
    assert (labels["labels.kwdbml.io/team"], labels["kwdbml.io/job"]) == ("delays", job)


@pytest.mark.parametrize(
    ("failure", "type_", "words"),
    [
        ("ImagePullBackOff", "ImagePullBackOff", ["cannot pull the image", RUNTIME_IMAGE, "kwdbml.runtime"]),
        ("OOMKilled", "OOMKilled", ["more memory than it may (1073741824)", "settings.flavour.mem"]),
        ("Evicted", "Evicted", ["The node was low on resource: memory", "settings.flavour"]),
        ("Exit", "Error", ["exit code 9", "the last word"]),
        ("Unschedulable", "DeadlineExceeded", ["(Unschedulable)", "Insufficient cpu", "add nodes"]),
    ],
)
async def test_why_kubernetes_ended_a_run_is_the_jobs_error(
    site: Site, kubeflow: Stub, kubeflow_settings: KubeflowSettings, worker_dsn: str, tmp_path: Path,
    failure: str, type_: str, words: list[str],
) -> None:  # fmt: skip
    kubeflow.simulate()
    if waits := failure in ("ImagePullBackOff", "Unschedulable"):
        kubeflow.script(failure)
    settings: dict[str, Any] = {
        "engine": "kubeflow",
        "ttl": 2 if failure == "Unschedulable" else 600,
        "flavour": {"mem": "1Gi"},
    }
    told = kubeflow_settings.model_copy(update={"patience": 0.1})
    async with at_work(worker_dsn, told, tmp_path):
        job = await site.train(**settings)
        if not waits:
            (pod,) = await asyncio.to_thread(kubeflow.wait, lambda: [one for one in kubeflow.pods.values() if one.task])
            await asyncio.to_thread(kubeflow.wait, lambda: pod.phase == "Running")
            pod.log.add(b"1 train stderr: the last word")
            kubeflow.fail_pod(pod.name, failure, 9)
        status, error = await site.ended(job)
    assert (status, error["type"]) == ("FAILED", type_), error
    assert all(word in error["message"] for word in words), error
    assert not kubeflow.secrets
