"""The rights that the worker is given (``cluster.RIGHTS``, deploy/kubernetes) are those of the calls that it makes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from kwdbml.engines.base import Run
from kwdbml.engines.kfp import names
from kwdbml.engines.kfp.cluster import RIGHTS, Cluster
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kubeflow import KubeflowEngine
from tests.engines.kubeflow.stub.stub import Stub
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE

_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


def used(kubeflow: Stub) -> set[tuple[str, str]]:
    """(verb, resource) of every call in a namespace that the stub has seen."""
    found = set()
    for call in kubeflow.cluster.calls:
        method, _, path = call.partition(" ")
        told = re.fullmatch(r"/api/v1/namespaces/\{namespace\}/(\w+)(?:/(\{name\})(?:/(\w+))?)?", path)
        if told is None:
            assert "selfsubjectaccessreviews" in path or path.startswith("/version"), call
            continue
        kind, name, part = told.groups()
        found.add((_VERBS.get(method) or ("get" if name else "list"), f"{kind}/{part}" if part else kind))
    return found


def test_every_call_that_there_is_needs_one_of_the_rights(kubeflow: Stub, kubeflow_settings: KubeflowSettings) -> None:
    cluster = Cluster(kubeflow_settings)
    cluster.put_secret("a", {}, {names.RUN: "x"}, {"k": "v"})
    cluster.put_secret("a", {}, {names.RUN: "x"}, {"k": "w"})  # there already
    cluster.renew_secret("a", {}, {names.RUN: "x"}, {"k": "x"})
    assert cluster.claim("kwdbml-i-j-1", "run-1") == cluster.claim("kwdbml-i-j-1", "run-2") == "run-1"
    cluster.kept("kwdbml.io/job")
    cluster.delete_secret("a")
    cluster.pods("kwdbml.io/job")
    cluster.events("pod")
    cluster.log("pod", since=1.0, limit=9)
    cluster.version()
    cluster.rehearse()
    assert cluster.allowed("list", "pods")
    made = set(re.findall(r"cluster\.(\w+)\(", Path(__file__).read_text(encoding="utf-8")))
    assert {name for name, _ in inspect.getmembers(Cluster, inspect.isfunction) if not name.startswith("_")} <= made
    assert used(kubeflow) == set(RIGHTS)


async def test_a_run_and_its_end_need_no_others(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, tmp_path: Path
) -> None:
    kubeflow.simulate(RUNTIME_IMAGE)
    engine = KubeflowEngine(kubeflow_settings, tmp_path)
    await engine.start()
    try:
        run = Run("kwdbml-0123456789ab-job-1")
        workspace = await engine.open(run)
        (workspace.inputs / "job.json").write_text("{}", encoding="utf-8")
        handle = await engine.launch(run, workspace)
        kubeflow.wait(lambda: kubeflow.pods_of(str(handle["run_id"])))
        await engine.cleanup(handle)
    finally:
        await engine.close()
    assert kubeflow.secrets == {}
    assert used(kubeflow) <= set(RIGHTS)
    assert {("create", "secrets"), ("delete", "secrets"), ("list", "pods")} <= used(kubeflow)


@pytest.mark.parametrize("verb", ["get", "update", "watch"])
def test_no_content_of_others_secrets_is_asked_for(verb: str) -> None:
    assert (verb, "secrets") not in RIGHTS
