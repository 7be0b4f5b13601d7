"""What the engine says to Kubernetes, over a socket to the stub, with both ends of the client's range; and faults."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes import client, config
from kubernetes.config import incluster_config
from kubernetes.config.incluster_config import InClusterConfigLoader

import kwdbml
from kwdbml.engines.base import Run
from kwdbml.engines.kfp import backoff, names, pipeline
from kwdbml.engines.kfp import cluster as cluster_module
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import ApiError, NotItself
from kwdbml.engines.kfp.cluster import RIGHTS, Cluster
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.errors import EngineError
from tests.engines.kubeflow import cluster_talk
from tests.engines.kubeflow.stub.containers import Image
from tests.engines.kubeflow.stub.stub import Stub
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE

EXPECTED: dict[str, Any] = {
    "secrets": [["kwdbml-test-1", "kwdbml-1", ""]],
    "pod": ["kwdbml-test-1", True, True, True, False, "Pod"],
    "log": ["1 train stdout: hello"], "later": False, "cut": 7, "no log": "", "version": "v1.36.0",
    "allowed": [*(True for _ in RIGHTS), False],
}  # fmt: skip


@pytest.fixture
def cluster(kubeflow: Stub) -> Cluster:
    return Cluster(cluster_talk.settings(cluster_host=kubeflow.cluster.url), sleep=lambda seconds: None)


@pytest.fixture
def pod(kubeflow: Stub) -> str:
    """The name of a running pod that has said hello."""
    kubeflow.simulate()
    rights = {(verb, *resource.partition("/")[::2]) for verb, resource in RIGHTS}
    kubeflow.allowed = lambda asked: (asked["verb"], asked["resource"], asked.get("subresource", "")) in rights
    name = cluster_talk.RUN
    kubeflow.put_secret(names.secret_name(name), {"access.json": "{}"})
    settings = cluster_talk.settings(host=kubeflow.kfp.url, image=RUNTIME_IMAGE)
    made = KfpApi(settings).create(pipeline.fill(Run(name), settings, f"s3://mlpipeline/kwdbml/{name}/pipeline"))
    kubeflow.wait(lambda: any(one.phase == "Running" for one in kubeflow.pods_of(made.run_id)))
    [found] = kubeflow.pods_of(made.run_id)
    found.log.add(b"1 train stdout: hello\n")
    return found.name


def kubeconfig(path: Path, url: str, **user: Any) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stub", "cluster": {"server": url}}],
        "users": [{"name": "worker", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "stub", "user": "worker"}}],
        "current-context": "",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def check(found: dict[str, Any]) -> None:
    events = found.pop("events")
    assert "Scheduled" in events
    assert found == EXPECTED


def test_the_whole_conversation(cluster: Cluster, pod: str) -> None:
    check(cluster_talk.converse(cluster, pod))


def test_what_a_secret_holds(cluster: Cluster, kubeflow: Stub) -> None:
    cluster.put_secret("kwdbml-1", {"a": "b"}, {"kwdbml.io/run": "x"}, {"access.json": "ä"})
    stored = kubeflow.secrets["kwdbml-1"]
    assert base64.b64decode(stored["data"]["access.json"]).decode() == "ä"
    assert stored["metadata"]["labels"] == {"a": "b"}
    assert stored["type"] == "Opaque"


def test_all_pages_are_read(cluster: Cluster, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_PAGE", 2)
    for number in range(5):
        cluster.put_secret(f"kwdbml-{number}", {"a": "b"}, {names.RUN: f"kwdbml-test-{number}"}, {})
    kubeflow.cluster.calls.clear()
    assert len(cluster.kept("a=b")) == 5
    assert sum(kubeflow.cluster.calls.values()) == 3


def test_a_page_that_comes_too_late_is_trouble_of_the_moment(
    cluster: Cluster, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """410: the server has forgotten what it was asked. It is asked anew at the next look."""
    monkeypatch.setattr(cluster_module, "_PAGE", 1)
    for number in range(2):
        cluster.put_secret(f"kwdbml-{number}", {"a": "b"}, {names.RUN: f"kwdbml-test-{number}"}, {})
    kubeflow.cluster.faults.add("GET", "secrets$", status=410)  # in its own words
    with pytest.raises(ApiError, match="410"):
        cluster.kept("a=b")
    assert len(cluster.kept("a=b")) == 2


def test_a_container_that_waits_has_no_log_yet(cluster: Cluster, kubeflow: Stub, pod: str) -> None:
    kubeflow.pods[pod].main = {"waiting": {"reason": "ContainerCreating"}}
    assert cluster.log(pod) == b""


QUOTA = "exceeded quota: secrets, requested: count/secrets=1, used: count/secrets=9, limited: count/secrets=9"


def test_a_secret_is_renewed_where_none_may_be_made(cluster: Cluster, kubeflow: Stub) -> None:
    """A quota that is full is told before that it is there already."""
    cluster.put_secret("kwdbml-1", {}, {}, {"access.json": "x"})
    kubeflow.cluster.faults.add("POST", "/secrets$", status=403, message=QUOTA, times=9)
    cluster.renew_secret("kwdbml-1", {"a": "b"}, {}, {"access.json": "y"})
    assert base64.b64decode(kubeflow.secrets["kwdbml-1"]["data"]["access.json"]) == b"y"
    del kubeflow.secrets["kwdbml-1"]
    with pytest.raises(ApiError, match="does not allow it") as caught:
        cluster.renew_secret("kwdbml-1", {"a": "b"}, {}, {"access.json": "y"})
    assert (caught.value.curable, QUOTA in caught.value.detail) == (True, True)
    kubeflow.cluster.faults.clear()
    cluster.renew_secret("kwdbml-1", {"a": "b"}, {}, {"access.json": "y"})
    assert kubeflow.secrets["kwdbml-1"]["metadata"]["labels"] == {"a": "b"}


def test_a_claim_is_known_where_none_may_be_made(cluster: Cluster, kubeflow: Stub) -> None:
    kubeflow.cluster.faults.add("POST", "/secrets$", status=403, message=QUOTA, times=1)
    with pytest.raises(ApiError, match="does not allow it"):
        cluster.claim("kwdbml-i-j-1", "run-1")
    assert cluster.claim("kwdbml-i-j-1", "run-1") == "run-1"
    kubeflow.cluster.faults.add("POST", "/secrets$", status=403, message=QUOTA, times=1)
    assert cluster.claim("kwdbml-i-j-1", "run-2") == "run-1"


def test_a_conflict_is_not_always_that_it_is_there(cluster: Cluster, kubeflow: Stub) -> None:
    """Kubernetes says 409 too when many Secrets are made at once where a quota counts them."""
    busy = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified'
    for make in (lambda: cluster.put_secret("kwdbml-1", {}, {}, {}), lambda: cluster.claim("kwdbml-i-j-1", "run-1")):
        kubeflow.cluster.faults.add("POST", "/secrets$", status=409, message=busy)
        with pytest.raises(ApiError) as caught:
            make()
        assert caught.value.retryable
        make()


# -- credentials -----------------------------------------------------------------------------------------------------


def test_a_kubeconfig_with_a_token(kubeflow: Stub, pod: str, tmp_path: Path) -> None:
    kubeflow.cluster.tokens = {"hush"}
    config = kubeconfig(tmp_path / "config", kubeflow.cluster.url, token="hush")
    check(cluster_talk.converse(Cluster(cluster_talk.settings(kubeconfig=config, context="test")), pod))


def test_credentials_are_loaded_again_once(kubeflow: Stub, tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "config", kubeflow.cluster.url, token="old")
    cluster = Cluster(cluster_talk.settings(kubeconfig=config, context="test"), sleep=lambda seconds: None)
    kubeflow.cluster.tokens = {"old"}
    assert cluster.pods("a=b") == []
    kubeflow.cluster.tokens = {"new"}
    kubeflow.cluster.calls.clear()
    with pytest.raises(ApiError) as caught:
        cluster.pods("a=b")
    assert (caught.value.status, caught.value.retryable) == (401, False)
    assert sum(kubeflow.cluster.calls.values()) == 2
    assert "Renew the credentials" in caught.value.hint
    kubeconfig(config, kubeflow.cluster.url, token="new")
    assert cluster.pods("a=b") == []


@pytest.fixture
def inside(kubeflow: Stub, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a pod: a token that the kubelet writes into a file, and the cluster's own certificates."""
    token = tmp_path / "token"
    token.write_text("hush", encoding="utf-8")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate[0]))
    kubeflow.cluster.secure(*certificate)
    address = urlsplit(kubeflow.cluster.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    kubeflow.cluster.tokens = {"hush", "bearer hush"}  # the scheme's case does not matter
    return token


@pytest.mark.usefixtures("inside")
def test_a_pods_own_account() -> None:
    assert Cluster(cluster_talk.settings(), sleep=lambda seconds: None).pods("a=b") == []


def test_a_certificate_that_nobody_vouches_for(kubeflow: Stub, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    kubeflow.cluster.secure(*certificate)
    config = kubeconfig(tmp_path / "config", kubeflow.cluster.url, token="hush")
    with pytest.raises(ApiError, match="certificate that is not trusted") as caught:
        Cluster(cluster_talk.settings(kubeconfig=config, context="test")).pods("a=b")
    assert not caught.value.retryable
    assert "certificate-authority" in caught.value.hint


def test_no_access_is_told_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EngineError, match="runs in no pod") as caught:
        Cluster(cluster_talk.settings()).pods("a=b")
    assert "KWDBML_KFP_KUBECONFIG" in caught.value.hint
    config = kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    with pytest.raises(EngineError, match="gives no access") as caught:
        Cluster(cluster_talk.settings(kubeconfig=config, context="other")).pods("a=b")
    assert "KWDBML_KFP_CONTEXT" in caught.value.hint


@pytest.mark.parametrize("content", ["", "a: [", "[]", "clusters: 1", None], ids=str)
def test_a_kubeconfig_that_is_just_being_written(kubeflow: Stub, tmp_path: Path, content: str | None) -> None:
    """Trouble that passes: a launch waits for it as for a server."""
    path = kubeconfig(tmp_path / "config", kubeflow.cluster.url, token="hush")
    whole, kubeflow.cluster.tokens = path.read_text(encoding="utf-8"), {"hush"}
    cluster = Cluster(cluster_talk.settings(kubeconfig=path, context="test"), sleep=lambda seconds: None)
    path.write_text(content, encoding="utf-8") if content is not None else path.unlink()
    with pytest.raises(ApiError, match="gives no access") as caught:
        cluster.pods("a=b")
    assert caught.value.retryable
    path.write_text(whole, encoding="utf-8")
    assert cluster.pods("a=b") == []


@pytest.mark.parametrize("reader", ["load_kube_config", "auth_settings"])
def test_whatever_the_package_makes_of_half_a_file(
    kubeflow: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("users")

    owner = config if reader == "load_kube_config" else client.Configuration
    path = kubeconfig(tmp_path / "config", kubeflow.cluster.url, token="hush")
    cluster = Cluster(cluster_talk.settings(kubeconfig=path, context="test"), sleep=lambda seconds: None)
    with monkeypatch.context() as patch:
        patch.setattr(owner, reader, fail)
        with pytest.raises(ApiError, match="users") as caught:
            cluster.pods("a=b")
    assert caught.value.retryable
    assert cluster.pods("a=b") == []


def test_a_token_of_the_pod_that_is_away_for_a_while(inside: Path, kubeflow: Stub) -> None:
    cluster = Cluster(cluster_talk.settings(), sleep=lambda seconds: None)
    assert cluster.pods("a=b") == []
    inside.unlink()
    loader = cluster._connected().configuration.refresh_api_key_hook.__closure__
    [one] = [cell.cell_contents for cell in loader if isinstance(cell.cell_contents, InClusterConfigLoader)]
    one.token_expires_at -= timedelta(hours=1)  # it is read again every minute
    with pytest.raises(ApiError, match="credentials for the Kubernetes API cannot be read") as caught:
        cluster.pods("a=b")
    assert caught.value.retryable
    inside.write_text("new", encoding="utf-8")
    kubeflow.cluster.tokens = {"bearer new"}
    assert cluster.pods("a=b") == []


# -- what is installed beside the newest client -----------------------------------------------------------------------

#: The environment of the tests has the oldest that we take, because kfp allows no newer one.
NEWEST = "37."
ROOT = Path(kwdbml.__file__).parents[1]
HERE = Path(cluster_talk.__file__).parent


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with what ``pip install kwdbml[kubeflow]`` brings: the package as it is built, the newest clients."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(place / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(place)],
        [uv, "pip", "install", "--quiet", "--python", python, f"kwdbml[kubeflow] @ {ROOT.as_uri()}"],
    ):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=270)
    return Path(python)


