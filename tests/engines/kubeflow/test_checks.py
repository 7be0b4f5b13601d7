"""kwdbml doctor on Kubeflow and its store: every fault by itself, told with its cure; nothing is left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from kwdbml.doctor.checks import Examination, Finding, Outcome
from kwdbml.engines.kfp import probing
from kwdbml.engines.kfp.checks import KubeflowChecks
from kwdbml.engines.kfp.cluster import RIGHTS
from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.kubeflow.stub.http import Answer, Request, Server
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky
from tests.fixtures.s3 import S3Server

#: The stub and the store are at 127.0.0.1, where no pod would find them; that is told in every test.
USUAL = {"s3.pod_endpoint": Outcome.WARN}


@pytest.fixture
def settings(kubeflow_settings: KubeflowSettings) -> KubeflowSettings:
    return kubeflow_settings.model_copy(update={"timeout": 2.0, "image": "kwdbml/runtime:1"})


def look(settings: KubeflowSettings, **changed: Any) -> dict[str, Finding]:
    s3 = settings.s3.model_copy(update={k[3:]: v for k, v in changed.items() if k.startswith("s3_")})
    own = {name: value for name, value in changed.items() if not name.startswith("s3_")}
    one = KubeflowChecks(settings.model_copy(update={**own, "s3": s3}))
    try:
        return {finding.check: finding for finding in Examination().run(one.checks())}
    finally:
        one.close()


def bad(found: dict[str, Finding]) -> dict[str, Outcome]:
    return {name: one.outcome for name, one in found.items() if one.outcome is not Outcome.OK and name not in USUAL}


def skipped(*names: str) -> dict[str, Outcome]:
    return dict.fromkeys(names, Outcome.SKIPPED)


AFTER_API = skipped("kubeflow.version", "kubeflow.clock", "kubeflow.experiment", "kubeflow.runs")
AFTER_CLUSTER = skipped(
    *(f"kubernetes.{r.replace('/', '-')}.{v}" for v, r in RIGHTS), "kubernetes.namespace", "kubernetes.pods"
)
AFTER_WRITE = skipped("s3.read", "s3.list", "s3.parts", "s3.presigned")
AFTER_BUCKET = skipped("s3.write", "s3.delete") | AFTER_WRITE
AFTER_ENDPOINT = skipped("s3.clock", "s3.bucket") | AFTER_BUCKET


def test_all_is_well_and_nothing_is_left(settings: KubeflowSettings, kubeflow: Stub, s3_bucket: S3Server) -> None:
    found = look(settings)
    assert bad(found) == {}
    assert len(found) == 13 + len(RIGHTS) + 11
    assert s3_bucket.keys() == []
    assert kubeflow.secrets == {}
    assert [one["display_name"] for one in kubeflow.experiments.values()].count("kwdbml") == 1


# -- the KFP API -----------------------------------------------------------------------------------------------------


def test_no_kubeflow_there(settings: KubeflowSettings, kubeflow: Stub) -> None:
    kubeflow.kfp.down()
    found = look(settings)
    assert bad(found) == {"kubeflow.api": Outcome.FAIL} | AFTER_API
    assert "cannot be reached" in found["kubeflow.api"].message
    assert "KWDBML_KFP_HOST" in found["kubeflow.api"].cure


@pytest.mark.parametrize("where", ["store", "cluster", "path"])
def test_something_else_answers(settings: KubeflowSettings, kubeflow: Stub, s3_bucket: S3Server, where: str) -> None:
    others = {"store": s3_bucket.endpoint, "cluster": kubeflow.cluster.url, "path": f"{kubeflow.kfp.url}/pipeline"}
    found = look(settings, host=others[where])
    assert bad(found) == {"kubeflow.api": Outcome.FAIL} | AFTER_API
    assert f"what answers at {others[where]} is not Kubeflow Pipelines" in found["kubeflow.api"].message
    assert "correct KWDBML_KFP_HOST" in found["kubeflow.api"].cure


@pytest.mark.parametrize(
    "answer", [(404, b"404 page not found"), (400, b"<html>"), (200, b'{"status": "ok"}')], ids=str
)
def test_a_path_that_is_not_kubeflows(settings: KubeflowSettings, kubeflow: Stub, answer: tuple[int, bytes]) -> None:
    for server in (kubeflow.kfp, kubeflow.cluster):
        server.faults.add(status=answer[0], body=answer[1], times=9)
    found = look(settings)
    assert bad(found) == {"kubeflow.api": Outcome.FAIL, "kubernetes.api": Outcome.FAIL} | AFTER_API | AFTER_CLUSTER
    assert "It is the service ml-pipeline (port 8888)" in found["kubeflow.api"].cure
    assert "the server in the kubeconfig" in found["kubernetes.api"].cure


def test_a_login_page(settings: KubeflowSettings, kubeflow: Stub) -> None:
    kubeflow.kfp.faults.add(status=200, body=b"<html>Log in", times=9)
    found = look(settings)
    assert bad(found) == {"kubeflow.api": Outcome.FAIL} | AFTER_API
    assert "KWDBML_KFP_TOKEN_FILE" in found["kubeflow.api"].cure


def test_https_where_there_is_none(settings: KubeflowSettings, kubeflow: Stub, s3_bucket: S3Server) -> None:
    hosts = [url.replace("http:", "https:") for url in (kubeflow.kfp.url, kubeflow.cluster.url, s3_bucket.endpoint)]
    found = look(settings, host=hosts[0], cluster_host=hosts[1], s3_endpoint=hosts[2], s3_pod_endpoint=hosts[2])
    cures = {name: found[name].cure for name in ("kubeflow.api", "kubernetes.api", "s3.endpoint")}
    assert cures == {
        "kubeflow.api": "Write http:// in KWDBML_KFP_HOST.",
        "kubernetes.api": "Write http:// in KWDBML_KFP_CLUSTER_HOST.",
        "s3.endpoint": "Write http:// in KWDBML_S3_ENDPOINT.",
    }


@pytest.mark.parametrize(("status", "cure"), [(401, "KWDBML_KFP_TOKEN"), (403, "Allow the token's account")])
def test_kubeflow_refuses_us(settings: KubeflowSettings, kubeflow: Stub, status: int, cure: str) -> None:
    kubeflow.kfp.faults.add("GET", "(experiments|runs)$", status=status, times=9)
    found = look(settings)
    assert bad(found) == {"kubeflow.experiment": Outcome.FAIL, "kubeflow.runs": Outcome.FAIL}
    assert cure in found["kubeflow.experiment"].cure


def test_a_token_that_is_not_taken_and_one_that_is(settings: KubeflowSettings, kubeflow: Stub, tmp_path: Path) -> None:
    kubeflow.kfp.tokens = {"good-token"}
    assert bad(look(settings))["kubeflow.api"] is Outcome.FAIL
    found = look(settings, token=SecretStr("bad-token"))
    assert "does not know who asks" in found["kubeflow.api"].message
    assert "bad-token" not in str(found)
    file = tmp_path / "token"
    file.write_text("good-token\n", encoding="utf-8")
    assert bad(look(settings, token_file=file)) == {}
    file.write_text("", encoding="utf-8")
    empty = look(settings, token_file=file)
    assert bad(empty) == {"kubeflow.token": Outcome.FAIL, **skipped("kubeflow.api")} | AFTER_API
    assert empty["kubeflow.token"].cure == "Write the token into it."
    file.write_text("hush-hush\nand more", encoding="utf-8")
    odd = look(settings, token_file=file)
    assert bad(odd) == bad(empty)
    assert "hush" not in str(odd)


def test_a_token_over_the_open_network(settings: KubeflowSettings) -> None:
    found = KubeflowChecks(settings.model_copy(update={"host": "http://kfp.example.org", "token": SecretStr("t" * 9)}))
    [finding] = Examination().run([check for check in found.checks() if check.name == "kubeflow.token"])
    assert (finding.outcome, finding.cure) == (Outcome.WARN, "Use https:// in KWDBML_KFP_HOST.")


def test_a_certificate_that_nobody_vouches_for(
    settings: KubeflowSettings, kubeflow: Stub, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    kubeflow.kfp.secure(*certificate)
    host = kubeflow.kfp.url.replace("http://", "https://")
    found = look(settings, host=host)
    assert bad(found) == {"kubeflow.api": Outcome.FAIL} | AFTER_API
    assert "KWDBML_KFP_CA_FILE" in found["kubeflow.api"].cure
    assert bad(look(settings, host=host, ca_file=certificate[0])) == {}
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate", encoding="utf-8")
    wrong = look(settings, host=host, ca_file=empty)
    assert bad(wrong) == {"kubeflow.ca_file": Outcome.FAIL, **skipped("kubeflow.api")} | AFTER_API
    assert "PEM" in wrong["kubeflow.ca_file"].cure


def answering(server: Server, part: str, answer: Callable[[], Answer], patch: pytest.MonkeyPatch) -> None:
    """The server answers so where ``part`` is in the path, and as ever elsewhere."""
    usual = server.answer

    def handle(request: Request) -> Answer:
        return answer() if part in request.path else usual(request)

    patch.setattr(server, "answer", handle)


@pytest.mark.parametrize(("tag", "outcome"), [("2.17.0", Outcome.OK), ("1.8.5", Outcome.WARN)])
def test_versions(
    settings: KubeflowSettings, kubeflow: Stub, tag: str, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(kubeflow.kfp, "v1beta1/healthz", lambda: Answer({"tag_name": tag}), monkeypatch)
    found = look(settings)["kubeflow.version"]
    assert (found.outcome, tag in found.message) == (outcome, True)


def test_an_experiment_that_is_archived(settings: KubeflowSettings, kubeflow: Stub) -> None:
    look(settings)
    for one in kubeflow.experiments.values():
        if one["display_name"] == "kwdbml":
            one["storage_state"] = "ARCHIVED"
    found = look(settings)
    assert bad(found) == {"kubeflow.experiment": Outcome.FAIL}
    assert "KWDBML_KFP_EXPERIMENT" in found["kubeflow.experiment"].cure


@pytest.mark.parametrize("image", ["kwdbml/runtime", "registry:5000/runtime:latest"])
def test_an_image_without_a_version(settings: KubeflowSettings, image: str) -> None:
    assert bad(look(settings, image=image)) == {"kubeflow.image": Outcome.WARN}


def test_code_that_may_read_the_secret_is_warned_of(settings: KubeflowSettings) -> None:
    found = look(settings, unsafe_no_landlock=True)
    assert bad(found) == {"kubeflow.landlock": Outcome.WARN}
    assert "Leave out KWDBML_KFP_UNSAFE_NO_LANDLOCK" in found["kubeflow.landlock"].cure


# -- Kubernetes ------------------------------------------------------------------------------------------------------


def test_no_kubernetes_there(settings: KubeflowSettings, kubeflow: Stub) -> None:
    kubeflow.cluster.down()
    found = look(settings)
    assert bad(found) == {"kubernetes.api": Outcome.FAIL} | AFTER_CLUSTER
    assert "Correct KWDBML_KFP_CLUSTER_HOST" in found["kubernetes.api"].cure
    other = look(settings, cluster_host=kubeflow.kfp.url)
    assert f"what answers at {kubeflow.kfp.url} is not the Kubernetes API" in other["kubernetes.api"].message


def kubeconfig(server: str, **changed: Any) -> str:
    """One context for that server; ``changed`` goes over its parts."""
    context = {"name": "one", "context": {"cluster": "here", "user": "worker"}}
    parts = {"apiVersion": "v1", "kind": "Config", "current-context": "one", "contexts": [context]}
    parts["clusters"] = [{"name": "here", "cluster": {"server": server}}]
    parts["users"] = [{"name": "worker", "user": {"token": "hush-hush"}}]
    return json.dumps(parts | changed)


KUBECONFIGS: list[tuple[str, Callable[[str], str], dict[str, Any], str]] = [
    ("empty", lambda server: "", {}, "is empty"),
    ("no yaml", lambda server: "token: [hush-hush", {}, "gives no access"),
    ("no mapping", lambda server: "hush", {}, "gives no access"),
    ("context", kubeconfig, {"context": "two"}, "two"),
    ("cluster", lambda server: kubeconfig(server, clusters=[]), {}, "here"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "changed", "said"), [k[1:] for k in KUBECONFIGS], ids=[k[0] for k in KUBECONFIGS])
def test_a_kubeconfig_that_is_wrong(
    settings: KubeflowSettings, kubeflow: Stub, tmp_path: Path, text: Callable[[str], str], changed: Any, said: str
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text(kubeflow.cluster.url), encoding="utf-8")
    found = look(settings, cluster_host=None, kubeconfig=file, **changed)
    assert bad(found) == {"kubernetes.api": Outcome.FAIL} | AFTER_CLUSTER
    assert said in found["kubernetes.api"].message
    assert "Correct KWDBML_KFP_KUBECONFIG or KWDBML_KFP_CONTEXT" in found["kubernetes.api"].cure
    assert "hush-hush" not in str(found)


def test_a_kubeconfig_that_is_right_and_one_that_is_not_accepted(
    settings: KubeflowSettings, kubeflow: Stub, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(kubeconfig(kubeflow.cluster.url), encoding="utf-8")
    assert bad(look(settings, cluster_host=None, kubeconfig=file)) == {}
    kubeflow.cluster.tokens = {"another"}
    refused = look(settings, cluster_host=None, kubeconfig=file)["kubernetes.api"]
    assert "Renew the credentials of the kubeconfig" in refused.cure
    kubeflow.cluster.secure(*certificate)
    file.write_text(kubeconfig(kubeflow.cluster.url.replace("http:", "https:")), encoding="utf-8")
    untrusted = look(settings, cluster_host=None, kubeconfig=file)["kubernetes.api"]
    assert "certificate that is not trusted" in untrusted.message
    assert "certificate-authority of the kubeconfig" in untrusted.cure


def test_no_way_into_a_cluster(settings: KubeflowSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    found = look(settings, cluster_host=None, in_cluster=True)
    assert bad(found) == {"kubernetes.api": Outcome.FAIL} | AFTER_CLUSTER
    assert "KWDBML_KFP_KUBECONFIG" in found["kubernetes.api"].cure


@pytest.mark.parametrize(("verb", "resource"), RIGHTS, ids=[f"{v}-{r.replace('/', '-')}" for v, r in RIGHTS])
def test_a_right_that_is_missing(settings: KubeflowSettings, kubeflow: Stub, verb: str, resource: str) -> None:
    kind, _, part = resource.partition("/")
    refused = {"verb": verb, "resource": kind, "subresource": part, "namespace": "kubeflow"}
    kubeflow.allowed = lambda asked: {"subresource": "", **asked} != refused
    name = f"kubernetes.{resource.replace('/', '-')}.{verb}"
    found = look(settings)
    needing = {("list", "pods"): "kubernetes.pods", ("create", "secrets"): "kubernetes.namespace"}
    after = skipped(needing[verb, resource]) if (verb, resource) in needing else {}
    assert bad(found) == {name: Outcome.FAIL} | after
    assert f"may not {verb} {resource} in namespace kubeflow" in found[name].message
    assert f"kubectl auth can-i {verb} {resource} -n kubeflow" in found[name].cure


def test_rights_on_paper_alone(settings: KubeflowSettings) -> None:
    found = look(settings, namespace="elsewhere")
    assert bad(found) == {"kubernetes.namespace": Outcome.FAIL, "kubernetes.pods": Outcome.FAIL}
    assert "deploy/kubernetes in namespace elsewhere" in found["kubernetes.pods"].cure


def test_a_namespace_that_is_not_there(settings: KubeflowSettings, kubeflow: Stub) -> None:
    """Who has rights in the whole cluster has them there too, and gets empty lists."""
    kubeflow.cluster.faults.add("POST", "/secrets$", status=404, message='namespaces "kubeflow" not found')
    found = look(settings)
    assert bad(found) == {"kubernetes.namespace": Outcome.FAIL}
    assert 'no namespace "kubeflow"' in found["kubernetes.namespace"].message
    assert "KWDBML_KFP_NAMESPACE" in found["kubernetes.namespace"].cure


# -- the object store ------------------------------------------------------------------------------------------------


def test_no_store_there(settings: KubeflowSettings) -> None:
    found = look(settings, s3_endpoint="http://127.0.0.1:9")
    assert bad(found) == {"s3.endpoint": Outcome.FAIL} | AFTER_ENDPOINT
    assert "KWDBML_S3_ENDPOINT" in found["s3.endpoint"].cure


@pytest.mark.parametrize(
    ("changed", "cure"),
    [
        ({"s3_secret_key": SecretStr("not-the-secret")}, "KWDBML_S3_SECRET_KEY"),
        ({"s3_access_key": "nobody"}, "KWDBML_S3_ACCESS_KEY"),
        ({"s3_bucket": "not-made-yet"}, "KWDBML_S3_BUCKET"),
    ],
    ids=["secret", "key", "bucket"],
)
def test_why_the_bucket_cannot_be_read(settings: KubeflowSettings, changed: dict[str, Any], cure: str) -> None:
    found = look(settings, **changed)
    assert bad(found) == {"s3.bucket": Outcome.FAIL} | AFTER_BUCKET
    assert cure in found["s3.bucket"].cure
    assert "not-the-secret" not in str(found)


def test_a_store_behind_a_certificate_that_nobody_vouches_for(
    settings: KubeflowSettings, kubeflow: Stub, certificate: tuple[Path, Path]
) -> None:
    kubeflow.kfp.secure(*certificate)  # anybody who speaks TLS will do
    found = look(settings, s3_endpoint=kubeflow.kfp.url.replace("http:", "https:"))
    assert found["s3.endpoint"].outcome is Outcome.FAIL
    assert "KWDBML_S3_CA_FILE" in found["s3.endpoint"].cure


def test_something_else_than_a_store_answers(settings: KubeflowSettings, kubeflow: Stub) -> None:
    found = look(settings, s3_endpoint=kubeflow.kfp.url)
    assert bad(found) == {"s3.bucket": Outcome.FAIL} | AFTER_BUCKET
    assert f"what answers at {kubeflow.kfp.url} is no object store" in found["s3.bucket"].message
    assert "Correct KWDBML_S3_ENDPOINT" in found["s3.bucket"].cure


def test_a_store_that_refuses_our_clock(settings: KubeflowSettings, flaky: Flaky) -> None:
    flaky.fail(f"/{settings.s3.bucket}", Fault(403, code="RequestTimeTooSkewed"))
    found = look(settings, s3_endpoint=flaky.endpoint)
    assert bad(found) == {"s3.bucket": Outcome.FAIL} | AFTER_BUCKET
    assert "Set both by NTP" in found["s3.bucket"].cure


def test_a_bucket_that_may_be_read_alone(settings: KubeflowSettings, flaky: Flaky, s3_bucket: S3Server) -> None:
    flaky.fail("/probe", Fault(403, code="AccessDenied"))
    found = look(settings, s3_endpoint=flaky.endpoint, s3_pod_endpoint=flaky.endpoint)
    assert bad(found) == {"s3.write": Outcome.FAIL} | AFTER_WRITE
    assert "Allow the access key to read, write" in found["s3.write"].cure
    assert s3_bucket.keys() == []


def test_uploads_in_parts_that_are_refused(settings: KubeflowSettings, flaky: Flaky, s3_bucket: S3Server) -> None:
    flaky.fail("/parts", Fault(403, code="AccessDenied"))
    found = look(settings, s3_endpoint=flaky.endpoint, s3_pod_endpoint=flaky.endpoint)
    assert bad(found) == {"s3.parts": Outcome.FAIL}
    assert s3_bucket.keys() == []


def test_signed_addresses_that_are_refused(settings: KubeflowSettings, flaky: Flaky) -> None:
    flaky.fail("/signed", Fault(403, code="SignatureDoesNotMatch"))
    found = look(settings, s3_pod_endpoint=flaky.endpoint)
    assert bad(found) == {"s3.presigned": Outcome.FAIL}
    assert "host name" in found["s3.presigned"].cure
    away = look(settings, s3_pod_endpoint="http://127.0.0.1:9")
    assert bad(away) == {"s3.presigned": Outcome.WARN}
    assert "KWDBML_S3_POD_ENDPOINT" in away["s3.presigned"].cure


def test_clocks_that_differ(settings: KubeflowSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "time", SimpleNamespace(time=lambda: time.time() + 3600))
    found = look(settings)
    assert bad(found) == {"kubeflow.clock": Outcome.WARN, "s3.clock": Outcome.WARN}
    assert "seconds behind this machine's" in found["s3.clock"].message
    assert "NTP" in found["s3.clock"].cure


def test_where_pods_find_the_store(settings: KubeflowSettings) -> None:
    one = KubeflowChecks(settings)._store
    assert one.pod_endpoint().cure.startswith("Give the address that pods reach")  # type: ignore[union-attr]
    far = settings.s3.model_copy(update={"pod_endpoint": "http://seaweedfs.kubeflow:9000"})
    other = KubeflowChecks(settings.model_copy(update={"s3": far}))._store
    assert other.pod_endpoint().cure == "Nothing to do if both lead to the same store."  # type: ignore[union-attr]
    same = far.model_copy(update={"endpoint": far.pod_endpoint})
    assert KubeflowChecks(settings.model_copy(update={"s3": same}))._store.pod_endpoint().endswith(far.pod_endpoint)  # type: ignore[union-attr]
