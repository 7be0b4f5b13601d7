"""What stands before a server speaks in its place: only the server's own words tell that something is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kwdbml.engines.base import Run, RunState
from kwdbml.engines.kfp import access, names, pipeline
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import NotItself
from kwdbml.engines.kfp.cluster import Cluster
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.storeerrors import StoreError
from tests.engines.conftest import MakeEngine, finish, lines, reach, resume
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky

#: An ingress without endpoints, Istio without a route, a Kubernetes that should lead to the service.
OTHERS = [b"default backend - 404", b"", b'{"kind": "Status", "code": 404}', b'{"code": 5, "message": "Not Found"}']
PAGE = Fault(404, code="")

Call = Callable[[KubeflowSettings, str], Any]
KFP: dict[str, Call] = {
    "find": lambda settings, _: KfpApi(settings, sleep=_at_once).find("kwdbml-1"),
    "get": lambda settings, run_id: KfpApi(settings, sleep=_at_once).get(run_id),
    "terminate": lambda settings, run_id: KfpApi(settings, sleep=_at_once).terminate(run_id),
    "put away": lambda settings, run_id: KfpApi(settings, sleep=_at_once).put_away(run_id),
}
KUBERNETES: dict[str, Call] = {
    "log": lambda settings, _: Cluster(settings, sleep=_at_once).log("pod"),
    "pods": lambda settings, _: Cluster(settings, sleep=_at_once).pods("a=b"),
    "delete": lambda settings, _: Cluster(settings, sleep=_at_once).delete_secret("kwdbml-1"),
}


def _at_once(seconds: float) -> None:
    """For a client that need not wait."""


@pytest.mark.parametrize("call", KFP)
@pytest.mark.parametrize("body", OTHERS[:3])
@pytest.mark.parametrize("status", [400, 404, 413, 500, 521])
def test_a_refusal_that_kubeflow_did_not_say(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, call: str, body: bytes, status: int
) -> None:
    kubeflow.kfp.faults.add(".*", "/runs", status=status, body=body, times=9)
    with pytest.raises(NotItself, match="is not Kubeflow Pipelines") as caught:
        KFP[call](kubeflow_settings, "1")
    assert (caught.value.retryable, caught.value.curable) == (True, True)
    kubeflow.kfp.faults.clear()
    assert not KFP[call](kubeflow_settings, "1"), "and its own word is taken"


@pytest.mark.parametrize("call", KUBERNETES)
@pytest.mark.parametrize("body", [*OTHERS[:2], OTHERS[3]])
@pytest.mark.parametrize("status", [400, 404, 413, 500, 521])
def test_a_refusal_that_kubernetes_did_not_say(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, call: str, body: bytes, status: int
) -> None:
    kubeflow.cluster.faults.add(".*", status=status, body=body, times=9)
    with pytest.raises(NotItself, match="is not the Kubernetes API") as caught:
        KUBERNETES[call](kubeflow_settings, "")
    assert (caught.value.retryable, caught.value.curable) == (True, True)
    kubeflow.cluster.faults.clear()
    assert not KUBERNETES[call](kubeflow_settings, "")


@pytest.mark.parametrize("call", KFP)
@pytest.mark.parametrize("body", [b'{"message": "maintenance"}', b"", b"ok", b"[]"])
def test_a_success_that_kubeflow_did_not_say(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, call: str, body: bytes
) -> None:
    kubeflow.kfp.faults.add(".*", "/runs", status=200, body=body, times=9)
    with pytest.raises(NotItself, match="is not Kubeflow Pipelines") as caught:
        KFP[call](kubeflow_settings, "1")
    assert (caught.value.retryable, caught.value.curable) == (True, True)


@pytest.mark.parametrize("after", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("status", [200, 413, 500, 524])
@pytest.mark.parametrize("body", [b"<html>", b'{"message": "maintenance"}', b""])
def test_a_creation_that_a_proxy_answered_may_have_happened(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, status: int, body: bytes, after: bool
) -> None:
    kubeflow.simulate()
    api, run = KfpApi(kubeflow_settings, sleep=_at_once), Run("kwdbml-i-j-1")
    filled = pipeline.fill(run, kubeflow_settings, "s3://mlpipeline/pipeline")
    kubeflow.kfp.faults.add("POST", "/runs$", status=status, body=body, after=after, times=1 if after else 3)
    if after:
        assert api.create(filled).run_id == kubeflow.run(run.name).run_id, "made once"
        return
    with pytest.raises(NotItself) as caught:
        api.create(filled)
    assert (caught.value.retryable, caught.value.sent, api.is_unsure(run.name)) == (True, True, True)
    assert api.create(filled).run_id == kubeflow.run(run.name).run_id


@pytest.mark.parametrize("where", ["", "/experiments"])
def test_what_another_answered_is_not_kept(kubeflow: Stub, kubeflow_settings: KubeflowSettings, where: str) -> None:
    """Whether there are users, and which experiment is ours, is asked once."""
    kubeflow.multi_user = True
    api = KfpApi(kubeflow_settings, sleep=_at_once)
    kubeflow.kfp.faults.add("GET", f"v2beta1{where or '/healthz'}$", status=200, body=b'{"status": "ok"}', times=3)
    with pytest.raises(NotItself):
        api.check()
    assert api.check() in kubeflow.experiments


@pytest.mark.parametrize("call", ["put", "renew", "delete", "claim", "kept", "pods", "events", "allowed", "version"])
@pytest.mark.parametrize("body", [b'{"message": "maintenance"}', b'{"items":[{"meta', b'{"items": [{}]}', b""])
def test_a_success_that_kubernetes_did_not_say(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, call: str, body: bytes
) -> None:
    one = Cluster(kubeflow_settings, sleep=_at_once)
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: one.put_secret("a", {}, {}, {}), "renew": lambda: one.renew_secret("a", {}, {}, {}),
        "delete": lambda: one.delete_secret("a"), "claim": lambda: one.claim("kwdbml-i-j-1", "1"),
        "kept": lambda: one.kept("a=b"), "pods": lambda: one.pods("a=b"), "events": lambda: one.events("a"),
        "allowed": lambda: one.allowed("list", "pods"), "version": one.version,
    }  # fmt: skip
    kubeflow.cluster.faults.add(status=200, body=body, times=9)
    with pytest.raises(NotItself, match="is not the Kubernetes API") as caught:
        calls[call]()
    assert (caught.value.retryable, caught.value.curable) == (True, True)


@pytest.mark.parametrize("call", ["kept", "pods"])
@pytest.mark.parametrize("item", ["{}", "7", '{"metadata": {}}', '{"metadata": {"creationTimestamp": "soon"}}'])
def test_a_list_of_other_things(kubeflow: Stub, kubeflow_settings: KubeflowSettings, call: str, item: str) -> None:
    body = f'{{"kind": "List", "items": [{item}]}}'.encode()
    kubeflow.cluster.faults.add(status=200, body=body, times=9)
    with pytest.raises(NotItself, match="in other words"):
        getattr(Cluster(kubeflow_settings, sleep=_at_once), call)("a=b")


PROXIES = [(404, OTHERS[0]), (200, b'{"message": "maintenance"}'), (413, b"<html>"), (521, b"")]


@pytest.mark.parametrize(("status", "body"), PROXIES, ids=[str(status) for status, _ in PROXIES])
async def test_who_takes_a_run_over_finds_it_when_the_proxy_is_gone(
    make_remote: MakeEngine, kubeflow: Stub, status: int, body: bytes
) -> None:
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["pause"]])
    await reach(first, handle)
    second: RemoteSteps = await make_remote(Hurry())
    faults = [server.faults.add(status=status, body=body, times=8) for server in (kubeflow.kfp, kubeflow.cluster)]
    assert await second.find(NAME) == handle
    assert [fault.met for fault in faults] == [8, 8]


@pytest.mark.parametrize(("status", "body"), PROXIES, ids=[str(status) for status, _ in PROXIES])
async def test_a_run_is_not_lost_for_what_a_proxy_says(
    make_remote: MakeEngine, kubeflow: Stub, status: int, body: bytes
) -> None:
    """By none who follows it, and by none who takes it over meanwhile."""
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["pause"], ["say", "late"]])
    await reach(first, handle)
    second: RemoteSteps = await make_remote(Hurry())
    for server in (kubeflow.kfp, kubeflow.cluster):
        server.faults.add("GET", status=status, body=body, times=50)
    assert (await second.poll(handle)).state is RunState.UNKNOWN
    assert (await first.poll(handle)).state in (RunState.RUNNING, RunState.UNKNOWN)
    for server in (kubeflow.kfp, kubeflow.cluster):
        server.faults.clear()
    resume(first, handle)
    for engine in (first, second):
        assert (await finish(engine, handle)).state is RunState.SUCCEEDED
        assert [line.line for line in await lines(engine, handle)] == ["late"]


async def test_who_takes_a_run_over_gives_it_addresses_of_his_own(make_remote: MakeEngine, kubeflow: Stub) -> None:
    """The first one's may be signed with a key that the store does not know any more."""
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["pause"]])
    await reach(first, handle)
    before = kubeflow.secrets[names.secret_name(NAME)]["data"]
    await first.poll(handle)
    assert kubeflow.secrets[names.secret_name(NAME)]["data"] == before
    second: RemoteSteps = await make_remote(Hurry(), presign=7200)
    await second.poll(handle)
    assert kubeflow.secrets[names.secret_name(NAME)]["data"] != before