def talk(python: Path, program: str, *arguments: Path | str, **variables: str) -> dict[str, Any]:
    """Run one of our programs in that environment, out of sight of this checkout."""
    environment = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error::DeprecationWarning:kwdbml", **variables}
    ran = subprocess.run(
        [python, "-P", HERE / program, *arguments],
        cwd=python.parent, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found.pop("kubernetes").startswith(NEWEST)
    return found


def test_the_whole_conversation_with_the_newest_client(
    installed: Path, kubeflow: Stub, pod: str, tmp_path: Path
) -> None:
    """Through a kubeconfig, with a token, as a person's worker would."""
    kubeflow.cluster.tokens = {"hush"}
    config = kubeconfig(tmp_path / "config", kubeflow.cluster.url, token="hush")
    (tmp_path / "access.json").write_text(json.dumps({"kubeconfig": str(config), "context": "test"}), encoding="utf-8")
    check(talk(installed, "cluster_talk.py", tmp_path / "access.json", pod))


def test_the_newest_client_in_a_pod(
    installed: Path, kubeflow: Stub, pod: str, inside: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """With the pod's own account, as deploy/kubernetes has it."""
    found = {"SERVICE_TOKEN_FILENAME": str(inside), "SERVICE_CERT_FILENAME": str(certificate[0])}
    (tmp_path / "access.json").write_text(json.dumps({"inside": found}), encoding="utf-8")
    address = urlsplit(kubeflow.cluster.url)
    where = {"KUBERNETES_SERVICE_HOST": str(address.hostname), "KUBERNETES_SERVICE_PORT": str(address.port)}
    check(talk(installed, "cluster_talk.py", tmp_path / "access.json", pod, **where))


def test_a_worker_as_it_is_installed_needs_no_more(
    installed: Path, kubeflow: Stub, kubeflow_settings: KubeflowSettings, tmp_path: Path
) -> None:
    """One run to its end, and its pod has the same: no kfp, the compiled pipelines are in the package, and the clients
    are the newest."""
    env = {"PATH": f"{installed.parent}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    kubeflow.images[RUNTIME_IMAGE] = Image(RUNTIME_IMAGE, env, [installed.parents[1], Path(sys.base_prefix)])
    settings = kubeflow_settings.model_dump(mode="json")
    settings["s3"]["secret_key"] = kubeflow_settings.s3.secret_key.get_secret_value()
    given = {"settings": settings, "root": str(tmp_path / "root"), "step": (HERE.parent / "step.py").read_text()}
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    found = talk(installed, "engine_talk.py", tmp_path / "given.json")
    assert Path(found.pop("place")).is_relative_to(installed.parents[1])
    assert found == {"state": "succeeded", "message": "", "lines": ["hello"], "outputs": ["result.json"], "sdk": False}
    assert kubeflow.secrets == {}


# -- faults ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after": 1}, "500": {"status": 500}, "503": {"status": 503},
    "cut": {"kind": "cut"}, "drop": {"kind": "drop"},
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_two_faults_are_outlasted(fault: str, cluster: Cluster, kubeflow: Stub) -> None:
    met = kubeflow.cluster.faults.add(".*", ".*", times=2, **FAULTS[fault])
    assert cluster.pods("a=b") == []
    assert met.met == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_secret_whose_answer_was_lost_is_there_once(fault: str, cluster: Cluster, kubeflow: Stub) -> None:
    kubeflow.cluster.faults.add("POST", "secrets$", after=True, **FAULTS[fault])
    cluster.put_secret("kwdbml-1", {}, {}, {"access.json": "x"})
    kubeflow.cluster.faults.add("DELETE", "secrets", after=True, **FAULTS[fault])
    cluster.delete_secret("kwdbml-1")
    assert "kwdbml-1" not in kubeflow.secrets


def test_more_faults_are_an_error_that_can_be_tried_again(cluster: Cluster, kubeflow: Stub) -> None:
    kubeflow.cluster.faults.add(".*", ".*", times=backoff.ATTEMPTS, status=503)
    with pytest.raises(ApiError) as caught:
        cluster.pods("a=b")
    assert caught.value.retryable
    kubeflow.cluster.down()
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        cluster.pods("a=b")
    assert caught.value.retryable
    kubeflow.cluster.up()
    assert cluster.pods("a=b") == []


def test_a_no_names_the_role(cluster: Cluster, kubeflow: Stub) -> None:
    kubeflow.cluster.faults.add("GET", "pods", status=403, message='User "x" cannot list resource "pods"')
    with pytest.raises(ApiError) as caught:
        cluster.pods("a=b")
    assert not caught.value.retryable
    assert "deploy/kubernetes" in caught.value.hint
    assert 'cannot list resource "pods"' in caught.value.detail


def test_something_else_answers(kubeflow: Stub) -> None:
    cluster = Cluster(cluster_talk.settings(cluster_host=kubeflow.kfp.url), sleep=lambda seconds: None)
    with pytest.raises(NotItself, match=f"what answers at {kubeflow.kfp.url} is not the Kubernetes API") as caught:
        cluster.pods("a=b")
    assert "KWDBML_KFP_CLUSTER_HOST" in caught.value.hint