@pytest.fixture
async def behind(make_remote: MakeEngine, kubeflow_settings: KubeflowSettings, flaky: Flaky) -> RemoteSteps:
    """Its way to the store can be told to fail; pods have their own."""
    s3 = kubeflow_settings.s3
    told = s3.model_copy(update={"endpoint": flaky.endpoint, "pod_endpoint": s3.endpoint})
    engine: RemoteSteps = await make_remote(Hurry(), s3=told)
    return engine


@pytest.mark.parametrize("path", ["/manifest.json", "/access/", "/out/result.json"])
async def test_a_result_is_not_lost_for_the_404_of_a_proxy(behind: RemoteSteps, flaky: Flaky, path: str) -> None:
    handle = await start(behind, [["pause"]])
    await reach(behind, handle)
    flaky.fail(path, *[PAGE] * 3)
    resume(behind, handle)
    assert (await finish(behind, handle)).state is RunState.SUCCEEDED
    assert ((await behind.collect(handle)).outputs / "result.json").exists()


def test_what_no_store_says(behind: RemoteSteps, flaky: Flaky) -> None:
    store = behind._store
    key = store.key(NAME, access.MANIFEST)
    store.put(key, b"{}")
    for status in (400, 404):
        flaky.fail("manifest.json", *[Fault(status, code="")] * 2)
        for ask in (lambda: store.get(key, limit=9), lambda: store.put(key, b"")):
            with pytest.raises(StoreError, match=f"is no object store: it answered {status}") as caught:
                ask()
            assert (caught.value.retryable, caught.value.missing) == (True, False)
            assert "KWDBML_S3_ENDPOINT" in caught.value.hint
    assert (store.get(key, limit=9), store.exists(key)) == (b"{}", True)
